"""Plots of a benchmark. PNG, by matplotlib without a display."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from learngene.bench.lines import Line
from learngene.bench.summary import Row, budget_order, one_measure
from learngene.files import atomic_file

COLORS = (
    "#0b6e4f",
    "#c8553d",
    "#3d5a80",
    "#e0a458",
    "#7d5ba6",
    "#6c757d",
    "#2a9d8f",
    "#bc4b51",
    "#8cb369",
    "#1f9ed1",
    "#d6409f",
    "#222222",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = ("-", "--", ":", "-.")
MODELS = range(1, 16)


@dataclass(frozen=True)
class Looks:
    """How the lines of one report look, in all of its plots: each start has a colour and marker, each budget
    a line style.

    Attributes:
        starts: colour and marker by the start's name.
        budgets: line style by (epochs, tflops).
    """

    starts: Mapping[str, tuple[str, str]]
    budgets: Mapping[tuple[int | None, float | None], str]

    @classmethod
    def of(cls, lines: Iterable[Line], first: Iterable[str] = ()) -> Looks:
        """By name, whatever the order of the lines.

        Args:
            first: starts that are to differ in colour even where there are more starts than colours: those in
                most plots.
        """
        lines, early = list(lines), set(first)
        names = sorted(
            {line.start for line in lines},
            key=lambda name: (name != "learngene", name != "random", name not in early, name),
        )
        budgets = sorted(
            {(line.epochs, line.tflops) for line in lines}, key=lambda budget: budget_order(*budget)
        )
        return cls(
            {name: _colour_and_marker(i) for i, name in enumerate(names)},
            {budget: DASHES[i % len(DASHES)] for i, budget in enumerate(budgets)},
        )

    def start(self, line: Line) -> dict[str, Any]:
        """Arguments of matplotlib's for a start."""
        color, marker = self.starts[line.start]
        return {"color": color, "marker": marker, "markersize": 5}

    def line(self, line: Line) -> dict[str, Any]:
        """The same for a start at one budget."""
        return {**self.start(line), "linestyle": self.budgets[line.epochs, line.tflops]}


