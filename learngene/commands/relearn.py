"""learngene relearn"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learngene.arguments import typed
from learngene.errors import LearngeneError
from learngene.recipe import DataOptions, Recipe, divide, takes

log = logging.getLogger("learngene")


@takes(Recipe, DataOptions)
@typed
def relearn(
    models: Sequence[str],
    data: str,
    *,
    out: str | Path,
    layers: Sequence[int] | None = None,
    shares: Sequence[float] = (0.01, 0.03, 0.1, 0.3, 1.0),
    modes: Sequence[str] = ("frozen", "free"),
    controls: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    tolerance: float = 0.005,
    max_images: int = 100_000,
    original_images: Sequence[int] = (),
    resume: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Reset one layer of a trained ViT, train on, and see how soon its accuracy is back: OUT/relearn.md, plot, results.jsonl.

    Args:
        models: timm directories of trained models; several show whether depth and width matter.
        data: the images they were trained on (see distill); the accuracy is that on the validation split.
        out: directory to write.
        layers: which to reset, counted from 1; by default each in turn.
        shares: of the training images to train on again.
        modes: frozen (only the reset layer is trained), free (everything is), or both.
        controls: with the largest share, also none (nothing reset, nothing frozen), lr-x5 (five times the learning rate), norms-kept, block-K (K layers in a row
            reset) and inverse-K (all but these).
        seeds: each question is asked with each.
        tolerance: how far below the original accuracy counts as back; 0.005 is half a point.
        max_images: views to give up after.
        original_images: views that each model was trained on; by default read from the run.json beside it, if there is one.
        resume: go on with an interrupted run; finished cells are not run again.
        overwrite: delete an earlier run in OUT first.
        **options: any field of `Recipe` and `DataOptions`; the learning rate is constant.

    Returns:
        ``rows`` (one per cell) and ``report``.

    Raises:
        LearngeneError: bad input, before anything is trained.
    """
    arguments = {k: v for k, v in locals().items() if k not in ("options", "resume", "overwrite", "out")}
    recipe, loading = divide(options, Recipe, DataOptions)
    if not 0 <= tolerance < 1:
        raise LearngeneError(f"tolerance {tolerance}: it must be from 0 to below 1")
    if original_images and len(original_images) != len(models):
        raise LearngeneError(f"{len(original_images)} original_images for {len(models)} models; give one number each, or none")

    from learngene.recipe import train_config
    from learngene.studies.relearn import all_cells, conclude, open_images, open_models, run_cells, views_of
    from learngene.training import RunDirectory
    from learngene.training.devices import check_devices
    from learngene.training.precision import settle_precision

    check_devices(recipe)
    trained = open_models(models)
    todo = all_cells(trained, layers, shares, modes, controls, seeds)
    train, val = open_images(trained, data, loading)
    run = RunDirectory(out, train_config(arguments, recipe, loading), resume=resume, overwrite=overwrite)
    if run.finished:
        log.info("%s is finished; nothing to do", out)
        return run.results
    precision = settle_precision(run, recipe)
    run.begin()
    recipe = dataclasses.replace(recipe, precision=precision)
    with run.taken_back():
        rows = run_cells(todo, trained, train, val, recipe, loading, tolerance=tolerance, max_images=max_images, out=run.path)
    given: list[int | None] = [*original_images] or [views_of(path) for path in models]
    report = conclude(rows, train, val, recipe, dict(zip(trained, given, strict=True)), tolerance, run.path)
    return run.finish(rows=rows, report=str(report))
