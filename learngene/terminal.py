"""Tables and lines on a terminal (rich)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import rich.table
from rich.console import Console
from rich.measure import Measurement
from rich.text import Text

from learngene.tables import Table, numbers
from learngene.trust.limits import printable

REDIRECTED = 160  # columns of a file or pipe: the widest tables fit
NARROW_NAME = 12  # columns that are left for names at least; longer ones go on in the next line


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line, which ends quietly; rich would end the process with status 1."""
        raise


def _console() -> Console:
    return _Console(width=None if sys.stdout.isatty() else REDIRECTED, soft_wrap=True)


def say(text: str, *, indent: str = "", **style: Any) -> None:
    """A line of plain text: nothing in it is taken for markup."""
    _console().print(indent + printable(text), highlight=False, markup=False, **style)


def print_table(title: str | None, cells: Table, *, less: Sequence[str]) -> None:
    """A table that never cuts a number: what does not fit the terminal is left out, and said.

    Args:
        cells: columns of words may be folded, columns of numbers never.
        less: heads of columns that may go, the first one first.
    """
    console = _console()
    may_go = [name for name in less if name in {column.name for column in cells.columns}]
    gone: list[str] = []
    table, needed = _laid_out(console, title, cells, gone)
    while needed > console.width and may_go:
        gone.append(may_go.pop(0))
        table, needed = _laid_out(console, title, cells, gone)
    if needed > console.width:
        table.width = needed  # the terminal breaks the lines; rich would cut the numbers
    console.print(table, crop=False)
    if gone:
        words = f"left out, as {console.width} columns are too few: {', '.join(gone)}"
        console.print(f"{words}; a wider terminal or a file has them", highlight=False, markup=False)


def _laid_out(
    console: Console, title: str | None, cells: Table, gone: Sequence[str]
) -> tuple[rich.table.Table, int]:
    """Rich's table without the columns that are gone, and the columns it needs when its words are folded."""
    kept = [place for place, column in enumerate(cells.columns) if column.name not in gone]
    table = rich.table.Table(title=title and Text(title))
    folded = 0
    for place in kept:
        column = cells.columns[place]
        if column.right:
            table.add_column(column.name, justify="right", no_wrap=True)
        else:
            table.add_column(column.name, overflow="fold", min_width=NARROW_NAME)
            longest = max((len(row[place]) for row in cells.rows), default=0)
            folded += max(0, longest - NARROW_NAME)
    for row in cells.rows:
        table.add_row(*(Text(printable(row[place])) for place in kept))
    whole = Measurement.get(console, console.options.update(width=10_000), table).maximum
    return table, whole - folded


def print_markdown(text: str) -> None:
    """Markdown of our own, laid out."""
    from rich.markdown import Markdown

    _console().print(Markdown(text))


def print_lines(lines: Mapping[str, Any]) -> None:
    """Names and values, a line each."""
    for name, value in lines.items():
        say(f"{name}: {value}", indent="  ")


def stored_lines(result: Mapping[str, Any]) -> dict[str, str]:
    """What a learngene stores, beside what ten models would."""
    times = f"{result['times_smaller_than_ten_models']:.1f} times as many"
    ten = f"{result['ten_models_parameters']:,} parameters: {times}"
    return {"stored parameters": f"{result['parameters']:,}", "ten models, depth 6 to 15": ten}


def latency_words(row: Mapping[str, Any]) -> str:
    """Median and quartiles, in milliseconds."""
    low, high = row["latency_quartiles_ms"]
    return f"{row['latency_ms']:.2f} ({low:.2f} to {high:.2f})"


def print_costs(rows: Sequence[Mapping[str, Any]], latency: Mapping[str, Any] | None) -> None:
    """A row per depth; columns are there where the rows have them. Under it how latency was measured."""
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "depth": lambda row: str(row["depth"]),
        "plan": lambda row: row["plan"],
        "step": lambda row: row["step"],
        "kl": lambda row: "" if row["kl"] is None else f"{row['kl']:.4f}",
        "parameters": lambda row: f"{row['parameters']:,}",
        "bytes": lambda row: f"{row['bytes']:,}",
        "gflops": lambda row: f"{row['gflops']:.4g}",
        "latency_ms": latency_words,
        "top1": lambda row: f"{100 * row['top1']:.2f} %",
        "top5": lambda row: f"{100 * row['top5']:.2f} %",
        "loss": lambda row: f"{row['loss']:.4f}",
        "images": lambda row: f"{row['images']:,}",
    }
    shown = [column for column in columns if column in rows[0]]
    cells = [[columns[column](row) for column in shown] for row in rows]
    print_table(
        None,
        Table(numbers(*shown), cells),
        less=("bytes", "top5", "loss", "images", "kl", "step", "plan", "gflops", "latency_ms"),
    )
    if latency is not None:
        from learngene.latency import condition_words

        say(f"latency: {condition_words(latency)}")
