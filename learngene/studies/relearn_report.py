"""What a run of `learngene.studies.relearn` shows: table, plot, and its questions answered in words."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from learngene.bench.plots import relearning
from learngene.bench.summary import Row
from learngene.files import write_text
from learngene.studies.cells import spans
from learngene.tables import Table, numbers, page, words


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
    picture = relearning(rows, out / "relearn.png")
    text = page(
        "studies/relearn.md.jinja",
        about=about,
        points=f"{100 * tolerance:g}",
        answers=answers(rows, originals),
        picture=picture.name,
        cells=cell_table(rows, originals),
    )
    write_text(out / "relearn.md", text)
    return out / "relearn.md"


def cell_table(rows: Sequence[Row], originals: Mapping[str, int | None]) -> Table:
    """A row per model, control, reset layers, mode and share; several seeds side by side."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        case = (row["model"], row["control"], tuple(row["layers"]), row["mode"], row["share"])
        groups.setdefault(case, []).append(row)
    back = ("images until back", "share of original training")
    columns = [
        *words("model", "control", "layers reset", "mode"),
        *numbers("data", "original %", "after reset %", *back, "best %"),
    ]
    return Table(columns, [_cells(group, originals) for group in groups.values()])


def _cells(group: Sequence[Row], originals: Mapping[str, int | None]) -> list[str]:
    """What the seeds of one question gave."""
    first = group[0]
    return [
        first["model"],
        first["control"],
        spans(first["layers"]) or "none",
        first["mode"],
        f"{100 * first['share']:g} %",
        f"{100 * first['original']:.2f}",
        f"{100 * statistics.fmean(row['damaged'] for row in group):.1f}",
        ", ".join(_back(row) for row in group),
        ", ".join(_share(row, originals) for row in group),
        f"{100 * max(row['best'] for row in group):.2f}",
    ]


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


def answers(rows: Sequence[Row], originals: Mapping[str, int | None]) -> list[tuple[str, str]]:
    """The four questions of the study and its controls, each with its answer from the rows."""
    single = [row for row in rows if not row["control"]]
    found = []
    for mode, rest in (("frozen", "The rest frozen"), ("free", "The rest trained too")):
        own = [row for row in single if row["mode"] == mode]
        if own:
            found.append((f"All data again, or a little? {rest}:", _by_share(own, originals)))
            found.append((f"Does the position matter? {rest}:", _by_position(own)))
    found.append(("Do depth N and width D matter?", _by_model(single)))
    found.append(("Does it fail to train?", _failures(single)))
    controls = [name for name in dict.fromkeys(row["control"] for row in rows) if name]
    return found + [(f"Control {name}:", _control(name, rows)) for name in controls]


def _failures(rows: Sequence[Row]) -> str:
    failed = [row for row in rows if row["images"] is None]
    frozen = sum(row["mode"] == "frozen" for row in failed)
    where = f" ({frozen} with the rest frozen, {len(failed) - frozen} with the rest trained)"
    text = f"{len(failed)} of {len(rows)} cells were not back when training was given up"
    return f"{text}{where if failed else ''}."


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
            times = f"{statistics.median(ratios):.2g} times the views"
            text += f" (where both are, in {times}, median of {len(ratios)})"
        elif back:
            text += f", median after {statistics.median(back):,.0f} views"
        parts.append(text)
    return "; ".join(parts) + "."


def _case(row: Row) -> tuple[Any, ...]:
    return row["model"], tuple(row["layers"]), row["mode"], row["share"], row["seed"]
