"""report.md, report.html and plots: tables, costs and the outcome in words, all computed from the rows."""

from __future__ import annotations

import base64
import html
import re
import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from learngene.bench import plots
from learngene.bench.lines import (
    FEW,
    TOLERANCE,
    Difference,
    EqualAccuracy,
    Line,
    break_even,
    compare,
    difference,
    equal_accuracy,
    lines,
    reaches,
)
from learngene.bench.summary import Row, Summary, summarize
from learngene.errors import LearngeneError
from learngene.files import write_text

TEN = 10  # models, as SWS counts


def write_report(rows: Sequence[Row], out: Path, *, command: str | None = None) -> Path:
    """Write ``report.md``, ``report.html`` (one self-contained page) and PNG plots into a directory.

    Args:
        rows: finished trials.
        command: that runs the benchmark again.

    Raises:
        LearngeneError: no trial is finished.
    """
    if not rows:
        raise LearngeneError(
            f"no trial in '{out}' is finished, so there is nothing to report; run the benchmark on with --resume"
        )
    summaries = summarize(rows)
    parts = ["# Benchmark: ways to begin a ViT", _head(rows, command)]
    groups = list(dict.fromkeys((s.data, s.recipe) for s in summaries))
    looks = _looks(groups, summaries)
    for data, recipe in groups:
        chosen = [s for s in summaries if (s.data, s.recipe) == (data, recipe)]
        own = [row for row in rows if (row["data"], row["recipe"]) == (data, recipe)]
        title = f"{data}, recipe {recipe}" if recipe else data
        prefix = (
            ""
            if len(groups) == 1
            else re.sub(r"[^a-z0-9]+", "-", f"{data} {recipe}".lower()).strip("-") + "-"
        )
        parts += _section(title, prefix, chosen, own, out, looks)
    write_text(out / "report.md", text := "\n\n".join(parts) + "\n")
    write_text(out / "report.html", to_html(text, out))
    return out / "report.md"


def rerun(folder: Path) -> str:
    """The command that runs the benchmark of a directory again, for a shell."""
    return f"learngene benchmark --config {shlex.quote(str(folder / 'config.yaml'))} --out NEW"


def _looks(groups: Sequence[tuple[str, str]], summaries: Sequence[Summary]) -> plots.Looks:
    """Of all that any section draws; those with all depths are in most plots, and come first."""
    sections = [lines([s for s in summaries if (s.data, s.recipe) == group]) for group in groups]
    whole = [line for found in sections for line in comparable(found)]
    drawn = whole + [line for found in sections for line in notable(found)]
    return plots.Looks.of(drawn, first={line.start for line in whole})


def _section(
    title: str, prefix: str, summaries: Sequence[Summary], rows: Sequence[Row], out: Path, looks: plots.Looks
) -> list[str]:
    found = lines(summaries)
    shown = notable(found)
    whole = comparable(found)

    def picture(text: str, draw: Callable[..., Path], *what: Any, title: str = title) -> str:
        path = draw(*what, out / f"{prefix}{draw.__name__.replace('_', '-')}.png", title=title, looks=looks)
        return f"![{text}]({path.name})"

    # a plot of an earlier report that this one has no use for would pass for one of this
    for name in ("break-even", "stored", "accuracy-by-depth", "accuracy-by-cost"):
        (out / f"{prefix}{name}.png").unlink(missing_ok=True)
    overview = [
        picture(text, draw, chosen)
        for text, draw, chosen, points in (
            (
                "accuracy against depth",
                plots.accuracy_by_depth,
                shown,
                sum(len(line.depths) for line in shown),
            ),
            ("accuracy against training cost", plots.accuracy_by_cost, whole, len(whole)),
        )
        if points > 1  # one point shows no more than the table
    ]
    level = f"{title}: starts that reach {_target(found)}"
    family = [
        picture(text, draw, chosen, title=level)
        for text, draw, chosen in (
            ("cost of n models at equal accuracy", plots.break_even, worth_break_even(whole)),
            ("stored parameters for n models at equal accuracy", plots.stored, worth_storing(whole)),
        )
        if chosen
    ]
    return [
        f"## {title}",
        "### In words",
        in_words(found),
        *overview,
        *_tables(found),
        "### What it costs",
        cost_table(whole),
        *_equal_costs(whole),
        *family,
        "### All results",
        markdown_table(summaries),
        picture("accuracy against epochs", plots.accuracy_by_epoch, rows, shown),
    ]


