"""learngene report"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from learngene.arguments import typed


@typed
def report(results: str | Path, *, out: str | Path | None = None) -> dict[str, Any]:
    """Write a benchmark's report.md, report.html (self-contained) and plots from its results.

    Args:
        results: directory of a benchmark, finished or not, or its results.jsonl.
        out: directory to write; by default where the results are.

    Returns:
        ``report`` and ``html`` (files), and ``trials`` (how many are in it).

    Raises:
        LearngeneError: no results, or lines that are no trials or twice the same.
    """
    from learngene.bench.report import rerun, write_report
    from learngene.bench.rows import find_rows

    place = Path(results)
    rows = find_rows(place)
    folder = place if place.is_dir() else place.parent
    command = rerun(folder) if (folder / "config.yaml").exists() else None
    written = write_report(rows, folder if out is None else Path(out), command=command)
    return {"report": str(written), "html": str(written.with_suffix(".html")), "trials": len(rows)}
