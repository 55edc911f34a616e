"""Re-learning: what is reset, what is frozen, when training stops, and that words follow from the rows."""

import copy
import json

import pytest
import torch
from conftest import FAST

from learngene import LearngeneError, relearn
from learngene.bench.plots import relearning
from learngene.cli import main
from learngene.families.timm import open_model
from learngene.families.weights import digest_of
from learngene.studies.cells import Cell, cells, spans
from learngene.studies.recovery import freeze_all_but, reset_layers
from learngene.studies.relearn_report import answers, cell_table, write_relearn_report


def changed(before, after):
    """Numbers of the layers whose weights differ, counted from 1; 0 for anything outside the layers."""
    names = [k for k in before if not torch.equal(before[k], after[k])]
    return {int(k.split(".")[1]) + 1 if k.startswith("blocks.") else 0 for k in names}


@pytest.fixture
def model(architecture):
    torch.manual_seed(3)
    built = architecture.build(4)
    for block in built.blocks:
        torch.nn.init.constant_(block.norm1.weight, 2.0)
    return built


def test_reset_changes_these_layers_alone_norms_included(model):
    before = copy.deepcopy(model.state_dict())
    reset_layers(model, [2, 4])
    assert changed(before, model.state_dict()) == {2, 4}
    assert model.blocks[1].norm1.weight.unique().tolist() == [1.0]
    kept = reset_layers(copy.deepcopy(model), [1], keep_norms=True)
    assert kept.blocks[0].norm1.weight.unique().tolist() == [2.0]
    assert not torch.equal(kept.blocks[0].mlp.fc1.weight, model.blocks[0].mlp.fc1.weight)
    again = reset_layers(copy.deepcopy(model), [1], seed=1)
    assert not torch.equal(kept.blocks[0].mlp.fc1.weight, again.blocks[0].mlp.fc1.weight)


def test_freezing_leaves_the_reset_layers(model):
    others = freeze_all_but(model, [2])
    assert len(others) == 3
    assert {name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad} == {"1"}
    assert not model.head.weight.requires_grad


def test_cells_and_blocks():
    found = cells("m", 4, [1, 4], [0.1, 1.0], ["frozen", "free"], ["lr-x5", "block-2", "inverse-3"], [0])
    assert len(found) == len({cell.key for cell in found}) == 8 + 4 + 6 + 4
    assert Cell("m", (1, 2), "free", 1.0, "block-2") in found
    assert Cell("m", (4,), "frozen", 1.0, "inverse-3") in found
    assert found[0].key == "m-l1-frozen-p10-s0"
    assert spans((1, 3, 4, 5, 7)) == "1, 3-5, 7"
    for layers, controls, message in (
        ([5], [], "layers 1 to 4"),
        ([1], ["blocks-2"], "use none, lr-x5"),
        ([1], ["block-4"], "only 4 layers"),
    ):
        with pytest.raises(LearngeneError, match=message):
            cells("m", 4, layers, [1.0], ["free"], controls, [0])


OPTIONS = {**FAST, "shares": [0.5, 1.0], "layers": [1], "seeds": [1], "max_images": 64, "in_memory": True}


@pytest.fixture
def lossy(ancestor, monkeypatch):
    """The random ancestor is as good as it can be, and any other weights are worse."""
    import learngene.studies.relearn as study

    best = digest_of(open_model(ancestor).state_dict())
    monkeypatch.setattr(
        study, "accuracy", lambda model, data: 0.9 if digest_of(model.state_dict()) == best else 0.5
    )


def test_end_to_end_is_resumed_and_never_run_twice(folder, ancestor, tmp_path, monkeypatch, lossy):
    import learngene.studies.relearn as study

    original, ran = study.run_cell, []

    def counted(cell, *args, **kwargs):
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append(cell.key)
        return original(cell, *args, **kwargs)

    options = {**OPTIONS, "controls": ["norms-kept", "none"]}
    with monkeypatch.context() as patch:
        patch.setattr(study, "run_cell", counted)
        with pytest.raises(KeyboardInterrupt):
            relearn([str(ancestor)], str(folder), out=tmp_path / "cut", **options)
    before = {p: p.stat().st_mtime_ns for key in ran for p in (tmp_path / "cut" / "cells" / key).iterdir()}
    result = relearn([str(ancestor)], str(folder), out=tmp_path / "cut", resume=True, **options)
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert [
        json.loads(line) for line in (tmp_path / "cut" / "results.jsonl").read_text().splitlines()
    ] == result["rows"]
    assert len(result["rows"]) == 2 * 2 + 2 + 1
    assert result["rows"][-1]["points"][-1][0] == 4  # the last step is looked at, and nothing stops it
    assert (
        "without any reset, training on at this learning rate: ancestor"
        in (tmp_path / "cut" / "relearn.md").read_text()
    )
    whole = relearn([str(ancestor)], str(folder), out=tmp_path / "whole", **options)
    assert whole["rows"] == result["rows"]
    assert (tmp_path / "cut" / "relearn.png").read_bytes().startswith(b"\x89PNG")
    assert "Does it fail to train?" in (tmp_path / "cut" / "relearn.md").read_text()


