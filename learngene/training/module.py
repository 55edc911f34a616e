"""The LightningModule: model, objective, optimizer, schedule and metrics. The same one for every kind of
training.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from inspect import signature
from typing import Any

import lightning as L
import torch
from timm.optim import create_optimizer_v2, get_optimizer_info
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from learngene.data.loaders import Batch
from learngene.elastic_nets import ElasticNets, parts_of
from learngene.errors import LearngeneError
from learngene.objectives import Supervised
from learngene.recipe import Recipe
from learngene.training.distributed import shard
from learngene.training.evaluate import score
from learngene.training.finite import NotFinite
from learngene.training.freezing import freeze
from learngene.training.randomness import mixing, seed_step
from learngene.training.speed import plain_attention

log = logging.getLogger("learngene")
SKIPS_IN_A_ROW = 20  # of steps that are not finite; more of them is no accident


class TrainingModule(L.LightningModule):
    """Train ``model`` for ``objective`` by ``recipe``.

    Every step's randomness (mixup, drop path) is seeded by (seed, epoch, batch, rank), so that a resumed run
    repeats an uninterrupted one.

    Args:
        model: logits (B, K) from images (B, C, H, W).
        objective: ``(model, batch) -> losses by name`` with ``weights`` by name.
        recipe: the knobs.
        num_classes: K.
        elastic: nets of other depths on the model's weights, which are trained in its stead, one or more a
            step; the model is what is validated.
        labelled: whether the targets are real; without labels there is no accuracy.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Supervised,
        recipe: Recipe,
        *,
        num_classes: int,
        elastic: ElasticNets | None = None,
        labelled: bool = True,
    ) -> None:
        super().__init__()
        self.model, self.objective, self.recipe, self.elastic = model, objective, recipe, elastic
        self.num_classes, self.labelled = num_classes, labelled
        self.mixup = mixing(recipe, num_classes)
        self.frozen = freeze(model, recipe.freeze)
        self.odd = NotFinite()
        self.skipped = self.skipped_in_a_row = 0
        self._new_epoch()

    def _new_epoch(self) -> None:
        self.loss_sums: dict[str, Tensor] = {}
        self.loss_count = torch.zeros((), dtype=torch.int64)

    def configure_model(self) -> None:
        """Lightning calls this when the processes know each other."""
        shard(self)

    # --- training

    def on_fit_start(self) -> None:
        self.model.train()
        for part in self.frozen:
            part.eval()
        if self.elastic is not None:
            self.elastic.share()  # the model is on its device now

    def on_train_epoch_start(self) -> None:
        self._new_epoch()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        seed_step(self.recipe.seed, self.current_epoch, batch_idx, self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.mixup is not None:
            targets = batch["target"] if self.labelled else batch["target"].clamp(min=0)  # -1: no label
            images, targets = self.mixup(batch["image"], targets)
            batch = {**batch, "image": images, "target": targets}
        losses = self._losses(batch)
        total = self.objective.total(losses)
        self._count({"total": total, **losses})
        if self.device.type == "cpu" or (batch_idx + 1) % self.recipe.log_every == 0:
            self.check_finite()
        return total

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        """Of the model, or of the nets that are drawn for this optimizer step."""
        if self.elastic is None:
            return self.objective(self.model, batch)
        drawn = self.elastic.drawn(self.global_step)
        shares: dict[str, list[Tensor]] = {}
        for (net, layers), part in zip(drawn, parts_of(batch, len(drawn)), strict=True):
            for name, value in self.objective(net, {**part, "layers": layers}).items():
                shares.setdefault(name, []).append(value * (len(part["image"]) / len(batch["image"])))
        return {name: torch.stack(values).sum() for name, values in shares.items()}

    @property
    def trained_nets(self) -> list[nn.Module]:
        """The nets that a step may run forwards and backwards."""
        return [self.model, *(self.elastic.nets.values() if self.elastic is not None else ())]

    def step_on_noise(self, noise: Callable[[int], Batch]) -> Callable[[int], None]:
        """One forward and backward pass of a copy, on so many images (B) of noise: for timing, without a
        trace in this module.

        Args:
            noise: a batch of so many images.
        """

        copies: tuple[nn.Module, Supervised] | None = None

        def step(images: int) -> None:
            nonlocal copies
            copies = copies or copy.deepcopy((self.model, self.objective))
            model, objective = copies
            model.train()
            with plain_attention(model):
                objective.total(objective(model, noise(images))).backward()

        return step

    def _count(self, losses: dict[str, Tensor]) -> None:
        """Sum the losses where they are; nobody waits for the device here."""
        finite = torch.isfinite(losses["total"].detach())
        for name, value in losses.items():
            value = value.detach()
            self.odd.look(name, value, self.global_step)
            value = torch.where(finite, value, 0.0)
            known = self.loss_sums.get(name)
            self.loss_sums[name] = value if known is None else known.to(value) + value
        self.loss_count = self.loss_count.to(finite.device) + finite

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm, and look whether the gradients are finite. A scaler (fp16) leaves out such steps as a
        matter of course.
        """
        gradients = [
            p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        norm = nn.utils.get_total_norm(gradients)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        if gradient_clip_val is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)
        if self._scaler is None:
            self.odd.look("gradients", norm, self.global_step)
        if self.recipe.skip_nonfinite or self._scaler is not None:
            self._skip(optimizer, norm)
        if self.device.type == "cpu":
            self.check_finite()

    @property
    def _scaler(self) -> Any:
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def _skip(self, optimizer: Any, norm: Tensor) -> None:
        """Leave out this step if the gradients are not finite: without them, no optimizer moves anything."""
        if torch.isfinite(norm):
            self.skipped_in_a_row = 0
            return
        if self._scaler is None:
            optimizer.zero_grad(set_to_none=True)
        self.skipped += 1
        self.skipped_in_a_row += 1
        log.warning(
            "left out step %d of epoch %d: %s not finite",
            self.global_step,
            self.current_epoch + 1,
            self.odd.names() or "gradients",
        )
        if self.recipe.skip_nonfinite:
            self.odd.forget()
        if self.skipped_in_a_row >= SKIPS_IN_A_ROW:
            raise LearngeneError(
                f"{SKIPS_IN_A_ROW} steps in a row were not finite, up to step {self.global_step} of epoch "
                f"{self.current_epoch + 1}; "
                f"the last good checkpoint is kept. {self._advice()}"
            )

    def check_finite(self) -> None:
        """Raise when any loss or gradient so far was infinite or not a number; naming the first step, and
        which.
        """
        if self.recipe.skip_nonfinite:
            return
        step, names = self.odd.first()
        if not names:
            return
        what = (
            "the gradients are not finite (every term of the loss is)"
            if names == ["gradients"]
            else f"the loss is not finite (terms: {', '.join(names)})"
        )
        raise LearngeneError(
            f"{what} at step {step} of epoch {self.current_epoch + 1}; the last good checkpoint is kept. "
            f"{self._advice()}"
        )

    def _advice(self) -> str:
        skip = "" if self.recipe.skip_nonfinite else ", or leave such steps out with --skip-nonfinite"
        return f"Try a lower lr (now {self.recipe.lr}), more warm-up, clip_grad, or precision 32-true{skip}"

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["losses"] = {"sums": self.loss_sums, "count": self.loss_count, "skipped": self.skipped}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        losses = checkpoint["losses"]
        self.loss_sums, self.loss_count, self.skipped = (
            dict(losses["sums"]),
            losses["count"],
            losses["skipped"],
        )

    def mean_losses(self) -> dict[str, float]:
        """Each term's mean over the epoch so far."""
        return {name: float(value) / max(1, int(self.loss_count)) for name, value in self.loss_sums.items()}

    # --- validation

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images = batch["image"]
        logits = self.model(images).float()
        values = score(logits, batch["target"]) if self.labelled else {}
        values |= self.objective.compare(logits, batch)
        for name, value in values.items():
            self.log(
                f"val_{name}", value, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True
            )

    # --- optimizer

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        steps = self.steps
        scale = recipe.batch_size * self.trainer.world_size * recipe.accumulate / 512
        options: dict[str, Any] = {
            "opt": recipe.opt,
            "lr": recipe.lr * scale,
            "weight_decay": recipe.weight_decay,
        }
        fusible = "fused" in signature(get_optimizer_info(recipe.opt).opt_class).parameters
        if fusible and not isinstance(self, FSDPModule) and self._scaler is None:
            # fused SGD does not know sharded tensors (torch 2.15); with a scaler, it unscales after clipping
            options["fused"] = True
        optimizer = create_optimizer_v2(self.model, **options, layer_decay=recipe.layer_decay)
        extra = list(self.objective.parameters())
        if extra:
            optimizer.add_param_group({"params": extra, "weight_decay": recipe.weight_decay})
        cycles = max(1, recipe.rifle)
        warmup = min(round(recipe.warmup_epochs * self._train_batches / recipe.accumulate), steps - 1)
        scheduler = CosineLRScheduler(
            optimizer,
            t_initial=max(2, steps - warmup) if cycles == 1 else self.cycle_steps(cycles),
            lr_min=recipe.min_lr * scale,
            cycle_limit=cycles,
            warmup_t=warmup,
            warmup_prefix=cycles == 1,
            t_in_epochs=False,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def cycle_steps(self, cycles: int) -> int:
        """Optimizer steps in each of so many cycles; the last takes the rest."""
        return max(1, math.ceil(self.steps / cycles))

    @property
    def steps(self) -> int:
        """Optimizer steps in the whole run. Lightning's own estimate would open the data before a resumed run
        knows where it is.
        """
        recipe = self.recipe
        return recipe.steps or recipe.epochs * math.ceil(self._train_batches / recipe.accumulate)

    @property
    def epochs(self) -> int:
        """Epochs that are begun in the whole run."""
        return self.recipe.epochs_of(self._train_batches)

    @property
    def _train_batches(self) -> int:
        return self.trainer.datamodule.train_batches  # type: ignore[attr-defined]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step_update(self.global_step)
