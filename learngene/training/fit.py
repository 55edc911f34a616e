"""Assemble Lightning's Trainer, run it in a run directory, and evaluate models."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import shutil
import signal
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
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, RichProgressBar
from timm.optim import get_optimizer_info
from torch import nn

from learngene.data.module import ImageData, train_transform
from learngene.errors import LearngeneError
from learngene.files import check_free, locked, write_text
from learngene.limits import MAX_RECORD, read_json
from learngene.objectives import Distillation
from learngene.provenance import commit, hardware, versions
from learngene.recipe import Recipe
from learngene.training.callbacks import (
    AtomicCheckpointIO,
    Checkpoints,
    LogLines,
    MetricsFile,
    Rifle,
    StopAfter,
    Stopped,
    newest_checkpoint,
    previous_checkpoint,
)
from learngene.training.distributed import check_launch, choose_strategy, gather, is_follower, launched_by_lightning, launcher
from learngene.training.module import TrainingModule, score
from learngene.training.speed import at_speed

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
    CONFIG, RUN, METRICS, LOG, CHECKPOINT, LOCK = "config.yaml", "run.json", "metrics.csv", "log.txt", "last.ckpt", "run.lock"

    def __init__(self, path: str | Path, config: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.config = json.loads(json.dumps(dict(config), default=str))
        record = self._read()
        self._is_held = False
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
        elif not self._discard and not self._is_bare():
            check_free(self.path, hint="choose another --out (only an earlier run can be overwritten or resumed)")

    def _read(self) -> dict[str, Any] | None:
        file = self.path / self.RUN
        if not file.is_file():
            return None
        record = read_json(file, MAX_RECORD)
        if not isinstance(record, dict) or not all(isinstance(record.get(k, {}), dict) for k in ("config", "results")):
            raise LearngeneError(f"'{file}' is no record of a run; choose another --out")
        return record

    def _is_bare(self) -> bool:
        """Whether an earlier run was killed before it wrote anything but its lock."""
        return self.path.is_dir() and {path.name for path in self.path.iterdir()} <= {self.LOCK}

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

    def newest(self) -> Path | None:
        """The checkpoint to go on from; the same in all processes, even while the first one deletes an earlier run."""
        if is_follower():
            return None if self._discard else newest_checkpoint(self.checkpoint)
        newest = newest_checkpoint(self.checkpoint)
        if newest not in (None, self.checkpoint):
            self.checkpoint.unlink(missing_ok=True)  # damaged, and not to take the place of the good one
        return newest

    def begin(self) -> None:
        """Make the directory and write down what is going to be done. An earlier run is deleted only now."""
        if is_follower():
            return
        try:
            if self._discard:
                self._empty()
            versions(), hardware(), commit()  # slow the first time; from here on another process may look at the directory
            self.path.mkdir(parents=True, exist_ok=True)
            self._write("running")
            write_text(self.path / self.CONFIG, yaml.safe_dump(self.config, sort_keys=False))
        except OSError as error:
            raise self._unwritable(error) from None

    def _empty(self) -> None:
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != self.LOCK:
                path.unlink()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs out of the directory while the block runs.

        Raises:
            LearngeneError: another run is at work there, or it cannot be written.
        """
        if is_follower() or self._is_held:
            yield
            return
        lock = self.path / self.LOCK
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            lock.touch()
        except OSError as error:
            raise self._unwritable(error) from None
        with locked(lock, wait=False) as mine:
            if not mine:
                raise LearngeneError(f"another run is at work in '{self.path}'; wait for it, or choose another --out")
            self._is_held = True
            try:
                self._check_unfinished()
                yield
            finally:
                self._is_held = False
                lock.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # bad input that showed late: nothing is left
                    self.path.rmdir()

    def _check_unfinished(self) -> None:
        """Raise if another run has finished here since this one looked."""
        if not self._discard and not self.finished and (self._read() or {}).get("status") == "finished":
            raise LearngeneError(f"another run has just finished in '{self.path}'; choose another --out")

    def _unwritable(self, error: OSError) -> LearngeneError:
        return LearngeneError(f"the output directory '{self.path}' cannot be written ({error.strerror}); choose another --out")

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
            previous_checkpoint(self.checkpoint).unlink(missing_ok=True)
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
    ancestor = module.objective.ancestor.model if isinstance(module.objective, Distillation) else None
    speed = at_speed(module.model, ancestor, recipe, trainer.strategy.root_device)
    with speed, run.held():
        run.begin()
        with run.logging(), _quiet_lightning():
            _train(trainer, module, data, run.newest())
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EMAWeightAveraging):  # Lightning leaves this out when there was nothing left to resume
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
    try:
        with explained(module.recipe):
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    except Stopped as stop:
        log.warning("stopped at step %d; the same command with --resume goes on there", trainer.global_step)
        if launched_by_lightning():  # it kills the first process when another ends with a status
            raise SystemExit(0) from None
        if stop.signal == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + stop.signal) from None
    except SystemExit as stop:
        if stop.code == 1 and trainer.interrupted:  # Lightning's answer to a second SIGINT
            raise KeyboardInterrupt from None
        raise SystemExit(128 + signal.SIGTERM if stop.code is None else stop.code) from None


@contextlib.contextmanager
def explained(recipe: Recipe) -> Iterator[None]:
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


def _trainer(recipe: Recipe, run: RunDirectory, metrics: MetricsFile, further: Sequence[Callback], validate: bool) -> L.Trainer:
    check_devices(recipe)
    terminal = sys.stderr.isatty()
    callbacks: list[Callback] = [metrics, *further, LogLines(recipe.log_every, logging.DEBUG if terminal else logging.INFO)]
    if recipe.steps is not None:
        callbacks.append(StopAfter(recipe.steps))
    if terminal:
        callbacks.append(RichProgressBar())
    if recipe.ema:
        callbacks.append(EMAWeightAveraging(decay=recipe.ema))
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
            precision=choose_precision(recipe),  # type: ignore[arg-type]
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


def training_device(recipe: Recipe) -> torch.device:
    """The first device that the recipe's accelerator means."""
    return torch.device(_accelerator(recipe))


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
