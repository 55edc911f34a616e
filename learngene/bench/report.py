"""report.md, report.html and plots: tables, costs and the outcome in words, all computed from the rows."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learngene.bench import plots, tables
from learngene.bench.comparisons import (
    at_budget,
    at_equal_accuracy,
    comparable,
    differences,
    main_line,
    notable,
    worth_break_even,
    worth_storing,
)
from learngene.bench.lines import Line, lines
from learngene.bench.summary import Row, Summary, spread_words, summarize
from learngene.bench.words import in_words
from learngene.errors import LearngeneError
from learngene.files import write_text
from learngene.tables import Table, page


@dataclass(frozen=True)
class Picture:
    """A plot in a report.

    Attributes:
        text: what it shows, for those who do not see it.
        file: its name beside the report.
        uri: the picture itself, for a page without any other file.
    """

    text: str
    file: str
    uri: str


@dataclass(frozen=True)
class Part:
    """A heading and what is under it, in this order."""

    heading: str
    sentences: Sequence[str] = ()
    note: str = ""
    table: Table | None = None
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True)
class Section:
    """All that is said of one data set and recipe."""

    title: str
    parts: Sequence[Part]


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
            f"no trial in '{out}' is finished, so there is nothing to report; "
            "run the benchmark on with --resume"
        )
    about, sections = describe_run(rows, command), make_sections(rows, out)
    for name in ("report.md", "report.html"):
        write_text(out / name, page(f"bench/{name}.jinja", about=about, sections=sections))
    return out / "report.md"


def rerun(folder: Path) -> str:
    """The command that runs the benchmark of a directory again, for a shell."""
    return f"learngene benchmark --config {shlex.quote(str(folder / 'config.yaml'))} --out NEW"


# ---- what was run ----


def describe_run(rows: Sequence[Row], command: str | None) -> dict[str, str]:
    """The lines at the head of a report, by name."""
    about = {
        "accuracy": f"top-1, {_measured(rows)}; {spread_words(summarize(rows))}",
        "trials": f"{len(rows)}, seeds {_distinct(sorted(row['seed'] for row in rows))}",
        "family": _distinct(row["architecture"] for row in rows),
        "command": command or "",
        "hardware": _distinct(row["hardware"] for row in rows),
        "threads": _distinct(row["threads"] for row in rows if "threads" in row),
        "versions": ", ".join(f"{name} {version}" for name, version in rows[0]["versions"].items()),
        "commit": _distinct(row["commit"] or "not a checkout" for row in rows),
        "precision": _distinct(row["precision"] for row in rows),
        "costs": "FLOPs are counted, at 3 forward passes per training image, forward passes of an ancestor "
        "included; evaluating is left out",
    }
    return {name: value for name, value in about.items() if value}


def _measured(rows: Sequence[Row]) -> str:
    """Which accuracy is compared."""
    tested = [row["test_images"] for row in rows if row["test_top1"] is not None]
    if not tested:
        return "validation: no test split was used"
    measure = f"test ({_distinct(sorted(tested))} images, used once per trial)"
    if len(tested) == len(rows):
        return measure
    untested = f"{len(rows) - len(tested)} of {len(rows)} trials, which had no test split"
    return f"{measure}, but validation in {untested}"


def _distinct(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values))


# ---- what came out ----


@dataclass(frozen=True)
class Album:
    """Where the plots of a section go, what they are called, and how they look."""

    out: Path
    prefix: str
    title: str
    looks: plots.Looks

    def clear(self) -> None:
        """Delete those of an earlier report that this one may not draw: they would pass for this one's."""
        for name in ("break-even", "stored", "accuracy-by-depth", "accuracy-by-cost"):
            (self.out / f"{self.prefix}{name}.png").unlink(missing_ok=True)

    def picture(self, text: str, draw: Callable[..., Path], *what: Any, title: str = "") -> Picture:
        """Draw one, under the section's title unless it has its own."""
        name = f"{self.prefix}{draw.__name__.replace('_', '-')}.png"
        path = draw(*what, self.out / name, title=title or self.title, looks=self.looks)
        data = base64.b64encode(path.read_bytes()).decode()
        return Picture(text, name, f"data:image/png;base64,{data}")


