"""learngene relearn"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learngene.errors import LearngeneError
from learngene.limits import read_json
from learngene.recipe import DataOptions, Recipe, divide

log = logging.getLogger("learngene")


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
    recipe, loading = divide({"lr": 4e-3, **options}, Recipe, DataOptions)
    if not models or not shares or not seeds or not modes or set(modes) - {"frozen", "free"}:
        raise LearngeneError(f"relearn needs a model, a share, a seed, and modes among frozen and free, not {list(modes)}")
    if not all(0 < share <= 1 for share in shares) or not 0 <= tolerance < 1:
        raise LearngeneError(
            f"shares {list(shares)} must be above 0 and at most 1, and the tolerance {tolerance} from 0 to below 1"
        )
    if original_images and len(original_images) != len(models):
        raise LearngeneError(f"{len(original_images)} original_images for {len(models)} models; give one number each, or none")
    import dataclasses

    from learngene import vit
    from learngene.bench.relearn import accuracy, cells, run_cell, write_relearn_report
    from learngene.data import ImageData, open_training
    from learngene.files import write_text
    from learngene.jobs import check_classes, evaluation_config, image_mode, train_config
    from learngene.provenance import commit, hardware, versions
    from learngene.training import RunDirectory
    from learngene.training.fit import check_devices, choose_precision

    check_devices(recipe)
    recipe = dataclasses.replace(recipe, precision=choose_precision(recipe))
    if len(set(models)) < len(models):
        raise LearngeneError("a model is named twice; name each once")
    trained = {_name(path, models): vit.open_model(path) for path in models}
    todo = []
    for name, model in trained.items():
        depth = len(vit.get_blocks(model))
        todo += cells(name, depth, layers or range(1, depth + 1), shares, modes, controls, seeds)  # type: ignore[arg-type]
    kinds = {image_mode(model) for model in trained.values()}
    if len(kinds) > 1:
        raise LearngeneError("some of the models take grey images and some RGB; ask about them one by one")
    (mode,) = kinds
    train, val = open_training(data, loading, mode)
    for name, model in trained.items():
        check_classes(model, name, train, "use the data it was trained on")
    run = RunDirectory(out, train_config(arguments, recipe, loading), resume=resume, overwrite=overwrite)
    if run.finished:
        log.info("%s is finished; nothing to do", out)
        return run.results
    run.begin()
    if loading.in_memory:
        train, val = train.in_memory(), val.in_memory()
    out = Path(out)
    original = {}
    for name, model in trained.items():
        images = ImageData(None, val, evaluation_config(vit.data_config(model), loading), recipe, loading)
        original[name] = accuracy(model, images)
        log.info("%s: %d layers, validation top-1 %.2f %%", name, len(vit.get_blocks(model)), 100 * original[name])
    rows = []
    for number, cell in enumerate(todo, start=1):
        log.info("cell %d/%d: %s", number, len(todo), cell.key)
        row = run_cell(
            cell, trained[cell.model], train, val, recipe, loading,
            original=original[cell.model], tolerance=tolerance, steps=max(1, max_images // (recipe.batch_size * recipe.accumulate)), out=out / "cells" / cell.key,
        )  # fmt: skip
        rows.append(row)
        write_text(out / "results.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    given: list[int | None] = [*original_images] or [_images_of(path) for path in models]
    originals = dict(zip(trained, given, strict=True))
    about = {
        "data": f"{train.name}, {len(train):,} images to train on, {len(val):,} to validate on",
        "original training": ", ".join(f"{n}: {f'{v:,} views' if v else 'unknown'}" for n, v in originals.items()),
        "recipe": f"{recipe.opt}, constant lr {recipe.lr} per 512, batch {recipe.batch_size}, seeds {', '.join(map(str, seeds))}, {recipe.precision}",
        "hardware": hardware(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "commit": commit() or "not a checkout",
    }
    report = write_relearn_report(rows, out, tolerance=tolerance, originals=originals, about=about)
    return run.finish(rows=rows, report=str(report))


def _name(path: str, models: Sequence[str]) -> str:
    """The folder's name, or enough of its path to tell models apart."""
    parts = Path(path.removeprefix("local-dir:")).parts
    for count in range(1, len(parts) + 1):
        tail = "-".join(parts[-count:])
        if sum("-".join(Path(m.removeprefix("local-dir:")).parts[-count:]) == tail for m in models) == 1 and tail != "model":
            return tail.replace("/", "")
    return path.replace("/", "-")


def _images_of(path: str) -> int | None:
    """Views that a model was trained on, from the run.json of the run that made it."""
    try:
        images = read_json(Path(path.removeprefix("local-dir:")).parent / "run.json")["results"]["images"]
    except (LearngeneError, KeyError, TypeError):
        return None
    return images if type(images) is int and images > 0 else None
