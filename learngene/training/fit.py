"""Assemble Lightning's Trainer, run it in a run directory, and evaluate models."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, RichProgressBar
from timm.optim import get_optimizer_info
from torch import nn

from learngene.data.module import ImageData, train_transform
from learngene.errors import LearngeneError
from learngene.files import check_free, write_text
from learngene.provenance import commit, hardware, versions
from learngene.recipe import Recipe
from learngene.training.callbacks import AtomicCheckpointIO, LogLines, MetricsFile, Rifle
from learngene.training.distributed import check_launch, choose_strategy, gather, is_follower, launcher
from learngene.training.module import TrainingModule, score

log = logging.getLogger("learngene")


class RunDirectory:
    """A directory for one training run, with a fixed layout.

    ``config.yaml`` (the resolved arguments; ``--config`` runs the job again), ``run.json`` (status, versions,
    hardware, results), ``metrics.csv`` (a row per epoch), ``log.txt``, ``last.ckpt`` (for resuming), and what the
    command makes: ``learngene.safetensors`` or ``model/``.

    Args:
        path: the directory.
        config: the resolved arguments, plain values.
        resume: go on from ``last.ckpt`` if there is one; a finished run is left as it is.
        overwrite: delete an earlier run in this directory first. Only a run directory is ever deleted.

    Raises:
        LearngeneError: the directory holds something else, a finished run, a run that was not to be resumed, or one
            with other arguments.
    """

    results: dict[str, Any]
    CONFIG, RUN, METRICS, LOG, CHECKPOINT = "config.yaml", "run.json", "metrics.csv", "log.txt", "last.ckpt"

    def __init__(self, path: str | Path, config: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.config = json.loads(json.dumps(dict(config), default=str))
        record = self._read()
        self._discard = record is not None and overwrite
        if is_follower():  # knows only whether there is anything to do: the first process may be writing by now
            self.finished = record is not None and not overwrite and record.get("status") == "finished"
            self.results = (record or {}).get("results", {})
            return
        if self._discard:
            self._check_inputs()
            record = None
        self.finished = record is not None and record.get("status") == "finished"
        self.results = (record or {}).get("results", {})
        if record is not None:
            self._check(record, resume)
        elif not self._discard:
            check_free(self.path, hint="choose another --out (only an earlier run can be overwritten or resumed)")

    def _read(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.path / self.RUN).read_text())
        except (OSError, ValueError):
            return None

    def _check_inputs(self) -> None:
        """Raise if overwriting would delete what the job is to read."""
        home = self.path.resolve()
        for name, value in self.config.items():
            if isinstance(value, str) and Path(value.removeprefix("local-dir:")).exists():
                used = Path(value.removeprefix("local-dir:")).resolve()
                if used == home or home in used.parents:
                    raise LearngeneError(
                        f"--overwrite would delete {name} '{value}', which lies in '{self.path}'; choose another --out"
                    )

    def _check(self, record: Mapping[str, Any], resume: bool) -> None:
        if not resume:
            state = "a finished run" if self.finished else "an unfinished run"
            way = (
                "pass --overwrite to delete it" if self.finished else "pass --resume to go on with it, or --overwrite to delete it"
            )
            raise LearngeneError(f"'{self.path}' holds {state}; choose another --out, or {way}")
        old = record.get("config", {})
        changed = sorted(k for k in old.keys() | self.config.keys() if old.get(k) != self.config.get(k))
        if changed:
            key = changed[0]
            raise LearngeneError(
                f"'{self.path}' was begun with {key} {old.get(key)}, now it is {self.config.get(key)}; "
                f"resume with the same arguments, or choose another --out"
            )

    @property
    def checkpoint(self) -> Path:
        return self.path / self.CHECKPOINT

    @property
    def has_checkpoint(self) -> bool:
        """Whether to go on from `checkpoint`; the same in all processes, even while the first one deletes an earlier run."""
        return self.checkpoint.exists() and not (is_follower() and self._discard)

    def begin(self) -> None:
        """Make the directory and write down what is going to be done. An earlier run is deleted only now."""
        if is_follower():
            return
        try:
            if self._discard:
                shutil.rmtree(self.path)
            versions(), hardware(), commit()  # slow the first time; from here on another process may look at the directory
            self.path.mkdir(parents=True, exist_ok=True)
            self._write("running")
            write_text(self.path / self.CONFIG, yaml.safe_dump(self.config, sort_keys=False))
        except OSError as error:
            raise LearngeneError(
                f"the output directory '{self.path}' cannot be written ({error.strerror}); choose another --out"
            ) from None

    def cancel(self) -> None:
        """Take back `begin` after bad input that only showed then, unless something was trained meanwhile."""
        own = (self.CONFIG, self.RUN)
        left = [path for path in self.path.rglob("*") if path.is_file() and path.name not in own and path.suffix != ".lock"]
        if not is_follower() and not left and self._read() is not None:
            shutil.rmtree(self.path)

    def finish(self, **results: Any) -> dict[str, Any]:
        """Record the results; from now on the run is finished."""
        self.results = json.loads(json.dumps(results, default=str))
        if not is_follower():
            self._write("finished")
        return self.results

    def _write(self, status: str) -> None:
        record = {"status": status, "config": self.config, "results": self.results}
        record |= {"versions": versions(), "hardware": hardware(), "commit": commit()}
        write_text(self.path / self.RUN, json.dumps(record, indent=2) + "\n")

    @contextlib.contextmanager
    def logging(self) -> Iterator[None]:
        """Copy the log to ``log.txt`` while the run lasts."""
        if is_follower():
            yield
            return
        handler = logging.FileHandler(self.path / self.LOG, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        level = log.level
        log.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            log.setLevel(level)
            log.removeHandler(handler)
            handler.close()


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
    trainer = _trainer(recipe, run, metrics, callbacks, validate)
    run.begin()
    checkpoint = str(run.checkpoint) if run.has_checkpoint else None
    if checkpoint:
        log.info("resuming from %s", checkpoint)
    with run.logging(), _plain_attention(module.model, trainer), _quiet_lightning():
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    if trainer.interrupted:
        raise KeyboardInterrupt
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EMAWeightAveraging):  # Lightning leaves this out when there was nothing left to resume
            callback._copy_average_to_current(module)
    last = metrics.rows[-1] if metrics.rows else {}
    if recipe.steps is not None and validate:  # the last step need not have been the end of an epoch
        with _quiet_lightning():
            last |= trainer.validate(module, datamodule=data, verbose=False)[0]
        metrics.write()
    gather(module)
    if is_follower():
        sys.exit(0)  # the first process writes what all have trained
    seen = {"images": metrics.images, "step": trainer.global_step, "joules": metrics.joules}
    return {**last, **seen, "precision": trainer.precision, "epochs_by_row": metrics.rows}


def _rehearse(module: TrainingModule, data: ImageData) -> None:
    """Raise for words in the recipe that timm does not know, before anything is written."""
    attempts: dict[str, Callable[[], Any]] = {
        "auto_augment": lambda: train_transform(data.config, module.recipe),
        "opt": lambda: get_optimizer_info(module.recipe.opt),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except Exception as error:  # timm raises AssertionError, ValueError, KeyError, ...
            raise LearngeneError(f"{name} '{getattr(module.recipe, name)}': timm does not know it ({error})") from None


def _trainer(recipe: Recipe, run: RunDirectory, metrics: MetricsFile, further: Sequence[Callback], validate: bool) -> L.Trainer:
    check_devices(recipe)
    terminal = sys.stderr.isatty()
    callbacks: list[Callback] = [metrics, *further, LogLines(recipe.log_every, logging.DEBUG if terminal else logging.INFO)]
    if terminal:
        callbacks.append(RichProgressBar())
    if recipe.ema:
        callbacks.append(EMAWeightAveraging(decay=recipe.ema))
    if recipe.rifle > 1:
        callbacks.append(Rifle(recipe.rifle, recipe.seed))
    if validate:
        callbacks.append(ModelCheckpoint(run.path, filename="last", save_on_train_epoch_end=True, enable_version_counter=False))
    with _quiet_lightning(), _as_bad_input():
        trainer = L.Trainer(
            accelerator=recipe.accelerator,
            devices=recipe.devices,
            strategy=choose_strategy(recipe),
            num_nodes=recipe.num_nodes,
            precision=choose_precision(recipe),  # type: ignore[arg-type]
            max_epochs=recipe.epochs if recipe.steps is None else -1,
            max_steps=recipe.steps or -1,
            gradient_clip_val=recipe.clip_grad,
            accumulate_grad_batches=recipe.accumulate,
            callbacks=callbacks,
            logger=_logger(recipe, run),
            log_every_n_steps=recipe.log_every,
            num_sanity_val_steps=0,
            limit_val_batches=None if validate else 0,
            enable_checkpointing=validate,
            use_distributed_sampler=False,
            enable_progress_bar=terminal,
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


def check_devices(recipe: Recipe) -> None:
    """Raise unless the accelerator is there, with as many devices as the recipe asks for."""
    from lightning.pytorch.accelerators import AcceleratorRegistry

    name = _accelerator(recipe)
    known = AcceleratorRegistry.get(name) if name in AcceleratorRegistry.available_accelerators() else None
    if known is None:
        raise LearngeneError(
            f"accelerator '{name}': use one of auto, {', '.join(sorted(AcceleratorRegistry.available_accelerators()))}"
        )
    if not known.is_available():
        raise LearngeneError(f"accelerator '{name}' is not available on this machine; use --accelerator cpu or auto")
    try:
        wanted = int(recipe.devices)
    except ValueError:
        if recipe.devices != "auto":
            raise LearngeneError(f"devices '{recipe.devices}': give a number of devices, or auto") from None
        return
    available = known.auto_device_count()
    if wanted != -1 and not 1 <= wanted <= (available if name != "cpu" else 2**16):
        raise LearngeneError(f"devices {wanted}: this machine has {available} ({name}); ask for 1 to {available}, or auto")


def _accelerator(recipe: Recipe) -> str:
    if recipe.accelerator not in ("auto", "gpu"):
        return recipe.accelerator
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cuda" if recipe.accelerator == "gpu" else "cpu"


def choose_precision(recipe: Recipe) -> str:
    """``auto`` is bf16-mixed where matrix units for it are there (CUDA with bf16, CPU with AMX), else 32-true."""
    if recipe.precision != "auto":
        return recipe.precision
    name = _accelerator(recipe)
    if name == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = name == "cpu" and bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())
    return "bf16-mixed" if fast else "32-true"


@contextlib.contextmanager
def _plain_attention(model: nn.Module, trainer: L.Trainer) -> Iterator[None]:
    """Train without torch's fused attention on CPU: its bf16 backward takes 65 % of a step there (measured, torch 2.15)."""
    fused = [m for m in model.modules() if getattr(m, "fused_attn", False)] if trainer.strategy.root_device.type == "cpu" else []
    for module in fused:
        module.fused_attn = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True  # type: ignore[assignment]


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
    model.to(device).eval()
    with torch.inference_mode():
        for batch in data.val_dataloader():
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
