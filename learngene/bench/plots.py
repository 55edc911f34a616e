"""Plots of a benchmark: accuracy against depth, and against epochs. PNG, by matplotlib without a display."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from learngene.bench.table import Row, Summary
from learngene.files import atomic_file

COLORS = ("#0b6e4f", "#c8553d", "#3d5a80", "#e0a458", "#7d5ba6", "#6c757d")


def accuracy_by_depth(summaries: Sequence[Summary], path: Path, *, title: str) -> Path:
    """A line per start and budget, mean over seeds with its spread."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    lines = list(dict.fromkeys((s.start, s.epochs) for s in sorted(summaries, key=lambda s: (s.start, s.epochs))))
    for (start, epochs), color in zip(lines, _cycle(len(lines)), strict=True):
        points = [s for s in summaries if (s.start, s.epochs) == (start, epochs)]
        depths, means = [s.depth for s in points], [100 * s.mean for s in points]
        spreads = [100 * (s.spread or 0.0) for s in points]
        name = f"{'from scratch' if start == 'random' else start}, {epochs} epoch{'s' if epochs > 1 else ''}"
        axes.errorbar(depths, means, yerr=spreads, marker="o", capsize=3, color=color, label=name)
    axes.set(xlabel="depth (layers)", ylabel="top-1 accuracy (%)", title=title)
    axes.set_xticks(sorted({s.depth for s in summaries}))
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=min(3, len(lines)), frameon=False)
    return _save(figure, path)


def accuracy_by_epoch(rows: Sequence[Row], path: Path, *, title: str) -> Path:
    """A panel per depth: validation accuracy after each epoch, mean over seeds; epoch 0 is before training."""
    depths = sorted({row["depth"] for row in rows})
    figure = Figure(figsize=(3.6 * len(depths) + 0.6, 3.6), layout="constrained")
    panels = figure.subplots(1, len(depths), sharey=True, squeeze=False)[0]
    lines = sorted({(row["start"], row["epochs"]) for row in rows})
    for panel, depth in zip(panels, depths, strict=True):
        for (start, epochs), color in zip(lines, _cycle(len(lines)), strict=True):
            curves = [row["curve"] for row in rows if (row["start"], row["epochs"], row["depth"]) == (start, epochs, depth)]
            if not curves:
                continue
            means = [100 * statistics.fmean(point["val_top1"] for point in points) for points in zip(*curves, strict=True)]
            name = f"{'from scratch' if start == 'random' else start}, {epochs} epochs"
            panel.plot([point["epoch"] for point in curves[0]], means, marker=".", color=color, label=name)
        panel.set(xlabel="epochs", title=f"{depth} layers")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("validation top-1 (%)")
    names = {text: line for panel in panels for line, text in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(names.values(), names, loc="outside lower center", ncols=min(4, len(names)), frameon=False)
    figure.suptitle(title)
    return _save(figure, path)


def _cycle(count: int) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(count)]


def _save(figure: Figure, path: Path) -> Path:
    FigureCanvasAgg(figure)
    with atomic_file(path) as scratch:
        figure.savefig(scratch, format="png", dpi=144)
    return path