def test_stops_once_the_accuracy_is_back(folder, ancestor, tmp_path, capsys, monkeypatch):
    """The accuracy falls with the reset, and is back at the third look."""
    import learngene.studies.relearn as study

    values = iter([0.9, 0.5, 0.6, 0.7, 0.896])
    monkeypatch.setattr(study, "accuracy", lambda model, data: next(values))
    command = [
        "relearn",
        str(ancestor),
        "--data",
        str(folder),
        "--layers",
        "2",
        "--shares",
        "[1.0]",
        "--modes",
        "[frozen]",
    ]
    command += [
        "--max-images",
        "640",
        "--batch-size",
        "16",
        "--workers",
        "0",
        "--precision",
        "32-true",
        "--epochs",
        "1",
    ]
    assert main([*command, "--json", "--out", str(tmp_path / "a")]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["steps"], row["images"], row["damaged"]) == (3, 48, 0.5)
    assert row["points"] == [[1, 0.6], [2, 0.7], [3, 0.896]]
    run = json.loads((tmp_path / "a" / "cells" / "ancestor-l2-frozen-p100-s0" / "run.json").read_text())
    assert run["status"] == "finished"
    assert not list((tmp_path / "a").rglob("*.ckpt"))
    values = iter([0.9, 0.5, *[0.6] * 20])
    assert main([*command, "--out", str(tmp_path / "b")]) == 0
    assert "Does it fail to train? 1 of 1" in " ".join(capsys.readouterr().out.split())


def test_a_frozen_model_changes_in_the_reset_layer_alone(folder, ancestor, tmp_path, monkeypatch, lossy):
    import learngene.studies.relearn as study

    seen = {}
    original = study.fit

    def watched(module, *args, **kwargs):
        before = copy.deepcopy(module.model.state_dict())
        result = original(module, *args, **kwargs)
        seen[module.recipe.lr] = changed(before, module.model.state_dict())
        return result

    monkeypatch.setattr(study, "fit", watched)
    once = {**OPTIONS, "layers": [3], "shares": [1.0], "tolerance": 0.0}
    relearn([str(ancestor)], str(folder), out=tmp_path / "a", modes=["frozen"], **once, lr=0.01)
    relearn([str(ancestor)], str(folder), out=tmp_path / "b", modes=["free"], **once, lr=0.02)
    assert seen[0.01] == {3}
    assert seen[0.02] == {0, 1, 2, 3, 4}


def test_a_layer_that_is_not_missed_is_said_to_be_so(folder, ancestor, tmp_path):
    result = relearn(
        [str(ancestor)], str(folder), out=tmp_path / "a", **{**OPTIONS, "shares": [1.0], "tolerance": 0.99}
    )
    assert [row["images"] for row in result["rows"]] == [0, 0]
    assert "not lost" in (tmp_path / "a" / "relearn.md").read_text()


def row(layer, mode, share, images, *, model="m", control="", depth=4, width=16):
    return {
        "model": model, "layers": [layer], "mode": mode, "share": share, "control": control, "seed": 0,
        "depth": depth, "width": width, "original": 0.9, "damaged": 0.5, "best": 0.91, "images": images,
        "gave_up_after": 100, "points": [],
    }  # fmt: skip


def told(rows, originals):
    """Questions and answers, one a line."""
    return "\n".join(f"{question} {answer}" for question, answer in answers(rows, originals))


