"""Compare ways to begin a family of models: what is compared, trials, costs, tables, plots and a report."""

from learngene.bench.experiment import Experiment
from learngene.bench.preparation import Preparation
from learngene.bench.report import write_report
from learngene.bench.specs import StartSpec, Trial
from learngene.bench.summary import Summary, summarize
from learngene.bench.trials import Images, build, run_trial

__all__ = [
    "Experiment",
    "Images",
    "Preparation",
    "StartSpec",
    "Summary",
    "Trial",
    "build",
    "run_trial",
    "summarize",
    "write_report",
]
