"""What depths cost and how well they do: `plan` before training, `info`, `evaluate GENE`, `archs`.

Values by models built by hand.
"""

import io
import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from conftest import CLASSES, TINY_ARGS, write_folder
from rich.console import Console

from learngene import archs, evaluate, info, plan_costs, spawn, terminal
from learngene.cli import main
from learngene.costs import Sizes, count_flops
from learngene.errors import LearngeneError
from learngene.families.anatomy import count_parameters, get_blocks, why_unsupported
from learngene.families.architecture import Architecture
from learngene.gene import Learngene
from learngene.jobs.benchmark import Benchmark
from learngene.latency import Latency
from learngene.plan import StagePlan
from learngene.sharing import build_auxnet


@pytest.fixture
def file(gene, tmp_path):
    return gene.save(tmp_path / "learngene.safetensors")


@pytest.fixture(autouse=True)
def short_turns(monkeypatch):
    monkeypatch.setattr("learngene.latency.MOST_ROUNDS", 2)


def fails(capsys, *words):
    assert main([str(w) for w in words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    return line


# plan


def test_plan_tells_what_will_be_stored_and_spawned(architecture):
    told = plan_costs("vit_tiny_patch16_224", plan="2,1,2", arch_args=TINY_ARGS, depth="3-6")
    plan = StagePlan((2, 1, 2))
    auxnet = build_auxnet(architecture, plan)
    gene = Learngene.extract(auxnet, plan)
    assert told["parameters"] == gene.parameters
    assert told["auxnet"]["parameters"] == count_parameters(auxnet)
    assert (told["auxnet"]["depth"], told["auxnet"]["plan"]) == (5, "2,1,2")
    assert (
        told["auxnet"]["gflops"] == count_flops(architecture.build(5).requires_grad_(False).to("meta")) / 1e9
    )
    assert [row["depth"] for row in told["depths"]] == [3, 4, 5, 6]
    for row in told["depths"]:
        model = gene.spawn(row["depth"])
        assert row["parameters"] == count_parameters(model)
        assert row["bytes"] == 4 * row["parameters"]
        assert row["gflops"] == count_flops(model.requires_grad_(False).to("meta")) / 1e9
        assert row["plan"] == str(gene.plan_for(row["depth"]))
        assert "latency_ms" not in row
    ten = sum(count_parameters(gene.spawn(d)) for d in range(6, 16))
    assert told["ten_models_parameters"] == ten
    assert told["times_smaller_than_ten_models"] == ten / gene.parameters


def test_plan_and_info_agree(gene, file):
    before = plan_costs("vit_tiny_patch16_224", plan=gene.plan, arch_args=TINY_ARGS)
    after = info(file)
    assert [{**row, "step": "1", "kl": None} for row in before["depths"]] == after["depths"]
    for key in ("parameters", "ten_models_parameters", "times_smaller_than_ten_models", "plan"):
        assert before[key] == after[key]


def test_plan_at_the_command_line(capsys):
    words = [
        "plan",
        "vit_tiny_patch16_224",
        "--plan",
        "2,1,2",
        "--arch-args",
        json.dumps(TINY_ARGS),
        "--depth",
        "3",
        "5-6",
    ]
    assert main([*words, "--latency", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["depth"] for row in told["depths"]] == [3, 5, 6]
    for row in (told["auxnet"], *told["depths"]):
        low, high = row["latency_quartiles_ms"]
        assert 0 < low <= row["latency_ms"] <= high
    how = told["latency"]
    assert (how["dtype"], how["threads"], how["batch"], how["device"]) == (
        "float32",
        torch.get_num_threads(),
        1,
        "cpu",
    )
    assert main([*words, "--latency"]) == 0
    shown = capsys.readouterr().out
    assert "auxiliary net: 5 layers" in shown
    assert "float32, " in shown
    assert f"{told['depths'][1]['parameters']:,}" in shown


def test_bad_plans_end_in_a_sentence(capsys):
    assert "ARCH is missing" in fails(capsys, "plan", "--plan", "3,3")
    assert "resnet50 is not supported, because" in fails(capsys, "plan", "resnet50")
    assert "stage 1 has no layer" in fails(capsys, "plan", "vit_tiny_patch16_224", "--plan", "3,0,3")
    assert "depth 4 is less than the 5 stages" in fails(
        capsys, "plan", "vit_tiny_patch16_224", "--depth", "4-6"
    )
    assert "'9-4' run backwards" in fails(capsys, "plan", "vit_tiny_patch16_224", "--depth", "9-4")
    assert "timm cannot build" in fails(
        capsys, "plan", "vit_tiny_patch16_224", "--arch-args", '{"no_such": 1}'
    )


@pytest.mark.parametrize(
    ("arch", "args", "classes"),
    [
        ("vit_tiny_patch16_224", {}, 1000),
        ("vit_tiny_patch16_224.augreg_in21k", {}, 21843),
        ("vit_tiny_patch16_dinov3_qkvb", {}, 0),
        ("vit_tiny_patch16_dinov3_qkvb", {"num_classes": 7}, 7),
    ],
)
def test_classes_are_those_that_are_counted(arch, args, classes):
    told = plan_costs(arch, plan="2,2", arch_args=args, depth=4)
    assert told["classes"] == classes
    assert told["depths"][0]["parameters"] == count_parameters(Architecture(arch, args).build(4))


def test_fewer_classes_than_none(architecture):
    with pytest.raises(LearngeneError, match="num_classes -3: it must be at least 0, which is no head"):
        plan_costs("vit_tiny_patch16_224", arch_args={"num_classes": -3})
    with pytest.raises(LearngeneError, match="num_classes -1: it must be at least 0"):
        Sizes(architecture, (("num_classes", -1),))


def test_plan_says_where_timm_fixes_the_depth(caplog):
    caplog.set_level("INFO", logger="learngene")
    assert not plan_costs("mixer_s32_224", plan="2,2", depth=4)["any_depth"]
    assert "timm fixes the depth of mixer_s32_224 at 8: other depths in Python only" in caplog.text
    caplog.clear()
    assert plan_costs("vit_tiny_patch16_224", plan="2,2", arch_args=TINY_ARGS, depth=4)["any_depth"]
    assert "timm fixes" not in caplog.text


def test_depths_of_a_directory_are_refused(file, tmp_path, capsys):
    (directory,) = spawn(file, depth=3, out=tmp_path / "f")
    for name in (directory, f"local-dir:{directory}"):
        assert f"--depth is for the depths of a learngene file, and '{name}' is none" in fails(
            capsys, "info", name, "--depth", "4-9"
        )


def test_the_module_of_plans_is_not_shadowed():
    import learngene.plan

    assert learngene.plan.StagePlan is learngene.StagePlan
    assert learngene.plan_costs("vit_tiny_patch16_224")["plan"] == plan_costs("vit_tiny_patch16_224")["plan"]


def test_a_learngene_of_many_stages_has_a_row_all_the_same(architecture):
    plan = StagePlan((1,) * 20)
    told = plan_costs("vit_tiny_patch16_224", plan=plan, arch_args=TINY_ARGS)
    assert [row["depth"] for row in told["depths"]] == [20]


# latency


def test_all_depths_are_measured_in_turns(monkeypatch, architecture):
    order = []
    monkeypatch.setattr(
        "learngene.latency._timed",
        lambda model, images, passes: order.append(len(get_blocks(model))) or [1.0] * passes,
    )
    measured = Sizes(architecture).latencies([9, 4, 6])
    assert order == [4, 6, 9] * 3  # one round to warm up
    assert {depth: m.median for depth, m in measured.items()} == {4: 1.0, 6: 1.0, 9: 1.0}


def test_a_disturbance_meets_all_depths_alike(monkeypatch, architecture):
    """A third of the time everything takes ten times as long: medians and the order of depths stay."""
    monkeypatch.setattr("learngene.latency.MOST_ROUNDS", 9)
    monkeypatch.setattr("learngene.latency.SECONDS", 60.0)
    turns = []

    def timed(model, images, passes):
        turns.append(depth := len(get_blocks(model)))
        slow = (len(turns) - 1) // 3 % 3 == 0
        return [depth * (10.0 if slow else 1.0)] * passes

    monkeypatch.setattr("learngene.latency._timed", timed)
    measured = Sizes(architecture).latencies([4, 6, 12])
    assert [m.median for m in measured.values()] == [4.0, 6.0, 12.0]


def test_a_deeper_model_that_is_clearly_faster_is_told(monkeypatch, architecture, caplog):
    caplog.set_level("WARNING", logger="learngene")
    monkeypatch.setattr(
        "learngene.latency._timed",
        lambda model, images, passes: [{8: 9.8, 12: 8.0}[len(get_blocks(model))]] * passes,
    )
    Sizes(architecture).latencies([8, 12])
    assert "8 layers took 9.8 ms and 12 layers 8 ms, so something else was running" in caplog.text


def test_models_to_measure_share_their_weights(architecture):
    models = Sizes(architecture)._models([3, 5], "cpu")
    assert models[3].blocks[2].mlp.fc1.weight.data_ptr() == models[5].blocks[2].mlp.fc1.weight.data_ptr()
    assert models[3].patch_embed.proj.weight.data_ptr() == models[5].patch_embed.proj.weight.data_ptr()
    assert [len(m.blocks) for m in models.values()] == [3, 5]


def test_median_and_quartiles():
    assert Latency.of([4.0, 1.0, 2.0, 3.0, 100.0]) == Latency(3.0, 2.0, 4.0)


@pytest.mark.parametrize(("budget", "deepest"), [(7.5, 7), (30.0, 30), (3.0, 3), (1e6, 200)])
def test_the_deepest_within_a_latency(monkeypatch, architecture, budget, deepest):
    """A millisecond a layer."""
    monkeypatch.setattr(
        Sizes,
        "latencies",
        lambda self, depths, device: {d: Latency(float(d), float(d), float(d)) for d in depths},
    )
    assert Sizes(architecture).deepest(3, max_latency_ms=budget) == deepest


def test_the_deepest_within_a_latency_that_bends(monkeypatch, architecture):
    """From 20 layers on a layer takes five times as long, so a straight line misleads."""
    cost = lambda d: float(d if d <= 20 else 20 + 5 * (d - 20))  # noqa: E731
    monkeypatch.setattr(
        Sizes, "latencies", lambda self, depths, device: {d: Latency(cost(d), 0, 0) for d in depths}
    )
    assert Sizes(architecture).deepest(3, max_latency_ms=100) == 36
    assert (
        Sizes(architecture).deepest(3, max_latency_ms=100, max_params=Sizes(architecture).parameters(30))
        == 30
    )


@pytest.mark.parametrize("budget", ["max_params", "max_gflops", "max_latency_ms"])
def test_a_budget_that_is_no_number_or_too_small(architecture, budget):
    for value in (float("nan"), 1e-9):
        with pytest.raises(LearngeneError, match=rf"{budget} .*: 3 layers .*, the shallowest there is"):
            Sizes(architecture).deepest(3, **{budget: value})


def test_a_directory_is_measured_itself(file, tmp_path):
    (directory,) = spawn(file, depth="4-4", out=tmp_path / "d")
    told = info(directory, latency=True, device="auto")
    assert told["depths"][0]["latency_ms"] > 0
    assert told["latency"]["dtype"] == "float32"


# depths


def test_ranges_of_depths_for_every_command(file, tmp_path, capsys):
    assert main(["spawn", str(file), "--depth", "3-4", "6", "--out", str(tmp_path / "f")]) == 0
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == ["depth-03", "depth-04", "depth-06"]
    capsys.readouterr()
    assert main(["info", str(file), "--depth", "4-6", "--json"]) == 0
    assert [row["depth"] for row in json.loads(capsys.readouterr().out)["depths"]] == [4, 5, 6]
    for command, *more in (
        ["spawn", "--out", tmp_path / "x"],
        ["info"],
        ["evaluate", "--data", "fashion-mnist"],
    ):
        assert "'9-4' run backwards" in fails(capsys, command, file, "--depth", "9-4", *more)
        assert "'a-b' is neither" in fails(capsys, command, file, "--depth", "a-b", *more)
        assert "depth 0: a model" in fails(capsys, command, file, "--depth", "0", *more)
        assert "depth -3: a model" in fails(capsys, command, file, "--depth", "-3", *more)
        assert "less than the 3 stages" in fails(capsys, command, file, "--depth", "2-5", *more)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("said", [["4", "6-9"], ["4-12"], ["6"], ["4,6"], ["[4, 6-9]"]])
def test_print_config_gives_the_same_depths_again(file, tmp_path, capsys, said):
    assert main(["info", str(file), "--depth", *said, "--json", "--print-config"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "c.yaml").write_text(text)
    assert main(["info", str(file), "--depth", *said, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert main(["info", str(file), "--config", str(tmp_path / "c.yaml")]) == 0
    assert json.loads(capsys.readouterr().out) == told


@pytest.mark.parametrize(
    ("text", "depths"), [("4-6", [4, 5, 6]), ("6", [6]), ("[5, 7-8]", [5, 7, 8]), ("4 6", [4, 6])]
)
def test_depths_written_into_a_config(file, tmp_path, capsys, text, depths):
    (tmp_path / "c.yaml").write_text(f"depth: {text}\n")
    assert main(["info", str(file), "--config", str(tmp_path / "c.yaml"), "--json"]) == 0
    assert [row["depth"] for row in json.loads(capsys.readouterr().out)["depths"]] == depths


def test_depth_without_a_value(file, capsys):
    assert "depth" in fails(capsys, "info", file, "--depth")
    assert "depth" in fails(capsys, "info", file, "--depth", "--latency")


# evaluate GENE


def test_rows_are_those_of_the_spawned_directories(file, folder, tmp_path):
    told = evaluate(file, str(folder), depth=["3-4", 6], workers=0)
    directories = spawn(file, depth=[3, 4, 6], out=tmp_path / "f")
    assert [row["depth"] for row in told["rows"]] == [3, 4, 6]
    for row, directory in zip(told["rows"], directories, strict=True):
        alone = evaluate(directory, str(folder), workers=0)
        assert {k: row[k] for k in ("top1", "top5", "loss", "images", "parameters")} == {
            k: alone[k] for k in ("top1", "top5", "loss", "images", "parameters")
        }
        costs = info(directory)["depths"][0]
        assert (row["bytes"], row["gflops"]) == (costs["bytes"], costs["gflops"])
        assert row["latency_quartiles_ms"][0] <= row["latency_ms"] <= row["latency_quartiles_ms"][1]
    assert (
        len({row["loss"] for row in told["rows"]}) == 3
    )  # depths differ, so equal values above are no accident


def test_a_plan_or_nothing_instead_of_a_depth(file, folder, caplog):
    caplog.set_level("INFO", logger="learngene")
    (row,) = evaluate(file, str(folder), plan="2,0,1", workers=0)["rows"]
    assert (row["depth"], row["plan"]) == (3, "2,0,1")
    (row,) = evaluate(file, str(folder), workers=0)["rows"]
    assert (row["depth"], row["plan"]) == (5, "2,1,2")
    assert "no depth was given: the learngene's own plan 2,1,2 is evaluated" in caplog.text


def test_the_learngene_decides_the_order_of_labels(gene, tmp_path, folder):
    """A test folder alone whose classes sort otherwise than the learngene's outputs."""
    turned = tuple(reversed(CLASSES))
    head = {k: v.flip(0) if k.startswith("head.") else v for k, v in gene.state.items()}
    file = Learngene(gene.architecture, gene.plan, head, turned, gene.data_config).save(
        tmp_path / "t.safetensors"
    )
    write_folder(tmp_path / "photos" / "test", 8, offset=100)
    (row,) = evaluate(file, str(tmp_path / "photos"), depth=4, workers=0)["rows"]
    (expected,) = evaluate(gene.save(tmp_path / "g.safetensors"), str(folder), depth=4, workers=0)["rows"]
    assert (row["top1"], row["images"]) == (expected["top1"], expected["images"])
    assert row["loss"] == pytest.approx(expected["loss"])


def test_one_table_and_what_is_kept(file, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", str(file), "--data", str(folder), "--depth", "3", "5", "--workers", "0"]
    before = sorted(tmp_path.iterdir())
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("2,1,2", "top1", "latency_ms", "float32"))
    assert sorted(tmp_path.iterdir()) == before  # nothing is written without --out
    assert main([*words, "--out", "kept", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    kept = json.loads((tmp_path / "kept" / "evaluation.json").read_text())
    assert kept["rows"] == told["rows"]
    page = (tmp_path / "kept" / "evaluation.md").read_text()
    assert f"{100 * told['rows'][1]['top1']:.2f} |" in page
    assert "accuracy-by-size.png" in page
    assert (tmp_path / "kept" / "accuracy-by-size.png").read_bytes()[:4] == b"\x89PNG"
    assert "is not empty" in fails(capsys, *words, "--out", "kept")
    assert main([*words[:5], "3", *words[7:], "--out", "kept", "--overwrite"]) == 0
    assert len(json.loads((tmp_path / "kept" / "evaluation.json").read_text())["rows"]) == 1


@pytest.mark.parametrize(
    "foreign", ["photo.png", "accuracy-by-size.png/boot.png", "evaluation.json/boot.png"]
)
def test_overwriting_an_evaluation_deletes_nothing_else(file, folder, tmp_path, capsys, foreign):
    out = tmp_path / "out"
    (out / foreign).parent.mkdir(parents=True)
    (out / foreign).touch()
    if not foreign.startswith("evaluation"):
        (out / "evaluation.json").touch()
    words = ["evaluate", file, "--data", folder, "--depth", "3", "--out", out, "--overwrite"]
    assert f"holds '{foreign.split('/')[0]}', so it is not what --overwrite replaces" in fails(capsys, *words)
    assert (out / foreign).exists()


def test_overwriting_an_evaluation_does_not_delete_what_is_read(file, gene, folder, tmp_path, capsys):
    photos, run = tmp_path / "photos", tmp_path / "run"
    shutil.copytree(folder / "test", photos)
    run.mkdir()
    inside = gene.save(run / "evaluation.md")
    for place in (run, photos / "earlier"):
        place.mkdir(exist_ok=True)
        (place / "evaluation.json").touch()
    before = sorted(tmp_path.rglob("*"))
    words = ["--depth", "3", "--overwrite", "--workers", "0"]
    assert "holds or lies in" in fails(capsys, "evaluate", inside, "--data", photos, "--out", run, *words)
    assert "holds or lies in" in fails(capsys, "evaluate", file, "--data", photos, "--out", photos, *words)
    assert "holds or lies in" in fails(
        capsys, "evaluate", file, "--data", photos, "--out", photos / "earlier", *words
    )
    (tmp_path / "link").symlink_to(run)
    assert "holds or lies in" in fails(
        capsys, "evaluate", inside, "--data", photos, "--out", tmp_path / "link", *words
    )
    (tmp_path / "link").unlink()
    assert sorted(tmp_path.rglob("*")) == before


COMMITTED = Path(__file__).parents[1] / "docs/results/fashion-mnist/results.jsonl"
COSTS = {"depth": 12, "plan": "3,2,3,2,2", "parameters": 10_955_674, "bytes": 43_822_696, "gflops": 1.234}
RESULTS = {
    "latency_ms": 112.34,
    "latency_quartiles_ms": [110.12, 115.5],
    "top1": 0.8935,
    "top5": 0.99,
    "loss": 0.3345,
}


@pytest.mark.parametrize("columns", [20, 40, 80, 160])
@pytest.mark.parametrize("row", [COSTS, {**COSTS, **RESULTS, "images": 10_000}])
def test_a_narrow_terminal_cuts_no_number(row, columns, monkeypatch):
    console = Console(width=columns, file=io.StringIO())
    monkeypatch.setattr(terminal, "_console", lambda: console)
    terminal.print_costs([row], None)
    text = console.file.getvalue()
    table, _, left = text.partition("left out")
    assert "…" not in text
    assert "10,955,674" in table
    for column, shown in (
        ("bytes", "43,822,696"),
        ("gflops", "1.234"),
        ("latency_ms", "112.34 (110.12 to 115.50)"),
        ("loss", "0.3345"),
    ):
        assert (shown in table) == (column in row and column not in left)
    assert columns < 160 or not left
    assert "top1" not in row or "89.35 %" in table
    assert columns < 40 or max(map(len, table.splitlines())) <= columns


def test_a_narrow_terminal_folds_names_only(monkeypatch, capsys):
    committed = COMMITTED.read_text().splitlines()
    row = json.loads(committed[0]) | {"start": "weight-selection-of-all", "depth": 12, "test_top1": 0.8}
    row |= {"flops": 1.2e13, "seconds": 12345.6}
    for columns in (40, 80):
        console = Console(width=columns)
        monkeypatch.setattr(terminal, "_console", lambda console=console: console)
        Benchmark.show({"rows": [row, row | {"seed": 1, "test_top1": 0.82}], "report": "r"})
        text = capsys.readouterr().out
        assert "81.00 ± 1.41" in text
        assert "…" not in text
        assert "weight-selec" in text
        table, _, left = text.partition("left out")
        for column, shown in (("TFLOPs", "12.00"), ("seconds", "12345.6"), ("seeds", "│     2 │")):
            assert (shown in table) == (column not in left)
    console = Console(width=160)
    monkeypatch.setattr(terminal, "_console", lambda: console)
    Benchmark.show({"rows": [row], "report": "r"})
    assert "12345.6" in capsys.readouterr().out


def test_mistakes_of_evaluating_depths(file, folder, ancestor, tmp_path, capsys):
    data = ["--data", folder]
    for option in (["--depth", "4"], ["--plan", "1,1,1"], ["--out", tmp_path / "o"]):
        assert f"{option[0]} is for the depths of a learngene file" in fails(
            capsys, "evaluate", ancestor, *option, *data
        )
    assert "is for the depths of a learngene file" in fails(
        capsys, "evaluate", "vit_tiny_patch16_224", "--depth", "4", *data
    )
    assert "in one way" in fails(capsys, "evaluate", file, "--depth", "5", "--plan", "2,1,2", *data)
    assert "has 2 stages, the learngene has 3" in fails(capsys, "evaluate", file, "--plan", "2,1", *data)
    assert "not among the 3 classes" in fails(
        capsys, "evaluate", file, "--depth", "4", "--data", "fashion-mnist"
    )
    (tmp_path / "bad.pth").write_bytes(b"PK\x03\x04 something")
    assert "is a pickle" in fails(capsys, "evaluate", tmp_path / "bad.pth", "--depth", "4", *data)
    assert not (tmp_path / "o").exists()


# archs


def test_archs_tells_what_is_supported_and_why_not():
    told = archs("*mlp_s*")
    told_names = {row["name"] for row in told["supported"]} | {row["name"] for row in told["unsupported"]}
    assert told_names == set(timm.list_models("*mlp_s*"))
    assert told["timm"] == timm.__version__
    (row,) = archs("deit_tiny_patch16_224")["supported"]
    model = timm.create_model("deit_tiny_patch16_224")
    assert row == {
        "name": "deit_tiny_patch16_224", "depth": len(model.blocks), "width": model.embed_dim,
        "parameters": sum(p.numel() for p in model.parameters()), "any_depth": True,
    }  # fmt: skip
    (row,) = archs("mixer_s32_224")["supported"]
    assert not row["any_depth"]
    assert archs("resnet18")["unsupported"][0]["reason"].startswith("resnet18 is not supported, because")


def test_archs_at_the_command_line(capsys):
    assert main(["archs", "mixer_s*", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert main(["archs", "mixer_s*"]) == 0
    shown = capsys.readouterr().out
    assert all(row["name"] in shown for row in told["supported"])
    assert "* timm fixes the depth" in shown
    assert main(["archs", "resnet18"]) == 0
    assert "resnet18 is not supported, because" in capsys.readouterr().out
    assert "did you mean" in fails(capsys, "archs", "deit_tiny_patch16_225")
    assert "no architecture of timm" in fails(capsys, "archs", "nothing*like*this")
    assert "matches '['; try one such as 'deit3*'" in fails(capsys, "archs", "[")
    assert [row["name"] for row in archs("mixer_s[3]2*")["supported"]] == ["mixer_s32_224"]
    for empty in ("", " "):
        with pytest.raises(LearngeneError, match="pattern is empty; give a value, or leave it out"):
            archs(empty)


def test_archs_without_a_pattern_is_quick(capsys):
    assert main(["archs", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pattern"] == "*patch16_224"
    assert "vit_small_patch16_224" in {row["name"] for row in told["supported"]}
    assert len(told["supported"]) + len(told["unsupported"]) < 100


def test_unsupported_architectures_are_asked_about_once(monkeypatch):
    why_unsupported.cache_clear()
    asked = []
    monkeypatch.setattr(
        "learngene.families.anatomy.anatomy",
        lambda name: asked.append(name) or (_ for _ in ()).throw(LearngeneError("no")),
    )
    assert [why_unsupported("x"), why_unsupported("x")] == ["no", "no"]
    assert asked == ["x"]
    why_unsupported.cache_clear()


def test_sizes_of_any_depth_by_what_is_built():
    architecture = Architecture("vit_tiny_patch16_224", TINY_ARGS)
    for depth in (1, 7, 40):
        assert Sizes(architecture).parameters(depth) == count_parameters(architecture.build(depth))


def test_overwriting_a_descendant_deletes_nothing_else(gene, tmp_path):
    file = gene.save(tmp_path / "gene.safetensors")
    (directory,) = spawn(file, out=tmp_path / "out", depth=4)
    spawn(file, out=tmp_path / "out", depth=4, overwrite=True)
    note = directory / "notes.txt"
    note.write_text("mine")
    with pytest.raises(LearngeneError, match=r"holds 'notes.txt', so it is not what --overwrite replaces"):
        spawn(file, out=tmp_path / "out", depth=4, overwrite=True)
    note.unlink()
    inside = gene.save(directory / "model.safetensors")  # a learngene where a descendant's weights were
    with pytest.raises(LearngeneError, match=r"which holds or lies in .* that is read"):
        spawn(inside, out=tmp_path / "out", depth=4, overwrite=True)
    assert inside.is_file()
