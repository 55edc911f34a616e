"""Run Lightning's loop in a run directory."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, WeightAveraging
from timm.optim import get_optimizer_info

from learngene.data.module import ImageData
from learngene.data.views import train_transform
from learngene.errors import LearngeneError
from learngene.openmp import waits_politely
from learngene.processes import is_follower
from learngene.runs import RunDirectory
from learngene.training.callbacks import MetricsFile
from learngene.training.checkpoints import Checkpoints, Stopped
from learngene.training.distributed import gather, launched_by_lightning
from learngene.training.failures import explained, quiet_lightning
from learngene.training.module import TrainingModule
from learngene.training.precision import settle_precision
from learngene.training.speed import at_speed
from learngene.training.trainer import make_trainer

log = logging.getLogger("learngene")


def fit(
    module: TrainingModule,
    data: ImageData,
    run: RunDirectory,
    *,
    callbacks: Sequence[Callback] = (),
    validate: bool = True,
) -> dict[str, Any]:
    """Train in a run directory, from its last checkpoint if it has one; afterwards ``module.model`` is the
    result.

    Args:
        callbacks: of Lightning's, beside those that every run has.
        validate: off: neither validation nor checkpoints; for runs of a few steps that are looked at by a
            callback.

    Returns:
        Last metrics, optimizer steps, images seen and training seconds (validation included), and the rows by
        epoch.
    """
    recipe = module.recipe
    metrics = MetricsFile(run.path / run.METRICS)
    _rehearse(module, data)
    precision = settle_precision(run, recipe, module.step_on_noise(data.noise))
    trainer = make_trainer(recipe, precision, run, metrics, callbacks, validate)
    nets, frozen = module.trained_nets, module.objective.frozen_nets
    speed = at_speed(nets, recipe, trainer.strategy.root_device, frozen=frozen)
    with speed, run.held():
        run.begin()
        with run.logging(), quiet_lightning():
            _train(trainer, module, data, run.newest())
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        # Lightning leaves this out when there was nothing left to resume
        if isinstance(callback, WeightAveraging):
            callback._copy_average_to_current(module)
    last = metrics.rows[-1] if metrics.rows else {}
    gather(module)
    if is_follower():
        sys.exit(0)  # the first process writes what all have trained
    seen = {
        "images": metrics.images,
        "step": trainer.global_step,
        "joules": metrics.joules,
        "skipped": module.skipped,
    }
    return {**last, **seen, "precision": trainer.precision, "epochs_by_row": metrics.rows}


def _train(trainer: L.Trainer, module: TrainingModule, data: ImageData, checkpoint: Path | None) -> None:
    """Run the loop; what stops it ends in one sentence, or as the signal that asked for it."""
    if checkpoint:
        log.info("resuming from %s", checkpoint)
    _say_how_threads_wait()
    try:
        with explained(module.recipe), _signals_given_back():
            trainer.fit(
                module, datamodule=data, ckpt_path=checkpoint, weights_only=True if checkpoint else None
            )
    except Stopped as stop:
        log.warning(
            "stopped at step %d; the same command with --resume (in Python resume=True) goes on there",
            trainer.global_step,
        )
        if launched_by_lightning():  # it kills the first process when another ends with a status
            raise SystemExit(0) from None
        if stop.signal == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + stop.signal) from None
    except SystemExit as stop:
        if stop.code == 1 and trainer.interrupted:  # Lightning's answer to a second SIGINT
            raise KeyboardInterrupt from None
        raise SystemExit(128 + signal.SIGTERM if stop.code is None else stop.code) from None


@cache
def _say_how_threads_wait() -> None:
    """Once in a process, however many runs it has."""
    if waits_politely():
        log.info(
            "other programs were at work when learngene was imported, so its threads wait asleep "
            "(OMP_WAIT_POLICY=PASSIVE)"
        )


@contextlib.contextmanager
def _signals_given_back() -> Iterator[None]:
    """Leave the process's answers to signals as they were, however training ends: Lightning's own would make
    it deaf to SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in Checkpoints.SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # not set from Python, which cannot set it again
                signal.signal(number, handler)


def _rehearse(module: TrainingModule, data: ImageData) -> None:
    """Raise for words in the recipe that timm does not know, and images that cannot go where they should,
    before anything is written.
    """
    data.pixels()
    attempts: dict[str, Callable[[], Any]] = {
        "auto_augment": lambda: train_transform(data.data_config, module.recipe),
        "opt": lambda: get_optimizer_info(module.recipe.opt),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except Exception as error:  # timm raises AssertionError, ValueError, KeyError, ...
            raise LearngeneError(
                f"{name} '{getattr(module.recipe, name)}': timm does not know it ({error})"
            ) from None
