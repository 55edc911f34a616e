"""The tables of a benchmark's report, and what is said above them."""

from __future__ import annotations

from collections.abc import Sequence

from learngene.bench.comparisons import differences
from learngene.bench.lines import (
    FEW,
    TEN,
    TOLERANCE,
    Difference,
    EqualAccuracy,
    Line,
    break_even_point,
    from_models,
)
from learngene.bench.summary import Summary
from learngene.tables import Table, numbers, words


def results_table(summaries: Sequence[Summary]) -> Table:
    """A row per depth, budget and start."""
    costs = ("parameters", "TFLOPs", "images", "seconds")
    columns = [
        *numbers("depth"),
        *words("start"),
        *numbers("budget", "seeds", "top-1 %", "before training %", *costs),
    ]
    return Table(columns, [_result(summary) for summary in summaries])


def _result(s: Summary) -> list[str]:
    costs = [f"{s.parameters:,}", f"{s.flops / 1e12:.2f}", f"{s.images:,.0f}", f"{s.seconds:.1f}"]
    return [str(s.depth), s.start, s.budget, str(len(s.seeds)), s.accuracy(), f"{100 * s.before:.1f}", *costs]


def difference_note(found: Sequence[Line], reference: Line) -> str:
    """What is above the table of differences from a reference."""
    gaps = [gap for _, gap in differences(found, reference)]
    return f"At {reference.budget} of fine-tuning, best first. {_how_compared(gaps)}"


def _how_compared(gaps: Sequence[Difference]) -> str:
    prepared = "'Prepared' says how often what the start needs was trained anew"
    if all(gap.half is None for gap in gaps):
        return f"Means over the depths that both have; one seed: no spread, so no interval. {prepared}."
    text = (
        "Means over the depths that both have, ± standard deviation over seeds; differences paired by seed, "
        f"with intervals by Student's t. {prepared}: where that is once, the interval leaves out how much "
        "another time would differ. The intervals are not corrected for their number."
    )
    few = any(gap.count < FEW for gap in gaps)
    return text + (
        f" Intervals of fewer than {FEW} seeds are given, and nothing is concluded from them." if few else ""
    )


def difference_table(found: Sequence[Line], reference: Line) -> Table:
    """Every other start minus a reference, at its budget, paired by seed, over the depths that both have."""
    columns = [
        *words("start", "depths"),
        *numbers("prepared", "top-1 %", f"{reference.start} there %", "difference (points)", "seeds"),
        *numbers("95 % interval"),
    ]
    compared = sorted(differences(found, reference), key=lambda item: -item[1].mean)
    return Table(columns, [_difference(line, gap, reference) for line, gap in compared])


def _difference(line: Line, gap: Difference, reference: Line) -> list[str]:
    common = set(line.depths) & set(reference.depths)
    ours, theirs = line.at(common), reference.at(common)
    assert ours is not None
    assert theirs is not None
    depths = ", ".join(map(str, sorted(common)))
    times = {None: "", 1: "once"}.get(line.preparations, f"{line.preparations} times")
    rest = [f"{gap.mean:+.2f}", str(gap.count), gap.interval] if line is not reference else ["", "", ""]
    return [line.start, depths, times, ours.accuracy(), theirs.accuracy(), *rest]


def cost_note(found: Sequence[Line]) -> str:
    """What is above the table of costs."""
    return (
        f"For models of {found[0].mean_depth:g} layers, the mean depth here. Preparing is what is trained "
        "once for all depths; each model has preparations of its own, if any, and is fine-tuned. An "
        "ancestor's own training counts as given. Rows of different accuracy are no comparison of costs."
    )


def cost_table(found: Sequence[Line]) -> Table:
    """Preparing once, one more model, and ten of them; energy where all trials measured it."""
    measured = all(s.joules is not None for line in found for s in line.summaries)
    ten = ("ten models TFLOPs", "ten models images", "ten models seconds", "stored parameters for ten")
    columns = [
        *words("start"),
        *numbers("budget", "top-1 %", "preparing TFLOPs", "each model TFLOPs", *ten),
        *(numbers("each model kJ") if measured else ()),
    ]
    return Table(columns, [_cost(line, measured) for line in found])


def _cost(line: Line, measured: bool) -> list[str]:
    once, each, ten = line.shared("flops"), line.each("flops"), line.total("flops", TEN)
    return [
        line.start,
        line.budget,
        line.accuracy(),
        f"{once / 1e12:.2f}",
        f"{each / 1e12:.2f}",
        f"{ten / 1e12:.1f}",
        *(f"{line.total(key, TEN):,.0f}" for key in ("images", "seconds", "stored_parameters")),
        *([f"{line.each('joules') / 1e3:.2f}"] if measured else ()),
    ]


def equal_note() -> str:
    """What is above the table of costs at equal accuracy."""
    return (
        "Each start against the learngene, at the accuracy of the better of the two (at the learngene's "
        "least budget, or the least the start has). A start reaches it with the least of its budgets whose "
        f"mean is at most {100 * TOLERANCE:g} points below; 'not reached' is within the budgets that were "
        "run. Costs are of ten models, preparing counted in."
    )


def equal_table(pairs: Sequence[tuple[str, EqualAccuracy]]) -> Table:
    """What the learngene and every other start cost at the accuracy of the better one."""
    columns = [
        *words("start"),
        *numbers("accuracy %", "learngene", "TFLOPs", "the start", "TFLOPs"),
        *words("learngene cheaper"),
    ]
    return Table(columns, [_equal(name, pair) for name, pair in pairs])


def _equal(name: str, pair: EqualAccuracy) -> list[str]:
    cheaper = from_models(break_even_point(pair.ours, pair.theirs)) if pair.ours and pair.theirs else ""
    return [name, f"{100 * pair.target:.2f}", *_reached(pair.ours), *_reached(pair.theirs), cheaper]


def _reached(line: Line | None) -> tuple[str, str]:
    return ("not reached", "") if line is None else (line.budget, f"{line.total('flops', TEN) / 1e12:.1f}")
