"""Tables and lines on a terminal (rich)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

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


def print_table(
    title: str | None, rows: Sequence[Mapping[str, str]], *, name: str = "", less: Sequence[str]
) -> None:
    """A table that never cuts a number: what does not fit the terminal is left out, and said.

    Args:
        rows: cells by column.
        name: the column of texts, which may be folded.
        less: columns that may go, the first one first.
    """
    console = _console()
    left: list[str] = []
    while True:
        table = Table(title=title and Text(title))
        for column in (column for column in rows[0] if column not in left):
            if column == name:
                table.add_column(column, justify="left", overflow="fold", min_width=NARROW_NAME)
            else:
                table.add_column(column, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(printable(cell)) for column, cell in row.items() if column not in left))
        needed = _least_width(console, table, rows, name)
        more = next((column for column in less if column in rows[0] and column not in left), None)
        if needed <= console.width or more is None:
            break
        left.append(more)
    if needed > console.width:
        table.width = needed  # the terminal breaks the lines; rich would cut the numbers
    console.print(table, crop=False)
    if left:
        words = f"left out, as {console.width} columns are too few: {', '.join(left)}"
        console.print(f"{words}; a wider terminal or a file has them", highlight=False, markup=False)


def _least_width(console: Console, table: Table, rows: Sequence[Mapping[str, str]], name: str) -> int:
    """Columns that a table needs when its names are folded."""
    whole = Measurement.get(console, console.options.update(width=10_000), table).maximum
    longest = max((len(row[name]) for row in rows), default=0) if name else 0
    return whole - max(0, longest - NARROW_NAME)


def print_markdown(text: str) -> None:
    """Markdown of our own, laid out."""
    from rich.markdown import Markdown

    _console().print(Markdown(text))


def print_lines(lines: Mapping[str, Any]) -> None:
    """Names and values, a line each."""
    for name, value in lines.items():
        say(f"{name}: {value}", indent="  ")


def stored(result: Mapping[str, Any]) -> dict[str, str]:
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
    cells = [{column: columns[column](row) for column in shown} for row in rows]
    print_table(None, cells, less=("bytes", "top5", "loss", "images", "plan", "gflops", "latency_ms"))
    if latency is not None:
        from learngene.latency import condition_words

        say(f"latency: {condition_words(latency)}")
