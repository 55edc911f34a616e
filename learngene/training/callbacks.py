"""What happens around the loop: the metrics file, progress in a log, and a checkpoint that is never half written."""

from __future__ import annotations

import csv
import io
import logging
import signal
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn

from learngene.errors import LearngeneError
from learngene.files import atomic_file, write_text
from learngene.provenance import joules
from learngene.training.progress import epoch_words

log = logging.getLogger("learngene")


class MetricsFile(Callback):
    """One row of ``metrics.csv`` per epoch. The rows live in the checkpoint, so a resumed file is the same file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.images = 0
        self.joules: float | None = None
        self._since = time.perf_counter()
        self._energy: float | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since, self._energy = time.perf_counter(), joules()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images += len(batch["image"]) * trainer.world_size

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._count()
        module: Any = pl_module
        module.check_finite()  # before the checkpoint of this epoch is written
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "images": self.images,
            "seconds": round(self.seconds, 3),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            **{f"train_{name}": value for name, value in module.mean_losses().items()},
            **{k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val_")},
        }
        self.rows.append(row)
        if not trainer.is_global_zero:
            return
        self.write()
        shown = "  ".join(f"{k} {v:.4g}" for k, v in row.items() if k not in ("step", "images", "epoch"))
        log.info("%s  %s", epoch_words(trainer), shown)

    def _count(self) -> None:
        """Time and energy since the last count."""
        since, self._since = self._since, time.perf_counter()
        self.seconds += self._since - since
        now = joules()
        if now is not None and self._energy is not None:
            self.joules = (self.joules or 0.0) + max(0.0, now - self._energy)  # counters start over now and then
        self._energy = now

    def write(self) -> None:
        """The whole file, atomically."""
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())

    def state_dict(self) -> dict[str, Any]:
        self._count()
        return {"rows": self.rows, "seconds": self.seconds, "images": self.images, "joules": self.joules}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.seconds, self.images = list(state_dict["rows"]), state_dict["seconds"], state_dict["images"]
        self.joules = state_dict.get("joules")


class LogLines(Callback):
    """Plain progress lines: step, loss terms, throughput, time left.

    Args:
        every: steps between lines.
        level: of the log; a terminal has a progress bar instead, and the lines go to ``log.txt`` alone.
    """

    def __init__(self, every: int, level: int = logging.INFO) -> None:
        self.every, self.level = every, level

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started, self._first = time.perf_counter(), trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % self.every or not trainer.is_global_zero:
            return
        module: Any = pl_module
        total = module.steps
        done = trainer.global_step - self._first
        seconds = time.perf_counter() - self._started
        speed = done * module.recipe.batch_size * module.recipe.accumulate * trainer.world_size / seconds
        left = seconds / max(1, done) * (total - trainer.global_step)
        terms = "  ".join(f"{name} {value:.4f}" for name, value in module.mean_losses().items())
        log.log(self.level, "step %d/%d  %s  %.0f images/s  %s left", trainer.global_step, total, terms, speed, clock(left))


def clock(seconds: float) -> str:
    """``h:mm:ss`` of a number of seconds.

    >>> clock(3725)
    '1:02:05'
    """
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class Rifle(Callback):
    """Give the head fresh weights at the start of every cycle but the first, and forget what the optimizer knew of it.

    RIFLE (Li et al. 2020, arXiv 2007.03349): deep layers move further when the head has to be learned again. The
    schedule starts over at the same steps (`TrainingModule.configure_optimizers`).

    Args:
        cycles: of equal length.
        seed: of the fresh weights.
    """

    def __init__(self, cycles: int, seed: int) -> None:
        self.cycles, self.seed = cycles, seed

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        module: Any = pl_module
        length = module.cycle_steps(self.cycles)
        step = trainer.global_step
        if step and step % length == 0 and step // length < self.cycles and batch_idx % trainer.accumulate_grad_batches == 0:
            self.reset_head(module.model, trainer.optimizers[0], step)

    def reset_head(self, model: Any, optimizer: Any, step: int) -> None:
        """Truncated normal 0.02 and zero bias, as timm begins it; drawn by (seed, step), so that a resumed run does the same."""
        head = model.get_classifier()
        for part in head if isinstance(head, tuple) else (head,):
            if isinstance(part, nn.Linear):
                generator = torch.Generator(part.weight.device).manual_seed(self.seed * 1_000_003 + step)
                nn.init.trunc_normal_(part.weight, std=0.02, generator=generator)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
            for parameter in part.parameters():
                optimizer.state.pop(parameter, None)


class Checkpoints(ModelCheckpoint):
    """``last.ckpt`` at the end of every epoch, now and then within one, and when a signal asks the run to stop.

    SIGINT, SIGTERM and SIGUSR1 are answered after the next optimizer step (with several ranks, the next tenth). A second one
    stops at once.

    Args:
        folder: where to write.
        minutes: between checkpoints within an epoch.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    AGREE_EVERY = 10  # optimizer steps between the questions of a distributed run, which cost an exchange

    def __init__(self, folder: Path, minutes: float) -> None:
        super().__init__(folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
        self.minutes = minutes
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}
        self._seen = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._saved, self._seen = time.monotonic(), trainer.global_step
        if trainer.received_sigterm:  # while Lightning's handler was there, which would stop at the end of the epoch
            self.signal = signal.SIGTERM
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._notice) for number in self.SIGNALS}

    def _notice(self, number: int, frame: Any) -> None:
        self.signal = number
        log.warning("%s: stopping after this step", signal.Signals(number).name)
        for known in self.SIGNALS:
            signal.signal(known, signal.default_int_handler if known == signal.SIGINT else signal.SIG_DFL)

    def _restore(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._restore()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        seen, self._seen = self._seen, trainer.global_step
        if trainer.global_step == seen or trainer.should_stop or batch_idx + 1 >= trainer.num_training_batches:
            return  # in the midst of accumulating; or the end of the epoch, which has a checkpoint of its own
        stop, due = self._agreed(trainer)
        if stop or due:
            pl_module.check_finite()  # type: ignore[operator]
            trainer.save_checkpoint(Path(self.dirpath or ".") / "last.ckpt")
            self._saved = time.monotonic()
        if stop:
            raise Stopped(self.signal)

    def _agreed(self, trainer: L.Trainer) -> tuple[bool, bool]:
        """Whether all ranks are to stop, and whether they are to write a checkpoint."""
        stop, due = self.signal is not None, time.monotonic() - self._saved >= 60 * self.minutes
        if trainer.world_size == 1:
            return stop, due
        if trainer.global_step % self.AGREE_EVERY:
            return False, False
        ask = trainer.strategy.reduce_boolean_decision
        return ask(stop, all=False), ask(due, all=False)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self._saved = time.monotonic()
        stop = self.signal is not None
        if stop if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(stop, all=False):
            raise Stopped(self.signal)


class StopAfter(Callback):
    """End after a number of optimizer steps, with validation and a checkpoint as at the end of an epoch."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step >= self.steps:
            trainer.should_stop = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step >= self.steps:
            trainer.should_stop = True


class Stopped(Exception):
    """A signal asked the run to stop, and its checkpoint is written. Another rank's counts as SIGTERM."""

    def __init__(self, number: int | None) -> None:
        self.signal = number or signal.SIGTERM


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints are written aside, flushed and renamed, and the one before is kept: a crash leaves a good one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        with atomic_file(path) as scratch:
            super().save_checkpoint(checkpoint, scratch, storage_options)
            if path.exists():
                path.replace(previous_checkpoint(path))


def previous_checkpoint(path: Path) -> Path:
    """Where the checkpoint before ``path`` is kept."""
    return path.with_name(f"previous{path.suffix}")


def newest_checkpoint(path: Path) -> Path | None:
    """``path`` or the one before it, whichever is whole (every byte is checked by its CRC); none if neither was written.

    Raises:
        LearngeneError: there were checkpoints, and none of them is whole.
    """
    damaged: list[Path] = []
    for candidate in (path, previous_checkpoint(path)):
        if candidate.exists():
            if _is_whole(candidate):
                if damaged:
                    log.warning("%s is damaged; going on from %s", damaged[0], candidate.name)
                return candidate
            damaged.append(candidate)
    if damaged:
        raise LearngeneError(f"'{damaged[0]}' is damaged, and there is no older checkpoint; pass --overwrite to begin again")
    return None


def _is_whole(path: Path) -> bool:
    """Whether every byte is as it was written, and nothing but tensors and plain values is in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return False
        torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception:  # damage takes many forms
        return False
    return True
