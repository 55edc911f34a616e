"""Arguments of the public functions are what their annotations say, or one sentence; nothing is done before."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pytest
import torch
from conftest import FAST

import learngene
from learngene import Learngene, LearngeneError
from learngene.arguments import take, typed
from learngene.recipe import Recipe, divide


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
        ("false", bool | Literal["auto"], "x 'false': it must be True or False or auto"),
        (1, bool, "x 1: it must be True or False"),
        ("1e-3", float, "x '1e-3': it must be a number"),
        (None, str | Path, "x None: it must be a text or a path"),
        ({"a", "b"}, Sequence[str] | None, "x of type set: it must be a list"),
        ((n for n in "ab"), Sequence[str], "x of type generator: it must be a list"),
        ("abc", Sequence[str], "x 'abc': it must be a list"),
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


@pytest.mark.parametrize("name", learngene.COMMANDS)
def test_every_command_checks_its_arguments(name):
    """None of them takes an object for its first argument, or for a flag."""
    command = getattr(learngene, name)
    needed = {p.name: "x" for p in inspect.signature(command).parameters.values() if p.default is p.empty}
    first = next(iter(inspect.signature(command).parameters))
    with pytest.raises(LearngeneError, match=f"{first} of type object: it must be"):
        command(**{**needed, first: object()})


def test_options_of_a_recipe():
    (recipe,) = divide({"batch_size": np.int32(8), "lr": np.float64(0.5), "steps": None}, Recipe)
    assert (type(recipe.batch_size), type(recipe.lr)) == (int, float)
    for option in (
        {"compile": "false"},
        {"lr": "1e-3"},
        {"freeze": 1.5},
        {"grad_checkpointing": "no"},
        {"opt": None},
    ):
        with pytest.raises(LearngeneError, match=f"{next(iter(option))} .*: it must be"):
            divide(option, Recipe)


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
