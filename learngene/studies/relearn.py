"""How quickly does a layer re-learn? Reset layers of a trained ViT, train on, and see when it is back."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from learngene.bench.summary import Row
from learngene.data import ImageData, Source, open_training
from learngene.data.classes import matched
from learngene.data.splits import training_share
from learngene.errors import LearngeneError
from learngene.families.anatomy import get_blocks
from learngene.families.records import data_config_of, image_mode
from learngene.families.timm import open_model
from learngene.files import local_path, write_text
from learngene.objectives import Supervised
from learngene.provenance import commit, hardware, versions
from learngene.recipe import DataOptions, Recipe
from learngene.runs import read_record
from learngene.studies.cells import Cell, cells
from learngene.studies.recovery import RecoveryWatch, freeze_all_but, reset_layers
from learngene.studies.relearn_report import write_relearn_report
from learngene.training import RunDirectory, TrainingModule, evaluate_model, fit
from learngene.training.precision import autocast

log = logging.getLogger("learngene")


@dataclass(frozen=True)
class Conditions:
    """What all cells share.

    Attributes:
        train, val: all images; a cell trains on its share.
        recipe: before what a cell changes in it.
        tolerance: how far below the original accuracy counts as back (0.005 is half a point).
        steps: to give up after.
    """

    train: Source
    val: Source
    recipe: Recipe
    loading: DataOptions
    tolerance: float
    steps: int

    def recipe_of(self, cell: Cell) -> Recipe:
        """At most so many steps, at a constant learning rate."""
        lr = 5 * self.recipe.lr if cell.control == "lr-x5" else self.recipe.lr
        return dataclasses.replace(self.recipe, seed=cell.seed, steps=self.steps, devices=1, lr=lr, min_lr=lr)

    def images_of(self, cell: Cell, model: nn.Module, recipe: Recipe) -> ImageData:
        """The cell's share of the training images, and all validation images, as the model takes them."""
        share = training_share(self.train, dataclasses.replace(self.loading, train_fraction=cell.share))
        config = self.loading.evaluated(data_config_of(model))
        return ImageData(share, self.val, config, recipe, self.loading)


@isolate_rng()
def run_cell(
    cell: Cell, trained: nn.Module, given: Conditions, *, original: float, out: Path
) -> dict[str, Any]:
    """Reset, train at a constant learning rate, return the cell's row; a finished one is read back.

    Args:
        trained: the model; a copy is changed.
        original: its validation top-1.
    """
    # 1. how it is trained, and whether it was
    recipe = given.recipe_of(cell)
    plain = dataclasses.asdict(cell) | {"original": original, "tolerance": given.tolerance}
    run = RunDirectory(out, {**dataclasses.asdict(recipe), **plain}, resume=True)
    run.check_images(train=given.train, val=given.val)
    if run.finished:
        return run.results
    # 2. reset the layers, and see what that did
    module = _damaged(cell, trained, given.train, recipe)
    model = module.model
    data = given.images_of(cell, model, recipe)
    damaged = accuracy(model, data)
    # 3. train until the accuracy is back; without a reset, to the end
    target, control = original - given.tolerance, cell.control == "none"
    watch = RecoveryWatch(lambda: accuracy(model, data), math.inf if control else target, given.steps)
    if control or damaged < target:
        fit(module, data, run, callbacks=[watch], validate=False)
    else:
        run.begin()
    # 4. the row
    reached = next((step for step, top1 in watch.points if top1 >= target), None)
    back = None if control else reached if damaged < target else 0
    batch = recipe.batch_size * recipe.accumulate
    return run.finish(
        **dataclasses.asdict(cell),
        depth=len(get_blocks(model)),
        width=getattr(model, "embed_dim", None),
        train_images=len(data.train or ()),
        original=original,
        damaged=damaged,
        best=max([damaged, *(top1 for _, top1 in watch.points)]),
        steps=back,
        points=watch.points,
        images=None if back is None else back * batch,
        gave_up_after=given.steps * batch,
    )


def _damaged(cell: Cell, trained: nn.Module, train: Source, recipe: Recipe) -> TrainingModule:
    """A copy of a trained model with the cell's layers reset, ready to be trained on."""
    keep_norms = cell.control == "norms-kept"
    model = reset_layers(copy.deepcopy(trained), cell.layers, keep_norms=keep_norms, seed=cell.seed)
    classes = train.num_classes or 0
    module = TrainingModule(model, Supervised(recipe.label_smoothing), recipe, num_classes=classes)
    if cell.mode == "frozen":
        module.frozen = freeze_all_but(model, cell.layers)
    return module