def test_answers_follow_from_the_rows():
    rows = [
        row(1, "frozen", 1.0, None),
        row(2, "frozen", 1.0, 50),
        row(1, "free", 1.0, 20),
        row(2, "free", 1.0, 40),
    ]
    rows += [
        row(1, "frozen", 0.1, None),
        row(2, "frozen", 0.1, 100),
        row(2, "free", 1.0, 80, control="lr-x5"),
    ]
    text = told(rows, {"m": 1000})
    assert (
        "with 10 % of the images 1 of 2 come back, median after 100 views (10 % of the original training)"
        in text
    )
    assert (
        "with 100 % of the images 1 of 2 come back, median after 50 views (5 % of the original training)"
        in text
    )
    assert "m, views until back by layer: 1: never, 2: 50" in text
    assert (
        "2 of 6 cells were not back when training was given up "
        "(2 with the rest frozen, 0 with the rest trained)" in text
    )
    assert "Control lr-x5: free, 1 of 1 are back (where both are, in 2 times the views, median of 1)." in text
    assert "only one model was tried" in text
    none = told([row(1, "frozen", 1.0, 0), row(2, "frozen", 1.0, None)], {"m": None})
    assert "with 100 % of the images 0 of 2 come back, 1 had lost nothing" in none
    assert "1: not lost, 2: never" in none
    two = told([*rows, row(1, "free", 1.0, 90, model="n", depth=8, width=32)], {"m": None, "n": None})
    assert "n (N = 8, D = 32): median views until back free 90" in two
    (first, *_) = cell_table(rows, {"m": 1000}).rows
    assert " | ".join(first) == "m |  | 1 | frozen | 100 % | 90.00 | 50.0 | never in 100 |  | 91.00"


def test_the_report_shows_names_as_they_are(tmp_path):
    rows = [row(1, "free", 1.0, 20, model="<b>|x|`](y)"), row(1, "free", 1.0, 20, model="$a$ **n**")]
    originals, about = dict.fromkeys(("<b>|x|`](y)", "$a$ **n**")), {"data": "[photos](x)"}
    out = write_relearn_report(rows, tmp_path, tolerance=0.005, originals=originals, about=about)
    text = out.read_text()
    assert "- data: \\[photos\\](x)\n" in text
    assert "within 0.5 points of the original" in text
    assert "- **Do depth N and width D matter?** \\<b>\\|x\\|\\`\\](y) (N = 4, D = 16): median" in text
    assert text.endswith(
        "| \\<b>\\|x\\|\\`\\](y) |  | 1 | free | 100 % | 90.00 | 50.0 | 20 | unknown | 91.00 |\n"
        "| $a$ \\*\\*n\\*\\* |  | 1 | free | 100 % | 90.00 | 50.0 | 20 | unknown | 91.00 |\n"
    )


def test_the_plot_takes_seeds_that_end_differently(tmp_path):
    rows = [row(1, "free", 1.0, None), row(1, "free", 1.0, 20), row(2, "free", 1.0, 0)]
    assert relearning(rows, tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_bad_input(folder, ancestor, tmp_path):
    for options, message in (
        ({"layers": [9]}, "ancestor has layers 1 to 4"),
        ({"shares": [0.0]}, "above 0 and at most 1"),
        ({"modes": ["thawed"]}, "among frozen and free"),
        ({"original_images": [1, 2]}, "2 original_images for 1 models"),
        ({"controls": ["blocks"]}, "use none, lr-x5"),
        ({"lrr": 1}, "did you mean 'lr'"),
    ):
        with pytest.raises(LearngeneError, match=message):
            relearn([str(ancestor)], str(folder), out=tmp_path / "x", **{**OPTIONS, **options})
        assert not (tmp_path / "x").exists()
    with pytest.raises(LearngeneError, match="named twice"):
        relearn([str(ancestor)] * 2, str(folder), out=tmp_path / "x", **OPTIONS)
    with pytest.raises(LearngeneError, match="use the data it was trained on"):
        relearn([str(ancestor)], "fashion-mnist", out=tmp_path / "x", **OPTIONS)


def test_views_of_the_original_training_are_read_beside_the_model(folder, tmp_path):
    from learngene import finetune

    args = {
        "arch_args": {"img_size": 28, "patch_size": 7, "in_chans": 1, "embed_dim": 16, "num_heads": 2},
        "depth": 2,
    }
    finetune("vit_tiny_patch16_224", str(folder), out=tmp_path / "run", **args, **FAST)
    relearn(
        [str(tmp_path / "run" / "model")],
        str(folder),
        out=tmp_path / "x",
        **{**OPTIONS, "shares": [1.0], "modes": ["free"]},
    )
    assert "run-model: 48 views" in (tmp_path / "x" / "relearn.md").read_text()
    assert open_model(tmp_path / "run" / "model").num_classes == 3