def _tables(found: Sequence[Line]) -> list[str]:
    """Differences from the learngene, and, where there is more to see, from random weights at the same budget."""
    gene = main_line(found)
    scratch = next(
        (line for line in found if line.scratch and (gene is None or line in at_budget(found, gene))), None
    )
    parts = []
    if gene is not None and len(differences(found, gene)) > 1:
        parts += ["### Against the learngene", difference_table(found, gene)]
    if scratch is not None and len(differences(found, scratch)) > 2:
        parts += ["### Against random weights", difference_table(found, scratch)]
    return parts


def _equal_costs(whole: Sequence[Line]) -> list[str]:
    gene = main_line(whole)
    pairs = [] if gene is None else at_equal_accuracy(gene, whole)
    return ["### At equal accuracy", equal_table(pairs)] if pairs else []


def _target(found: Sequence[Line]) -> str:
    gene = main_line(found)
    return f"{100 * gene.mean:.2f} %" if gene else ""


def at_equal_accuracy(gene: Line, whole: Sequence[Line]) -> list[tuple[str, EqualAccuracy]]:
    """Every other start, by name, against the learngene; all that is training from scratch is one. Budgets in the learngene's unit only."""
    others: dict[str, list[Line]] = {}
    for line in whole:
        if (line.tflops is None) == (gene.tflops is None):
            others.setdefault(_pooled(line), []).append(line)
    own = others.pop(gene.start)
    return [(name, equal_accuracy(own, theirs)) for name, theirs in others.items()]


def worth_break_even(whole: Sequence[Line]) -> list[Line]:
    """The lines of a plot of cost against models: those that reach the learngene's accuracy, if there are two and one of them is prepared."""
    level = _level(whole)
    return level if any(line.shared("flops") > 0 for line in level) else []


def worth_storing(whole: Sequence[Line]) -> list[Line]:
    """The lines of a plot of stored parameters: those that store some and reach the learngene's accuracy, if there are two."""
    level = [line for line in _level(whole) if line.total("stored_parameters", 1) > 0]
    return level if len(level) > 1 else []


def _level(whole: Sequence[Line]) -> list[Line]:
    """The learngene, and of each start that reaches its accuracy the line that does; none without such a start."""
    gene = main_line(whole)
    pairs = [] if gene is None else at_equal_accuracy(gene, whole)
    level = [pair.theirs for _, pair in pairs if pair.theirs and pair.ours is gene]
    return [gene, *level] if gene and level else []


def _head(rows: Sequence[Row], command: str | None) -> str:
    def distinct(values: Any) -> str:
        return ", ".join(dict.fromkeys(str(v) for v in values))

    summaries = summarize(rows)
    tested = [row["test_images"] for row in rows if row["test_top1"] is not None]
    measure = (
        f"test ({distinct(sorted(set(tested)))} images, used once per trial)"
        if tested
        else "validation: no test split was used"
    )
    if tested and len(tested) < len(rows):
        measure += (
            f", but validation in {len(rows) - len(tested)} of {len(rows)} trials, which had no test split"
        )
    several = any(len(s.seeds) > 1 for s in summaries)
    about = {
        "accuracy": f"top-1, {measure}; {'mean ± standard deviation over seeds' if several else 'one seed: no spread'}",
        "trials": f"{len(rows)}, seeds {', '.join(str(seed) for seed in sorted({row['seed'] for row in rows}))}",
        "family": distinct(row["architecture"] for row in rows),
        "command": f"`{command}`" if command else None,
        "hardware": distinct(row["hardware"] for row in rows),
        "threads": distinct(row["threads"] for row in rows if "threads" in row),
        "versions": ", ".join(f"{name} {version}" for name, version in rows[0]["versions"].items()),
        "commit": distinct(row["commit"] or "not a checkout" for row in rows),
        "precision": distinct(row["precision"] for row in rows),
        "costs": "FLOPs are counted, at 3 forward passes per training image, forward passes of an ancestor included; evaluating is left out",
    }
    return "\n".join(f"- {name}: {value}" for name, value in about.items() if value)