def make_sections(rows: Sequence[Row], out: Path) -> list[Section]:
    """One per data set and recipe; their plots are drawn."""
    summaries = summarize(rows)
    groups = list(dict.fromkeys((s.data, s.recipe) for s in summaries))
    looks = _looks(groups, summaries)
    sections = []
    for (data, recipe), prefix in zip(groups, _prefixes(groups), strict=True):
        chosen = [s for s in summaries if (s.data, s.recipe) == (data, recipe)]
        own = [row for row in rows if (row["data"], row["recipe"]) == (data, recipe)]
        title = f"{data}, recipe {recipe}" if recipe else data
        sections.append(_section(chosen, own, Album(out, prefix, title, looks)))
    return sections


def _prefixes(groups: Sequence[tuple[str, str]]) -> list[str]:
    """What the files of each group's plots begin with; numbered where names differ in signs alone."""
    if len(groups) == 1:
        return [""]
    names = [re.sub(r"[^a-z0-9]+", "-", " ".join(group).lower()).strip("-") for group in groups]
    if len(set(names)) < len(names):
        names = [f"{number}-{name}".rstrip("-") for number, name in enumerate(names, start=1)]
    return [f"{name}-".lstrip("-") for name in names]


def _looks(groups: Sequence[tuple[str, str]], summaries: Sequence[Summary]) -> plots.Looks:
    """Of all that any section draws; those with all depths are in most plots, and come first."""
    sections = [lines([s for s in summaries if (s.data, s.recipe) == group]) for group in groups]
    whole = [line for found in sections for line in comparable(found)]
    drawn = whole + [line for found in sections for line in notable(found)]
    return plots.Looks.of(drawn, first={line.start for line in whole})


def _section(summaries: Sequence[Summary], rows: Sequence[Row], album: Album) -> Section:
    album.clear()
    found = lines(summaries)
    whole, shown = comparable(found), notable(found)
    curves = album.picture("accuracy against epochs", plots.accuracy_by_epoch, rows, shown)
    parts = [
        Part("In words", in_words(found), pictures=_overview(whole, shown, album)),
        *_against(found),
        Part("What it costs", note=tables.cost_note(whole), table=tables.cost_table(whole)),
        *_equal_costs(whole, album),
        Part("All results", table=tables.results_table(summaries), pictures=[curves]),
    ]
    return Section(album.title, parts)


def _overview(whole: Sequence[Line], shown: Sequence[Line], album: Album) -> list[Picture]:
    """Plots of all starts; one point shows no more than the table."""
    pictures = []
    if sum(len(line.depths) for line in shown) > 1:
        pictures.append(album.picture("accuracy against depth", plots.accuracy_by_depth, shown))
    if len(whole) > 1:
        pictures.append(album.picture("accuracy against training cost", plots.accuracy_by_cost, whole))
    return pictures


def _against(found: Sequence[Line]) -> list[Part]:
    """Differences from the learngene, and where there is more to see from random weights at its budget."""
    gene = main_line(found)
    scratch = next(
        (line for line in found if line.scratch and (gene is None or line in at_budget(found, gene))), None
    )
    least = {"the learngene": (gene, 2), "random weights": (scratch, 3)}  # lines, the reference among them
    return [
        Part(
            f"Against {name}",
            note=tables.difference_note(found, reference),
            table=tables.difference_table(found, reference),
        )
        for name, (reference, count) in least.items()
        if reference is not None and len(differences(found, reference)) >= count
    ]


def _equal_costs(whole: Sequence[Line], album: Album) -> list[Part]:
    """What a family costs at the learngene's accuracy, where there is one, and another start beside it."""
    gene = main_line(whole)
    pairs = [] if gene is None else at_equal_accuracy(gene, whole)
    if gene is None or not pairs:
        return []
    title = f"{album.title}: starts that reach {100 * gene.mean:.2f} %"
    pictures = [
        album.picture(text, draw, chosen, title=title)
        for text, draw, chosen in (
            ("cost of n models at equal accuracy", plots.break_even, worth_break_even(whole)),
            ("stored parameters for n models at equal accuracy", plots.stored, worth_storing(whole)),
        )
        if chosen
    ]
    return [
        Part(
            "At equal accuracy", note=tables.equal_note(), table=tables.equal_table(pairs), pictures=pictures
        )
    ]
