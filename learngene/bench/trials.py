"""Run a trial: build, begin, train, test once. Finished trials are never run again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from learngene.bench.prepare import Prepared
from learngene.bench.specs import StartSpec, Trial
from learngene.costs import forward_flops, training_cost
from learngene.data import ImageData, Source, has_test_split, open_split, open_training
from learngene.data.images import Mode
from learngene.families.anatomy import count_parameters
from learngene.families.architecture import Architecture
from learngene.families.records import data_config_of
from learngene.objectives import Supervised
from learngene.provenance import commit, hardware, versions
from learngene.recipe import DataOptions, Recipe
from learngene.starts import SOURCES, begin
from learngene.training import RunDirectory, TrainingModule, evaluate_model, fit
from learngene.training.devices import training_device


@dataclass(frozen=True)
class Images:
    """Training, validation and (perhaps) test images of one data set."""

    train: Source
    val: Source
    test: Source | None
    loading: DataOptions

    @classmethod
    def open(cls, place: str, loading: DataOptions, mode: Mode, *, test: bool) -> Images:
        """Those at a place, grey or RGB; without ``test``, or without a test split, trials are compared on
        validation images.
        """
        train, val = open_training(place, loading, mode)
        tested = (
            open_split(place, loading, "test", mode, train.classes)
            if test and has_test_split(place, loading)
            else None
        )
        if loading.in_memory:
            train, val, tested = train.in_memory(), val.in_memory(), tested and tested.in_memory()
        return cls(train, val, tested, loading)

    @cached_property
    def fingerprints(self) -> dict[str, Any]:
        """What tells them from others, by role: train, val, and test where there is one."""
        sources = {"train": self.train, "val": self.val, "test": self.test}
        return {role: source.fingerprint for role, source in sources.items() if source is not None}


def build(
    spec: StartSpec,
    family: Architecture,
    depth: int,
    images: Images,
    recipe: Recipe,
    sources: Mapping[str, Prepared],
) -> nn.Module:
    """The model of a trial before training; seed torch before.

    Args:
        sources: what each of the start's `StartSpec.sources` stands for, by option.

    Raises:
        LearngeneError: the start does not fit the model.
    """
    args = {**family.args, **spec.arch_args, "num_classes": images.train.num_classes}
    model = Architecture(family.name, args).build(depth, drop_path_rate=recipe.drop_path or None)
    options: dict[str, Any] = {k: sources[k].path if k in SOURCES else v for k, v in spec.options.items()}
    return begin(model, spec.start, class_names=images.train.classes, **options)


@isolate_rng()
def run_trial(
    trial: Trial,
    spec: StartSpec,
    family: Architecture,
    images: Images,
    recipe: Recipe,
    sources: Mapping[str, Prepared],
    out: Path,
) -> dict[str, Any]:
    """Train and test one trial in ``out``: its row. One of 0 epochs is only tested; a finished one is read
    back, an interrupted one resumed.

    The row holds accuracy on validation images after each epoch (0 is before training), on test images once
    at the end, the cost of training (images, optimizer steps, seconds, FLOPs at 3 forward passes an image,
    joules where the device tells), and what had to be prepared, with its cost.
    """
    # 1. the model as it begins, and how long it is trained
    recipe = trial_recipe(trial, spec, recipe)
    torch.manual_seed(trial.seed)
    model = build(spec, family, trial.depth, images, recipe, sources)
    config = images.loading.evaluated(data_config_of(model))
    flops = 3 * forward_flops(model, config["input_size"])
    recipe = _within_budget(recipe, trial, flops)
    run = RunDirectory(out, _record(trial, spec, recipe), resume=True)
    if run.finished:
        return run.results
    run.check_fingerprints(images.fingerprints)
    # 2. validate, train, and test once
    data = ImageData(images.train, images.val, config, recipe, images.loading)
    before = evaluate_model(model, data, device=str(training_device(recipe)))
    result = _untuned(run, before, recipe) if trial.epochs == 0 else _tune(model, data, run, recipe)
    tested = _test(model, images, config, recipe)
    # 3. the row
    run.finish(
        **_conditions(trial, spec, family, images),
        val_top1=result["val_top1"],
        test_top1=tested["top1"],
        test_images=tested["images"],
        parameters=count_parameters(model),
        **training_cost(result, flops),
        prepared=_records(sources),
        curve=_curve(before, result),
        precision=result["precision"],
        **_surroundings(),
    )
    run.checkpoint.unlink(missing_ok=True)
    return run.results


def _tune(model: nn.Module, data: ImageData, run: RunDirectory, recipe: Recipe) -> dict[str, Any]:
    """Train on the labels."""
    objective = Supervised(recipe.label_smoothing)
    classes = data.train.num_classes or 0 if data.train is not None else 0
    return fit(TrainingModule(model, objective, recipe, num_classes=classes), data, run)


def _untuned(run: RunDirectory, before: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """What `_tune` says of no training at all."""
    run.begin()
    return {"val_top1": before["top1"], "epochs_by_row": [], "precision": recipe.precision}


def _within_budget(recipe: Recipe, trial: Trial, flops: float) -> Recipe:
    """With as many optimizer steps as the trial's TFLOPs allow, if these are its budget.

    Args:
        flops: of training on one image.
    """
    if trial.tflops is None:
        return recipe
    steps = round(trial.tflops * 1e12 / (flops * recipe.batch_size * recipe.accumulate))
    return dataclasses.replace(recipe, steps=max(1, steps))


def _record(trial: Trial, spec: StartSpec, recipe: Recipe) -> dict[str, Any]:
    """What makes the trial this one, for its run directory."""
    plain = {
        **dataclasses.asdict(trial),
        "options": {k: str(v) for k, v in spec.options.items()},
        "arch_args": dict(spec.arch_args),
    }
    return {**dataclasses.asdict(recipe), **{f"trial_{k}": v for k, v in plain.items()}}


def _test(model: nn.Module, images: Images, config: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Accuracy on test images and how many they are, where there are any."""
    if images.test is None:
        return {"top1": None, "images": None}
    data = ImageData(None, images.test, config, recipe, images.loading)
    return evaluate_model(model, data, device=str(training_device(recipe)))


