"""Compare ways to begin a family of models: trials, what they cost, tables, plots and a report."""

from learngene.bench.report import write_report
from learngene.bench.table import Summary, summarize
from learngene.bench.trials import Trial, grid, run_trial

__all__ = ["Summary", "Trial", "grid", "run_trial", "summarize", "write_report"]
