"""Results as tables on a terminal (rich)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from learngene.trust.limits import printable

MOST_REASONS = 20
REDIRECTED = 160  # columns of a file or pipe: the widest tables fit
NARROW_NAME = 12  # columns that are left for names at least; longer ones go on in the next line


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line, which ends quietly; rich would end the process with status 1."""
        raise


def _console() -> Console:
    return _Console(width=None if sys.stdout.isatty() else REDIRECTED, soft_wrap=True)


def _print_table(
    console: Console, title: str | None, rows: Sequence[Mapping[str, str]], *, name: str = "", less: Sequence[str]
) -> None:
    """A table that never cuts a number: what does not fit the terminal is left out, and said.

    Args:
        rows: cells by column.
        name: the column of texts, which may be folded.
        less: columns that may go, the first one first.
    """
    left = []
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
        words = f"left out, as {console.width} columns are too few: {', '.join(left)}; a wider terminal or a file has them"
        console.print(words, highlight=False, markup=False)


def _least_width(console: Console, table: Table, rows: Sequence[Mapping[str, str]], name: str) -> int:
    """Columns that a table needs when its names are folded."""
    whole = Measurement.get(console, console.options.update(width=10_000), table).maximum
    longest = max((len(row[name]) for row in rows), default=0) if name else 0
    return whole - max(0, longest - NARROW_NAME)


def info(result: Mapping[str, Any]) -> None:
    """The header in lines, then a row per depth."""
    console = _console()
    head = f"{result['kind']} {result['file']}  {result['bytes'] / 1e6:.2f} MB"
    console.print(printable(head), style="bold", highlight=False, markup=False)
    lines = {"architecture": result["architecture"], "classes": result["classes"]}
    if result["kind"] == "learngene":
        ancestor = result["ancestor"]
        lines |= {"plan": result["plan"], "ancestor": ancestor.get("name"), "licence of the ancestor": ancestor.get("license")}
        lines |= _stored(result)
        lines |= {k: f"{v:.4f}" for k, v in result["metrics"].items() if isinstance(v, float)}
    _lines(console, lines)
    _costs(console, result["depths"], result.get("latency"))


def plan(result: Mapping[str, Any]) -> None:
    """The learngene and the auxiliary net in lines, then a row per depth."""
    console = _console()
    head = f"learngene of {result['architecture']} by the plan {result['plan']}  {result['bytes'] / 1e6:.2f} MB"
    console.print(printable(head), style="bold", highlight=False, markup=False)
    net = result["auxnet"]
    shape = f"{net['depth']} layers of {result['parameters']:,} parameters, {net['gflops']:.4g} GFLOPs an image"
    speed = f", {_latency(net)} ms" if "latency_ms" in net else ""
    _lines(console, {"classes": result["classes"], **_stored(result), "auxiliary net": shape + speed})
    _costs(console, result["depths"], result.get("latency"))


def archs(result: Mapping[str, Any]) -> None:
    """A row per supported architecture; what is against the others, where they are few."""
    console = _console()
    supported, others = result["supported"], result["unsupported"]
    cells = [
        {
            "name": row["name"],
            "depth": f"{row['depth']}" if row["any_depth"] else f"{row['depth']} *",
            "width": str(row["width"]),
            "parameters": f"{row['parameters']:,}",
        }
        for row in supported
    ]
    if supported:
        title = f"timm {result['timm']}, {result['pattern']}: can be distilled into"
        _print_table(console, title, cells, name="name", less=("width",))
    if not all(row["any_depth"] for row in supported):
        console.print("* timm fixes the depth: other depths in Python only", highlight=False, markup=False)
    if others and (len(others) <= MOST_REASONS or not supported):
        for row in others[:MOST_REASONS]:
            console.print(printable(row["reason"]), highlight=False, markup=False)
    left = len(others) if len(others) > MOST_REASONS else 0
    words = f"{len(supported)} of {len(supported) + len(others)} that match {result['pattern']} are supported; "
    why = f"what is against {left} others: a narrower pattern, or --json; " if left else ""
    console.print(words + why + "more with e.g. learngene archs 'deit3*'; '*' takes minutes", highlight=False, markup=False)


def _lines(console: Console, lines: Mapping[str, Any]) -> None:
    for name, value in lines.items():
        console.print("  " + printable(f"{name}: {value}"), highlight=False, markup=False)


def _stored(result: Mapping[str, Any]) -> dict[str, str]:
    ten = f"{result['ten_models_parameters']:,} parameters: {result['times_smaller_than_ten_models']:.1f} times as many"
    return {"stored parameters": f"{result['parameters']:,}", "ten models, depth 6 to 15": ten}


def _latency(row: Mapping[str, Any]) -> str:
    low, high = row["latency_quartiles_ms"]
    return f"{row['latency_ms']:.2f} ({low:.2f} to {high:.2f})"


