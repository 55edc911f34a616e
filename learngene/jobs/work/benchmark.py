"""A benchmark: what is compared, what must be trained first, and the trials."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from learngene.bench.experiment import Experiment
from learngene.bench.prepare import defaults, outsides, prepare
from learngene.bench.run import Bench, conclude, find_family, open_data_sets, parse_shard, step_of
from learngene.jobs.distill import Distill
from learngene.jobs.finetune import Finetune
from learngene.recipe import DataOptions, Recipe
from learngene.runs import RunDirectory
from learngene.training.devices import check_devices
from learngene.training.precision import settle_precision

if TYPE_CHECKING:
    from learngene.jobs.benchmark import Benchmark

log = logging.getLogger("learngene")


def run_benchmark(job: Benchmark) -> dict[str, Any]:
    """See `learngene.benchmark`."""
    # 1. what is compared
    part = parse_shard(job.shard)
    experiment = Experiment.parse(
        job.starts, depths=job.depths, seeds=job.seeds, epochs=job.epochs, scratch_epochs=job.scratch_epochs,
        tflops=job.tflops, gene=job.gene, distill=job.distill, prepare=job.prepare, datasets=job.datasets,
        recipes=job.recipes, jobs={"distill": Distill, "finetune": Finetune},
    )  # fmt: skip
    check_devices(job)
    run = RunDirectory(
        job.out, job.record(), resume=job.resume or job.shard is not None, overwrite=job.overwrite
    )
    if run.finished:
        log.info("%s is finished; nothing to do", job.out)
        return run.results
    # 2. what all trials share, and whether each of them can be built
    recipe, loading = job.part(Recipe), job.part(DataOptions)
    family = find_family(job.arch, job.arch_args, job.gene, experiment)
    step = None if job.shard is not None else step_of(family, job.depths, recipe)  # shards would not agree
    recipe = replace(recipe, precision=settle_precision(run, recipe, step))
    bench = Bench(
        experiment, family, open_data_sets(job.data, loading, experiment, family, test=job.test), recipe
    )
    mine = experiment.trials()[part]
    sources = outsides(experiment, mine)
    bench.check(mine, sources, run.path / "trials")
    # 3. train what starts need, then the trials
    run.begin()
    given = job.arch is not None or job.gene is not None
    usual = defaults(job.data, loading, recipe)
    with contextlib.nullcontext() if job.shard else run.taken_back():  # other shards may be at work
        sources |= prepare(experiment, experiment.needed(mine), usual, family, given, run.path / "prepared")
        bench.run(mine, sources, run.path / "trials")
    # 4. tables, plots, report
    return conclude(run, len(experiment.trials()))
