"""learngene benchmark"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from learngene.arguments import typed
from learngene.errors import LearngeneError
from learngene.recipe import DataOptions, Recipe, divide, takes

log = logging.getLogger("learngene")


@takes(Recipe, DataOptions)
@typed
def benchmark(
    data: str,
    *,
    out: str | Path,
    gene: str | Path | None = None,
    distill: Mapping[str, Any] | None = None,
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    depths: Sequence[int] = (6, 9, 12),
    starts: Sequence[str | Mapping[str, Any]] = ("learngene", "random"),
    prepare: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    scratch_epochs: Sequence[int] = (),
    tflops: Sequence[float] = (),
    datasets: Mapping[str, Any] | None = None,
    recipes: Mapping[str, Any] | None = None,
    test: bool = True,
    shard: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Compare ways to begin a family of ViTs over depths, budgets and seeds: OUT/results.jsonl, report.md, report.html, plots.

    Args:
        data: labelled images (see distill); accuracy is on the test split, used once per trial, if there is one.
        out: directory to write.
        gene: learngene file, for the start learngene.
        distill: instead, arguments of distill to make one first, e.g. {ancestor: DIR, plan: "2,2,2", epochs: 5};
            its data is the benchmark's unless given.
        arch: timm architecture of the family; by default that of the learngene.
        arch_args: its arguments as JSON.
        depths: numbers of layers.
        starts: names in learngene.starts, or mappings such as {name: selected, start: weight-selection, ancestor: DIR,
            layers: even, epochs: [8], recipe: {lr: 0.004}, arch_args: {pre_norm: true}, depths: [6]}.
        prepare: training before the trials, by name, e.g. {tall: {finetune: {depth: 15, epochs: 9}}, gene: {distill: {...}},
            direct: {finetune: {ancestor: DIR, kl: 1, ce: 0}, each: [depth], cost_of: gene}}. A start's gene, ancestor or
            source may be such a name. Its cost is counted.
        seeds: each trial is run with each.
        scratch_epochs: longer budgets for the start random, to see where training from scratch catches up.
        tflops: further budgets of all starts, in 1e12 floating point operations of training.
        datasets: several data sets to train and test on, by name: {pets: {data: DIR}, cars: {data: DIR2, val_split: valid}}.
        recipes: several recipes by name, as changes, e.g. {weak: {}, strong: {mixup: 0.8, lr: 0.002}}.
        test: off, compare on validation images and leave the test images for later.
        shard: i/n, from 1: run only the i-th of n parts of the trials, so that n machines with one OUT share the work.
        resume: go on with an interrupted benchmark; finished trials are not run again. A shard always does.
        overwrite: delete an earlier benchmark in OUT first.
        **options: any field of `Recipe` and `DataOptions`, for all trials; epochs is the budget.

    Returns:
        ``rows`` (a trial each), ``table`` (mean and spread per start, depth and budget) and ``report``.

    Raises:
        LearngeneError: bad input, before anything is trained.
    """
    arguments = {k: v for k, v in locals().items() if k not in ("options", "resume", "overwrite", "out", "shard")}
    recipe, loading = divide(options, Recipe, DataOptions)
    if overwrite and shard is not None:
        raise LearngeneError(
            "--overwrite would delete what other shards have done; delete the directory first, then start the shards"
        )
    if recipe.steps is not None or recipe.devices not in ("auto", 1, "1"):
        raise LearngeneError(
            "a benchmark's budgets are epochs and tflops, and each trial runs on one device; drop steps and devices"
        )

    from learngene.bench import Experiment
    from learngene.bench.prepare import defaults, outsides
    from learngene.bench.prepare import prepare as train_first
    from learngene.bench.run import Bench, conclude, find_family, open_images, parse_shard, step_of
    from learngene.recipe import train_config
    from learngene.training import RunDirectory
    from learngene.training.devices import check_devices
    from learngene.training.precision import settle_precision

    part = parse_shard(shard)
    experiment = Experiment.parse(
        starts, depths=depths, seeds=seeds, epochs=recipe.epochs, scratch_epochs=scratch_epochs, tflops=tflops, gene=gene,
        distill=distill, prepare=prepare, datasets=datasets, recipes=recipes,
    )  # fmt: skip
    check_devices(recipe)
    config = train_config(arguments, recipe, loading)
    run = RunDirectory(out, config, resume=resume or shard is not None, overwrite=overwrite)
    if run.finished:
        log.info("%s is finished; nothing to do", out)
        return run.results
    family = find_family(arch, arch_args, gene, experiment)
    step = None if shard is not None else step_of(family, depths, recipe)  # shards would not agree
    recipe = dataclasses.replace(recipe, precision=settle_precision(run, recipe, step))
    bench = Bench(experiment, family, open_images(data, loading, experiment, family, test=test), recipe)
    mine = experiment.trials()[part]
    sources = outsides(experiment, mine)
    bench.check(mine, sources, run.path / "trials")
    run.begin()
    given = arch is not None or gene is not None
    with contextlib.nullcontext() if shard else run.taken_back():  # other shards may be at work
        needed = experiment.needed(mine)
        sources |= train_first(
            experiment, needed, _commands(), defaults(data, loading, recipe), family, given, run.path / "prepared"
        )
        bench.run(mine, sources, run.path / "trials")
    return conclude(run, len(experiment.trials()))


def _commands() -> dict[str, Callable[..., Any]]:
    from learngene.commands.distill import distill
    from learngene.commands.finetune import finetune

    return {"distill": distill, "finetune": finetune}
