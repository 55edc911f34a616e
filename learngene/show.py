"""Results as tables on a terminal (rich)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from learngene.limits import printable


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line, which ends quietly; rich would end the process with status 1."""
        raise


def _console() -> Console:
    return _Console(width=None if sys.stdout.isatty() else 120, soft_wrap=True)


def info(result: Mapping[str, Any]) -> None:
    """The header in lines, then a row per depth."""
    console = _console()
    head = f"{result['kind']} {result['file']}  {result['bytes'] / 1e6:.2f} MB"
    console.print(printable(head), style="bold", highlight=False, markup=False)
    lines = {"architecture": result["architecture"], "classes": result["classes"]}
    if result["kind"] == "learngene":
        ancestor = result["ancestor"]
        lines |= {"plan": result["plan"], "ancestor": ancestor.get("name"), "licence of the ancestor": ancestor.get("license")}
        lines |= {"stored parameters": f"{result['parameters']:,}"}
        lines["ten models, depth 6 to 15"] = (
            f"{result['ten_models_parameters']:,} parameters: {result['times_smaller_than_ten_models']:.1f} times as many"
        )
        lines |= {k: f"{v:.4f}" for k, v in result["metrics"].items() if isinstance(v, float)}
    for name, value in lines.items():
        console.print("  " + printable(f"{name}: {value}"), highlight=False, markup=False)
    columns = {"depth": "{}", "plan": "{}", "parameters": "{:,}", "bytes": "{:,}", "gflops": "{:.4g}", "latency_ms": "{:.2f}"}
    table = Table()
    shown = [c for c in columns if c in result["depths"][0]]
    for column in shown:
        table.add_column(column, justify="right")
    for row in result["depths"]:
        table.add_row(*(columns[c].format(row[c]) for c in shown))
    console.print(table)


def evaluate(result: Mapping[str, Any]) -> None:
    """One line."""
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
    measures = sorted({row["measure"] for row in result["table"]})
    several = any(row["spread"] is not None for row in result["table"])
    spread = "mean ± standard deviation over seeds" if several else "one seed: no spread"
    table = Table(title=f"{' or '.join(measures)} top-1 accuracy, {spread}")
    for column in ("depth", "start", "budget", "seeds", "top-1 %", "before %", "TFLOPs", "seconds"):
        table.add_column(column, justify="left" if column == "start" else "right")
    for row in result["table"]:
        spread = "" if row["spread"] is None else f" ± {100 * row['spread']:.2f}"
        table.add_row(
            str(row["depth"]), row["start"], row["budget"], str(len(row["seeds"])), f"{100 * row['mean']:.2f}{spread}",
            f"{100 * row['before']:.1f}", f"{row['flops'] / 1e12:.2f}", f"{row['seconds']:.1f}",
        )  # fmt: skip
    console = _console()
    console.print(table)
    console.print(result["report"], highlight=False)


demo = benchmark
