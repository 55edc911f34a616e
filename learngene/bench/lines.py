"""Starts over all depths: paired differences, and what a family of n models costs."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from learngene.bench.summary import Summary, budget_name, budget_order, one_measure, percent

TOLERANCE = 0.005  # below another's mean accuracy, and still counted as reaching it: half a point
TEN = 10  # models of a family, as SWS counts its costs
FEW = 3  # seeds that a verdict needs at least: with two, Student's t has one degree of freedom


@dataclass(frozen=True)
class Line:
    """One start at one budget over all depths: a line of a plot, a family of models.

    Attributes:
        summaries: by depth.
    """

    start: str
    epochs: int | None
    tflops: float | None
    summaries: tuple[Summary, ...]

    @property
    def budget(self) -> str:
        """In words."""
        return budget_name(self.epochs, self.tflops)

    @property
    def kind(self) -> str:
        """The start behind the name."""
        return self.summaries[0].kind

    @property
    def scratch(self) -> bool:
        """See `Summary.scratch`."""
        return self.summaries[0].scratch

    @property
    def measure(self) -> str:
        """Which accuracy it is, see `Summary.measure`."""
        return one_measure(s.measure for s in self.summaries)

    @property
    def title(self) -> str:
        """The start's name, and whether it is training from scratch."""
        return f"{self.start} (from scratch)" if self.scratch else self.start

    @property
    def name(self) -> str:
        """Title and budget."""
        return f"{self.title}, {self.budget}"

    @property
    def depths(self) -> tuple[int, ...]:
        return tuple(s.depth for s in self.summaries)

    @property
    def mean_depth(self) -> float:
        """Layers of a model of the mean depth."""
        return statistics.fmean(self.depths)

    @property
    def mean(self) -> float:
        """Accuracy, mean over depths and seeds."""
        return statistics.fmean(s.mean for s in self.summaries)

    def accuracy(self) -> str:
        """``91.23 ± 0.12`` percent: of each seed's mean over depths, where seeds were run at all of them."""
        return percent(list(self.by_seed().values())) if self.by_seed() else f"{100 * self.mean:.2f}"

    def at(self, depths: Iterable[int]) -> Line | None:
        """The same at some depths; none unless it has all of them."""
        wanted = set(depths)
        return (
            dataclasses.replace(self, summaries=self._only(wanted))
            if wanted and wanted <= set(self.depths)
            else None
        )

    def _only(self, depths: set[int]) -> tuple[Summary, ...]:
        return tuple(s for s in self.summaries if s.depth in depths)

    def by_seed(self) -> dict[int, float]:
        """Accuracy of each seed that was run at all depths, mean over them."""
        found = [s.by_seed() for s in self.summaries]
        seeds = set.intersection(*(set(own) for own in found))
        return {seed: statistics.fmean(own[seed] for own in found) for seed in sorted(seeds)}

    @property
    def preparations(self) -> int | None:
        """How often what the start needs was prepared anew, at the least; none if it needs nothing."""
        counts = [len(costs) for costs in self._costs("flops").values()]
        return min(counts) if counts else None

    def shared(self, key: str) -> float:
        """Cost of what is prepared once for all depths.

        Args:
            key: ``flops``, ``images``, ``seconds``, ``joules`` or ``stored_parameters``.
        """
        return sum(
            statistics.fmean(costs.values())
            for (_, depth), costs in self._costs(key).items()
            if depth is None
        )

    def each(self, key: str) -> float:
        """Mean cost of one more model: preparations of its own, and fine-tuning, which stores nothing."""
        own = sum(
            statistics.fmean(costs.values())
            for (_, depth), costs in self._costs(key).items()
            if depth is not None
        )
        tuned = (
            0.0 if key == "stored_parameters" else statistics.fmean(getattr(s, key) for s in self.summaries)
        )
        return own / len(self.summaries) + tuned

    def total(self, key: str, models: int) -> float:
        """Cost of a family of so many models of the mean depth."""
        return self.shared(key) + models * self.each(key)

    def _costs(self, key: str) -> dict[tuple[str, int | None], dict[str, float]]:
        """By preparation, and depth where each has its own: the cost of each time it was made, by path."""
        found: dict[tuple[str, int | None], dict[str, float]] = {}
        for s in self.summaries:
            for path, cost in s.prepared.items():
                own = found.setdefault((cost["name"], s.depth if "depth" in cost["each"] else None), {})
                own[path] = cost[key] or 0
        return found


