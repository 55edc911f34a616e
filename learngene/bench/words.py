"""A benchmark's outcome in words, all of them computed from its lines."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from learngene.bench.comparisons import at_budget, at_equal_accuracy, comparable, main_line, pooled
from learngene.bench.lines import (
    FEW,
    TEN,
    TOLERANCE,
    Difference,
    EqualAccuracy,
    Line,
    break_even_point,
    compare,
    difference,
    from_models,
    reaches,
)
from learngene.bench.summary import Summary

REACHING = f"at most {100 * TOLERANCE:g} points"


def in_words(found: Sequence[Line]) -> list[str]:
    """Sentences: which means are highest, by how much, where a longer training from scratch gets as far, and
    what equal accuracy costs.
    """
    gene = main_line(found)
    sentences = [_ranking(at_budget(comparable(found), gene or found[0]), gene)]
    if gene is not None:
        sentences += [
            _against_others(gene, at_budget(found, gene)),
            *_against_scratch(gene, found),
            *_at_equal_accuracy(comparable(found)),
        ]
    return [sentence for sentence in [*sentences, *_cautions(found)] if sentence]


# ---- which is first ----


def _ranking(lines: Sequence[Line], reference: Line | None) -> str:
    """First, second and last of some lines with the same depths and budget, over seeds that all of them have.

    Args:
        reference: one of the lines that is to be ranked with the others; none if any may be left out.
    """
    own = {line.start: line.by_seed() for line in lines}
    seeds = _seeds_to_rank(own, None if reference is None else reference.start)
    ranked = [line for line in lines if seeds and seeds <= set(own[line.start])] or [reference or lines[0]]
    means = {
        line.start: statistics.fmean(own[line.start][seed] for seed in seeds) if seeds else line.mean
        for line in ranked
    }
    best, *others = sorted(ranked, key=lambda line: -means[line.start])
    partly = any(seeds < set(own[line.start]) for line in ranked) if seeds else False
    head = f"At {best.budget} of fine-tuning, {_place(best)}{_alone(seeds) if partly else ''}: {best.start}"
    top1 = f"{100 * means[best.start]:.2f} % {best.measure} accuracy"
    left = [line.start for line in lines if line not in ranked]
    if not others:
        why = "a seed in common with it" if left else "the same depths and budget"
        return f"{head} has {top1}; there is no other start with {why} to compare it with."
    first, second = ({seed: own[line.start][seed] for seed in seeds} for line in (best, others[0]))
    gap = difference(first, second)
    verdict = "is first with" if gap is not None and gap.clear else "has the highest mean,"
    then = (
        f"then {others[0].start} with {100 * means[others[0].start]:.2f} % (difference {gap}{_unless(gap)})"
    )
    last = others[-1]
    end = f"; last is {last.start} with {100 * means[last.start]:.2f} %." if len(others) > 1 else "."
    missing = f" Not ranked, as they lack these seeds: {', '.join(left)}." if left else ""
    return f"{head} {verdict} {top1}, {then}{end}{missing}"


def _seeds_to_rank(own: Mapping[str, Mapping[int, float]], reference: str | None) -> set[int]:
    """The seeds that starts are compared over: those with most starts times seeds; none where no two starts
    share one.
    """
    from_which = own if reference is None else [reference]
    choices = [set(own[a]) & set(own[b]) for a in from_which for b in own if a != b]

    def pairs(seeds: set[int]) -> tuple[int, int]:
        return len(seeds) * (sum(seeds <= set(found) for found in own.values()) - 1), len(seeds)

    return max(choices, key=pairs, default=set())


def _place(line: Line) -> str:
    depths = ", ".join(map(str, line.depths))
    return f"mean over depths {depths}" if len(line.depths) > 1 else f"at depth {depths}"


def _alone(seeds: set[int]) -> str:
    several = "s" if len(seeds) > 1 else ""
    return f", seed{several} {', '.join(map(str, sorted(seeds)))} alone, which all of these have"


def _unless(gap: Difference | None) -> str:
    """What keeps a difference from being a verdict, where that is not said by its interval's absence."""
    if gap is None or gap.half is None or gap.clear:
        return ""
    if gap.count < FEW:
        return "; too few seeds for a verdict"
    return "; the interval includes 0, so which is better stays open"


# ---- against the learngene ----


def _against_others(gene: Line, others: Sequence[Line]) -> str:
    """Which starts are clearly better or worse than the learngene, and of which it stays open."""
    gaps = [(line, gap) for line in others if line is not gene and (gap := compare(line, gene)) is not None]
    told = [(line, gap) for line, gap in gaps if gap.count >= FEW]
    if not told:
        return ""
    better = [f"{line.start} ({gap})" for line, gap in told if gap.clear and gap.mean > 0]
    groups = {
        "clearly better (95 % interval above 0)": better,
        "open (interval includes 0)": [line.start for line, gap in told if not gap.clear],
        "clearly worse (interval below 0)": [line.start for line, gap in told if gap.clear and gap.mean < 0],
        f"fewer than {FEW} seeds in common, so no verdict": [
            line.start for line, gap in gaps if gap.count < FEW
        ],
    }
    count = f"{len(told)} comparisons, not corrected for their number" if len(told) > 1 else "one comparison"
    parts = [f"{name}: {', '.join(starts)}" for name, starts in groups.items() if starts]
    return f"Other starts minus {gene.start}, at the same budget of fine-tuning, {count}: {'; '.join(parts)}."


