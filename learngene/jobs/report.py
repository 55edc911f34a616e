"""learngene report"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learngene.job import Job


@dataclass(frozen=True, kw_only=True)
class Report(Job):
    """Write a benchmark's report.md, report.html (self-contained) and plots from its results."""

    COMMAND, ORDER = "report", 70
    SUMMARY = "a benchmark's report, page and plots from its results"
    BY_PLACE = ("results",)
    POSITIONAL = "results"
    JSON = True

    results: str | Path
    """directory of a benchmark, finished or not, or its results.jsonl."""
    out: str | Path | None = None
    """directory to write; by default where the results are."""

    def run(self) -> dict[str, Any]:
        """Do it.

        Returns:
            ``report`` and ``html`` (files), and ``trials`` (how many are in it).

        Raises:
            LearngeneError: no results, or lines that are no trials or twice the same.
        """
        from learngene.bench.report import rerun, write_report
        from learngene.bench.rows import find_rows

        place = Path(self.results)
        rows = find_rows(place)
        folder = place if place.is_dir() else place.parent
        command = rerun(folder) if (folder / "config.yaml").exists() else None
        written = write_report(rows, folder if self.out is None else Path(self.out), command=command)
        return {"report": str(written), "html": str(written.with_suffix(".html")), "trials": len(rows)}

    @staticmethod
    def show(result: Any) -> None:
        """The files."""
        print(result["report"], result["html"], sep="\n")