def _conditions(trial: Trial, spec: StartSpec, family: Architecture, images: Images) -> dict[str, Any]:
    """What was tried, for the row."""
    return {
        **dataclasses.asdict(trial),
        "kind": spec.start,
        "arch_args": dict(spec.arch_args),
        "data": trial.data or images.train.name.split(" (")[0],
        "architecture": family.name,
    }


def _curve(before: Mapping[str, Any], result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Accuracy on validation images before training and after each epoch, with what was spent until then."""
    start = {"epoch": 0, "images": 0, "seconds": 0.0, "val_top1": before["top1"], "val_loss": before["loss"]}
    return [start, *({key: row[key] for key in start} for row in result["epochs_by_row"])]


def _surroundings() -> dict[str, Any]:
    """Where it ran, for the row."""
    return {
        "threads": torch.get_num_threads(),
        "hardware": hardware(),
        "versions": versions(),
        "commit": commit(),
    }


def trial_recipe(trial: Trial, spec: StartSpec, recipe: Recipe) -> Recipe:
    """The benchmark's recipe with what the trial and its start change in it.

    Raises:
        LearngeneError: values that do not go together, e.g. a warm-up longer than the budget.
    """
    epochs = {"epochs": trial.epochs} if trial.epochs else {}  # untuned: the recipe is not used
    return dataclasses.replace(recipe, seed=trial.seed, devices=1, **{**spec.recipe, **epochs})


def _records(sources: Mapping[str, Prepared]) -> dict[str, dict[str, Any]]:
    """All that had to be prepared, by path; what was only needed on the way is not stored."""
    found: dict[str, dict[str, Any]] = {}

    def add(made: Prepared, *, kept: bool) -> None:
        key = str(made.path)
        if kept or key not in found:
            found[key] = made.record(kept=kept)
        for under in made.below.values():
            add(under, kept=False)

    for made in sources.values():
        add(made, kept=True)
    return found
