"""Progress as the surroundings have it: a rich bar on a terminal, tqdm's in a notebook, plain lines of the
log elsewhere.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from rich.console import Console
from tqdm.auto import tqdm

from learngene.processes import is_follower

log = logging.getLogger("learngene")
T = TypeVar("T")
EVERY = 30.0  # seconds between lines of what has no bar


def in_notebook() -> bool:
    """Whether this is Jupyter or the like."""
    return Console().is_jupyter


def has_bar() -> bool:
    """Whether somebody looks at a terminal or a notebook, where a bar can be drawn."""
    return not is_follower() and (in_notebook() or sys.stderr.isatty())


def progress_bar() -> ProgressBar | None:
    """Lightning's bar for these surroundings; none where the log's lines are all there is."""
    if not has_bar():
        return None
    return NotebookBar() if in_notebook() else TerminalBar()


def watched(batches: Iterable[T], what: str, *, unit: str = "batches") -> Iterator[T]:
    """The same batches (or other units), with a bar if it takes longer than two seconds; where there is none,
    a line of the log now and then.
    """
    if has_bar():
        yield from tqdm(batches, desc=what, leave=False, delay=2)
        return
    last = time.monotonic()
    for number, batch in enumerate(batches, start=1):
        yield batch
        if time.monotonic() - last >= EVERY and not is_follower():
            last = time.monotonic()
            log.info(
                "%s: %d of %s %s", what, number, len(batches) if isinstance(batches, Sized) else "?", unit
            )


def epoch_words(trainer: L.Trainer) -> str:
    """``epoch 1/3``, counted from 1, in bars and in the log alike."""
    module: Any = trainer.lightning_module
    return f"epoch {trainer.current_epoch + 1}/{module.epochs}"


class TerminalBar(RichProgressBar):
    """Counts epochs as the log does; Lightning counts from 0."""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{epoch_words(self.trainer):{len(self.validation_description)}}"


class NotebookBar(TQDMProgressBar):
    """Counts epochs as the log does; Lightning counts from 0."""

    def on_train_start(self, trainer: L.Trainer, *args: Any) -> None:
        """A run that goes on in the midst of an epoch does not start that epoch."""
        super().on_train_start(trainer, *args)
        self.on_train_epoch_start(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(epoch_words(trainer))
