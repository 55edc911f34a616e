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


@dataclass(frozen=True)
class Images:
    """Training, validation and (perhaps) test images of one data set."""

    train: Source
    val: Source
    test: Source | None
    loading: DataOptions

    @classmethod
    def open(cls, place: str, loading: DataOptions, mode: Mode, *, test: bool) -> Images:
        """Those at a place, grey or RGB; without ``test``, or without a test split, trials are compared on validation images."""
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
    options = {k: sources[k].path if k in SOURCES else v for k, v in spec.options.items()}
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
    """Train and test one trial in ``out``; return its row. A finished one is read back, an interrupted one resumed.

    The row holds accuracy on validation images after each epoch (0 is before training), on test images once at the
    end, the cost of training (images, optimizer steps, seconds, FLOPs at 3 forward passes an image, joules where the
    device tells), and what had to be prepared, with its cost.
    """
    recipe = trial_recipe(trial, spec, recipe)
    torch.manual_seed(trial.seed)
    model = build(spec, family, trial.depth, images, recipe, sources)
    config = images.loading.evaluated(data_config_of(model))
    flops = 3 * forward_flops(model, config["input_size"])
    if trial.tflops is not None:
        recipe = dataclasses.replace(
            recipe, steps=max(1, round(trial.tflops * 1e12 / (flops * recipe.batch_size * recipe.accumulate)))
        )
    plain = {
        **dataclasses.asdict(trial),
        "options": {k: str(v) for k, v in spec.options.items()},
        "arch_args": dict(spec.arch_args),
    }
    run = RunDirectory(
        out, {**dataclasses.asdict(recipe), **{f"trial_{k}": v for k, v in plain.items()}}, resume=True
    )
    if run.finished:
        return run.results
    run.check_fingerprints(images.fingerprints)
    data = ImageData(images.train, images.val, config, recipe, images.loading)
    before = evaluate_model(model, data)
    result = fit(
        TrainingModule(
            model, Supervised(recipe.label_smoothing), recipe, num_classes=images.train.num_classes or 0
        ),
        data,
        run,
    )
    curve = [
        {"epoch": 0, "images": 0, "seconds": 0.0, "val_top1": before["top1"], "val_loss": before["loss"]}
    ]
    curve += [
        {k: row[k] for k in ("epoch", "images", "seconds", "val_top1", "val_loss")}
        for row in result["epochs_by_row"]
    ]
    test = images.test
    tested = (
        evaluate_model(model, ImageData(None, test, config, recipe, images.loading))
        if test is not None
        else None
    )
    row = {
        **dataclasses.asdict(trial),
        "kind": spec.start,
        "arch_args": dict(spec.arch_args),
        "data": trial.data or images.train.name.split(" (")[0],
        "architecture": family.name,
        "val_top1": result["val_top1"],
        "test_top1": tested and tested["top1"],
        "test_images": tested and tested["images"],
        "parameters": count_parameters(model),
        **training_cost(result, flops),
        "prepared": _records(sources),
        "curve": curve,
        "precision": result["precision"],
        "threads": torch.get_num_threads(),
        "hardware": hardware(),
        "versions": versions(),
        "commit": commit(),
    }
    run.finish(**row)
    run.checkpoint.unlink(missing_ok=True)
    return run.results


def trial_recipe(trial: Trial, spec: StartSpec, recipe: Recipe) -> Recipe:
    """The benchmark's recipe with what the trial and its start change in it.

    Raises:
        LearngeneError: values that do not go together, e.g. a warm-up longer than the budget.
    """
    epochs = {} if trial.epochs is None else {"epochs": trial.epochs}
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
