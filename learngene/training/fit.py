"""Assemble Lightning's Trainer, run it in a run directory, and evaluate models."""

from __future__ import annotations

import contextlib
import errno
import logging
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, WeightAveraging
from timm.optim import get_optimizer_info
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from learngene.data.module import ImageData, train_transform
from learngene.errors import LearngeneError
from learngene.objectives import Distillation
from learngene.openmp import waits_politely
from learngene.recipe import Recipe
from learngene.training.callbacks import (
    AtomicCheckpointIO,
    Checkpoints,
    LogLines,
    MetricsFile,
    Rifle,
    StopAfter,
    Stopped,
)
from learngene.training.devices import check_devices
from learngene.training.directory import RunDirectory
from learngene.training.distributed import check_launch, choose_strategy, gather, is_follower, launched_by_lightning, launcher
from learngene.training.module import TrainingModule, score
from learngene.training.precision import settle_precision
from learngene.training.progress import progress_bar, watched
from learngene.training.speed import at_speed
from learngene.vit import evaluating

log = logging.getLogger("learngene")


def fit(
    module: TrainingModule, data: ImageData, run: RunDirectory, *, callbacks: Sequence[Callback] = (), validate: bool = True
) -> dict[str, Any]:
    """Train in a run directory, from its last checkpoint if it has one; afterwards ``module.model`` is the result.

    Args:
        callbacks: of Lightning's, beside those that every run has.
        validate: off: neither validation nor checkpoints; for runs of a few steps that are looked at by a callback.

    Returns:
        Last metrics, optimizer steps, images seen and training seconds (validation included), and the rows by epoch.
    """
    recipe = module.recipe
    metrics = MetricsFile(run.path / run.METRICS)
    _rehearse(module, data)
    precision = settle_precision(run, recipe, module.step_on_noise(data.config["input_size"]))
    trainer = _trainer(recipe, precision, run, metrics, callbacks, validate)
    ancestor = module.objective.ancestor.model if isinstance(module.objective, Distillation) else None
    speed = at_speed(module.model, ancestor, recipe, trainer.strategy.root_device)
    with speed, run.held():
        run.begin()
        with run.logging(), _quiet_lightning():
            _train(trainer, module, data, run.newest())
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging):  # Lightning leaves this out when there was nothing left to resume
            callback._copy_average_to_current(module)
    last = metrics.rows[-1] if metrics.rows else {}
    gather(module)
    if is_follower():
        sys.exit(0)  # the first process writes what all have trained
    seen = {"images": metrics.images, "step": trainer.global_step, "joules": metrics.joules, "skipped": module.skipped}
    return {**last, **seen, "precision": trainer.precision, "epochs_by_row": metrics.rows}


def _train(trainer: L.Trainer, module: TrainingModule, data: ImageData, checkpoint: Path | None) -> None:
    """Run the loop; what stops it ends in one sentence, or as the signal that asked for it."""
    if checkpoint:
        log.info("resuming from %s", checkpoint)
    _say_how_threads_wait()
    try:
        with _explained(module.recipe), _signals_given_back():
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    except Stopped as stop:
        log.warning("stopped at step %d; the same command with --resume (in Python resume=True) goes on there", trainer.global_step)
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
        log.info("other programs were at work when learngene was imported, so its threads wait asleep (OMP_WAIT_POLICY=PASSIVE)")


@contextlib.contextmanager
def _signals_given_back() -> Iterator[None]:
    """Leave the process's answers to signals as they were, however training ends: Lightning's own would make it deaf to SIGTERM."""
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


