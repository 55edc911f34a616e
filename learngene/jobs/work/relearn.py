"""Re-learning: models, images, cells, and the report."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from learngene.recipe import DataOptions, Recipe
from learngene.runs import RunDirectory
from learngene.studies.relearn import (
    all_cells,
    open_images,
    open_models,
    run_cells,
    views_of,
    write_conclusion,
)
from learngene.training.devices import check_devices
from learngene.training.precision import settle_precision

if TYPE_CHECKING:
    from learngene.jobs.relearn import Relearn

log = logging.getLogger("learngene")


def run_relearning(job: Relearn) -> dict[str, Any]:
    """See `learngene.relearn`."""
    # 1. which questions, of which models, on which images
    check_devices(job)
    run = RunDirectory(job.out, job.record(), resume=job.resume, overwrite=job.overwrite)
    if run.finished:
        log.info("%s is finished; nothing to do", job.out)
        return run.results
    recipe, loading = job.part(Recipe), job.part(DataOptions)
    trained = open_models(job.models)
    todo = all_cells(trained, job.layers, job.shares, job.modes, job.controls, job.seeds)
    train, val = open_images(trained, job.data, loading)
    # 2. reset, and train on
    precision = settle_precision(run, recipe)
    run.begin()
    recipe = replace(recipe, precision=precision)
    limits: dict[str, Any] = {"tolerance": job.tolerance, "max_images": job.max_images}
    with run.taken_back():
        rows = run_cells(todo, trained, train, val, recipe, loading, **limits, out=run.path)
    # 3. the report
    given: list[int | None] = [*job.original_images] or [views_of(path) for path in job.models]
    report = write_conclusion(
        rows, train, val, recipe, dict(zip(trained, given, strict=True)), job.tolerance, run.path
    )
    return run.finish(rows=rows, report=str(report))
