"""The benchmark: trials are resumed, never run twice, and the numbers are computed as said."""

import json

import pytest
from conftest import FAST

from learngene import LearngeneError, benchmark, vit
from learngene.bench import grid, summarize
from learngene.bench.report import costs_in_words, markdown_table, outcome_in_words, t_quantile
from learngene.bench.table import paired_differences

OPTIONS = {**FAST, "depths": [3, 4], "seeds": [0, 1], "scratch_epochs": [2], "in_memory": True}


def row(start, depth, epochs, seed, top1):
    return {
        "start": start, "depth": depth, "epochs": epochs, "seed": seed, "val_top1": 0.1, "test_top1": top1, "test_images": 50,
        "parameters": 1000, "flops": 2e12, "images": 100, "seconds": 3.0, "curve": [{"epoch": 0, "val_top1": 0.2}],
    }  # fmt: skip


ROWS = [
    *(row("learngene", 6, 2, seed, value) for seed, value in enumerate((0.80, 0.82, 0.84))),
    *(row("random", 6, 2, seed, value) for seed, value in enumerate((0.60, 0.61, 0.65))),
    *(row("random", 6, 9, seed, value) for seed, value in enumerate((0.83, 0.84, 0.85))),
]


def test_mean_spread_and_pairs():
    gene, scratch, longer = summarize(ROWS)
    assert (gene.start, scratch.start, longer.epochs) == ("learngene", "random", 9)
    assert gene.mean == pytest.approx(0.82)
    assert gene.spread == pytest.approx(0.02)
    assert gene.accuracy() == "82.00 ± 2.00"
    assert paired_differences(gene, scratch) == pytest.approx([0.20, 0.21, 0.19])
    assert "| 6 | learngene | 2 | 3 | 82.00 ± 2.00 | 20.0 | 1,000 | 2.00 | 100 | 3.0 |" in markdown_table([gene])


def test_words_come_from_the_numbers():
    words = outcome_in_words(summarize(ROWS))
    assert "the learngene is ahead, 82.00 ± 2.00 against 62.00 ± 2.65 % (+20.00 points" in words
    assert "95 % interval of the paired difference +17.52 to +22.48, n = 3" in words
    assert "catches up at 9 epochs (84.00 ± 1.00 %)" in words
    assert "not a claim" not in words
    worse = [r | {"test_top1": 0.5} if r["start"] == "learngene" else r for r in ROWS]
    assert "training from scratch is ahead" in outcome_in_words(summarize(worse))
    few = [r for r in ROWS if r["seed"] == 0]
    assert "With 1 seed this is an observation, not a claim" in outcome_in_words(summarize(few))
    never = [r | {"test_top1": 0.7} if r["epochs"] == 9 else r for r in ROWS]
    assert "has not caught up at 9 epochs" in outcome_in_words(summarize(never))


def test_costs_count_distillation_once():
    words = costs_in_words(summarize(ROWS), {"flops": 5e12, "images": 400, "seconds": 10.0})
    assert "- learngene, 2 epochs, 1 models: 7.00 TFLOPs, 500 images, 13 s, of which distilling once" in words
    assert "- random, 2 epochs, 1 models: 2.00 TFLOPs, 100 images, 3 s" in words


def test_student_t():
    assert t_quantile(2) == 4.303
    assert t_quantile(30) == 2.042
    assert t_quantile(400) == 1.960


def test_grid():
    trials = grid(["learngene", "random"], [6, 9], 2, [0, 1], [2, 8])
    assert len(trials) == len(set(trials)) == 2 * 2 * 2 + 2 * 2
    assert trials[0].key == "learngene-d06-e2-s0"
    with pytest.raises(LearngeneError, match=r"no start 'magic'; the starts are learngene, random"):
        grid(["magic"], [6], 2, [0])


def stable(result):
    """The rows without what depends on the clock."""
    drop = ("seconds", "hardware")
    rows = [{k: v for k, v in r.items() if k not in drop} for r in result["rows"]]
    return [r | {"curve": [{k: v for k, v in p.items() if k != "seconds"} for p in r["curve"]]} for r in rows]


def test_interrupted_and_resumed_gives_the_same_rows(folder, gene, tmp_path, monkeypatch):
    file = gene.save(tmp_path / "gene.safetensors")
    whole = benchmark(str(folder), out=tmp_path / "whole", gene=file, **OPTIONS)
    import learngene.bench as bench

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
    result = benchmark(str(folder), out=tmp_path / "b", gene=file, **{**OPTIONS, "depths": [4], "seeds": [3], "scratch_epochs": []})
    first = result["rows"][0]
    assert (first["start"], first["depth"], first["seed"], first["images"], first["steps"]) == ("learngene", 4, 3, 48, 3)
    assert first["flops"] == 3 * 48 * vit.flops(gene.architecture.build(4).to("meta"))
    assert first["test_images"] == 24
    assert [point["epoch"] for point in first["curve"]] == [0, 1]


def test_distils_first_when_asked(folder, ancestor, tmp_path):
    options = {**OPTIONS, "depths": [3], "seeds": [0], "scratch_epochs": []}
    recipe = {"ancestor": str(ancestor), "plan": "1,1,1", **FAST}
    result = benchmark(str(folder), out=tmp_path / "b", distill=recipe, **options)
    assert result["distillation"]["images"] == 48
    assert "of which distilling once" in (tmp_path / "b" / "report.md").read_text()


def test_bad_benchmarks(folder, gene, tmp_path):
    file = gene.save(tmp_path / "gene.safetensors")
    for options, message in (
        ({}, "name its file with gene, or say how"),
        ({"gene": file, "distill": {"ancestor": "a"}}, "not both"),
        ({"gene": file, "depths": [2]}, "depth 2 is less than the 3 stages"),
        ({"gene": file, "starts": ["none"]}, "there is no start 'none'"),
        ({"gene": tmp_path / "no"}, "there is no file"),
        ({"gene": file, "depths": [3], "val_split": "nowhere"}, "there is no folder 'nowhere'"),
        ({"distill": {"ancestor": "no/where", "plan": "1,1,1"}, "depths": [3]}, "there is no model directory"),
        ({"distill": {"ancestor": "no/where", "plan": "1,1,1", "epoch": 3}, "depths": [3]}, "unknown option 'epoch'"),
        ({"gene": file, "steps": 3}, "budgets are epochs"),
        ({"gene": file, "devices": 2}, "on one device"),
        ({"distill": {"plan": "1,1,1"}, "depths": [3]}, "lacks the ancestor"),
        ({"gene": file, "seeds": []}, "at least one start, one depth and one seed"),
    ):
        with pytest.raises(LearngeneError, match=message):
            benchmark(str(folder), out=tmp_path / "b", **{**FAST, **options})
        assert not (tmp_path / "b").exists()