def _against_scratch(gene: Line, found: Sequence[Line]) -> list[str]:
    """Per depth: whose mean is higher at equal budget, by how much, and whether a longer training from
    scratch reaches the learngene's.
    """
    scratch = [line for line in found if line.scratch and line.tflops is None]
    sentences = []
    for own in gene.summaries:
        same = [s for line in scratch for s in line.summaries if s.depth == own.depth]
        equal = next((s for s in same if s.epochs == own.epochs), None)
        gap = None if equal is None else difference(own.by_seed(), equal.by_seed())
        if equal is not None and gap is not None:
            means = f"{own.accuracy()} against {equal.accuracy()} % ({gap}{_unless(gap)})"
            text = f"{own.depth} layers, {own.budget}: {_leader(gap)}, {means}."
            sentences.append(text + _longer(own, equal, same))
    return sentences


def _leader(gap: Difference) -> str:
    if gap.mean == 0:
        return "the means are equal"
    name = "the learngene" if gap.mean > 0 else "training from scratch"
    return f"{name} is ahead" if gap.clear else f"the mean of {name} is higher"


def _longer(own: Summary, equal: Summary, scratch: Sequence[Summary]) -> str:
    """Whether training from scratch, if it is behind, reaches the learngene's mean with a larger budget."""
    longer = [s for s in scratch if (s.epochs or 0) > (own.epochs or 0)]
    if reaches(equal.mean, own.mean) or not longer:
        return ""
    level = next((s for s in longer if reaches(s.mean, own.mean)), None)
    if level is None:
        most = f"{longer[-1].budget}, the most that was run: {longer[-1].accuracy()} %"
        return f" Training from scratch has not reached that at {most}."
    mean = f"the learngene's mean ({REACHING} below it)"
    return f" Training from scratch reaches {mean} at {level.budget}: {level.accuracy()} %."


# ---- costs at equal accuracy ----


def _at_equal_accuracy(whole: Sequence[Line]) -> list[str]:
    """Costs against training from scratch and pre-training."""
    gene = main_line(whole)
    if gene is None:
        return []
    trained = {line.start for line in whole if line.kind == "pretrained"}
    return [
        _costs_of_both(name, pair) if pair.reached else _not_reached(gene, name, pair, whole)
        for name, pair in at_equal_accuracy(gene, whole)
        if name in trained or name == "training from scratch"
    ]


def _costs_of_both(name: str, pair: EqualAccuracy) -> str:
    """Ten models of each, with the three ratios that SWS claims (6.6x, 20x, 10x)."""
    ours, theirs = pair.ours, pair.theirs
    assert ours is not None
    assert theirs is not None
    cost, other = ours.total("flops", TEN), theirs.total("flops", TEN)
    text = (
        f"For {100 * pair.target:.2f} % ({REACHING} less counts as reaching it), ten models cost "
        f"{cost / 1e12:.1f} TFLOPs from the learngene ({ours.budget}, {100 * ours.mean:.2f} %), its "
        f"distillation counted in, and {other / 1e12:.1f} by {name} ({theirs.budget}, "
        f"{100 * theirs.mean:.2f} %): a ratio of {other / cost:.2f}"
    )
    text += " (SWS claims 6.6)" if theirs.scratch else ""
    stored, more = ours.total("stored_parameters", TEN), theirs.total("stored_parameters", TEN)
    if stored and more > stored:
        text += f"; {more / stored:.1f} times fewer stored parameters (SWS claims about 20)"
    own, saved = ours.shared("flops"), TEN * (theirs.each("flops") - ours.each("flops"))
    if not theirs.scratch and own > 0 and saved > 0:
        text += f", {saved / own:.1f} times less training before fine-tuning (SWS claims about 10)"
    return f"{text}. The learngene is cheaper there {from_models(break_even_point(ours, theirs))}."


def _not_reached(gene: Line, name: str, pair: EqualAccuracy, whole: Sequence[Line]) -> str:
    """Who is behind, how far they came with what was run, and that costs are therefore not compared."""
    behind = name if pair.theirs is None else "the learngene"
    names = (name,) if behind == name else (gene.start,)
    own = [line for line in whole if line.start in names or (behind == name and pooled(line) == name)]
    comparable_budgets = [line for line in own if (line.tflops is None) == (gene.tflops is None)]
    last = max(comparable_budgets, key=lambda line: line.mean)
    return (
        f"Costs of the learngene and {name} at equal accuracy: not reached. The better of the two has "
        f"{100 * pair.target:.2f} %; {behind} has {100 * last.mean:.2f} % at {last.budget}, its best that "
        "was run."
    )


# ---- what the number of seeds does not allow ----


def _cautions(found: Sequence[Line]) -> list[str]:
    cautions = []
    one, two = _with_seeds(1, found), _with_seeds(2, found)
    if one is not None:
        cautions.append(
            f"One seed{one}: no spread. This is an observation, not a claim: another seed may well turn "
            "small differences around."
        )
    if two is not None:
        cautions.append(
            f"With 2 seeds{two} the intervals are so wide that this is an observation, not a claim."
        )
    if len({s.seeds for line in found for s in line.summaries}) > 1:
        cautions.append(
            "Seeds differ between starts, depths or budgets; means are over those that are finished, "
            "differences over common ones."
        )
    return cautions


def _with_seeds(count: int, found: Sequence[Line]) -> str | None:
    """`` of random``: the starts with so many seeds, and where if not everywhere.

    Returns:
        An empty text if all have so many everywhere, none if none has.
    """
    told, everywhere = [], True
    for start in dict.fromkeys(line.start for line in found):
        cells = [s for line in found if line.start == start for s in line.summaries]
        own = [s for s in cells if len(s.seeds) == count]
        everywhere &= len(own) == len(cells)
        if own:
            places = ", ".join(f"{s.depth} layers at {s.budget}" for s in own)
            told.append(start if len(own) == len(cells) else f"{start} ({places})")
    return None if not told else "" if everywhere else f" of {', '.join(told)}"
