"""report.md, report.html and plots: tables, costs and the outcome in words, all computed from the rows."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learngene.bench import plots
from learngene.bench.table import Line, Row, Summary, break_even, compare, difference, lines, summarize
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
        raise LearngeneError(f"no trial in '{out}' is finished, so there is nothing to report; run the benchmark on with --resume")
    summaries = summarize(rows)
    parts = ["# Benchmark: ways to begin a ViT", _head(rows, command)]
    groups = list(dict.fromkeys((s.data, s.recipe) for s in summaries))
    for data, recipe in groups:
        chosen = [s for s in summaries if (s.data, s.recipe) == (data, recipe)]
        own = [row for row in rows if (row["data"], row["recipe"]) == (data, recipe)]
        title = f"{data}, recipe {recipe}" if recipe else data
        prefix = "" if len(groups) == 1 else re.sub(r"[^a-z0-9]+", "-", f"{data} {recipe}".lower()).strip("-") + "-"
        parts += _section(title, prefix, chosen, own, out)
    write_text(out / "report.md", text := "\n\n".join(parts) + "\n")
    write_text(out / "report.html", to_html(text, out))
    return out / "report.md"


def _section(title: str, prefix: str, summaries: Sequence[Summary], rows: Sequence[Row], out: Path) -> list[str]:
    found = lines(summaries)
    shown = notable(found)
    whole = comparable(found)
    images = [
        ("accuracy against depth", plots.accuracy_by_depth(shown, out / f"{prefix}accuracy-by-depth.png", title=title)),
        ("accuracy against training cost", plots.accuracy_by_cost(whole, out / f"{prefix}accuracy-by-cost.png", title=title)),
        ("accuracy against epochs", plots.accuracy_by_epoch(rows, shown, out / f"{prefix}accuracy-by-epoch.png", title=title)),
        ("cost of n models", plots.break_even(whole, out / f"{prefix}break-even.png", title=title)),
        ("stored parameters for n models", plots.stored(whole, out / f"{prefix}stored.png", title=title)),
    ]
    pictures = [f"![{text}]({path.name})" for text, path in images]
    return [
        f"## {title}",
        "### In words",
        in_words(found),
        *pictures[:2],
        *_tables(found),
        "### What it costs",
        cost_table(whole),
        *pictures[3:],
        "### All results",
        markdown_table(summaries),
        pictures[2],
    ]


def _tables(found: Sequence[Line]) -> list[str]:
    """Differences from the learngene, and, where there is more to see, from random weights at the same budget."""
    gene = main_line(found)
    scratch = next((line for line in found if line.scratch and (gene is None or line in at_budget(found, gene))), None)
    parts = [] if gene is None else ["### Against the learngene", difference_table(found, gene)]
    if scratch is not None and len(at_budget(found, scratch)) > 2:
        parts += ["### Against random weights", difference_table(found, scratch)]
    return parts


def _head(rows: Sequence[Row], command: str | None) -> str:
    def distinct(values: Any) -> str:
        return ", ".join(dict.fromkeys(str(v) for v in values))

    tested = sorted({row["test_images"] for row in rows if row["test_top1"] is not None})
    measure = f"test ({', '.join(map(str, tested))} images, used once per trial)" if tested else "validation"
    about = {
        "accuracy": f"top-1, {measure}; mean ± standard deviation over seeds",
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


def difference_table(found: Sequence[Line], reference: Line) -> str:
    """Every other start minus a reference, at its budget, paired by seed, over the depths that both have."""
    head = [
        f"At {reference.budget} of fine-tuning, best first; means over the depths that both have, ± standard deviation over seeds, differences paired by seed. 'Prepared' "
        "says how often what the start needs was trained anew: where that is once, the interval leaves out how much another time would "
        "differ. The intervals are not corrected for their number.\n",
        f"| start | depths | prepared | top-1 % | {reference.start} there % | difference (points) | 95 % interval |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    compared = [(line, gap) for line in at_budget(found, reference) if (gap := compare(line, reference)) is not None]
    body = []
    for line, gap in sorted(compared, key=lambda item: -item[1].mean):
        common = set(line.depths) & set(reference.depths)
        ours, theirs = line.at(common), reference.at(common)
        assert ours is not None
        assert theirs is not None
        interval = "one seed" if gap.half is None else f"{gap.mean - gap.half:+.2f} to {gap.mean + gap.half:+.2f}"
        rest = "| |" if line is reference else f"{gap.mean:+.2f} | {interval} |"
        times = {None: "", 1: "once"}.get(line.preparations, f"{line.preparations} times")
        depths = ", ".join(map(str, sorted(common)))
        body.append(f"| {line.start} | {depths} | {times} | {ours.accuracy()} | {theirs.accuracy()} | {rest}")
    return "\n".join(head + body)


def cost_table(found: Sequence[Line]) -> str:
    """Preparing once, one more model, and ten of them."""
    measured = all(s.joules is not None for line in found for s in line.summaries)
    head = [
        f"For models of {found[0].mean_depth:g} layers, the mean depth here. Preparing is what is trained once for all depths; each model has "
        "preparations of its own, if any, and is fine-tuned. An ancestor's own training counts as given.\n",
        "| start | budget | preparing TFLOPs | each model TFLOPs | ten models TFLOPs | ten models images | ten models seconds | stored parameters for ten |"
        + (" each model kJ |" if measured else ""),
        "|---|---:|---:|---:|---:|---:|---:|---:|" + ("---:|" if measured else ""),
    ]
    body = []
    for line in found:
        cells = [line.start, line.budget, f"{line.shared('flops') / 1e12:.2f}", f"{line.each('flops') / 1e12:.2f}"]
        cells += [f"{line.total('flops', TEN) / 1e12:.1f}"]
        cells += [f"{line.total(key, TEN):,.0f}" for key in ("images", "seconds", "stored_parameters")]
        cells += [f"{line.each('joules') / 1e3:.2f}"] if measured else []
        body.append(f"| {' | '.join(cells)} |")
    return "\n".join(head + body)


def in_words(found: Sequence[Line]) -> str:
    """What won, by how much, where it did not, when training from scratch catches up, and what it costs."""
    gene = main_line(found)
    sentences = [_ranking(at_budget(comparable(found), gene or found[0]))]
    if gene is not None:
        sentences += [
            _against_others(gene, at_budget(found, gene)),
            *_against_scratch(gene, found),
            *_ratios(gene, comparable(found)),
        ]
    fewest = min(len(s.seeds) for line in found for s in line.summaries)
    if fewest < 3:
        sentences.append(
            f"With {fewest} seed{'s' if fewest > 1 else ''} this is an observation, not a claim: differences of about the spread between "
            "seeds mean nothing."
        )
    return "\n".join(f"- {sentence}" for sentence in sentences if sentence)


def _ranking(lines: Sequence[Line]) -> str:
    """First, second and last of some lines with the same depths and budget."""
    best, *others = sorted(lines, key=lambda line: -line.mean)
    depths = ", ".join(map(str, best.depths))
    text = f"At {best.budget} of fine-tuning, mean over depths {depths}: **{best.start}** is first with {100 * best.mean:.2f} %"
    if others:
        gap = compare(best, others[0])
        text += f", then {others[0].start} with {100 * others[0].mean:.2f} % (difference {gap}"
        text += ")" if gap is None or gap.clear else "; not a clear winner)"
        text += f"; last is {others[-1].start} with {100 * others[-1].mean:.2f} %" if len(others) > 1 else ""
    return text + "."


def _against_others(gene: Line, others: Sequence[Line]) -> str:
    gaps = [(line, gap) for line in others if line is not gene and (gap := compare(line, gene)) is not None]
    if all(gap.half is None for _, gap in gaps):
        return ""
    better = [f"{line.start} ({gap})" for line, gap in gaps if gap.clear and gap.mean > 0]
    level = [line.start for line, gap in gaps if not gap.clear]
    behind = [line.start for line, gap in gaps if gap.clear and gap.mean < 0]
    parts = [
        f"clearly better than the start {gene.start}: {'; '.join(better) or 'none'}",
        f"not to be told apart from it: {', '.join(level) or 'none'}",
        f"clearly worse: {', '.join(behind) or 'none'}",
    ]
    count = f"in {len(gaps)} comparisons, not corrected for their number" if len(gaps) > 1 else "in one comparison"
    return f"At the same budget of fine-tuning, {count}: {'; '.join(parts)}."


def _against_scratch(gene: Line, found: Sequence[Line]) -> list[str]:
    """Per depth: who is ahead at equal budget and by how much, and whether a longer scratch run catches up."""
    scratch = [line for line in found if line.scratch and line.tflops is None]
    sentences = []
    for own in gene.summaries:
        same = [s for line in scratch for s in line.summaries if s.depth == own.depth]
        equal = next((s for s in same if s.epochs == own.epochs), None)
        if equal is None:
            continue
        gap = difference(dict(zip(own.seeds, own.top1, strict=True)), dict(zip(equal.seeds, equal.top1, strict=True)))
        if gap is None:
            continue
        won = "the learngene is ahead" if gap.mean > 0 else "training from scratch is ahead" if gap.mean < 0 else "they are level"
        text = f"{own.depth} layers, {own.budget}: {won}, {own.accuracy()} against {equal.accuracy()} % ({gap})."
        longer = [s for s in same if (s.epochs or 0) > (own.epochs or 0)]
        caught = next((s for s in longer if s.mean >= own.mean), None)
        if caught:
            text += f" Training from scratch catches up at {caught.budget} ({caught.accuracy()} %; by the means)."
        elif longer:
            text += f" Training from scratch has not caught up at {longer[-1].budget} ({longer[-1].accuracy()} %)."
        sentences.append(text)
    return sentences


def _ratios(gene: Line, found: Sequence[Line]) -> list[str]:
    """The three ratios that SWS claims (6.6x, 20x, 10x), counted here on lines of the same depths; where the learngene breaks even."""
    sentences = []
    scratch = [line for line in found if line.scratch and line.tflops is None]
    if scratch:
        level = next((line for line in scratch if line.mean >= gene.mean), scratch[-1])
        reached = "which is as good" if level.mean >= gene.mean else "still worse, so this is a lower bound"
        ratio = level.total("flops", TEN) / gene.total("flops", TEN)
        even = break_even(gene, level)
        sentences.append(
            f"Ten models cost {gene.total('flops', TEN) / 1e12:.1f} TFLOPs from the learngene ({100 * gene.mean:.2f} % on average), its "
            f"distillation counted in, and {level.total('flops', TEN) / 1e12:.1f} from scratch at {level.budget} ({100 * level.mean:.2f} %, "
            f"{reached}): a ratio of {ratio:.2f} (SWS claims 6.6). {_even_words(even, 'training from scratch')}"
        )
    for line in (line for line in at_budget(found, gene) if line.summaries[0].kind == "pretrained"):
        stored = line.total("stored_parameters", TEN) / gene.total("stored_parameters", TEN)
        own, theirs = gene.shared("flops"), TEN * (line.each("flops") - gene.each("flops"))
        text = f"Against {line.start} ({100 * line.mean:.2f} %): {stored:.1f} times fewer stored parameters for ten models (SWS claims about 20)"
        if own > 0 and theirs > 0:
            text += f", {theirs / own:.1f} times less training before fine-tuning (SWS claims about 10). "
        sentences.append(text.rstrip(". ") + ". " + _even_words(break_even(gene, line), line.start))
    return sentences


def _even_words(models: int | None, other: str) -> str:
    if models is None:
        return f"The learngene never stays cheaper than {other}, however many models."
    return f"The learngene is cheaper than {other} from {models} model{'s' if models > 1 else ''} on."


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