def accuracy(model: nn.Module, data: ImageData) -> float:
    """Validation top-1 (a share), in the precision of training."""
    device = next(model.parameters()).device
    with autocast(device, data.recipe.precision):
        return evaluate_model(model, data, device=str(device))["top1"]


def open_models(paths: Sequence[str]) -> dict[str, nn.Module]:
    """Trained models by name: the folder's, or enough of its path to tell them apart."""
    if len(set(paths)) < len(paths):
        raise LearngeneError("a model is named twice; name each once")
    return {_name(path, paths): open_model(path) for path in paths}


def _name(path: str, paths: Sequence[str]) -> str:
    parts = local_path(path).parts
    for count in range(1, len(parts) + 1):
        tail = parts[-count:]
        if tail != ("model",) and [local_path(other).parts[-count:] for other in paths].count(tail) == 1:
            return "-".join(tail).replace("/", "")
    return path.replace("/", "-")


def all_cells(
    trained: Mapping[str, nn.Module],
    layers: Sequence[int] | None,
    shares: Sequence[float],
    modes: Sequence[str],
    controls: Sequence[str],
    seeds: Sequence[int],
) -> list[Cell]:
    """The `cells` of all models; each layer in turn unless some are named."""
    found = []
    for name, model in trained.items():
        depth = len(get_blocks(model))
        found += cells(name, depth, layers or range(1, depth + 1), shares, modes, controls, seeds)  # type: ignore[arg-type]
    return found


def open_images(trained: Mapping[str, nn.Module], data: str, loading: DataOptions) -> tuple[Source, Source]:
    """Training and validation images that all models take.

    Raises:
        LearngeneError: the models take different ones, or these have other classes.
    """
    modes = {image_mode(model) for model in trained.values()}
    if len(modes) > 1:
        raise LearngeneError("some of the models take grey images and some RGB; ask about them one by one")
    train, val = open_training(data, loading, *modes)
    for name, model in trained.items():
        before, known = train.classes, name != next(iter(trained))
        train, val = matched(model, name, "use the data it was trained on", train, val)
        if known and train.classes != before:
            raise LearngeneError(
                f"the classes of {name} are in another order than those of the models before it; "
                "ask about it by itself"
            )
    return (train.in_memory(), val.in_memory()) if loading.in_memory else (train, val)


def run_cells(
    todo: Sequence[Cell],
    trained: Mapping[str, nn.Module],
    train: Source,
    val: Source,
    recipe: Recipe,
    loading: DataOptions,
    *,
    tolerance: float,
    max_images: int,
    out: Path,
) -> list[dict[str, Any]]:
    """Rows of all cells (see `run_cell`), in ``out``/results.jsonl as far as they are.

    Args:
        max_images: views to give up after.
    """
    original = {}
    for name, model in trained.items():
        images = ImageData(None, val, loading.evaluated(data_config_of(model)), recipe, loading)
        original[name] = accuracy(model, images)
        log.info(
            "%s: %d layers, validation top-1 %.2f %%", name, len(get_blocks(model)), 100 * original[name]
        )
    steps = max(1, max_images // (recipe.batch_size * recipe.accumulate))
    given = Conditions(train, val, recipe, loading, tolerance, steps)
    rows = []
    for number, cell in enumerate(todo, start=1):
        log.info("cell %d/%d: %s", number, len(todo), cell.key)
        model, before, folder = trained[cell.model], original[cell.model], out / "cells" / cell.key
        rows.append(run_cell(cell, model, given, original=before, out=folder))
        write_text(out / "results.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def views_of(path: str) -> int | None:
    """Views that a model was trained on, from the run.json of the run that made it."""
    try:
        record = read_record(local_path(path).parent) or {}
    except LearngeneError:  # of another program
        return None
    images = record.get("results", {}).get("images")
    return images if type(images) is int and images > 0 else None


def write_conclusion(
    rows: Sequence[Row],
    train: Source,
    val: Source,
    recipe: Recipe,
    originals: Mapping[str, int | None],
    tolerance: float,
    out: Path,
) -> Path:
    """The report, with what the run was made of at its head."""
    seeds = ", ".join(dict.fromkeys(str(row["seed"]) for row in rows))
    optimizer = f"{recipe.opt}, constant lr {recipe.lr} per 512"
    about = {
        "data": f"{train.name}, {len(train):,} images to train on, {len(val):,} to validate on",
        "original training": ", ".join(
            f"{n}: {f'{v:,} views' if v else 'unknown'}" for n, v in originals.items()
        ),
        "recipe": f"{optimizer}, batch {recipe.batch_size}, seeds {seeds}, {recipe.precision}",
        "hardware": hardware(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "commit": commit() or "not a checkout",
    }
    return write_relearn_report(rows, out, tolerance=tolerance, originals=originals, about=about)
