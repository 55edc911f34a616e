"""Checkpoints that are never half written, and signals that ask a run to stop."""

from __future__ import annotations

import logging
import signal
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from learngene.files import atomic_file
from learngene.runs import previous_checkpoint

log = logging.getLogger("learngene")


class Checkpoints(ModelCheckpoint):
    """``last.ckpt`` at the end of every epoch, now and then within one, and when a signal asks the run to
    stop.

    SIGINT, SIGTERM and SIGUSR1 are answered after the next optimizer step (with several ranks, the next
    tenth). A second one stops at once.

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
        # while Lightning's handler was there, which would stop at the end of the epoch
        if trainer.received_sigterm:
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
        if (
            trainer.global_step == seen
            or trainer.should_stop
            or batch_idx + 1 >= trainer.num_training_batches
        ):
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


class Stopped(Exception):
    """A signal asked the run to stop, and its checkpoint is written. Another rank's counts as SIGTERM."""

    def __init__(self, number: int | None) -> None:
        self.signal = number or signal.SIGTERM


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints are written aside, flushed and renamed, and the one before is kept: a crash leaves a good
    one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        path = Path(path)
        with atomic_file(path) as scratch:
            super().save_checkpoint(checkpoint, scratch, storage_options)
            if path.exists():
                path.replace(previous_checkpoint(path))
