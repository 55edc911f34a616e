"""The benchmark: trials are resumed, never run twice, and the numbers are computed as said."""

import json
import re
import shlex
import shutil
from dataclasses import MISSING, fields

import pytest
import yaml
from conftest import FAST, TINY_ARGS

from learngene import LearngeneError, benchmark, evaluate, report
from learngene.bench import plots
from learngene.bench.comparisons import at_equal_accuracy, comparable
from learngene.bench.experiment import Experiment
from learngene.bench.lines import break_even_point, compare, equal_accuracy, lines, t_quantile
from learngene.bench.preparation import Preparation
from learngene.bench.report import write_report
from learngene.bench.specs import StartSpec
from learngene.bench.summary import summarize
from learngene.bench.tables import cost_table, difference_table, equal_table, results_table
from learngene.bench.words import in_words
from learngene.cli import main
from learngene.files import locked
from learngene.jobs.distill import Distill
from learngene.jobs.finetune import Finetune
from learngene.plan import StagePlan

JOBS = {"distill": Distill, "finetune": Finetune}

OPTIONS = {**FAST, "depths": [3, 4], "seeds": [0, 1], "scratch_epochs": [2], "in_memory": True}

COST = {"images": 400, "steps": 9, "seconds": 10.0, "flops": 5e12, "joules": None}
GENE = {"out/gene": {**COST, "stored_parameters": 700, "name": "gene", "each": []}}


def row(start, depth, epochs, seed, top1, *, kind=None, prepared=None, flops=2e12):
    return {
        "start": start, "kind": kind or start, "arch_args": {}, "depth": depth, "epochs": epochs,
        "tflops": None, "seed": seed, "data": "photos", "recipe": "", "val_top1": 0.1, "test_top1": top1,
        "test_images": 50, "parameters": 1000, "flops": flops * epochs / 2, "images": 50 * epochs,
        "seconds": 1.5 * epochs,
        "curve": [{"epoch": 0, "val_top1": 0.2}, {"epoch": 1, "val_top1": 0.3}], "prepared": prepared or {},
        "architecture": "vit", "hardware": "here", "versions": {"torch": "2"}, "commit": "c0ffee",
        "precision": "32-true",
    }  # fmt: skip


def own(name, depth):
    return {f"out/{name}-{depth}": {**COST, "stored_parameters": 1000, "name": name, "each": ["depth"]}}


ROWS = [
    *(row("learngene", 6, 2, seed, value, prepared=GENE) for seed, value in enumerate((0.80, 0.82, 0.84))),
    *(row("random", 6, 2, seed, value) for seed, value in enumerate((0.60, 0.61, 0.65))),
    *(row("random", 6, 9, seed, value) for seed, value in enumerate((0.83, 0.84, 0.85))),
    *(
        row("pretrained", 6, 2, seed, value, prepared=own("pre", 6))
        for seed, value in enumerate((0.81, 0.82, 0.83))
    ),
]


def line(name, epochs=2):
    return next(found for found in lines(summarize(ROWS)) if (found.start, found.epochs) == (name, epochs))


def told(rows):
    """The sentences of a report, one a line."""
    return "\n".join(in_words(lines(summarize(rows))))


def test_mean_spread_and_pairs():
    gene, scratch, _, longer = summarize(ROWS)
    assert (gene.start, scratch.start, longer.budget) == ("learngene", "random", "9 epochs")
    assert gene.mean == pytest.approx(0.82)
    assert gene.spread == pytest.approx(0.02)
    assert gene.accuracy() == "82.00 ± 2.00"
    gap = compare(line("learngene"), line("random"))
    assert gap.mean == pytest.approx(20.0)
    assert gap.half == pytest.approx(4.303 * 1.0 / 3**0.5, rel=1e-3)
    assert gap.clear
    (cells,) = results_table([gene]).rows
    assert (
        " | ".join(cells) == "6 | learngene | 2 epochs | 3 | 82.00 ± 2.00 | 20.0 | 1,000 | 2.00 | 100 | 3.0"
    )


def test_words_come_from_the_numbers():
    words = told(ROWS)
    assert (
        "learngene has the highest mean, 82.00 % test accuracy, then pretrained with 82.00 % "
        "(difference +0.00 points" in words
    )
    assert "the interval includes 0, so which is better stays open" in words
    assert "the learngene is ahead, 82.00 ± 2.00 against 62.00 ± 2.65 % (+20.00 points" in words
    assert "95 % interval +17.52 to +22.48, n = 3" in words
    assert "reaches the learngene's mean (at most 0.5 points below it) at 9 epochs: 84.00 ± 1.00 %" in words
    assert "clearly worse (interval below 0): random" in words
    assert "not a claim" not in words
    worse = [r | {"test_top1": 0.5} if r["start"] == "learngene" else r for r in ROWS]
    assert "training from scratch is ahead" in told(worse)
    few = [r for r in ROWS if r["seed"] == 0]
    assert "One seed: no spread. This is an observation, not a claim" in told(few)
    never = told([r | {"test_top1": 0.7} if r["epochs"] == 9 else r for r in ROWS])
    assert "has not reached that at 9 epochs, the most that was run" in never
    assert "training from scratch at equal accuracy: not reached" in never
    assert "cheaper than training from scratch" not in never


