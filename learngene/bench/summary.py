"""Rows to summaries: mean and spread over seeds."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Summary:
    """All seeds of one start, depth and budget, on one data set with one recipe.

    Attributes:
        kind: the start behind the name, e.g. ``weight-selection``.
        arch_args: architecture arguments that differ from the family's.
        epochs, tflops: the budget; one of them.
        top1: test accuracy (validation where there is no test split) of each seed, shares.
        before: mean validation accuracy before training.
        flops, images, seconds, joules: mean cost of training one model.
        prepared: cost and stored parameters of each preparation, by path, of all seeds together; ``name`` and
            ``each`` tell which are one preparation for several seeds or depths.
        measure: which accuracy ``top1`` is: ``test``, ``validation``, or ``test or validation`` where trials
            differ.
    """

    data: str
    recipe: str
    start: str
    kind: str
    arch_args: Mapping[str, Any]
    depth: int
    epochs: int | None
    tflops: float | None
    seeds: tuple[int, ...]
    top1: tuple[float, ...]
    before: float
    parameters: int
    flops: float
    images: float
    seconds: float
    joules: float | None
    prepared: Mapping[str, Mapping[str, Any]]
    measure: str = "test"

    @property
    def budget(self) -> str:
        """In words."""
        return budget_name(self.epochs, self.tflops)

    @property
    def scratch(self) -> bool:
        """Whether it is plain training from scratch: random weights in the family's own architecture."""
        return self.kind == "random" and not self.arch_args

    @property
    def mean(self) -> float:
        return statistics.fmean(self.top1)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds; none for a single one."""
        return statistics.stdev(self.top1) if len(self.top1) > 1 else None

    def by_seed(self) -> dict[int, float]:
        """Accuracy of each seed."""
        return dict(zip(self.seeds, self.top1, strict=True))

    def accuracy(self) -> str:
        """``91.23 ± 0.12`` percent."""
        return percent(self.top1)

    def plain(self) -> dict[str, Any]:
        """Its fields but the preparations, for JSON, with mean, spread and the budget in words."""
        kept = {k: v for k, v in dataclasses.asdict(self).items() if k != "prepared"}
        return {**kept, "budget": self.budget, "mean": self.mean, "spread": self.spread}


def percent(shares: Sequence[float]) -> str:
    """Mean and, of several, sample standard deviation: ``91.23 ± 0.12``."""
    spread = f" ± {100 * statistics.stdev(shares):.2f}" if len(shares) > 1 else ""
    return f"{100 * statistics.fmean(shares):.2f}{spread}"


def spread_words(summaries: Iterable[Summary]) -> str:
    """What stands behind the means."""
    several = any(len(summary.seeds) > 1 for summary in summaries)
    return "mean ± standard deviation over seeds" if several else "one seed: no spread"


def budget_name(epochs: int | None, tflops: float | None) -> str:
    """``2 epochs`` or ``1.5 TFLOPs``; 0 epochs are ``untuned``."""
    if epochs == 0:
        return "untuned"
    return f"{tflops:g} TFLOPs" if tflops is not None else f"{epochs} epoch{'' if epochs == 1 else 's'}"


def accuracy_of(row: Row) -> float:
    """Test accuracy of a trial, or validation accuracy where there was no test split."""
    return row["val_top1"] if row["test_top1"] is None else row["test_top1"]


def one_measure(measures: Iterable[str]) -> str:
    """``test`` or ``validation`` where all are the same, else ``test or validation``."""
    found = set(measures)
    return found.pop() if len(found) == 1 else "test or validation"


def measure_of(rows: Iterable[Row]) -> str:
    """Which accuracy `accuracy_of` gives."""
    return one_measure("validation" if row["test_top1"] is None else "test" for row in rows)


def summarize(rows: Sequence[Row]) -> list[Summary]:
    """One per data set, recipe, depth, budget and start; starts in order of appearance, seeds in order."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        size = budget_order(row["epochs"], row["tflops"])
        groups.setdefault((row["data"], row["recipe"], row["depth"], size, row["start"]), []).append(row)

    def mean(group: Sequence[Row], key: str) -> float:
        return statistics.fmean(row[key] for row in group)

    return [
        Summary(
            data,
            recipe,
            start,
            group[0]["kind"],
            group[0]["arch_args"],
            depth,
            group[0]["epochs"],
            group[0]["tflops"],
            tuple(row["seed"] for row in group),
            tuple(accuracy_of(row) for row in group),
            statistics.fmean(row["curve"][0]["val_top1"] for row in group),
            group[0]["parameters"],
            mean(group, "flops"),
            mean(group, "images"),
            mean(group, "seconds"),
            None if any(row.get("joules") is None for row in group) else mean(group, "joules"),
            {key: cost for row in group for key, cost in row["prepared"].items()},
            measure_of(group),
        )
        for (data, recipe, depth, _, start), group in sorted(groups.items(), key=lambda item: item[0][:4])
    ]


def budget_order(epochs: int | None, tflops: float | None) -> tuple[bool, float]:
    """Sorts budgets: epochs, then TFLOPs, the least first."""
    return tflops is not None, tflops if tflops is not None else epochs or 0