def lines(summaries: Sequence[Summary]) -> list[Line]:
    """One per start and budget, in order of budget and appearance; all of one data set and recipe."""
    groups: dict[tuple[str, int | None, float | None], list[Summary]] = {}
    for s in summaries:
        groups.setdefault((s.start, s.epochs, s.tflops), []).append(s)
    found = [Line(*case, tuple(sorted(group, key=lambda s: s.depth))) for case, group in groups.items()]
    return sorted(found, key=lambda line: budget_order(line.epochs, line.tflops))


@dataclass(frozen=True)
class Difference:
    """Accuracy of one thing minus another, seed by seed, in points.

    Attributes:
        mean: over the seeds.
        half: half the width of the 95 % interval by Student's t; none for a single seed.
        count: of seeds.
    """

    mean: float
    half: float | None
    count: int

    @property
    def clear(self) -> bool:
        """Whether there are seeds enough for a verdict, and all of the interval is on one side of 0."""
        return self.half is not None and self.count >= FEW and abs(self.mean) > self.half

    @property
    def interval(self) -> str:
        """``-1.20 to +3.40``, or that there is none."""
        if self.half is None:
            return "one seed: no spread"
        return f"{self.mean - self.half:+.2f} to {self.mean + self.half:+.2f}"

    def __str__(self) -> str:
        if self.half is None:
            return f"{self.mean:+.2f} points; {self.interval}"
        return f"{self.mean:+.2f} points, 95 % interval {self.interval}, n = {self.count}"


def difference(a: Mapping[int, float], b: Mapping[int, float]) -> Difference | None:
    """Paired difference of accuracies by seed; none without a common seed."""
    values = [100 * (a[seed] - b[seed]) for seed in a if seed in b]
    if not values:
        return None
    half = (
        t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
        if len(values) > 1
        else None
    )
    return Difference(statistics.fmean(values), half, len(values))


def compare(a: Line, b: Line) -> Difference | None:
    """Paired by seed, mean over the depths that both have."""
    common = set(a.depths) & set(b.depths)
    ours, theirs = a.at(common), b.at(common)
    return difference(ours.by_seed(), theirs.by_seed()) if ours and theirs else None


def break_even_point(a: Line, b: Line, key: str = "flops") -> int | None:
    """The number of models from which on ``a`` is never dearer than ``b``; none if there is none."""
    extra, saved = a.shared(key) - b.shared(key), b.each(key) - a.each(key)
    if saved < 0 or (saved == 0 and extra > 0):
        return None
    return max(1, math.ceil(extra / saved)) if saved else 1


def from_models(models: int | None) -> str:
    """`break_even_point` in words."""
    if models is None:
        return "for no number of models"
    return f"from {models} model{'s' if models > 1 else ''} on"


@dataclass(frozen=True)
class EqualAccuracy:
    """What two starts need for the same accuracy: that of the better one.

    Attributes:
        target: accuracy (a share), the better one's mean.
        ours, theirs: each start's line at the least budget that was run whose mean is at most `TOLERANCE`
            below the target; none where no budget that was run reaches it.
    """

    target: float
    ours: Line | None
    theirs: Line | None

    @property
    def reached(self) -> bool:
        """Whether both reach it, so that costs can be compared."""
        return self.ours is not None and self.theirs is not None


def equal_accuracy(ours: Sequence[Line], theirs: Sequence[Line]) -> EqualAccuracy:
    """Compare two starts at the accuracy of the better one.

    The better one, not the worse: at the accuracy of the worse, the better one's cost would be that of more
    than is asked for.

    Args:
        ours, theirs: lines of one start each, of the same depths, the least budget first. The first of
            ours, and theirs at the same budget (or their first), say which is the better one.
    """
    first = next(
        (line for line in theirs if (line.epochs, line.tflops) == (ours[0].epochs, ours[0].tflops)), theirs[0]
    )
    target = max(ours[0].mean, first.mean)

    def least(lines: Sequence[Line]) -> Line | None:
        return next((line for line in lines if reaches(line.mean, target)), None)

    return EqualAccuracy(target, least(ours), least(theirs))


def reaches(accuracy: float, target: float) -> bool:
    """Whether an accuracy is at most `TOLERANCE` below another; rounding of floats forgiven."""
    return accuracy >= target - TOLERANCE - 1e-9


def t_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t (table; 1.96 beyond 30 degrees of freedom)."""
    # By hand: scipy has it, but scipy weighs 35 MB and is a dependency of nothing that this package depends
    # on; the standard library has the normal distribution only.
    table: tuple[float, ...] = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
    table += (2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)
    table += (2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)
    return table[freedom - 1] if freedom <= len(table) else 1.960