def _costs(console: Console, rows: Sequence[Mapping[str, Any]], latency: Mapping[str, Any] | None) -> None:
    """A row per depth; columns are there where the rows have them. Under it how latency was measured."""
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "depth": lambda row: str(row["depth"]),
        "plan": lambda row: row["plan"],
        "parameters": lambda row: f"{row['parameters']:,}",
        "bytes": lambda row: f"{row['bytes']:,}",
        "gflops": lambda row: f"{row['gflops']:.4g}",
        "latency_ms": _latency,
        "top1": lambda row: f"{100 * row['top1']:.2f} %",
        "top5": lambda row: f"{100 * row['top5']:.2f} %",
        "loss": lambda row: f"{row['loss']:.4f}",
        "images": lambda row: f"{row['images']:,}",
    }
    shown = [column for column in columns if column in rows[0]]
    cells = [{column: columns[column](row) for column in shown} for row in rows]
    _print_table(console, None, cells, less=("bytes", "top5", "loss", "images", "plan", "gflops", "latency_ms"))
    if latency is not None:
        from learngene.latency import condition_words

        console.print(printable(f"latency: {condition_words(latency)}"), highlight=False, markup=False)


def evaluate(result: Mapping[str, Any]) -> None:
    """One line; for a learngene a row per depth."""
    if "rows" in result:
        console = _console()
        console.print(printable(f"{result['model']} on {result['split']}, untuned"), style="bold", highlight=False, markup=False)
        _costs(console, result["rows"], result["latency"])
        if "out" in result:
            console.print(
                printable(f"{result['out']}/accuracy-by-size.png, evaluation.md, evaluation.json"), highlight=False, markup=False
            )
        return
    _console().print(
        f"{result['split']}: top-1 {100 * result['top1']:.2f} %, top-5 {100 * result['top5']:.2f} %, loss {result['loss']:.4f}, "
        f"{result['images']} images, {result['images_per_second']:.0f} images/s",
        highlight=False,
    )


def finetune(result: Mapping[str, Any]) -> None:
    """Validation metrics and costs."""
    top1 = f"val top-1 {100 * result['val_top1']:.2f} %, " if "val_top1" in result else ""
    _console().print(
        f"{top1}{result['images']:,} images, {result['seconds']:.0f} s, {result['flops'] / 1e12:.1f} TFLOPs", highlight=False
    )


def cache(result: Mapping[str, Any]) -> None:
    """One line."""
    views = result["epochs"] * result["views"]
    _console().print(
        f"{result['cache']}: {result['epochs']} epochs of {result['views']:,} views, {result['bytes'] / 1e6:.2f} MB "
        f"({result['bytes'] / max(1, views):.1f} bytes a view), {result['seconds']:.0f} s, {result['flops'] / 1e12:.2f} TFLOPs",
        highlight=False,
    )


def spawn(result: list[Any]) -> None:
    """One directory per line."""
    for path in result:
        print(path)


def export(result: Any) -> None:
    """The file."""
    print(result)


attention = export


def report(result: Mapping[str, Any]) -> None:
    """The files."""
    print(result["report"], result["html"], sep="\n")


def relearn(result: Mapping[str, Any]) -> None:
    """The report itself: table and words are in it."""
    from rich.markdown import Markdown

    text = Path(result["report"]).read_text(encoding="utf-8")
    _console().print(Markdown(text[text.index("## In words") : text.index("![")]))
    _console().print(result["report"], highlight=False)


def benchmark(result: Mapping[str, Any]) -> None:
    """Mean and spread per start, depth and budget; it says which accuracy, and that one seed has no spread."""
    measures = sorted({row["measure"] for row in result["table"] if "measure" in row})  # runs of older versions do not say
    several = any(row["spread"] is not None for row in result["table"])
    spread = "mean ± standard deviation over seeds" if several else "one seed: no spread"
    title = f"{' or '.join(measures)} top-1 accuracy, {spread}".lstrip()
    cells = []
    for row in result["table"]:
        spread = "" if row["spread"] is None else f" ± {100 * row['spread']:.2f}"
        cells.append({
            "depth": str(row["depth"]), "start": row["start"], "budget": row["budget"], "seeds": str(len(row["seeds"])),
            "top-1 %": f"{100 * row['mean']:.2f}{spread}", "before %": f"{100 * row['before']:.1f}",
            "TFLOPs": f"{row['flops'] / 1e12:.2f}", "seconds": f"{row['seconds']:.1f}",
        })  # fmt: skip
    console = _console()
    _print_table(console, title, cells, name="start", less=("before %", "seconds", "TFLOPs", "seeds"))
    console.print(result["report"], highlight=False)


demo = benchmark
