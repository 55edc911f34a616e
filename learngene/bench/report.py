"""report.md: the table, the plots, the costs and the outcome in words, all computed from the rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from learngene.bench.plots import accuracy_by_depth, accuracy_by_epoch
from learngene.bench.table import Row, Summary, paired_differences, scratch_like, summarize
from learngene.files import write_text


def write_report(out: Path, rows: Sequence[Row], *, distillation: Mapping[str, Any] | None, about: Mapping[str, str]) -> Path:
    """Write ``report.md``, ``accuracy-by-depth.png`` and ``accuracy-by-epoch.png`` into a benchmark's directory.

    Args:
        rows: finished trials.
        distillation: cost of the learngene (``images``, ``seconds``, ``flops``), if it is known.
        about: lines for the head of the report (data, learngene, command, ...).
    """
    summaries = summarize(rows)
    measure = "validation" if rows[0]["test_top1"] is None else f"test ({rows[0]['test_images']} images, used once per trial)"
    accuracy_by_depth(summaries, out / "accuracy-by-depth.png", title=f"{about['data']}: {measure.split(' ')[0]} accuracy")
    accuracy_by_epoch(rows, out / "accuracy-by-epoch.png", title=about["data"])
    parts = [
        "# Benchmark: starts at equal fine-tuning budget",
        "\n".join(f"- {name}: {value}" for name, value in {**about, **_machine(rows), "accuracy": f"top-1, {measure}"}.items()),
        markdown_table(summaries),
        "![accuracy by depth](accuracy-by-depth.png)",
        "![accuracy by epoch](accuracy-by-epoch.png)",
        "## What it cost",
        costs_in_words(summaries, distillation),
        "## In words",
        outcome_in_words(summaries),
    ]
    write_text(out / "report.md", "\n\n".join(parts) + "\n")
    return out / "report.md"


def _machine(rows: Sequence[Row]) -> dict[str, str]:
    machines = ", ".join(dict.fromkeys(row["hardware"] for row in rows))
    used = rows[0]["versions"]
    commits = ", ".join(dict.fromkeys(row["commit"] or "not a checkout" for row in rows))
    seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))
    packages = ", ".join(f"{name} {version}" for name, version in used.items())
    return {"hardware": machines, "versions": packages, "commit": commits, "seeds": seeds, "precision": rows[0]["precision"]}


def markdown_table(summaries: Sequence[Summary]) -> str:
    """A row per depth, budget and start."""
    lines = [
        "| depth | start | epochs | seeds | top-1 % | before training % | parameters | TFLOPs | images | seconds |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {s.depth} | {s.start} | {s.epochs} | {len(s.seeds)} | {s.accuracy()} | {100 * s.before:.1f} | {s.parameters:,} | "
        f"{s.flops / 1e12:.2f} | {s.images:,.0f} | {s.seconds:.1f} |"
        for s in summaries
    ]
    return "\n".join(lines)


def costs_in_words(summaries: Sequence[Summary], distillation: Mapping[str, Any] | None) -> str:
    """Totals over one model per depth, distillation counted in, and where the learngene breaks even."""
    lines = ["Sums over one model of each depth (mean over seeds); FLOPs are 3 forward passes per training image."]
    for start, epochs in dict.fromkeys((s.start, s.epochs) for s in summaries):
        group = [s for s in summaries if (s.start, s.epochs) == (start, epochs)]
        flops, images, seconds = (sum(getattr(s, key) for s in group) for key in ("flops", "images", "seconds"))
        extra = ""
        if start == "learngene" and distillation:
            flops, images = flops + distillation["flops"], images + distillation["images"]
            seconds += distillation["seconds"]
            extra = (
                f", of which distilling once (ancestor's forward passes counted in): {distillation['flops'] / 1e12:.2f} TFLOPs, "
                f"{distillation['images']:,} images, {distillation['seconds']:.0f} s"
            )
        lines.append(
            f"- {start}, {epochs} epochs, {len(group)} models: {flops / 1e12:.2f} TFLOPs, {images:,.0f} images, {seconds:.0f} s{extra}"
        )
    return "\n".join(lines)


def outcome_in_words(summaries: Sequence[Summary]) -> str:
    """Per depth: who is ahead at equal budget and by how much, and whether a longer scratch run catches up."""
    sentences = []
    for gene in (s for s in summaries if s.start == "learngene"):
        scratch = scratch_like(summaries, gene)
        equal = next((s for s in scratch if s.epochs == gene.epochs), None)
        if equal is None:
            continue
        sentences.append(f"- {gene.depth} layers, {gene.epochs} epochs: {_comparison(gene, equal)}")
        longer = [s for s in scratch if s.epochs > gene.epochs]
        if longer:
            caught = next((s for s in longer if s.mean >= gene.mean), None)
            last = longer[-1]
            sentences.append(
                f"  Training from scratch catches up at {caught.epochs} epochs ({caught.accuracy()} %)."
                if caught
                else f"  Training from scratch has not caught up at {last.epochs} epochs ({last.accuracy()} %)."
            )
    seeds = {len(s.seeds) for s in summaries}
    if min(seeds) < 3:
        sentences.append(
            f"\nWith {min(seeds)} seed{'s' if min(seeds) > 1 else ''} this is an observation, not a claim: differences of about the spread between seeds mean nothing."
        )
    return "\n".join(sentences) or "No learngene was compared with training from scratch at the same budget."


def _comparison(gene: Summary, scratch: Summary) -> str:
    differences = paired_differences(gene, scratch)
    difference = 100 * statistics.fmean(differences)
    won = "the learngene is ahead" if difference > 0 else "training from scratch is ahead" if difference < 0 else "they are level"
    text = f"{won}, {gene.accuracy()} against {scratch.accuracy()} % ({difference:+.2f} points"
    if len(differences) > 1:
        half = 100 * t_quantile(len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
        text += (
            f", 95 % interval of the paired difference {difference - half:+.2f} to {difference + half:+.2f}, n = {len(differences)}"
        )
    return text + ")."


def t_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t (table; 1.96 beyond 30 degrees of freedom)."""
    table: tuple[float, ...] = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
    table += (2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)
    table += (2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)
    return table[freedom - 1] if freedom <= len(table) else 1.960
