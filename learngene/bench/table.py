"""Rows to a table: mean and spread over seeds, and paired differences."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Summary:
    """All seeds of one start, depth and budget.

    Attributes:
        top1: test accuracy (validation where there is no test split) of each seed, shares.
        before: mean validation accuracy before training.
        flops, images, seconds: mean cost of training one model.
    """

    start: str
    depth: int
    epochs: int
    seeds: tuple[int, ...]
    top1: tuple[float, ...]
    before: float
    parameters: int
    flops: float
    images: float
    seconds: float

    @property
    def mean(self) -> float:
        return statistics.fmean(self.top1)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds; none for a single one."""
        return statistics.stdev(self.top1) if len(self.top1) > 1 else None

    def accuracy(self) -> str:
        """``91.23 ± 0.12`` percent."""
        spread = "" if self.spread is None else f" ± {100 * self.spread:.2f}"
        return f"{100 * self.mean:.2f}{spread}"


def accuracy_of(row: Row) -> float:
    """Test accuracy of a trial, or validation accuracy where there was no test split."""
    return row["val_top1"] if row["test_top1"] is None else row["test_top1"]


def summarize(rows: Sequence[Row]) -> list[Summary]:
    """One summary per start, depth and budget, in order of depth, budget and first appearance."""
    groups: dict[tuple[int, int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["depth"], row["epochs"], row["start"]), []).append(row)

    def mean(group: Sequence[Row], key: str) -> float:
        return statistics.fmean(row[key] for row in group)

    order = sorted(groups, key=lambda key: key[:2])
    return [
        Summary(
            start,
            depth,
            epochs,
            tuple(row["seed"] for row in group),
            tuple(accuracy_of(row) for row in group),
            statistics.fmean(row["curve"][0]["val_top1"] for row in group),
            group[0]["parameters"],
            mean(group, "flops"),
            mean(group, "images"),
            mean(group, "seconds"),
        )
        for (depth, epochs, start), group in ((key, groups[key]) for key in order)
    ]


def paired_differences(a: Summary, b: Summary) -> list[float]:
    """Accuracy of ``a`` minus that of ``b``, seed by seed, for the seeds that both have."""
    other = dict(zip(b.seeds, b.top1, strict=True))
    return [value - other[seed] for seed, value in zip(a.seeds, a.top1, strict=True) if seed in other]


def scratch_like(summaries: Sequence[Summary], other: Summary) -> list[Summary]:
    """The random starts of the same depth, cheapest first."""
    return sorted((s for s in summaries if s.start == "random" and s.depth == other.depth), key=lambda s: s.epochs)
