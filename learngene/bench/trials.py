"""A trial: one start, depth, budget and seed, trained and tested once. Finished trials are never run again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from learngene import vit
from learngene.data import ImageData, Source
from learngene.errors import LearngeneError
from learngene.jobs import evaluation_config, forward_flops, training_cost
from learngene.objectives import Supervised
from learngene.provenance import commit, hardware, versions
from learngene.recipe import DataOptions, Recipe
from learngene.starts import STARTS, Family
from learngene.training import RunDirectory, TrainingModule, evaluate_model, fit


@dataclass(frozen=True)
class Trial:
    """What is run once: ``start`` is a name in `learngene.starts.STARTS`, ``epochs`` the fine-tuning budget."""

    start: str
    depth: int
    epochs: int
    seed: int

    @property
    def key(self) -> str:
        """The trial's folder."""
        return f"{self.start}-d{self.depth:02d}-e{self.epochs}-s{self.seed}"


def grid(
    starts: Sequence[str], depths: Sequence[int], epochs: int, seeds: Sequence[int], scratch_epochs: Sequence[int] = ()
) -> list[Trial]:
    """All starts at the same budget, and random weights at longer ones too; seeds outermost, so that all grow alike.

    Raises:
        LearngeneError: an unknown start, or nothing to run.
    """
    unknown = [start for start in starts if start not in STARTS]
    if unknown:
        raise LearngeneError(f"there is no start '{unknown[0]}'; the starts are {', '.join(sorted(STARTS))}")
    if not (starts and depths and seeds):
        raise LearngeneError("a benchmark needs at least one start, one depth and one seed")
    budgets = [(start, epochs) for start in starts] + [("random", longer) for longer in scratch_epochs if longer != epochs]
    return [Trial(start, depth, budget, seed) for seed in seeds for depth in depths for start, budget in budgets]


def run_trial(
    trial: Trial,
    family: Family,
    train: Source,
    val: Source,
    test: Source | None,
    recipe: Recipe,
    loading: DataOptions,
    out: Path,
) -> dict[str, Any]:
    """Train and test one trial in ``out``; return its row. A finished one is read back, an interrupted one resumed.

    The row holds accuracy on validation images after each epoch (0 is before training), on test images once at the
    end, and the cost: images, optimizer steps, seconds and FLOPs of training (3 forward passes an image).
    """
    recipe = dataclasses.replace(recipe, seed=trial.seed, epochs=trial.epochs, devices=1)
    run = RunDirectory(out, {**dataclasses.asdict(trial), **dataclasses.asdict(recipe)}, resume=True)
    if run.finished:
        return run.results
    torch.manual_seed(trial.seed)
    model = STARTS[trial.start](family, trial.depth, drop_path_rate=recipe.drop_path or None)
    config = vit.data_config(model)
    if family.gene is not None:  # every start sees the same images
        config |= {k: v for k, v in family.gene.data_config.items() if k != "input_size"}
    config = evaluation_config(config, loading)
    images = ImageData(train, val, config, recipe, loading)
    flops = 3 * forward_flops(model, config["input_size"])
    before = evaluate_model(model, images)
    result = fit(TrainingModule(model, Supervised(recipe.label_smoothing), recipe, num_classes=family.num_classes), images, run)
    curve = [{"epoch": 0, "images": 0, "seconds": 0.0, "val_top1": before["top1"], "val_loss": before["loss"]}]
    curve += [{k: row[k] for k in ("epoch", "images", "seconds", "val_top1", "val_loss")} for row in result["epochs_by_row"]]
    tested = evaluate_model(model, ImageData(None, test, config, recipe, loading)) if test is not None else None
    row = {
        **dataclasses.asdict(trial),
        "val_top1": result["val_top1"],
        "test_top1": tested and tested["top1"],
        "test_images": tested and tested["images"],
        "parameters": vit.parameters(model),
        **training_cost(result, flops),
        "curve": curve,
        "precision": result["precision"],
        "hardware": hardware(),
        "versions": versions(),
        "commit": commit(),
    }
    run.finish(**row)
    run.checkpoint.unlink(missing_ok=True)
    return run.results
