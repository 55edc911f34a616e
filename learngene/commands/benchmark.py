"""learngene benchmark"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learngene.errors import LearngeneError
from learngene.plan import StagePlan
from learngene.recipe import DataOptions, DistillOptions, Recipe, divide

if TYPE_CHECKING:
    from learngene.data import Source
    from learngene.gene import Learngene


def benchmark(
    data: str,
    *,
    out: str | Path,
    gene: str | Path | None = None,
    distill: Mapping[str, Any] | None = None,
    depths: Sequence[int] = (6, 9, 12),
    starts: Sequence[str] = ("learngene", "random"),
    seeds: Sequence[int] = (0, 1, 2),
    scratch_epochs: Sequence[int] = (),
    resume: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Compare starts over depths and seeds at equal fine-tuning budget: OUT/results.jsonl, report.md, plots.

    Args:
        data: labelled images (see distill); accuracy is on the test split, used once per trial, if there is one.
        out: directory to write.
        gene: learngene file.
        distill: instead of a gene, arguments of distill to make one first, e.g. {ancestor: DIR, plan: "2,2,2", epochs: 5};
            its data is the benchmark's unless given.
        depths: numbers of layers.
        starts: names in learngene.starts.
        seeds: each trial is run with each.
        scratch_epochs: longer budgets for random weights, to see where training from scratch catches up.
        resume: go on with an interrupted benchmark; finished trials are not run again.
        overwrite: delete an earlier benchmark in OUT first.
        **options: any field of `Recipe` and `DataOptions`, for all trials; epochs is the budget.

    Returns:
        ``rows`` (a trial each), ``table`` (mean and spread per start, depth and budget), ``distillation`` and ``report``.

    Raises:
        LearngeneError: bad input, before anything is trained.
    """
    arguments = {k: v for k, v in locals().items() if k not in ("options", "resume", "overwrite", "out")}
    recipe, loading = divide(options, Recipe, DataOptions)

    if (gene is None) == (distill is None):
        raise LearngeneError(
            "a benchmark compares a learngene: name its file with gene, or say how to make one with distill (not both)"
        )
    import logging

    from learngene.bench import grid, run_trial, summarize, write_report
    from learngene.commands.distill import distill as make_gene
    from learngene.files import write_text
    from learngene.gene import Learngene
    from learngene.jobs import train_config
    from learngene.starts import Family
    from learngene.training import RunDirectory
    from learngene.training.fit import check_devices

    log = logging.getLogger("learngene")
    if recipe.steps is not None or recipe.devices not in ("auto", 1, "1"):
        raise LearngeneError("a benchmark's budgets are epochs, and each trial runs on one device; drop steps and devices")
    if distill is not None:
        _check_distill(distill)
    trials = grid(starts, depths, recipe.epochs, seeds, scratch_epochs)
    check_devices(recipe)
    run = RunDirectory(out, train_config(arguments, recipe, loading), resume=resume, overwrite=overwrite)
    if run.finished:
        log.info("%s is finished; nothing to do", out)
        return run.results
    out = Path(out)
    learned = Learngene.load(gene) if gene is not None else None
    plan = learned.plan if learned else StagePlan.parse((distill or {}).get("plan", "3,3,4,3,3"))
    for depth in depths:
        StagePlan.balanced(depth, plan.stages)
    run.begin()
    try:
        if learned is None:
            learned = make_gene(**{"data": data, **(distill or {})}, out=out / "distill", resume=True)
        train, val, test = _images(data, loading, learned)
    except LearngeneError:
        run.cancel()
        raise
    family = Family(learned.architecture, train.num_classes or 0, train.classes, learned)
    rows = []
    for number, trial in enumerate(trials, start=1):
        log.info("trial %d/%d: %s", number, len(trials), trial.key)
        rows.append(run_trial(trial, family, train, val, test, recipe, loading, out / "trials" / trial.key))
        write_text(out / "results.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    distillation = learned.metrics.get("cost")
    about = {
        "data": train.name.split(" (")[0],
        "learngene": f"{learned.architecture.name}, plan {learned.plan}, {learned.parameters:,} parameters, from {learned.ancestor.get('name')}",
        "command": command_line(out),
    }
    report = write_report(out, rows, distillation=distillation, about=about)
    table = [
        {"start": s.start, "depth": s.depth, "epochs": s.epochs, "seeds": len(s.seeds), "top1": s.mean, "spread": s.spread,
         "before": s.before, "parameters": s.parameters, "flops": s.flops, "images": s.images, "seconds": s.seconds}
        for s in summarize(rows)
    ]  # fmt: skip
    return run.finish(rows=rows, table=table, distillation=distillation, report=str(report))


def _check_distill(arguments: Mapping[str, Any]) -> None:
    """Raise unless these are arguments of distill that leave the output to the benchmark."""
    if "ancestor" not in arguments:
        raise LearngeneError("distill lacks the ancestor: name a timm directory or model")
    own = {"ancestor", "data", "arch", "arch_args", "plan", "from_ancestor"}
    divide({k: v for k, v in arguments.items() if k not in own}, Recipe, DataOptions, DistillOptions)


def _images(data: str, loading: DataOptions, gene: Learngene) -> tuple[Source, Source, Source | None]:
    """Training, validation and test images for a learngene's family; trials without test images are compared on val."""
    import torch

    from learngene.data import has_test_split, open_split, open_training
    from learngene.jobs import image_mode

    with torch.device("meta"):
        mode = image_mode(gene.architecture.build(2))
    train, val = open_training(data, loading, mode)
    test = open_split(data, loading, "test", mode) if has_test_split(data, loading) else None
    if loading.in_memory:
        return train.in_memory(), val.in_memory(), test and test.in_memory()
    return train, val, test


def command_line(out: Path) -> str:
    """The command that runs this again."""
    return f"`learngene benchmark --config {shlex.quote(str(out / 'config.yaml'))} --out NEW`"
