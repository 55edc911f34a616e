"""What happens around the loop: the metrics file, progress in a log, and a checkpoint that is never half
written.
"""

from __future__ import annotations

import csv
import io
import logging
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from learngene.families.heads import classifiers
from learngene.files import write_text
from learngene.provenance import joules
from learngene.training.progress import epoch_words

log = logging.getLogger("learngene")


class MetricsFile(Callback):
    """One row of ``metrics.csv`` per epoch. The rows live in the checkpoint, so a resumed file is the same
    file.
    """

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
            # counters start over now and then
            self.joules = (self.joules or 0.0) + max(0.0, now - self._energy)
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
        self.rows, self.seconds, self.images = (
            list(state_dict["rows"]),
            state_dict["seconds"],
            state_dict["images"],
        )
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
        log.log(
            self.level,
            "step %d/%d  %s  %.0f images/s  %s left",
            trainer.global_step,
            total,
            terms,
            speed,
            clock(left),
        )


def clock(seconds: float) -> str:
    """``h:mm:ss`` of a number of seconds.

    >>> clock(3725)
    '1:02:05'
    """
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class Rifle(Callback):
    """Give the head fresh weights at the start of every cycle but the first, and forget what the optimizer
    knew of it.

    RIFLE (Li et al. 2020, arXiv 2007.03349): deep layers move further when the head has to be learned again.
    The schedule starts over at the same steps (`TrainingModule.configure_optimizers`).

    Args:
        cycles: of equal length.
        seed: of the fresh weights.
    """

    def __init__(self, cycles: int, seed: int) -> None:
        self.cycles, self.seed = cycles, seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        module: Any = pl_module
        length = module.cycle_steps(self.cycles)
        step = trainer.global_step
        if (
            step
            and step % length == 0
            and step // length < self.cycles
            and batch_idx % trainer.accumulate_grad_batches == 0
        ):
            self.reset_head(module.model, trainer.optimizers[0], step)

    def reset_head(self, model: Any, optimizer: Any, step: int) -> None:
        """Truncated normal 0.02 and zero bias, as timm begins it; drawn by (seed, step), so that a resumed
        run does the same.
        """
        for part in classifiers(model):
            if isinstance(part, nn.Linear):
                generator = torch.Generator(part.weight.device).manual_seed(self.seed * 1_000_003 + step)
                nn.init.trunc_normal_(part.weight, std=0.02, generator=generator)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
            for parameter in part.parameters():
                optimizer.state.pop(parameter, None)


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