def test_costs_are_compared_at_equal_accuracy_only():
    gene, short, long, pre = line("learngene"), line("random"), line("random", 9), line("pretrained")
    pair = equal_accuracy([gene], [short, long])
    assert (pair.target, pair.ours, pair.theirs) == (gene.mean, gene, long)
    assert equal_accuracy([short, long], [gene]).ours is long
    apart = equal_accuracy([gene], [short])  # 82 against 62 %: not at the worse one's accuracy either
    assert (apart.ours, apart.theirs, apart.reached) == (gene, None, False)
    assert equal_accuracy([gene], [pre]).reached
    for top1, reached in ((0.8149, False), (0.8151, True)):
        near = lines(summarize([r | {"test_top1": top1} for r in ROWS if r["start"] == "pretrained"]))
        assert equal_accuracy([gene], near).reached is reached
    better = [r | {"test_top1": 0.9} if r["epochs"] == 9 else r for r in ROWS]
    found = lines(summarize(better))
    assert "ten models cost 25.0 TFLOPs" in told(better)
    scratch = ["training from scratch", "82.00", "2 epochs", "25.0", "9 epochs", "90.0", "from 1 model on"]
    assert scratch in equal_table(at_equal_accuracy(found[0], found)).rows
    worse = [r | {"test_top1": 0.5} if r["start"] == "learngene" else r for r in ROWS]
    assert "the learngene has 50.00 % at 2 epochs, its best that was run" in told(worse)


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_verdicts_need_three_seeds(seeds, tmp_path):
    rows = [r for r in ROWS if r["seed"] < seeds]
    write_report(rows, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert ("is ahead" in text) == ("clearly" in text) == (seeds == 3)
    assert ("one seed: no spread" in text) == (seeds == 1)
    assert ("standard deviation" in text) == (" ± " in text) == (seeds > 1)
    assert ("too few seeds for a verdict" in text) == (seeds == 2)
    assert ("not a claim" in text) == (seeds < 3)
    assert not re.search(r": none|not a clear|None leaves", text)


def test_plots_that_mean_nothing_are_left_out(tmp_path):
    def pictures(rows, name):
        write_report(rows, tmp_path / name)
        found = set(re.findall(r"\((.+?)\.png\)", (tmp_path / name / "report.md").read_text()))
        assert found == {path.stem for path in (tmp_path / name).glob("*.png")}
        return found & {"break-even", "stored"}

    def only(*names):
        return [r for r in ROWS if (r["start"], r["epochs"]) in names]

    assert pictures(ROWS, "all") == {"break-even", "stored"}
    assert (
        pictures(only(("learngene", 2), ("random", 2)), "all") == set()
    )  # those of the report before are gone
    assert pictures(only(("learngene", 2), ("random", 9)), "longer") == set()
    assert pictures(only(("learngene", 2), ("random", 2), ("random", 9)), "scratch") == {
        "break-even"
    }  # scratch stores nothing
    assert pictures(only(("learngene", 2)), "one") == set()
    assert pictures(only(("random", 2), ("random", 9)), "no-gene") == set()
    assert pictures([r | {"prepared": {}} for r in ROWS], "unprepared") == set()


def test_plots_of_data_sets_whose_names_differ_in_signs_alone(tmp_path):
    names = ("a b", "a/b", "||")
    write_report([r | {"data": name} for r in ROWS for name in names], tmp_path)
    text = (tmp_path / "report.md").read_text()
    for prefix in ("1-a-b-", "2-a-b-", "3-"):
        assert f"]({prefix}accuracy-by-depth.png)" in text
        assert (tmp_path / f"{prefix}accuracy-by-depth.png").exists()


def test_one_point_is_not_drawn(tmp_path):
    for rows, there in ((ROWS, True), (ROWS[:3], False), ([r for r in ROWS if r["start"] == "random"], True)):
        write_report(rows, tmp_path)
        for name in ("accuracy-by-cost.png", "accuracy-by-depth.png"):
            assert (tmp_path / name).exists() == (name in (tmp_path / "report.md").read_text()) == there


def drawn(monkeypatch, rows, out):
    """The figures of a report by the file's name."""
    figures = {}

    def keep(figure, path):
        figures[path.name] = figure
        return original(figure, path)

    original = plots.save
    monkeypatch.setattr(plots, "save", keep)
    write_report(rows, out)
    return figures


def test_a_start_looks_the_same_in_all_plots(tmp_path, monkeypatch):
    names = [f"other-{i:02d}" for i in range(30)]
    rows = ROWS + [row(name, 6, 2, seed, 0.82, kind="pretrained") for name in names for seed in range(3)]
    found_twice = []
    for part in (rows, rows[::-1]):
        looks = {}
        for figure in drawn(monkeypatch, part, tmp_path).values():
            for axes in figure.axes:
                for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                    artist = handle.lines[0] if hasattr(handle, "lines") else handle
                    start = re.split(r"[, ]", label)[0]
                    looks.setdefault(start, set()).add((artist.get_color(), artist.get_marker()))
        assert set(names) < set(looks)
        assert all(len(found) == 1 for found in looks.values())
        assert len({next(iter(found)) for found in looks.values()}) == len(looks)
        found_twice.append(looks)
    assert found_twice[0] == found_twice[1]


def test_budgets_of_a_start_differ_in_line_style(tmp_path, monkeypatch):
    (axes,) = drawn(monkeypatch, ROWS, tmp_path)["accuracy-by-depth.png"].axes
    styles = {
        label: handle.lines[0].get_linestyle()
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    assert (
        styles["random (from scratch), 2 epochs"]
        == styles["learngene, 2 epochs"]
        != styles["random (from scratch), 9 epochs"]
    )


@pytest.mark.parametrize("seeds", [1, 2])
def test_error_bars_only_of_several_seeds(seeds, tmp_path, monkeypatch):
    rows = [r for r in ROWS if r["seed"] < seeds]
    (axes,) = drawn(monkeypatch, rows, tmp_path)["accuracy-by-depth.png"].axes
    assert len(axes.containers) == (0 if seeds == 1 else 4)
    assert axes.get_ylabel() == "test top-1 (%)"


def test_which_accuracy_is_said(tmp_path, monkeypatch):
    untested = [r | {"test_top1": None, "test_images": None} for r in ROWS]
    figures = drawn(monkeypatch, untested, tmp_path)
    assert figures["accuracy-by-depth.png"].axes[0].get_ylabel() == "validation top-1 (%)"
    text = (tmp_path / "report.md").read_text()
    assert "top-1, validation: no test split was used" in text
    assert "% validation accuracy" in text
    write_report([*ROWS[:3], *untested[3:]], tmp_path)
    assert "validation in 9 of 12 trials" in (tmp_path / "report.md").read_text()


def test_a_report_of_an_unfinished_benchmark(tmp_path):
    """A cell without any trial, and cells with fewer seeds than others."""
    deep = [row("learngene", 9, 2, seed, 0.8, prepared=GENE) for seed in range(2)]
    write_report([*ROWS, *deep], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert ": learngene has" in text
    assert "there is no other start with the same depths and budget" in text
    assert "Seeds differ between starts, depths or budgets" in text
    assert "| random | 6 |" in text


def test_costs_and_break_even_by_hand():
    gene, scratch, longer, pre = line("learngene"), line("random"), line("random", 9), line("pretrained")
    assert gene.total("flops", 10) == 5e12 + 10 * 2e12
    assert scratch.total("flops", 10) == 10 * 2e12
    assert pre.total("flops", 10) == 10 * (5e12 + 2e12)
    assert gene.total("stored_parameters", 10) == 700
    assert pre.total("stored_parameters", 10) == 10 * 1000
    assert (gene.total("images", 3), pre.total("images", 3)) == (400 + 300, 3 * 500)
    assert break_even_point(gene, longer) == 1  # 5 + 2 n against 9 n
    assert break_even_point(gene, pre) == 1
    assert break_even_point(gene, scratch) is None
    assert break_even_point(scratch, gene) == 1
    words = told(ROWS)
    assert "a ratio of 3.60 (SWS claims 6.6)" in words  # 90 / 25
    assert "14.3 times fewer stored parameters" in words
    assert "The learngene is cheaper there from 1 model on" in words
    assert "10.0 times less training before fine-tuning" in words
    costs = ["learngene", "2 epochs", "82.00 ± 2.00", "5.00", "2.00", "25.0", "1,400", "40", "700"]
    assert costs in cost_table(lines(summarize(ROWS))).rows


def test_a_learngene_for_each_seed_is_counted_once():
    prepared = [
        {f"out/gene-s{s}": {**GENE["out/gene"], "flops": (4 + s) * 1e12, "each": ["seed"]}} for s in range(3)
    ]
    rows = [
        row("learngene", depth, 2, seed, 0.8, prepared=prepared[seed])
        for depth in (6, 9)
        for seed in range(3)
    ]
    (found,) = lines(summarize(rows))
    assert found.shared("flops") == pytest.approx(5e12)
    assert found.total("flops", 2) == pytest.approx(9e12)
    assert found.preparations == 3
    assert line("learngene").preparations == 1
    assert line("random").preparations is None


def test_lines_of_other_depths_are_compared_where_both_are():
    rows = [
        row("learngene", depth, 2, seed, 0.8 + depth / 100, prepared=GENE)
        for depth in (6, 9)
        for seed in range(3)
    ]
    rows += [row("random", depth, 2, seed, 0.6) for depth in (6, 9) for seed in range(3)]
    rows += [row("deep", 9, 2, seed, 0.9, kind="mimetic") for seed in range(3)]
    found = lines(summarize(rows))
    assert [" | ".join(cells) for cells in difference_table(found, found[0]).rows] == [
        "deep | 9 |  | 90.00 ± 0.00 | 89.00 ± 0.00 | +1.00 | 3 | +1.00 to +1.00",
        "learngene | 6, 9 | once | 87.50 ± 0.00 | 87.50 ± 0.00 |  |  | ",
        "random | 6, 9 |  | 60.00 ± 0.00 | 87.50 ± 0.00 | -27.50 | 3 | -27.50 to -27.50",
    ]
    words = told(rows)
    assert (
        "mean over depths 6, 9: learngene is first with 87.50 % test accuracy, then random with 60.00 %"
        in words
    )
    assert "clearly better (95 % interval above 0): deep (+1.00 points" in words
    assert [cells[0] for cells in cost_table(comparable(found)).rows] == ["learngene", "random"]


def test_student_t():
    assert t_quantile(2) == 4.303
    assert t_quantile(30) == 2.042
    assert t_quantile(400) == 1.960


def experiment(starts, **changes):
    given = {"depths": (6, 9), "seeds": (0, 1), "epochs": (2,), "tflops": (), "prepare": {}, **changes}
    prepare = given["prepare"].items()
    given["prepare"] = {name: Preparation.parse(name, entry, JOBS) for name, entry in prepare}
    return Experiment(tuple(StartSpec.parse(start) for start in starts), **given)


def test_grid():
    random = {"start": "random", "epochs": [2, 8]}
    trials = experiment(
        ["mimetic", random, {"name": "short", "start": "xavier", "depths": [6]}], tflops=(0.5,)
    ).trials()
    assert len(trials) == len(set(trials)) == 2 * 2 * (2 + 2) + 2 * 2
    assert trials[0].key == "mimetic-d06-e2-s0"
    assert trials[1].key == "mimetic-d06-t0.5-s0"
    assert {t.seed for t in trials[:10]} == {0}
    split = experiment(
        ["random"], datasets={"a": {}, "b": {}}, recipes={"weak": {}, "strong": {"mixup": 0.8}}
    ).trials()
    assert len(split) == 2 * 2 * 2 * 2
    assert split[0].key == "a-weak-random-d06-e2-s0"


def test_what_is_needed_comes_in_order_and_once():
    prepare = {
        "direct": {"finetune": {"ancestor": "x", "kl": 1.0, "ce": 0.0}, "each": ["depth"], "cost_of": "gene"},
        "gene": {"distill": {"ancestor": "tall"}, "each": ["seed"]},
        "tall": {"finetune": {"depth": 9}},
        "idle": {"finetune": {"depth": 9}},
    }
    starts = [
        {"name": "direct", "start": "pretrained", "source": "direct"},
        {"start": "learngene", "gene": "gene"},
    ]
    found = experiment(starts, prepare=prepare)
    keys = [need.key for need in found.needed(found.trials())]
    assert keys == ["tall", "gene-s0", "direct-d06", "direct-d09", "gene-s1"]


def test_a_path_may_name_depth_and_seed():
    spec = StartSpec.parse({"start": "pretrained", "source": "runs/d{depth:02d}-s{seed}/model"})
    assert spec.sources(6, 1) == {"source": "runs/d06-s1/model"}
    with pytest.raises(LearngeneError, match="in braces, nothing else"):
        StartSpec.parse({"start": "pretrained", "source": "runs/{width}"}).sources(6, 1)


def test_bad_experiments():
    for starts, changes, message in (
        (["magic"], {}, "no start 'magic'"),
        ([{"start": "mimetic", "a9": 1}], {}, "no option 'a9'"),
        ([{"name": "x"}], {}, "no start 'x'"),
        ([{"start": 3}], {}, "does not say which"),
        ([{"start": "random", "recipe": {"lrr": 1}}], {}, "unknown option 'lrr'; did you mean 'lr'"),
        ([{"name": "a/b", "start": "random"}], {}, "part of a folder's"),
        ([{"start": "random", "epochs": 2.5}], {}, "whole numbers"),
        ([{"start": "random", "depths": [7]}], {}, r"depth 7 is not among the benchmark's \[6, 9\]"),
        ([{"start": "random", "recipe": {"seed": 1}}], {}, "the recipe cannot set seed"),
        (
            [{"start": "learngene", "gene": "g"}],
            {"prepare": {"g": {"finetune": {}, "each": ["depth"]}}},
            "gene needs a preparation by distill",
        ),
        (
            ["random"],
            {"prepare": {"a": {"finetune": {"model": "b"}}, "b": {"finetune": {"model": "a"}}}},
            "it needs itself",
        ),
        (["random"], {"prepare": {"g": None}}, "say how with distill or finetune"),
        (
            ["random"],
            {"prepare": {"g": {"distill": {"ancestor": "a"}, "cost_of": "g"}}},
            "cost_of sets the steps of finetune",
        ),
        (
            ["random"],
            {"prepare": {"g": {"finetune": {"model": "runs/a/model"}, "cost_of": "h"}}},
            "cost_of counts the steps of an architecture; 'runs/a/model' is not the name",
        ),
        (["random"], {"datasets": {"torch/x": {}}}, "part of a folder's"),
        (["random", "random"], {}, "two starts are called 'random'"),
        ([{"start": "random", "epochs": "many"}], {}, "are numbers above 0"),
        (["random"], {"depths": ()}, "at least one start, one depth"),
        (["random"], {"depths": (0,)}, "at least 1 layer"),
        (["random"], {"prepare": {"g": {"train": {}}}}, "either distill or finetune"),
        (["random"], {"prepare": {"g": {"distill": {}}}}, "lacks the ancestor"),
        (["random"], {"prepare": {"g": {"finetune": {"epoch": 3}}}}, "unknown option 'epoch'"),
        (["random"], {"prepare": {"g": {"finetune": {}, "each": ["width"]}}}, "use depth and seed"),
        (["random"], {"prepare": {"g": {"finetune": {}, "cost_of": "h"}}}, "no preparation 'h'"),
        (["random"], {"prepare": {"g": {"finetune": {}, "once": 1}}}, "unknown key 'once'"),
        (["random"], {"recipes": {"strong": {"mixups": 1}}}, "unknown option 'mixups'"),
    ):
        with pytest.raises(LearngeneError, match=message):
            experiment(starts, **changes)


@pytest.mark.parametrize("kind", JOBS)
def test_what_a_preparation_may_set_is_what_the_commands_take(kind):
    usual = {"ancestor": "a"} if kind == "distill" else {}
    options = {option.name: option for option in fields(JOBS[kind])}
    elsewhere = {"out", "resume", "overwrite"}
    assert elsewhere < options.keys()
    for name, option in options.items():
        value = "x" if option.default is MISSING else option.default
        entry = {kind: {**usual, name: value}}
        if name in elsewhere:
            with pytest.raises(LearngeneError, match=f"prepare p: unknown option '{name}'"):
                Preparation.parse("p", entry, JOBS)
        else:
            assert Preparation.parse("p", entry, JOBS).arguments == entry[kind]
    if kind == "distill":
        stages = Preparation.parse("p", {kind: usual}, JOBS).stages
        assert stages == StagePlan.parse(options["plan"].default).stages


def test_the_examples_in_the_help_are_accepted():
    from docstring_parser import parse

    helps = {p.arg_name: " ".join(p.description.split()) for p in parse(benchmark.__doc__).params}

    def example(name):
        text = helps[name].replace("{...}", "{ancestor: DIR}")
        found = text[text.index("{") : text.rindex("}") + 1]
        return yaml.safe_load(found)

    given = {"depths": (6,), "seeds": (0,), "epochs": 2}
    found = Experiment.parse(
        [example("starts")],
        prepare=example("prepare"),
        recipes=example("recipes"),
        datasets=example("datasets"),
        jobs=JOBS,
        **given,
    )
    assert set(found.recipes) == {"weak", "strong"}
    assert set(found.prepare) == {"tall", "gene", "direct"}
    assert found.trials()[0].epochs == 8


def stable(result):
    """The rows without what depends on the clock, and on meters that the machine may have."""
    drop = ("seconds", "joules", "hardware")
    rows = [{k: v for k, v in r.items() if k not in drop} for r in result["rows"]]
    return [r | {"curve": [{k: v for k, v in p.items() if k != "seconds"} for p in r["curve"]]} for r in rows]


def test_interrupted_and_resumed_gives_the_same_rows(folder, gene, tmp_path, monkeypatch):
    file = gene.save(tmp_path / "gene.safetensors")
    whole = benchmark(str(folder), out=tmp_path / "whole", gene=file, **OPTIONS)
    import learngene.bench.run as bench

    original, ran = bench.run_trial, []

    def counted(trial, *args, **kwargs):
        if len(ran) == 5:
            raise KeyboardInterrupt
        ran.append(trial.key)
        return original(trial, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(bench, "run_trial", counted)
        with pytest.raises(KeyboardInterrupt):
            benchmark(str(folder), out=tmp_path / "cut", gene=file, **OPTIONS)
    with pytest.raises(LearngeneError, match="an unfinished run"):
        benchmark(str(folder), out=tmp_path / "cut", gene=file, **OPTIONS)
    before = {p: p.stat().st_mtime_ns for key in ran for p in (tmp_path / "cut" / "trials" / key).iterdir()}
    resumed = benchmark(str(folder), out=tmp_path / "cut", gene=file, resume=True, **OPTIONS)
    assert stable(resumed) == stable(whole)
    assert before == {p: p.stat().st_mtime_ns for p in before}
    lines = (tmp_path / "cut" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == resumed["rows"]
    assert len(lines) == 12
    for name in ("report.md", "accuracy-by-depth.png", "accuracy-by-epoch.png"):
        assert (tmp_path / "cut" / name).stat().st_size > 500
    assert (tmp_path / "cut" / "accuracy-by-depth.png").read_bytes().startswith(b"\x89PNG")
    assert benchmark(str(folder), out=tmp_path / "cut", gene=file, resume=True, **OPTIONS) == resumed


def test_rows_are_counted_by_hand(folder, gene, tmp_path):
    file = gene.save(tmp_path / "gene.safetensors")
    result = benchmark(
        str(folder),
        out=tmp_path / "b",
        gene=file,
        **{**OPTIONS, "depths": [4], "seeds": [3], "scratch_epochs": []},
    )
    first = result["rows"][0]
    assert (first["start"], first["depth"], first["seed"], first["images"], first["steps"]) == (
        "learngene",
        4,
        3,
        48,
        3,
    )
    tokens, width, classes = 16, 16, 3  # 28 px in patches of 7
    layer = 2 * tokens * width * (3 * width + width + 4 * width + 4 * width) + 2 * 2 * tokens**2 * width
    forward = 2 * tokens * 49 * width + 4 * layer + 2 * width * classes
    assert first["flops"] == 3 * 48 * forward
    assert first["test_images"] == 24
    assert [point["epoch"] for point in first["curve"]] == [0, 1]
    nothing = {"images": 0, "steps": 0, "seconds": 0, "flops": 0, "joules": None}
    kept = {"stored_parameters": gene.parameters, "name": str(file), "each": []}
    assert first["prepared"] == {str(file): {**nothing, **kept}}


def test_a_start_may_be_tested_untuned(folder, gene, tmp_path):
    file = gene.save(tmp_path / "gene.safetensors")
    options = {**OPTIONS, "depths": [4], "seeds": [0], "scratch_epochs": []}
    starts = [{"start": "learngene", "gene": str(file), "epochs": [0, 1]}, "random"]
    result = benchmark(str(folder), out=tmp_path / "out", gene=str(file), starts=starts, **options)
    untuned, *tuned = sorted(result["rows"], key=lambda row: row["epochs"])
    assert [row["epochs"] for row in tuned] == [1, 1]
    assert (untuned["flops"], untuned["images"], len(untuned["curve"])) == (0, 0, 1)
    expected = evaluate(str(file), str(folder), depth=4)["rows"][0]
    assert untuned["test_top1"] == pytest.approx(expected["top1"])
    assert untuned["val_top1"] == tuned[0]["curve"][0]["val_top1"]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "untuned" in text
    assert "At 1 epoch of fine-tuning" in text  # compared with others is what was tuned
    again = benchmark(
        str(folder), out=tmp_path / "out", gene=str(file), starts=starts, resume=True, **options
    )
    assert again["rows"] == result["rows"]
    assert report(tmp_path / "out", out=tmp_path / "again")


def test_an_untuned_start_takes_any_recipe(folder, gene, tmp_path):
    """Its 0 epochs are no limit for the warm-up of the others."""
    file = gene.save(tmp_path / "gene.safetensors")
    start = {"start": "learngene", "gene": str(file), "epochs": [0]}
    options = {**OPTIONS, "depths": [4], "seeds": [0], "scratch_epochs": [], "epochs": 3, "warmup_epochs": 2}
    (row,) = benchmark(str(folder), out=tmp_path / "out", gene=file, starts=[start], **options)["rows"]
    assert (row["epochs"], row["images"]) == (0, 0)


def test_distils_first_when_asked(folder, ancestor, tmp_path):
    options = {**OPTIONS, "depths": [3], "seeds": [0], "scratch_epochs": []}
    recipe = {"ancestor": str(ancestor), "plan": "1,1,1", **FAST}
    result = benchmark(str(folder), out=tmp_path / "b", distill=recipe, **options)
    (row, _) = result["rows"]
    (made,) = row["prepared"].values()
    assert (made["images"], made["name"]) == (48, "distill")
    assert made["flops"] > 0
    assert (tmp_path / "b" / "prepared" / "distill" / "learngene.safetensors").exists()


FAMILY = {
    "arch": "vit_tiny_patch16_224",
    "arch_args": {k: v for k, v in TINY_ARGS.items() if k != "num_classes"},
}


def test_preparations_budgets_data_sets_and_recipes(folder, ancestor, tmp_path):
    """Everything a config can say, once, at the smallest size."""
    plain = {**FAST, "epochs": 1}
    prepare = {
        "gene": {"distill": {"ancestor": str(ancestor), "plan": "1,1,1", **plain}},
        "mimetic-gene": {
            "distill": {"ancestor": "tall", "plan": "2,1", "start": "mimetic", "share_norms": False, **plain}
        },
        "direct": {
            "finetune": {"ancestor": str(ancestor), "kl": 1.0, "ce": 0.0, **FAST},
            "each": ["depth"],
            "cost_of": "gene",
        },
        "tall": {"finetune": {"depth": 5, **plain}},
    }
    starts = [
        {"start": "learngene", "gene": "gene"},
        {"name": "over-tall", "start": "learngene", "gene": "mimetic-gene", "recipe": {"lr": 0.002}},
        {"name": "direct", "start": "pretrained", "source": "direct"},
        {
            "name": "chosen",
            "start": "depth-selection",
            "ancestor": "tall",
            "layers": "last",
            "tflops": [1e-4],
        },
        {"name": "tiny", "start": "small-embedding", "arch_args": {"post_norm": True}},
    ]
    options = {
        "depths": [3],
        "seeds": [0],
        "starts": starts,
        "prepare": prepare,
        "test": False,
        "in_memory": True,
        **FAMILY,
        **FAST,
    }
    more = {
        "datasets": {"all": {}, "half": {"train_fraction": 0.5}},
        "recipes": {"weak": {}, "strong": {"mixup": 0.5}},
    }
    result = benchmark(str(folder), out=tmp_path / "b", **more, **options)
    rows = {(r["data"], r["recipe"], r["start"]): r for r in result["rows"]}
    assert len(rows) == 2 * 2 * 5
    assert all(r["test_top1"] is None for r in rows.values())
    one = rows["all", "weak", "direct"]
    (gene,) = rows["all", "weak", "learngene"]["prepared"].values()
    (direct,) = one["prepared"].values()
    assert direct["flops"] == pytest.approx(gene["flops"], rel=0.2)
    assert (direct["name"], direct["each"]) == ("direct", ["depth"])
    under = {made["name"]: made for made in rows["half", "strong", "over-tall"]["prepared"].values()}
    assert set(under) == {"mimetic-gene", "tall"}
    assert under["mimetic-gene"]["stored_parameters"] > 0 == under["tall"]["stored_parameters"]
    assert under["tall"]["flops"] > 0
    assert rows["half", "weak", "tiny"]["images"] == 16 < rows["all", "weak", "tiny"]["images"] == 48
    chosen = rows["all", "strong", "chosen"]
    assert chosen["flops"] == pytest.approx(1e-4 * 1e12, rel=0.5)
    assert chosen["epochs"] is None
    assert chosen["curve"][-1]["val_top1"] == chosen["val_top1"]  # of a part of an epoch
    report = (tmp_path / "b" / "report.md").read_text()
    assert "## half, recipe strong" in report
    assert "half-strong-accuracy-by-cost.png" in report


def test_shards_do_each_trial_once_and_make_the_same_table(folder, gene, tmp_path):
    file = gene.save(tmp_path / "gene.safetensors")
    whole = benchmark(str(folder), out=tmp_path / "whole", gene=file, **OPTIONS)
    first = benchmark(str(folder), out=tmp_path / "parts", gene=file, shard="1/2", **OPTIONS)
    assert len(first["rows"]) == 6
    assert json.loads((tmp_path / "parts" / "run.json").read_text())["status"] == "running"
    both = benchmark(str(folder), out=tmp_path / "parts", gene=file, shard="2/2", **OPTIONS)
    assert stable(both) == stable(whole)
    assert json.loads((tmp_path / "parts" / "run.json").read_text())["status"] == "finished"
    for wrong in ("0/2", "3/2", "2", "a/b"):
        with pytest.raises(LearngeneError, match="write i/n with i from 1 to n"):
            benchmark(str(folder), out=tmp_path / "c", gene=file, shard=wrong, **OPTIONS)
    with pytest.raises(LearngeneError, match="would delete what other shards"):
        benchmark(str(folder), out=tmp_path / "parts", gene=file, shard="1/2", overwrite=True, **OPTIONS)


def test_a_shard_on_other_images_is_refused(folder, gene, tmp_path):
    """Test images count too: a table is of one data set."""
    photos = tmp_path / "photos"
    shutil.copytree(folder, photos)
    file = gene.save(tmp_path / "gene.safetensors")
    options = {**OPTIONS, "depths": [3], "scratch_epochs": [], "starts": ["learngene"]}
    benchmark(str(photos), out=tmp_path / "b", gene=file, shard="1/2", **options)
    min((photos / "test").rglob("*.png")).unlink()
    with pytest.raises(
        LearngeneError, match="was begun with other test images: files were added, removed or renamed"
    ):
        benchmark(str(photos), out=tmp_path / "b", gene=file, shard="2/2", **options)


def test_a_shard_may_hold_no_learngene(folder, ancestor, tmp_path):
    """The family is known without one: it is what the distillation would make."""
    options = {**OPTIONS, "depths": [3], "seeds": [0], "scratch_epochs": []}
    recipe = {"ancestor": str(ancestor), "plan": "1,1,1", **FAST}
    (row,) = benchmark(str(folder), out=tmp_path / "b", distill=recipe, shard="2/2", **options)["rows"]
    assert row["start"] == "random"
    assert not (tmp_path / "b" / "prepared").exists()


def test_a_preparation_that_fails_leaves_nothing(folder, ancestor, tmp_path):
    recipe = {"ancestor": str(ancestor), "plan": "1,1,1", "arch_args": {"num_classes": 5}, **FAST}
    with pytest.raises(LearngeneError, match="num_classes 5"):
        benchmark(str(folder), out=tmp_path / "b", distill=recipe, **{**OPTIONS, "depths": [3]})
    assert not (tmp_path / "b").exists()


def test_a_trial_that_another_process_runs_is_left_to_it(folder, gene, tmp_path):
    file = gene.save(tmp_path / "gene.safetensors")
    options = {**OPTIONS, "depths": [3], "seeds": [0], "scratch_epochs": []}
    lock = tmp_path / "d" / "trials" / "random-d03-e1-s0.lock"
    whole = benchmark(str(folder), out=tmp_path / "d", gene=file, shard="1/2", **options)
    with locked(lock):
        part = benchmark(str(folder), out=tmp_path / "d", gene=file, shard="2/2", **options)
    assert len(part["rows"]) == len(whole["rows"]) == 1
    assert len(benchmark(str(folder), out=tmp_path / "d", gene=file, resume=True, **options)["rows"]) == 2


def test_report_from_a_stored_results_file(tmp_path, capsys):
    file = tmp_path / "results.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    assert main(["report", str(file), "--out", str(tmp_path / "page")]) == 0
    assert "report.html" in capsys.readouterr().out
    text = (tmp_path / "page" / "report.md").read_text()
    page = (tmp_path / "page" / "report.html").read_text()
    assert "a ratio of 3.60 (SWS claims 6.6)" in text
    assert page.count('<img src="data:image/png;base64,') == text.count("![") == 5
    assert "<table>" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    (tmp_path / "report.md").unlink(missing_ok=True)
    assert main(["report", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == len(ROWS)
    assert (tmp_path / "report.md").read_text() == text


def test_report_gathers_what_trials_have_finished(folder, gene, tmp_path):
    """Of an interrupted benchmark there is no results.jsonl yet, or one older than the last trials."""
    file = gene.save(tmp_path / "gene.safetensors")
    out = tmp_path / "b"
    whole = benchmark(
        str(folder), out=out, gene=file, **{**OPTIONS, "depths": [3], "seeds": [0], "scratch_epochs": []}
    )
    text = (out / "results.jsonl").read_text()
    assert "- threads: 1\n" in (out / "report.md").read_text()
    for stored in (None, text.splitlines()[0], text):
        (out / "results.jsonl").unlink(missing_ok=True)
        if stored is not None:
            (out / "results.jsonl").write_text(stored)
        assert report(out)["trials"] == len(whole["rows"]) == 2
    record = out / "trials" / "random-d03-e1-s0" / "run.json"
    record.write_text(record.read_text().replace('"arch_args": {},', ""))
    assert report(out)["trials"] == 2  # results.jsonl has them all
    (out / "results.jsonl").unlink()
    with pytest.raises(
        LearngeneError, match=r"run.json' is no trial: it lacks 'arch_args'; an earlier version ran it"
    ):
        report(out)


def test_only_the_familys_own_architecture_counts_as_scratch():
    changed = [
        r | {"start": "other-norm", "arch_args": {"pre_norm": True}} for r in ROWS if r["start"] == "random"
    ]
    long = [r | {"start": "long"} for r in ROWS if r["start"] == "random"]
    found = {line.start: line for line in lines(summarize([*ROWS, *changed, *long]))}
    assert [name for name, line in found.items() if line.scratch] == ["random", "long"]
    assert found["long"].title == "long (from scratch)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"test_top1": 89.35},
            "its 'test_top1' is 89.35, where a share from 0 to 1 is meant; correct or delete it",
        ),
        ({"val_top1": -1}, "its 'val_top1' is -1, where a share from 0 to 1 is meant"),
        ({"curve": [{"epoch": 0, "val_top1": 20}]}, "its 'val_top1' is 20"),
        ({"flops": -1}, "its 'flops' is -1, less than 0"),
        ({"joules": -0.5}, "its 'joules' is -0.5, less than 0"),
        ({"prepared": {"out/gene": {**GENE["out/gene"], "seconds": -3}}}, "its 'seconds' is -3, less than 0"),
        ({"start": " "}, "its 'start' is empty"),
        ({"data": ""}, "its 'data' is empty"),
        ({"prepared": {"out/gene": {**GENE["out/gene"], "name": ""}}}, "its 'prepared' has an empty name"),
    ],
)
def test_results_that_cannot_be(tmp_path, change, message):
    (tmp_path / "results.jsonl").write_text(f"{json.dumps(ROWS[0])}\n{json.dumps(ROWS[1] | change)}\n")
    with pytest.raises(LearngeneError, match=f"line 2 is no trial: {re.escape(message)}"):
        report(tmp_path)


def test_a_trial_counts_once(tmp_path):
    file, text = tmp_path / "results.jsonl", "".join(json.dumps(r) + "\n" for r in ROWS[:4])
    file.write_text(text + "\n" + text)
    with pytest.raises(
        LearngeneError,
        match=r"line 6 is the same trial as '.*' line 1 \(learngene, depth 6, seed 0\); delete one",
    ):
        report(file)
    file.write_text(text)
    for name in ("a", "b"):  # a folder of a trial that was copied
        (tmp_path / "trials" / name).mkdir(parents=True)
        (tmp_path / "trials" / name / "run.json").write_text(
            json.dumps({"status": "finished", "results": ROWS[0]})
        )
    assert report(tmp_path)["trials"] == 4
    file.unlink()
    with pytest.raises(LearngeneError, match=r"b/run\.json' is the same trial as"):
        report(tmp_path)


def test_differences_only_of_what_has_seeds_in_common(tmp_path):
    apart = [row("random", 6, 2, seed, 0.6) for seed in (7, 8, 9)]
    write_report([*ROWS[:3], *apart], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "### Against" not in text
    assert "there is no other start with a seed in common with it to compare it with" in text
    deep = [row("random", 9, 2, seed, 0.6) for seed in range(3)]
    write_report([*ROWS[:3], *deep], tmp_path)
    assert "### Against" not in (tmp_path / "report.md").read_text()
    write_report([*ROWS[:3], *apart, row("random", 6, 2, 1, 0.6)], tmp_path)
    assert "### Against the learngene" in (tmp_path / "report.md").read_text()


def test_starts_are_ranked_over_seeds_that_all_of_them_have():
    lucky = row("mimetic", 6, 2, 9, 0.99)
    words = told([*ROWS[:6], lucky])
    assert "learngene is first with 82.00 % test accuracy, then random with 62.00 %" in words
    assert "Not ranked, as they lack these seeds: mimetic." in words
    assert "One seed of mimetic: no spread" in words
    assert "One seed:" not in words
    part = [row("mimetic", 6, 2, seed, 0.9) for seed in (0, 1)]
    words = told([*ROWS[:3], *part])
    assert (
        "at depth 6, seeds 0, 1 alone, which all of these have: mimetic has the highest mean, 90.00 %"
        in words
    )
    assert "then learngene with 81.00 % (difference +9.00 points" in words
    assert "With 2 seeds of mimetic the intervals" in words
    part = [r for r in ROWS if r["seed"] == 0 or r["epochs"] == 2]
    assert "One seed of random (6 layers at 9 epochs): no spread" in told(part)
    without = [
        row("random", 6, 2, 5, 0.9),
        *(row(name, 6, 2, s, 0.5) for name in ("mimetic", "xavier") for s in (0, 1)),
    ]
    assert "Not ranked, as they lack these seeds: random." in told(without)


def test_a_spread_is_said_only_where_there_is_one(tmp_path):
    write_report([ROWS[0], row("random", 6, 2, 1, 0.6)], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "one seed: no spread" in text
    assert "standard deviation" not in text


def test_the_command_in_a_report_is_for_a_shell(tmp_path):
    folder = tmp_path / "b ü"
    folder.mkdir()
    (folder / "config.yaml").touch()
    (folder / "results.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    report(folder)
    (command,) = re.findall("- command: `(.*)`", (folder / "report.md").read_text())
    assert shlex.split(command) == [
        "learngene",
        "benchmark",
        "--config",
        str(folder / "config.yaml"),
        "--out",
        "NEW",
    ]


def test_bad_results(tmp_path):
    with pytest.raises(LearngeneError, match="there are no results at"):
        report(tmp_path)
    for text, message in (
        ("{}", "line 1 is no trial: it lacks 'start'"),
        ("x", "line 1 cannot be read as JSON .*; delete that line"),
        ("", "no trial in"),
    ):
        (tmp_path / "results.jsonl").write_text(text)
        with pytest.raises(LearngeneError, match=message):
            report(tmp_path)


def test_bad_benchmarks(folder, gene, tmp_path, ancestor):
    file = gene.save(tmp_path / "gene.safetensors")
    for options, message in (
        ({}, "name its file with gene, or say how"),
        ({"gene": file, "distill": {"ancestor": "a"}}, "not both"),
        ({"gene": file, "depths": [2]}, "depth 2 is less than the 3 stages"),
        ({"gene": file, "starts": ["none"]}, "there is no start 'none'"),
        ({"gene": tmp_path / "no"}, "there is no file"),
        ({"gene": file, "depths": [3], "val_split": "nowhere"}, "there is no folder 'nowhere'"),
        (
            {"distill": {"ancestor": "no/where", "plan": "1,1,1"}, "depths": [3]},
            "there is no model directory",
        ),
        (
            {"distill": {"ancestor": "no/where", "plan": "1,1,1", "epoch": 3}, "depths": [3]},
            "unknown option 'epoch'",
        ),
        ({"gene": file, "steps": 3}, "budgets are epochs"),
        ({"gene": file, "devices": 2}, "on one device"),
        ({"distill": {"plan": "1,1,1"}, "depths": [3]}, "lacks the ancestor"),
        ({"gene": file, "seeds": []}, "at least one start, one depth, one seed"),
        ({"starts": ["random"]}, "name the family's architecture with arch"),
        ({"starts": ["random"], "arch_args": {"depth": 3}}, "name it with arch"),
        ({**FAMILY, "starts": ["small-embedding"]}, "start small-embedding, depth 6: .* pre_norm: true"),
        (
            {**FAMILY, "starts": [{"start": "weight-selection", "ancestor": str(ancestor)}]},
            "depth 6: layers 'first': .* only 4",
        ),
        ({"gene": file, "recipes": {"long": {"epochs": 3}}}, "the recipe cannot set epochs"),
        (
            {**FAMILY, "starts": [{"start": "random", "recipe": {"warmup_epochs": 3.0}}]},
            "longer than the 1 epochs",
        ),
        ({**FAMILY, "starts": [{"start": "learngene", "gene": "x{width}"}]}, "in braces, nothing else"),
    ):
        with pytest.raises(LearngeneError, match=message):
            benchmark(str(folder), out=tmp_path / "b", **{**FAST, **options})
        assert not (tmp_path / "b").exists(), message
