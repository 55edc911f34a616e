"""learngene report"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from learngene.errors import LearngeneError

NEEDED = (
    "start", "kind", "depth", "seed", "epochs", "tflops", "data", "recipe", "architecture", "val_top1", "test_top1", "test_images",
    "parameters", "flops", "images", "seconds", "prepared", "curve", "hardware", "versions", "commit", "precision",
)  # fmt: skip


def report(results: str | Path, *, out: str | Path | None = None) -> dict[str, Any]:
    """Write a benchmark's report.md, report.html (self-contained) and plots from its results.

    Args:
        results: directory of a benchmark, finished or not, or its results.jsonl.
        out: directory to write; by default where the results are.

    Returns:
        ``report`` and ``html`` (files), and ``trials`` (how many are in it).

    Raises:
        LearngeneError: no results, or lines that are no trials.
    """
    place = Path(results)
    file = place / "results.jsonl" if place.is_dir() else place
    if not file.is_file():
        raise LearngeneError(f"there are no results at '{file}'; 'learngene benchmark' writes them, one line per finished trial")
    rows = [_row(line, file, number) for number, line in enumerate(file.read_text().splitlines(), start=1) if line.strip()]
    target = Path(out) if out is not None else file.parent

    from learngene.bench import write_report

    config = file.parent / "config.yaml"
    written = write_report(
        rows, target, command=f"learngene benchmark --config {config.name} --out NEW" if config.exists() else None
    )
    return {"report": str(written), "html": str(written.with_suffix(".html")), "trials": len(rows)}


def _row(line: str, file: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
        lacking = [key for key in NEEDED if key not in row]
    except (ValueError, TypeError) as error:
        raise LearngeneError(f"'{file}' line {number} is not JSON ({error}); delete that line and resume the benchmark") from None
    if lacking:
        raise LearngeneError(f"'{file}' line {number} is no trial: it lacks '{lacking[0]}'; give the results.jsonl of a benchmark")
    return row
