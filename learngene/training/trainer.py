"""Assemble Lightning's Trainer from a recipe."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ProgressBar, WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from learngene.errors import LearngeneError
from learngene.recipe import Recipe
from learngene.runs import RunDirectory
from learngene.training.callbacks import LogLines, MetricsFile, Rifle, StopAfter
from learngene.training.checkpoints import AtomicCheckpointIO, Checkpoints
from learngene.training.devices import check_devices
from learngene.training.distributed import check_launch, choose_strategy, launcher
from learngene.training.failures import as_bad_input, quiet_lightning
from learngene.training.progress import progress_bar


def make_trainer(
    recipe: Recipe,
    precision: str,
    run: RunDirectory,
    metrics: MetricsFile,
    further: Sequence[Callback],
    validate: bool,
) -> L.Trainer:
    """Lightning's Trainer for a recipe.

    Args:
        further: callbacks beside those that every run has.
        validate: off: neither validation nor checkpoints.

    Raises:
        LearngeneError: devices, precision or strategy that this machine does not have.
    """
    check_devices(recipe)
    callbacks = [metrics, *further, *_usual_callbacks(recipe, run, validate)]
    bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
    # Lightning resumes wrongly with max_steps, so a run of so many steps is stopped by a callback
    max_epochs = recipe.epochs if recipe.steps is None else -1
    with quiet_lightning(), as_bad_input():
        trainer = L.Trainer(
            accelerator=recipe.accelerator,
            devices=recipe.devices,
            strategy=choose_strategy(recipe),
            num_nodes=recipe.num_nodes,
            precision=precision,  # type: ignore[arg-type]
            max_epochs=max_epochs,
            gradient_clip_val=recipe.clip_grad,
            accumulate_grad_batches=recipe.accumulate,
            callbacks=callbacks,
            logger=_logger(recipe, run),
            log_every_n_steps=recipe.log_every,
            num_sanity_val_steps=0,
            limit_val_batches=None if validate else 0,
            enable_checkpointing=validate,
            use_distributed_sampler=False,
            enable_progress_bar=bar,
            enable_model_summary=False,
            default_root_dir=run.path,
            plugins=[AtomicCheckpointIO(), *filter(None, [launcher()])],
        )
        check_launch(trainer)
    return trainer


def _usual_callbacks(recipe: Recipe, run: RunDirectory, validate: bool) -> list[Callback]:
    """What every run has, in the order in which it is called."""
    bar = progress_bar()
    found: list[Callback] = [LogLines(recipe.log_every, logging.DEBUG if bar else logging.INFO)]
    if recipe.steps is not None:
        found.append(StopAfter(recipe.steps))
    if bar is not None:
        found.append(bar)
    if recipe.ema:
        found.append(WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(recipe.ema)))  # all weights at once
    if recipe.rifle > 1:
        found.append(Rifle(recipe.rifle, recipe.seed))
    if validate:
        found.append(Checkpoints(run.path, recipe.checkpoint_minutes))
    return found


def _logger(recipe: Recipe, run: RunDirectory) -> Any:
    if recipe.track == "none":
        return False
    try:
        if recipe.track == "tensorboard":
            from lightning.pytorch.loggers import TensorBoardLogger

            return TensorBoardLogger(run.path, name="", version="tensorboard")
        from lightning.pytorch.loggers import WandbLogger

        return WandbLogger(save_dir=run.path, name=run.path.name)
    except ModuleNotFoundError as error:
        raise LearngeneError(
            f"track {recipe.track}: {error}; install it with pip install 'learngene[track]'"
        ) from None
