"""Which lines of a benchmark are compared with which, and which of them are worth a plot."""

from __future__ import annotations

from collections.abc import Sequence

from learngene.bench.lines import Difference, EqualAccuracy, Line, compare, equal_accuracy


def main_line(found: Sequence[Line]) -> Line | None:
    """The learngene that all else is compared with: the start of that name or the first of its kind, at its
    least budget of fine-tuning; untuned if there is no other.
    """
    own = [line for line in tuned(found) or found if line.kind == "learngene"]
    named = [line for line in own if line.start == "learngene"]
    return next(iter(named or own), None)


def tuned(found: Sequence[Line]) -> list[Line]:
    """The lines of models that were fine-tuned at all."""
    return [line for line in found if line.epochs != 0]


def at_budget(found: Sequence[Line], other: Line) -> list[Line]:
    """The lines with the same budget of fine-tuning, the same line included."""
    return [line for line in found if (line.epochs, line.tflops) == (other.epochs, other.tflops)]


def comparable(found: Sequence[Line]) -> list[Line]:
    """The lines that have all depths of the learngene (of the first line without one), at these depths."""
    depths = (main_line(found) or found[0]).depths
    return [restricted for line in found if (restricted := line.at(depths)) is not None]


def notable(found: Sequence[Line], limit: int = 7) -> list[Line]:
    """The lines worth a plot: the learngene, all budgets from scratch, pre-training, and the best others.

    Args:
        limit: of lines, but at least three others are among them.
    """
    gene = main_line(found)
    kept = [line for line in found if line is gene or line.scratch or line.kind == "pretrained"]
    others = sorted((line for line in comparable(found) if line not in kept), key=lambda line: -line.mean)
    return kept + others[: max(3, limit - len(kept))]


def differences(found: Sequence[Line], reference: Line) -> list[tuple[Line, Difference]]:
    """The lines at a reference's budget that share a depth and a seed with it, and how they differ.

    The reference is one of them.
    """
    return [
        (line, gap) for line in at_budget(found, reference) if (gap := compare(line, reference)) is not None
    ]


def pooled(line: Line) -> str:
    """The start's name where costs are compared: all that is training from scratch is one."""
    return "training from scratch" if line.scratch else line.start


def at_equal_accuracy(gene: Line, whole: Sequence[Line]) -> list[tuple[str, EqualAccuracy]]:
    """Every other start, by name (see `pooled`), against the learngene; budgets in its unit only."""
    others: dict[str, list[Line]] = {}
    for line in whole if gene.epochs == 0 else tuned(whole):
        if (line.tflops is None) == (gene.tflops is None):
            others.setdefault(pooled(line), []).append(line)
    own = others.pop(gene.start)
    return [(name, equal_accuracy(own, theirs)) for name, theirs in others.items()]


def worth_break_even(whole: Sequence[Line]) -> list[Line]:
    """The lines of a plot of cost against models: those at the learngene's accuracy, if one is prepared."""
    level = _level(whole)
    return level if any(line.shared("flops") > 0 for line in level) else []


def worth_storing(whole: Sequence[Line]) -> list[Line]:
    """The lines of a plot of stored parameters: those at the learngene's accuracy, if two store some."""
    level = [line for line in _level(whole) if line.total("stored_parameters", 1) > 0]
    return level if len(level) > 1 else []


def _level(whole: Sequence[Line]) -> list[Line]:
    """The learngene, and of each start that reaches its accuracy the line that does; none without one."""
    gene = main_line(whole)
    pairs = [] if gene is None else at_equal_accuracy(gene, whole)
    level = [pair.theirs for _, pair in pairs if pair.theirs and pair.ours is gene]
    return [gene, *level] if gene and level else []