def markdown_table(summaries: Sequence[Summary]) -> str:
    """A row per depth, budget and start."""
    head = [
        "| depth | start | budget | seeds | top-1 % | before training % | parameters | TFLOPs | images | seconds |",
        "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    return "\n".join(head + [
        f"| {s.depth} | {s.start} | {s.budget} | {len(s.seeds)} | {s.accuracy()} | {100 * s.before:.1f} | {s.parameters:,} | "
        f"{s.flops / 1e12:.2f} | {s.images:,.0f} | {s.seconds:.1f} |"
        for s in summaries
    ])  # fmt: skip


def main_line(found: Sequence[Line]) -> Line | None:
    """The learngene that all else is compared with: the start of that name, or the first of its kind, at its least budget."""
    own = [line for line in found if line.summaries[0].kind == "learngene"]
    named = [line for line in own if line.start == "learngene"]
    return next(iter(named or own), None)


def at_budget(found: Sequence[Line], other: Line) -> list[Line]:
    """The lines with the same budget of fine-tuning, the same line included."""
    return [line for line in found if (line.epochs, line.tflops) == (other.epochs, other.tflops)]


def comparable(found: Sequence[Line]) -> list[Line]:
    """The lines that have all depths of the learngene (of the first line without one), at these depths."""
    depths = (main_line(found) or found[0]).depths
    return [restricted for line in found if (restricted := line.at(depths)) is not None]


def notable(found: Sequence[Line], limit: int = 7) -> list[Line]:
    """The lines worth a plot: the learngene, all budgets from scratch, pre-training, and at least three, the best, of the others."""
    gene = main_line(found)
    kept = [line for line in found if line is gene or line.scratch or line.summaries[0].kind == "pretrained"]
    others = sorted((line for line in comparable(found) if line not in kept), key=lambda line: -line.mean)
    return kept + others[: max(3, limit - len(kept))]


def differences(found: Sequence[Line], reference: Line) -> list[tuple[Line, Difference]]:
    """The lines at the reference's budget that have a depth and a seed in common with it, which is one of them, and how they differ."""
    return [
        (line, gap) for line in at_budget(found, reference) if (gap := compare(line, reference)) is not None
    ]


