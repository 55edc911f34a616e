"""Arguments of public functions are what their annotations say, or one sentence; nothing is done before."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pytest
import torch
from conftest import FAST

import learngene
from learngene import Learngene, LearngeneError
from learngene.arguments import check_filled, describe_type, make, take, typed
from learngene.jobs import functions, jobs
from learngene.recipe import DataOptions, Recipe, knob, view_fields


@pytest.mark.parametrize(
    ("value", "hint", "taken"),
    [
        (np.int64(3), int, 3),
        (np.float32(0.5), float, 0.5),
        (3, float, 3),
        (np.bool_(True), bool, True),
        (Path("a") / "b", str, "a/b"),
        (PurePosixPath("a"), str | Path, "a"),
        (Path("a"), str | Path, Path("a")),
        (np.array([1, 2]), Sequence[int], [1, 2]),
        (torch.tensor([0.5]), Sequence[float] | None, [0.5]),
        ((np.int64(1), 2), str | Sequence[int], (1, 2)),
        (range(2, 4), Sequence[int], range(2, 4)),
        (None, Sequence[int] | None, None),
        ("auto", bool | Literal["auto"], "auto"),
        (False, bool | Literal["auto"], False),
        ({"a": 1}, Mapping[str, Any] | None, {"a": 1}),
    ],
)
def test_values_that_fit(value, hint, taken):
    found = take("x", value, hint)
    assert found == taken
    assert type(found) is type(taken)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        ("3", int, "x '3': it must be a whole number"),
        (True, int, "x True: it must be a whole number"),
        (2.0, int, "x 2.0: it must be a whole number"),
        ("false", bool | Literal["auto"], "x 'false': it must be True, False or auto"),
        (1, bool, "x 1: it must be True or False"),
        ("1e-3", float, "x '1e-3': it must be a number"),
        (None, str | Path, "x None: it must be a text or a path"),
        ({"a", "b"}, Sequence[str] | None, "x of type set: it must be a list of texts"),
        ((n for n in "ab"), Sequence[str], "x of type generator: it must be a list of texts"),
        ("abc", Sequence[str], "x 'abc': it must be a list of texts"),
        (
            torch.nn.Linear(1, 1),
            str | Path,
            "x of type Linear: it must be a text or a path; save it, and name the file",
        ),
        ("no", Literal["float16", "float32"], "x 'no': it must be float16 or float32"),
    ],
)
def test_values_that_do_not(value, hint, message):
    with pytest.raises(LearngeneError) as found:
        take("x", value, hint)
    assert str(found.value) == message


def test_a_function_keeps_its_signature_and_pythons_own_words():
    @typed
    def job(data: str, *, depth: int = 3, **options: Any) -> str:
        """A job."""
        return f"{data} {depth} {options}"

    assert job(Path("photos"), depth=np.int64(4), more=1) == "photos 4 {'more': 1}"
    assert job.__doc__ == "A job."
    with pytest.raises(TypeError, match="missing a required argument: 'data'"):
        job()
    with pytest.raises(TypeError, match="too many positional arguments"):
        job("a", "b")


@pytest.mark.parametrize("name", functions())
def test_every_command_checks_its_arguments(name):
    """None of them takes an object for its first argument, or for a flag."""
    command = getattr(learngene, name)
    needed = {p.name: "x" for p in inspect.signature(command).parameters.values() if p.default is p.empty}
    first = next(iter(inspect.signature(command).parameters))
    with pytest.raises(LearngeneError, match=f"{first} of type object: it must be"):
        command(**{**needed, first: object()})


@pytest.mark.parametrize("name", functions())
def test_python_says_itself_what_is_missing_or_too_much(name):
    function = getattr(learngene, name)
    parameters = inspect.signature(function).parameters.values()
    placed = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    needed = [p.name for p in parameters if p.default is p.empty]
    with pytest.raises(TypeError, match="too many positional arguments"):
        function(*["x"] * (len(placed) + 1))
    if needed:
        with pytest.raises(TypeError, match=f"missing a required argument: '{needed[0]}'"):
            function()


def test_an_unknown_option_names_its_neighbour():
    with pytest.raises(LearngeneError, match="unknown option 'batchsize'; did you mean 'batch_size'"):
        learngene.finetune("m", "d", out="o", batchsize=3)
    with pytest.raises(LearngeneError, match="unknown option 'epochs'; the options are depth, device, gen"):
        learngene.spawn("g", out="o", epochs=3)


def test_the_functions_take_what_the_jobs_hold():
    for job in jobs().values():
        parameters = inspect.signature(getattr(learngene, job.FUNCTION or job.COMMAND)).parameters
        assert set(parameters) == {option.name for option in fields(job)}
        assert tuple(parameters)[: len(job.BY_PLACE)] == job.BY_PLACE
        assert all(p.kind is p.KEYWORD_ONLY for name, p in parameters.items() if name not in job.BY_PLACE)
    assert tuple(inspect.signature(learngene.distill).parameters)[:3] == ("ancestor", "data", "out")


@pytest.mark.parametrize("value", ["", " ", "local-dir:", "local-dir: ", ["a", ""], ("", "a")])
def test_what_is_empty(value):
    """An unset variable of the shell leaves an empty text, which as a path is the current directory."""
    with pytest.raises(LearngeneError, match=r"^out is empty; give a value, or leave it out$"):
        check_filled("out", value)
    if isinstance(value, str):
        with pytest.raises(LearngeneError, match=r"^out is empty; give a value"):
            learngene.finetune("m", "d", out=value)
        with pytest.raises(LearngeneError, match=r"^auto_augment is empty; give a value"):
            Recipe(auto_augment=value)


@pytest.mark.parametrize("value", ["a", ["a"], [], None, 0, {"global_pool": ""}])
def test_what_is_not_empty(value):
    check_filled("out", value)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "a whole number"),
        (float | None, "a number"),
        (bool | Literal["auto"], "True, False or auto"),
        (int | str | Sequence[int | str] | None, "a whole number, a text or a list"),
        (str | Sequence[int], "a text or a list of whole numbers"),
        (str | Path, "a text or a path"),
        (Literal["mse", "cosine"], "mse or cosine"),
        (Mapping[str, Any] | None, "a mapping"),
    ],
)
def test_types_for_people(hint, words):
    assert describe_type(hint) == words


def test_every_option_says_whether_it_changes_views():
    """Cached logits are for views: a field that changes them, and does not say so, makes them wrong."""
    for option in (*fields(Recipe), *fields(DataOptions)):
        assert type(option.metadata["view"]) is bool, option.name
    with pytest.raises(TypeError, match="view"):
        knob(0.5)
    assert set(view_fields(Recipe, DataOptions)) == {
        "seed", "batch_size", "repeats", "hflip", "crop_scale", "color_jitter", "auto_augment",
        "random_erasing", "mixup", "cutmix", "on_device",
    }  # fmt: skip


def test_options_of_a_recipe():
    recipe = make(Recipe, {"batch_size": np.int32(8), "lr": np.float64(0.5), "steps": None})
    assert (type(recipe.batch_size), type(recipe.lr)) == (int, float)
    for option in (
        {"compile": "false"},
        {"lr": "1e-3"},
        {"freeze": 1.5},
        {"grad_checkpointing": "no"},
        {"opt": None},
    ):
        with pytest.raises(LearngeneError, match=f"{next(iter(option))} .*: it must be"):
            make(Recipe, option)


def test_a_path_is_as_good_as_a_text(folder, tmp_path, ancestor):
    found = learngene.evaluate(ancestor, folder, workers=0)
    assert found == learngene.evaluate(str(ancestor), str(folder), workers=0) | {
        "images_per_second": found["images_per_second"]
    }
    run = learngene.distill(ancestor, folder, out=tmp_path / "run", plan=np.array([1, 1]), **FAST)
    assert str(run.plan) == "1,1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": "4"}, "depth '4': it must be a whole number"),
        ({"depth": 4, "num_heads": 4}, r"num_heads \[4\]: the weights are of layers with \[2\] heads"),
        (
            {"depth": 4, "embed_dim": 32},
            r"'pos_embed' has the shape \(1, 16, 16\), the model's has \(1, 16, 32\)",
        ),
        ({"depth": 4, "embed_dim": 32, "img_size": 56}, "size mismatch for pos_embed: [^\n]*$"),
        ({"depth": 4, "pretrained": True}, "pretrained: a descendant's weights are those of the learngene"),
        ({"depth": 4, "checkpoint_path": "x"}, "'checkpoint_path' is not allowed"),
        ({"depth": 4, "num_classes": "3"}, "num_classes '3': it must be a whole number"),
        ({"depth": 4, "class_names": "abc"}, "class_names 'abc': it must be a list"),
    ],
)
def test_spawning_with_odd_arguments(gene, arguments, message):
    with pytest.raises(LearngeneError, match=message):
        gene.spawn(**arguments)


def test_numbers_of_numpy_spawn_and_extract(gene, tmp_path):
    model = gene.spawn(np.int64(4), num_classes=np.int64(5))
    assert (len(model.blocks), type(model.num_classes)) == (4, int)
    with pytest.raises(LearngeneError, match="plan 1,1 has 2 layers, but the model has 4"):
        Learngene.extract(model, (1, 1))
    assert str(Learngene.extract(model, "1,1,2").plan) == "1,1,2"
    with pytest.raises(LearngeneError, match="path None: it must be"):
        Learngene.load(None)
