"""Plots of a benchmark. PNG, by matplotlib without a display."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from learngene.bench.table import Line, Row
from learngene.files import atomic_file

COLORS = ("#0b6e4f", "#c8553d", "#3d5a80", "#e0a458", "#7d5ba6", "#6c757d", "#2a9d8f", "#bc4b51", "#8cb369", "#5b8e7d")
MODELS = range(1, 16)


def accuracy_by_depth(lines: Sequence[Line], path: Path, *, title: str) -> Path:
    """A line per start and budget, mean over seeds with its spread."""
    figure, axes = _figure()
    for line, color in _coloured(lines):
        means = [100 * s.mean for s in line.summaries]
        spreads = [100 * (s.spread or 0.0) for s in line.summaries]
        axes.errorbar(line.depths, means, yerr=spreads, marker="o", capsize=3, color=color, label=line.name)
    axes.set(xlabel="depth (layers)", ylabel="top-1 accuracy (%)", title=title)
    axes.set_xticks(sorted({depth for line in lines for depth in line.depths}))
    return _finish(figure, path)


def accuracy_by_cost(lines: Sequence[Line], path: Path, *, title: str) -> Path:
    """Mean accuracy against the cost of one model when ten are made; budgets of one start are joined."""
    figure, axes = _figure()
    starts = dict.fromkeys(line.title for line in lines)
    for (start, color), marker in zip(_coloured(list(starts)), cycle("so"), strict=False):
        own = [line for line in lines if line.title == start]
        costs = [line.total("flops", 10) / 10 / 1e12 for line in own]
        axes.plot(costs, [100 * line.mean for line in own], marker=marker, color=color, label=start)
    axes.set(xlabel="TFLOPs per model, preparing counted in, when ten are made", ylabel="top-1 accuracy (%)", title=title)
    axes.set_xscale("log")
    return _finish(figure, path)


def accuracy_by_epoch(rows: Sequence[Row], lines: Sequence[Line], path: Path, *, title: str) -> Path:
    """A panel per depth: validation accuracy after each epoch, mean over seeds; epoch 0 is before training."""
    depths = sorted({depth for line in lines for depth in line.depths})
    figure = Figure(figsize=(3.2 * len(depths) + 0.6, 4.2), layout="constrained")
    panels = figure.subplots(1, len(depths), sharey=True, squeeze=False)[0]
    for panel, depth in zip(panels, depths, strict=True):
        for line, color in _coloured(lines):
            case = (line.start, depth, line.epochs, line.tflops)
            curves = [row["curve"] for row in rows if (row["start"], row["depth"], row["epochs"], row["tflops"]) == case]
            if curves:
                means = [100 * statistics.fmean(point["val_top1"] for point in points) for points in zip(*curves, strict=False)]
                epochs = [point["epoch"] for point in curves[0]][: len(means)]
                panel.plot(epochs, means, marker=".", color=color, label=line.name)
        panel.set(xlabel="epochs", title=f"{depth} layers")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("validation top-1 (%)")
    figure.suptitle(title)
    return _finish(figure, path)


def break_even(lines: Sequence[Line], path: Path, *, title: str) -> Path:
    """Training cost of a family against the number of its models, everything counted."""
    names = [f"{line.name} ({100 * line.mean:.1f} %)" for line in lines]
    return _by_models(lines, names, lambda line, n: line.total("flops", n) / 1e12, path, title, "TFLOPs in all")


def stored(lines: Sequence[Line], path: Path, *, title: str) -> Path:
    """Parameters to be stored to begin a family, against the number of its models. One line per start."""
    once = {line.start: line for line in lines}
    label = "stored parameters (millions)"
    return _by_models(list(once.values()), list(once), lambda line, n: line.total("stored_parameters", n) / 1e6, path, title, label)


def relearning(rows: Sequence[Row], path: Path) -> Path:
    """Views until the accuracy is back against the layer, a line per share of the data; a panel per model and mode.

    Crosses at the top are layers that never came back.
    """
    single = [row for row in rows if not row["control"]]
    panels = list(dict.fromkeys((row["model"], row["mode"]) for row in single))
    columns = min(4, len(panels))
    figure = Figure(figsize=(3.6 * columns + 0.5, 3.2 * -(-len(panels) // columns) + 0.8), layout="constrained")
    grid = figure.subplots(-(-len(panels) // columns), columns, sharey=True, squeeze=False).flatten()
    for axes, (model, mode) in zip(grid, panels, strict=False):
        own = [row for row in single if (row["model"], row["mode"]) == (model, mode)]
        for share, color in _coloured(sorted({row["share"] for row in single})):
            same = [row for row in own if row["share"] == share]
            points = sorted(((row["layers"][0], row["images"], row["gave_up_after"]) for row in same), key=lambda point: point[0])
            back = [(layer, images) for layer, images, _ in points if images]
            never = [(layer, limit) for layer, images, limit in points if images is None]
            if back:
                axes.plot(*zip(*back, strict=True), "o-", color=color, label=f"{100 * share:g} % of the data")
            if never:
                axes.plot(*zip(*never, strict=True), "x", color=color, label="never, by then")
        axes.set(title=f"{model}, {mode}", xlabel="layer reset", yscale="log")
        axes.title.set_fontsize("small")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    grid[0].set_ylabel("views until back")
    return _finish(figure, path)


def _by_models(
    lines: Sequence[Line], names: Sequence[str], value: Callable[[Line, int], float], path: Path, title: str, label: str
) -> Path:
    figure, axes = _figure()
    for (line, color), name in zip(_coloured(lines), names, strict=True):
        axes.plot(MODELS, [value(line, n) for n in MODELS], color=color, label=name)
    axes.set(xlabel="number of models", ylabel=label, title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _finish(figure, path)


def _figure() -> tuple[Figure, Any]:
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    return figure, axes


def _coloured(things: Sequence[Any]) -> list[tuple[Any, str]]:
    return [(thing, COLORS[i % len(COLORS)]) for i, thing in enumerate(things)]


def _finish(figure: Figure, path: Path) -> Path:
    """One legend for all panels, and the file."""
    found = {text: line for axes in figure.axes for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    columns = 2 if max(map(len, found), default=0) > 30 else 3
    figure.legend(found.values(), found, loc="outside lower center", ncols=columns, frameon=False, fontsize="small")
    return save(figure, path)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG."""
    FigureCanvasAgg(figure)
    with atomic_file(path) as scratch:
        figure.savefig(scratch, format="png", dpi=120)
    return path
