"""learngene benchmark"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learngene.errors import LearngeneError
from learngene.job import UNRECORDED, Job
from learngene.recipe import DataOptions, Recipe


@dataclass(frozen=True, kw_only=True)
class Benchmark(Recipe, DataOptions, Job):
    """Compare ways to begin a family of ViTs over depths, budgets and seeds: OUT/results.jsonl, report.md,
    report.html, plots.
    """

    COMMAND, ORDER = "benchmark", 60
    SUMMARY = "compare starts over depths, budgets and seeds"
    BY_PLACE = ("data",)
    MAIN = ("data", "out", "gene", "distill", "arch", "depths", "starts", "seeds", "epochs", "resume")
    JSON = True

    data: str
    """labelled images (see distill); accuracy is on the test split, used once per trial, if there is one."""
    out: str | Path = field(metadata=UNRECORDED)
    """directory to write."""
    gene: str | Path | None = None
    """learngene file, for the start learngene."""
    distill: Mapping[str, Any] | None = None
    """instead, arguments of distill to make one first, e.g. {ancestor: DIR, plan: "2,2,2", epochs: 5}; its
    data is the benchmark's unless given."""
    arch: str | None = None
    """timm architecture of the family; by default that of the learngene."""
    arch_args: Mapping[str, Any] | None = None
    """its arguments as JSON."""
    depths: Sequence[int] = (6, 9, 12)
    """numbers of layers."""
    starts: Sequence[str | Mapping[str, Any]] = ("learngene", "random")
    """names in learngene.starts, or mappings such as {name: selected, start: weight-selection, ancestor:
    DIR, layers: even, epochs: [8], recipe: {lr: 0.004}, arch_args: {pre_norm: true}, depths: [6]}."""
    prepare: Mapping[str, Any] | None = None
    """training before the trials, by name, e.g. {tall: {finetune: {depth: 15, epochs: 9}}, gene: {distill:
    {...}}, direct: {finetune: {ancestor: DIR, kl: 1, ce: 0}, each: [depth], cost_of: gene}}. A start's
    gene, ancestor or source may be such a name. Its cost is counted."""
    seeds: Sequence[int] = (0, 1, 2)
    """each trial is run with each."""
    scratch_epochs: Sequence[int] = ()
    """longer budgets for the start random, to see where training from scratch catches up."""
    tflops: Sequence[float] = ()
    """further budgets of all starts, in 1e12 floating point operations of training."""
    datasets: Mapping[str, Any] | None = None
    """several data sets to train and test on, by name: {pets: {data: DIR}, cars: {data: DIR2, val_split:
    valid}}."""
    recipes: Mapping[str, Any] | None = None
    """several recipes by name, as changes, e.g. {weak: {}, strong: {mixup: 0.8, lr: 0.002}}."""
    test: bool = True
    """off, compare on validation images and leave the test images for later."""
    shard: str | None = field(default=None, metadata=UNRECORDED)
    """i/n, from 1: run only the i-th of n parts of the trials, so that n machines with one OUT share the
    work."""
    resume: bool = field(default=False, metadata=UNRECORDED)
    """go on with an interrupted benchmark; finished trials are not run again. A shard always does."""
    overwrite: bool = field(default=False, metadata=UNRECORDED)
    """delete an earlier benchmark in OUT first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overwrite and self.shard is not None:
            raise LearngeneError(
                "--overwrite would delete what other shards have done; delete the directory first, then "
                "start the shards"
            )
        if self.steps is not None or self.devices not in ("auto", 1, "1"):
            raise LearngeneError(
                "a benchmark's budgets are epochs and tflops, and each trial runs on one device; drop steps "
                "and devices"
            )

    def run(self) -> dict[str, Any]:
        """Do it.

        Returns:
            ``rows`` (a trial each), ``table`` (mean and spread per start, depth and budget) and ``report``.

        Raises:
            LearngeneError: bad input, before anything is trained.
        """
        from learngene.jobs.work.benchmark import run_benchmark

        return run_benchmark(self)

    @staticmethod
    def show(result: Any) -> None:
        """Mean and spread per start, depth and budget, and which accuracy it is; one seed has no spread."""
        from learngene.bench.summary import one_measure, spread_words, summarize
        from learngene.bench.tables import results_table
        from learngene.terminal import print_table, say

        summaries = summarize(result["rows"])
        title = f"{one_measure(s.measure for s in summaries)} top-1 accuracy, {spread_words(summaries)}"
        less = ("before training %", "seconds", "images", "parameters", "TFLOPs", "seeds")
        print_table(title, results_table(summaries), less=less)
        say(result["report"])
