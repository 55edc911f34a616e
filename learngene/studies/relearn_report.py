"""What a run of `learngene.studies.relearn` shows: the table, the plot, and the questions answered in words."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from learngene.bench.plots import relearning
from learngene.bench.summary import Row
from learngene.files import write_text


def write_relearn_report(
    rows: Sequence[Row],
    out: Path,
    *,
    tolerance: float,
    originals: Mapping[str, int | None],
    about: Mapping[str, str],
) -> Path:
    """relearn.md with table, plot (relearn.png) and the answers in words.

    Args:
        rows: of `run_cell`.
        originals: images that each model was trained on, views counted, where known.
    """
    relearning(rows, out / "relearn.png")
    parts = [
        "# How quickly does one layer re-learn?",
        "\n".join(f"- {name}: {value}" for name, value in about.items()),
        f"A layer counts as back when validation top-1 is within {100 * tolerance:g} points of the original. It is looked at after 1, 2, 3, 4, 6, 9, ... steps.",
        "## In words",
        answers(rows, originals),
        "![images until the accuracy is back](relearn.png)",
        "## All cells",
        cell_table(rows, originals),
    ]
    write_text(out / "relearn.md", "\n\n".join(parts) + "\n")
    return out / "relearn.md"


def cell_table(rows: Sequence[Row], originals: Mapping[str, int | None]) -> str:
    """A row per model, control, reset layers, mode and share; several seeds side by side."""
    head = [
        "| model | control | layers reset | mode | data | original % | after reset % | images until back | share of original training | best % |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(
            (row["model"], row["control"], tuple(row["layers"]), row["mode"], row["share"]), []
        ).append(row)
    body = []
    for (model, control, layers, mode, share), group in groups.items():
        back = ", ".join(_back(row) for row in group)
        shares = ", ".join(_share(row, originals) for row in group)
        name = spans(layers) or "none"
        body.append(
            f"| {model} | {control} | {name} | {mode} | {100 * share:g} % | {100 * group[0]['original']:.2f} | "
            f"{100 * statistics.fmean(r['damaged'] for r in group):.1f} | {back} | {shares} | {100 * max(r['best'] for r in group):.2f} |"
        )
    return "\n".join(head + body)


def _back(row: Row) -> str:
    if row["control"] == "none":
        values = [100 * top1 for _, top1 in row["points"]]
        return f"{min(values):.2f} to {max(values):.2f} % on the way"
    if row["images"] is None:
        return f"never in {row['gave_up_after']:,}"
    return f"{row['images']:,}" if row["images"] else "not lost"


def _share(row: Row, originals: Mapping[str, int | None]) -> str:
    total = originals.get(row["model"])
    if total is None or row["images"] is None:
        return "unknown" if total is None else ""
    return f"{100 * row['images'] / total:.3g} %"


def spans(layers: Sequence[int]) -> str:
    """``1-3`` or ``1-2, 6-8``."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def answers(rows: Sequence[Row], originals: Mapping[str, int | None]) -> str:
    """The four questions of the seed, answered from the rows."""
    single = [row for row in rows if not row["control"]]
    sentences = []
    for mode in ("frozen", "free"):
        own = [row for row in single if row["mode"] == mode]
        if own:
            rest = "The rest frozen" if mode == "frozen" else "The rest trained too"
            sentences.append(f"**All data again, or a little? {rest}:** {_by_share(own, originals)}")
            sentences.append(f"**Does the position matter? {rest}:** {_by_position(own)}")
    sentences.append(f"**Do depth N and width D matter?** {_by_model(single)}")
    failed = [row for row in single if row["images"] is None]
    frozen = sum(row["mode"] == "frozen" for row in failed)
    where = (
        f" ({frozen} with the rest frozen, {len(failed) - frozen} with the rest trained)" if failed else ""
    )
    sentences.append(
        f"**Does it fail to train?** {len(failed)} of {len(single)} cells were not back when training was given up{where}."
    )
    sentences += [
        f"**Control {name}:** {_control(name, rows)}"
        for name in dict.fromkeys(r["control"] for r in rows)
        if name
    ]
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _by_share(rows: Sequence[Row], originals: Mapping[str, int | None]) -> str:
    parts = []
    for share in sorted({row["share"] for row in rows}):
        own = [row for row in rows if row["share"] == share]
        back = [row for row in own if row["images"]]
        text = f"with {100 * share:g} % of the images {len(back)} of {len(own)} come back"
        if back:
            text += f", median after {statistics.median(row['images'] for row in back):,.0f} views"
            known = [100 * row["images"] / total for row in back if (total := originals.get(row["model"]))]
            text += f" ({statistics.median(known):.2g} % of the original training)" if known else ""
        kept = sum(row["images"] == 0 for row in own)
        text += f", {kept} had lost nothing" if kept else ""
        parts.append(text)
    return "; ".join(parts) + "."


def _by_position(rows: Sequence[Row]) -> str:
    most = max(row["share"] for row in rows)
    parts = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model and row["share"] == most]
        layers = sorted({row["layers"][0] for row in own})
        if len(layers) > 1:
            each = {layer: [row["images"] for row in own if row["layers"][0] == layer] for layer in layers}
            text = ", ".join(f"{layer}: {_median(values)}" for layer, values in each.items())
            parts.append(f"{model}, views until back by layer: {text}")
    return "; ".join(parts) + "." if parts else "only one layer was reset."


def _median(values: Sequence[int | None]) -> str:
    """The median of those that came back, and whether some did not, or had lost nothing."""
    known = [value for value in values if value]
    words = [f"{statistics.median(known):,.0f}"] if known else []
    words += ["not lost"] if 0 in values else []
    words += ["never"] if None in values else []
    return " or ".join(words)


def _by_model(rows: Sequence[Row]) -> str:
    models = list(dict.fromkeys(row["model"] for row in rows))
    if len(models) < 2:
        return "only one model was tried."
    parts = []
    for model in models:
        own = [
            row
            for row in rows
            if row["model"] == model and row["share"] == max(r["share"] for r in rows if r["model"] == model)
        ]
        modes = {
            m: [r["images"] for r in own if r["mode"] == m] for m in dict.fromkeys(r["mode"] for r in own)
        }
        text = ", ".join(f"{mode} {_median(values)}" for mode, values in modes.items())
        parts.append(
            f"{model} (N = {own[0]['depth']}, D = {own[0]['width']}): median views until back {text}"
        )
    return "; ".join(parts) + "."


def _control(name: str, rows: Sequence[Row]) -> str:
    own = [row for row in rows if row["control"] == name]
    if name == "none":
        runs = "; ".join(f"{row['model']}, {100 * row['original']:.2f} % before, {_back(row)}" for row in own)
        return f"without any reset, training on at this learning rate: {runs}."
    parts = []
    for mode in dict.fromkeys(row["mode"] for row in own):
        same = [row for row in own if row["mode"] == mode]
        back = [row["images"] for row in same if row["images"] is not None]
        text = f"{mode}, {len(back)} of {len(same)} are back"
        plain = {_case(row): row["images"] for row in rows if not row["control"]}
        ratios = [
            row["images"] / plain[_case(row)] for row in same if row["images"] and plain.get(_case(row))
        ]
        if name in ("lr-x5", "norms-kept") and ratios:
            text += f" (where both are, in {statistics.median(ratios):.2g} times the views, median of {len(ratios)})"
        elif back:
            text += f", median after {statistics.median(back):,.0f} views"
        parts.append(text)
    return "; ".join(parts) + "."


def _case(row: Row) -> tuple[Any, ...]:
    return row["model"], tuple(row["layers"]), row["mode"], row["share"], row["seed"]