def difference_table(found: Sequence[Line], reference: Line) -> str:
    """Every other start minus a reference, at its budget, paired by seed, over the depths that both have."""
    compared = differences(found, reference)
    head = [
        f"At {reference.budget} of fine-tuning, best first. {_how_compared([gap for _, gap in compared])}\n",
        f"| start | depths | prepared | top-1 % | {reference.start} there % | difference (points) | seeds | 95 % interval |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    body = []
    for line, gap in sorted(compared, key=lambda item: -item[1].mean):
        common = set(line.depths) & set(reference.depths)
        ours, theirs = line.at(common), reference.at(common)
        assert ours is not None
        assert theirs is not None
        rest = "| | |" if line is reference else f"{gap.mean:+.2f} | {gap.count} | {gap.interval} |"
        times = {None: "", 1: "once"}.get(line.preparations, f"{line.preparations} times")
        depths = ", ".join(map(str, sorted(common)))
        body.append(f"| {line.start} | {depths} | {times} | {ours.accuracy()} | {theirs.accuracy()} | {rest}")
    return "\n".join(head + body)


def _how_compared(gaps: Sequence[Difference]) -> str:
    prepared = "'Prepared' says how often what the start needs was trained anew"
    if all(gap.half is None for gap in gaps):
        return f"Means over the depths that both have; one seed: no spread, so no interval. {prepared}."
    text = (
        "Means over the depths that both have, ± standard deviation over seeds; differences paired by seed, with intervals by Student's t. "
        f"{prepared}: where that is once, the interval leaves out how much another time would differ. The intervals are not corrected for their number."
    )
    few = any(gap.count < FEW for gap in gaps)
    return text + (
        f" Intervals of fewer than {FEW} seeds are given, and nothing is concluded from them." if few else ""
    )


def cost_table(found: Sequence[Line]) -> str:
    """Preparing once, one more model, and ten of them."""
    measured = all(s.joules is not None for line in found for s in line.summaries)
    head = [
        f"For models of {found[0].mean_depth:g} layers, the mean depth here. Preparing is what is trained once for all depths; each model has "
        "preparations of its own, if any, and is fine-tuned. An ancestor's own training counts as given. Rows of different accuracy are no "
        "comparison of costs.\n",
        "| start | budget | top-1 % | preparing TFLOPs | each model TFLOPs | ten models TFLOPs | ten models images | ten models seconds | stored parameters for ten |"
        + (" each model kJ |" if measured else ""),
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|" + ("---:|" if measured else ""),
    ]
    body = []
    for line in found:
        cells = [
            line.start,
            line.budget,
            line.accuracy(),
            f"{line.shared('flops') / 1e12:.2f}",
            f"{line.each('flops') / 1e12:.2f}",
        ]
        cells += [f"{line.total('flops', TEN) / 1e12:.1f}"]
        cells += [f"{line.total(key, TEN):,.0f}" for key in ("images", "seconds", "stored_parameters")]
        cells += [f"{line.each('joules') / 1e3:.2f}"] if measured else []
        body.append(f"| {' | '.join(cells)} |")
    return "\n".join(head + body)


def equal_table(pairs: Sequence[tuple[str, EqualAccuracy]]) -> str:
    """What the learngene and every other start cost at the accuracy of the better one."""
    head = [
        "Each start against the learngene, at the accuracy of the better of the two (at the learngene's least budget, or the least the start has). A start reaches it "
        f"with the least of its budgets whose mean is at most {100 * TOLERANCE:g} points below; 'not reached' is within the budgets that were run. Costs are of ten models, preparing "
        "counted in.\n",
        "| start | accuracy % | learngene | TFLOPs | the start | TFLOPs | learngene cheaper |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    body = []
    for name, pair in pairs:
        cheaper = _from_models(break_even(pair.ours, pair.theirs)) if pair.ours and pair.theirs else ""
        cells = [name, f"{100 * pair.target:.2f}", *_reached(pair.ours), *_reached(pair.theirs), cheaper]
        body.append(f"| {' | '.join(cells)} |")
    return "\n".join(head + body)


def _reached(line: Line | None) -> tuple[str, str]:
    return ("not reached", "") if line is None else (line.budget, f"{line.total('flops', TEN) / 1e12:.1f}")


def in_words(found: Sequence[Line]) -> str:
    """Which means are highest, by how much, where a longer training from scratch gets as far, and what equal accuracy costs."""
    gene = main_line(found)
    sentences = [_ranking(at_budget(comparable(found), gene or found[0]), gene)]
    if gene is not None:
        sentences += [
            _against_others(gene, at_budget(found, gene)),
            *_against_scratch(gene, found),
            *_at_equal_accuracy(comparable(found)),
        ]
    return "\n".join(f"- {sentence}" for sentence in [*sentences, *_cautions(found)] if sentence)


def _cautions(found: Sequence[Line]) -> list[str]:
    """What the number of seeds does not allow."""
    cells = [s for line in found for s in line.summaries]
    cautions = []
    one, two = _with_seeds(1, found), _with_seeds(2, found)
    if one is not None:
        cautions.append(
            f"One seed{one}: no spread. This is an observation, not a claim: another seed may well turn small differences around."
        )
    if two is not None:
        cautions.append(
            f"With 2 seeds{two} the intervals are so wide that this is an observation, not a claim."
        )
    if len({s.seeds for s in cells}) > 1:
        cautions.append(
            "Seeds differ between starts, depths or budgets; means are over those that are finished, differences over common ones."
        )
    return cautions


def _with_seeds(count: int, found: Sequence[Line]) -> str | None:
    """`` of random``, the starts with so many seeds, and where it is so if not at all depths and budgets; empty for all, none for none."""
    told, everywhere = [], True
    for start in dict.fromkeys(line.start for line in found):
        cells = [s for line in found if line.start == start for s in line.summaries]
        own = [s for s in cells if len(s.seeds) == count]
        everywhere &= len(own) == len(cells)
        if own:
            places = ", ".join(f"{s.depth} layers at {s.budget}" for s in own)
            told.append(start if len(own) == len(cells) else f"{start} ({places})")
    return None if not told else "" if everywhere else f" of {', '.join(told)}"


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
    depths = ", ".join(map(str, best.depths))
    place = f"mean over depths {depths}" if len(best.depths) > 1 else f"at depth {depths}"
    partly = seeds and any(seeds < set(own[line.start]) for line in ranked)
    over = (
        f", seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, sorted(seeds)))} alone, which all of these have"
        if partly
        else ""
    )
    head = f"At {best.budget} of fine-tuning, {place}{over}: **{best.start}**"
    top1 = f"{100 * means[best.start]:.2f} % {best.measure} accuracy"
    left = [line.start for line in lines if line not in ranked]
    missing = f" Not ranked, as they lack these seeds: {', '.join(left)}." if left else ""
    if not others:
        why = "a seed in common with it" if left else "the same depths and budget"
        return f"{head} has {top1}; there is no other start with {why} to compare it with."
    first, second = ({seed: own[line.start][seed] for seed in seeds} for line in (best, others[0]))
    gap = difference(first, second)
    clear = gap is not None and gap.clear
    text = f"{head} {'is first with' if clear else 'has the highest mean,'} {top1}, then {others[0].start} with {100 * means[others[0].start]:.2f} %"
    text += f" (difference {gap}{_unless(gap)})"
    return (
        text
        + (
            f"; last is {others[-1].start} with {100 * means[others[-1].start]:.2f} %."
            if len(others) > 1
            else "."
        )
        + missing
    )


def _seeds_to_rank(own: Mapping[str, Mapping[int, float]], reference: str | None) -> set[int]:
    """The seeds that starts are compared over: those with most starts times seeds; none if no two starts have one in common."""
    from_which = own if reference is None else [reference]
    choices = [set(own[a]) & set(own[b]) for a in from_which for b in own if a != b]

    def pairs(seeds: set[int]) -> tuple[int, int]:
        return len(seeds) * (sum(seeds <= set(found) for found in own.values()) - 1), len(seeds)

    return max(choices, key=pairs, default=set())


def _unless(gap: Difference | None) -> str:
    """What keeps a difference from being a verdict, where that is not said by its interval's absence."""
    if gap is None or gap.half is None or gap.clear:
        return ""
    return (
        "; too few seeds for a verdict"
        if gap.count < FEW
        else "; the interval includes 0, so which is better stays open"
    )


def _against_others(gene: Line, others: Sequence[Line]) -> str:
    gaps = [(line, gap) for line in others if line is not gene and (gap := compare(line, gene)) is not None]
    told = [(line, gap) for line, gap in gaps if gap.count >= FEW]
    if not told:
        return ""
    groups = {
        "clearly better (95 % interval above 0)": [
            f"{line.start} ({gap})" for line, gap in told if gap.clear and gap.mean > 0
        ],
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
    """Per depth: whose mean is higher at equal budget and by how much, and whether a longer scratch run reaches the learngene's."""
    scratch = [line for line in found if line.scratch and line.tflops is None]
    sentences = []
    for own in gene.summaries:
        same = [s for line in scratch for s in line.summaries if s.depth == own.depth]
        equal = next((s for s in same if s.epochs == own.epochs), None)
        if equal is None:
            continue
        gap = difference(
            dict(zip(own.seeds, own.top1, strict=True)), dict(zip(equal.seeds, equal.top1, strict=True))
        )
        if gap is None:
            continue
        text = f"{own.depth} layers, {own.budget}: {_leader(gap)}, {own.accuracy()} against {equal.accuracy()} % ({gap}{_unless(gap)})."
        sentences.append(text + _longer(own, equal, same))
    return sentences


def _leader(gap: Difference) -> str:
    if gap.mean == 0:
        return "the means are equal"
    name = "the learngene" if gap.mean > 0 else "training from scratch"
    return f"{name} is ahead" if gap.clear else f"the mean of {name} is higher"


def _longer(own: Summary, equal: Summary, scratch: Sequence[Summary]) -> str:
    """Whether training from scratch, if it is behind, reaches the learngene's accuracy with a larger budget."""
    longer = [s for s in scratch if (s.epochs or 0) > (own.epochs or 0)]
    if reaches(equal.mean, own.mean) or not longer:
        return ""
    level = next((s for s in longer if reaches(s.mean, own.mean)), None)
    if level is not None:
        return f" Training from scratch reaches the learngene's mean (at most {100 * TOLERANCE:g} points below it) at {level.budget}: {level.accuracy()} %."
    return f" Training from scratch has not reached that at {longer[-1].budget}, the most that was run: {longer[-1].accuracy()} %."


def _at_equal_accuracy(whole: Sequence[Line]) -> list[str]:
    """Costs against training from scratch and pre-training, and the three ratios that SWS claims (6.6x, 20x, 10x), at equal accuracy."""
    gene = main_line(whole)
    if gene is None:
        return []
    trained = {line.start for line in whole if line.summaries[0].kind == "pretrained"}
    sentences = []
    for name, pair in at_equal_accuracy(gene, whole):
        if name in trained or name == "training from scratch":
            sentences.append(
                _costs_of_both(gene, name, pair) if pair.reached else _not_reached(gene, name, pair, whole)
            )
    return sentences


def _costs_of_both(gene: Line, name: str, pair: EqualAccuracy) -> str:
    ours, theirs = pair.ours, pair.theirs
    assert ours is not None
    assert theirs is not None
    text = (
        f"For {100 * pair.target:.2f} % (at most {100 * TOLERANCE:g} points less counts as reaching it), ten models cost {ours.total('flops', TEN) / 1e12:.1f} TFLOPs from "
        f"the learngene ({ours.budget}, {100 * ours.mean:.2f} %), its distillation counted in, and {theirs.total('flops', TEN) / 1e12:.1f} by {name} "
        f"({theirs.budget}, {100 * theirs.mean:.2f} %): a ratio of {theirs.total('flops', TEN) / ours.total('flops', TEN):.2f}"
    )
    text += " (SWS claims 6.6)" if theirs.scratch else ""
    stored = ours.total("stored_parameters", TEN)
    if stored and theirs.total("stored_parameters", TEN) > stored:
        text += f"; {theirs.total('stored_parameters', TEN) / stored:.1f} times fewer stored parameters (SWS claims about 20)"
    own, more = ours.shared("flops"), TEN * (theirs.each("flops") - ours.each("flops"))
    if not theirs.scratch and own > 0 and more > 0:
        text += f", {more / own:.1f} times less training before fine-tuning (SWS claims about 10)"
    return f"{text}. The learngene is cheaper there {_from_models(break_even(ours, theirs))}."


def _from_models(models: int | None) -> str:
    return (
        "for no number of models" if models is None else f"from {models} model{'s' if models > 1 else ''} on"
    )


def _not_reached(gene: Line, name: str, pair: EqualAccuracy, whole: Sequence[Line]) -> str:
    """Who is behind, how far they came with the most that was run, and that costs are therefore not compared."""
    behind = name if pair.theirs is None else "the learngene"
    own = [
        line
        for line in whole
        if (line.start == gene.start if behind != name else name in (line.start, _pooled(line)))
    ]
    last = max(
        (line for line in own if (line.tflops is None) == (gene.tflops is None)), key=lambda line: line.mean
    )
    return (
        f"Costs of the learngene and {name} at equal accuracy: not reached. The better of the two has {100 * pair.target:.2f} %; {behind} has "
        f"{100 * last.mean:.2f} % at {last.budget}, its best that was run."
    )


def _pooled(line: Line) -> str:
    return "training from scratch" if line.scratch else line.start


def to_html(markdown: str, folder: Path) -> str:
    """One page without any other file: the pictures are inside it."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)

    def embed(match: re.Match[str]) -> str:
        data = base64.b64encode((folder / Path(html.unescape(match[1])).name).read_bytes()).decode()
        return f'<img src="data:image/png;base64,{data}"'

    body = re.sub(r'<img src="([^":]+\.png)"', embed, body)
    return f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>learngene benchmark</title>\n<style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n'


STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;font-size:.85rem;display:block;overflow-x:auto}td,th{padding:.2rem .6rem;border-bottom:1px solid #ddd}"
    "img{max-width:100%}code{background:#f3f3f3}"
)