@contextlib.contextmanager
def _explained(recipe: Recipe) -> Iterator[None]:
    """What goes wrong in a loop on any machine, as one sentence with a way out.

    Raises:
        LearngeneError: a full disk, out of memory, layers that cannot be compiled, a reading process that died, a rank that was lost.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        sentence = _sentence(error, recipe)
        if sentence is None:
            raise
        raise LearngeneError(sentence) from error


def _sentence(error: Exception, recipe: Recipe) -> str | None:
    text = str(error)
    first = text.splitlines()[0][:200] if text else ""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return f"{text}; the last good checkpoint is kept: free some space, then --resume"
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in text:
        ways = (
            f"--batch-size {max(1, recipe.batch_size // 2)} --accumulate {2 * recipe.accumulate} (the same step in half the memory)"
        )
        ways += "" if recipe.grad_checkpointing else ", or --grad-checkpointing true"
        return f"out of memory with batch_size {recipe.batch_size}; try {ways}"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"torch.compile failed ({first}); use --compile false"
    if "DataLoader worker" in text:
        return f"a process that reads images died ({first}); often memory: try fewer --workers, then --resume"
    if isinstance(error, torch.distributed.DistError) or "onnection closed by peer" in text or "onnection reset" in text:
        return f"another rank was lost ({first}); see its log, then --resume"
    return None


def _rehearse(module: TrainingModule, data: ImageData) -> None:
    """Raise for words in the recipe that timm does not know, and images that cannot go where they should, before anything is written."""
    data.pixels()
    attempts: dict[str, Callable[[], Any]] = {
        "auto_augment": lambda: train_transform(data.config, module.recipe),
        "opt": lambda: get_optimizer_info(module.recipe.opt),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except Exception as error:  # timm raises AssertionError, ValueError, KeyError, ...
            raise LearngeneError(f"{name} '{getattr(module.recipe, name)}': timm does not know it ({error})") from None


def _trainer(
    recipe: Recipe, precision: str, run: RunDirectory, metrics: MetricsFile, further: Sequence[Callback], validate: bool
) -> L.Trainer:
    check_devices(recipe)
    bar = progress_bar()
    callbacks: list[Callback] = [metrics, *further, LogLines(recipe.log_every, logging.DEBUG if bar else logging.INFO)]
    if recipe.steps is not None:
        callbacks.append(StopAfter(recipe.steps))
    if bar is not None:
        callbacks.append(bar)
    if recipe.ema:
        callbacks.append(WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(recipe.ema)))  # all weights at once
    if recipe.rifle > 1:
        callbacks.append(Rifle(recipe.rifle, recipe.seed))
    if validate:
        callbacks.append(Checkpoints(run.path, recipe.checkpoint_minutes))
    with _quiet_lightning(), _as_bad_input():
        trainer = L.Trainer(
            accelerator=recipe.accelerator,
            devices=recipe.devices,
            strategy=choose_strategy(recipe),
            num_nodes=recipe.num_nodes,
            precision=precision,  # type: ignore[arg-type]
            max_epochs=recipe.epochs if recipe.steps is None else -1,  # not max_steps, with which Lightning resumes wrongly
            gradient_clip_val=recipe.clip_grad,
            accumulate_grad_batches=recipe.accumulate,
            callbacks=callbacks,
            logger=_logger(recipe, run),
            log_every_n_steps=recipe.log_every,
            num_sanity_val_steps=0,
            limit_val_batches=None if validate else 0,
            enable_checkpointing=validate,
            use_distributed_sampler=False,
            enable_progress_bar=bar is not None,
            enable_model_summary=False,
            default_root_dir=run.path,
            plugins=[AtomicCheckpointIO(), *filter(None, [launcher()])],
        )
        check_launch(trainer)
    return trainer


@contextlib.contextmanager
def _as_bad_input() -> Iterator[None]:
    """Lightning's complaints about precision, strategy and the like, as ours."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        if isinstance(error, LearngeneError):
            raise
        raise LearngeneError(f"training cannot be set up: {str(error).splitlines()[0]}") from None


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
        raise LearngeneError(f"track {recipe.track}: {error}; install it with pip install 'learngene[track]'") from None


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without Lightning's advertising and hints; its errors stay."""
    noisy = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)


def predict_batches(model: nn.Module, data: ImageData, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Logits (B, K) and labels (B,) of every validation batch, without gradients."""
    model.to(device)
    with evaluating(model), torch.inference_mode():
        for batch in watched(data.val_dataloader(), "evaluating"):
            data.take_bad(batch)
            if batch["image"] is None:
                continue
            yield model(batch["image"].to(device)).float(), batch["target"].to(device)


def evaluate_model(model: nn.Module, data: ImageData, *, device: str = "auto") -> dict[str, float]:
    """Top-1, top-5 (shares), loss, number of images, and images per second, reading them included.

    Accuracies are exact over all images that can be read, in fp32.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    totals: dict[str, float] = {}
    images = 0
    start = time.perf_counter()
    for logits, targets in predict_batches(model, data, torch.device(device)):
        for name, value in score(logits, targets).items():
            totals[name] = totals.get(name, 0.0) + float(value) * len(targets)
        images += len(targets)
    seconds = time.perf_counter() - start
    if not images:
        raise LearngeneError(f"none of the images of {data.val.name} can be read; check the data set and the disk")
    means = {name: total / images for name, total in totals.items()}
    return {**means, "images": images, "images_per_second": images / seconds}