def _colour_and_marker(i: int) -> tuple[str, str]:
    """The marker moves on by one more in every round of colours."""
    return COLORS[i % len(COLORS)], MARKERS[(i + i // len(COLORS)) % len(MARKERS)]


def accuracy_by_depth(lines: Sequence[Line], path: Path, *, title: str, looks: Looks) -> Path:
    """A line per start and budget, mean over seeds, with its spread where there are several."""
    figure, axes = _figure()
    for line in lines:
        means = [100 * s.mean for s in line.summaries]
        spreads = [math.nan if s.spread is None else 100 * s.spread for s in line.summaries]
        if all(math.isnan(spread) for spread in spreads):
            axes.plot(line.depths, means, label=line.name, **looks.line(line))
        else:
            axes.errorbar(line.depths, means, yerr=spreads, capsize=3, label=line.name, **looks.line(line))
    axes.set(xlabel="depth (layers)", ylabel=_accuracy(lines), title=title)
    axes.set_xticks(sorted({depth for line in lines for depth in line.depths}))
    return _finish(figure, path)


def accuracy_by_cost(lines: Sequence[Line], path: Path, *, title: str, looks: Looks) -> Path:
    """Mean accuracy against the cost of one model when ten are made; budgets of one start are joined."""
    figure, axes = _figure()
    for start in dict.fromkeys(line.start for line in lines):
        own = [line for line in lines if line.start == start]
        costs = [line.total("flops", 10) / 10 / 1e12 for line in own]
        axes.plot(costs, [100 * line.mean for line in own], label=own[0].title, **looks.start(own[0]))
    axes.set(
        xlabel="TFLOPs per model, preparing counted in, when ten are made",
        ylabel=_accuracy(lines),
        title=title,
    )
    costs = [line.total("flops", 10) for line in lines]
    if (
        max(costs) > 10 * min(costs) > 0
    ):  # a shorter axis would have labels like 3.1 x 10^0, one beside the other
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xlim(left=0)
    return _finish(figure, path)


def accuracy_by_epoch(
    rows: Sequence[Row], lines: Sequence[Line], path: Path, *, title: str, looks: Looks
) -> Path:
    """A panel per depth: validation accuracy by epoch, mean over seeds. Epoch 0 is before training."""
    depths = sorted({depth for line in lines for depth in line.depths})
    figure = Figure(figsize=(max(7.5, 3.2 * len(depths) + 0.6), 4.2), layout="constrained")
    panels = figure.subplots(1, len(depths), sharey=True, squeeze=False)[0]
    for panel, depth in zip(panels, depths, strict=True):
        for line in lines:
            case = (line.start, depth, line.epochs, line.tflops)
            curves = [
                row["curve"]
                for row in rows
                if (row["start"], row["depth"], row["epochs"], row["tflops"]) == case
            ]
            if curves:
                means = [
                    100 * statistics.fmean(point["val_top1"] for point in points)
                    for points in zip(*curves, strict=False)
                ]
                epochs = [point["epoch"] for point in curves[0]][: len(means)]
                panel.plot(epochs, means, label=line.name, **looks.line(line))
        panel.set(xlabel="epochs", title=f"{depth} layers")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("validation top-1 (%)")
    figure.suptitle(title)
    return _finish(figure, path)


def break_even(lines: Sequence[Line], path: Path, *, title: str, looks: Looks) -> Path:
    """Training cost of a family against the number of its models; for lines of the same accuracy."""
    return _by_models(
        lines, lambda line, n: line.total("flops", n) / 1e12, path, title, "TFLOPs in all", looks
    )


def stored(lines: Sequence[Line], path: Path, *, title: str, looks: Looks) -> Path:
    """Parameters stored to begin a family, against the number of models; for lines of the same accuracy."""
    label = "stored parameters (millions)"
    return _by_models(
        lines, lambda line, n: line.total("stored_parameters", n) / 1e6, path, title, label, looks
    )


def relearning(rows: Sequence[Row], path: Path) -> Path:
    """Views until the accuracy is back by layer, a line per share of the data, a panel per model and mode.

    Crosses at the top are layers that never came back.
    """
    single = [row for row in rows if not row["control"]]
    panels = list(dict.fromkeys((row["model"], row["mode"]) for row in single))
    columns = min(4, len(panels))
    figure = Figure(
        figsize=(3.6 * columns + 0.5, 3.2 * -(-len(panels) // columns) + 0.8), layout="constrained"
    )
    grid = figure.subplots(-(-len(panels) // columns), columns, sharey=True, squeeze=False).flatten()
    for axes, (model, mode) in zip(grid, panels, strict=False):
        own = [row for row in single if (row["model"], row["mode"]) == (model, mode)]
        for i, share in enumerate(sorted({row["share"] for row in single})):
            color, marker = _colour_and_marker(i)
            same = [row for row in own if row["share"] == share]
            points = sorted(
                ((row["layers"][0], row["images"], row["gave_up_after"]) for row in same),
                key=lambda point: point[0],
            )
            back = [(layer, images) for layer, images, _ in points if images]
            never = [(layer, limit) for layer, images, limit in points if images is None]
            if back:
                axes.plot(
                    *zip(*back, strict=True),
                    marker=marker,
                    color=color,
                    label=f"{100 * share:g} % of the data",
                )
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
    lines: Sequence[Line],
    value: Callable[[Line, int], float],
    path: Path,
    title: str,
    label: str,
    looks: Looks,
) -> Path:
    figure, axes = _figure()
    for line in lines:
        name = f"{line.name} ({100 * line.mean:.1f} %)"
        axes.plot(MODELS, [value(line, n) for n in MODELS], label=name, markevery=2, **looks.line(line))
    axes.set(xlabel="number of models", ylabel=label, title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _finish(figure, path)


def _accuracy(lines: Sequence[Line]) -> str:
    return f"{one_measure(line.measure for line in lines)} top-1 (%)"


def _figure() -> tuple[Figure, Any]:
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    return figure, axes


def _finish(figure: Figure, path: Path) -> Path:
    """One legend for all panels, and the file."""
    found = {
        text: line
        for axes in figure.axes
        for line, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    columns = 2 if max(map(len, found), default=0) > 30 else 3
    figure.legend(
        found.values(),
        found,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize="small",
        handlelength=3.5,
    )
    return save(figure, path)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG. Names are shown as they are: dollars in them begin no formula."""
    titles = [*figure.texts, *(axes.title for axes in figure.axes)]
    for text in [*titles, *(label for legend in figure.legends for label in legend.get_texts())]:
        text.set_parse_math(False)
    FigureCanvasAgg(figure)
    with atomic_file(path) as scratch:
        figure.savefig(scratch, format="png", dpi=120)
    return path
