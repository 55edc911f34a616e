"""The LightningModule: model, objective, optimizer, schedule and metrics. The same one for every kind of training."""

from __future__ import annotations

import math
import random
from typing import Any

import lightning as L
import numpy as np
import torch
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from learngene.data.module import Batch
from learngene.errors import LearngeneError
from learngene.objectives import Distillation, Supervised, soft_kl
from learngene.recipe import Recipe
from learngene.training.distributed import shard
from learngene.vit import find_blocks


class TrainingModule(L.LightningModule):
    """Train ``model`` for ``objective`` by ``recipe``.

    Every step's randomness (mixup, drop path) is seeded by (seed, epoch, batch, rank), so that a resumed run repeats
    an uninterrupted one.

    Args:
        model: logits (B, K) from images (B, C, H, W).
        objective: ``(model, images, targets) -> losses by name`` with ``weights`` by name.
        recipe: the knobs.
        num_classes: K.
        labelled: whether the targets are real; without labels there is no accuracy.
    """

    def __init__(self, model: nn.Module, objective: Supervised, recipe: Recipe, *, num_classes: int, labelled: bool = True) -> None:
        super().__init__()
        self.model, self.objective, self.recipe = model, objective, recipe
        self.num_classes, self.labelled = num_classes, labelled
        self.mixup = self._mixup()
        self.frozen = freeze(model, recipe.freeze)
        self.loss_sums: dict[str, Tensor] = {}
        self.loss_count = 0

    def _mixup(self) -> Mixup | None:
        recipe = self.recipe
        if not (recipe.mixup or recipe.cutmix):
            return None
        return Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=self.num_classes)

    def configure_model(self) -> None:
        """Lightning calls this when the processes know each other."""
        shard(self)

    # training ---------------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        self.model.train()
        for part in self.frozen:
            part.eval()

    def on_train_epoch_start(self) -> None:
        self.loss_sums, self.loss_count = {}, 0

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.trainer.datamodule.take_bad(batch)  # type: ignore[attr-defined]
        key = (self.recipe.seed, self.current_epoch, batch_idx, self.global_rank)
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch["image"], batch["target"]
        if self.mixup is not None:
            images, targets = self.mixup(images, targets.clamp(min=0))
        losses = self.objective(self.model, images, targets)
        total = torch.stack([self.objective.weights[name] * value for name, value in losses.items()]).sum()
        self._count({"total": total, **losses})
        if self.device.type == "cpu" or (batch_idx + 1) % self.recipe.log_every == 0:
            self.check_finite()
        return total

    def _count(self, losses: dict[str, Tensor]) -> None:
        """Sum the losses where they are; nobody waits for the device here."""
        for name, value in losses.items():
            previous = self.loss_sums.get(name)
            self.loss_sums[name] = value.detach() if previous is None else previous + value.detach()
        self.loss_count += 1

    def check_finite(self) -> None:
        """Raise when any loss of this epoch so far was infinite or not a number. The sums keep what they once saw."""
        odd = [name for name, value in self.loss_sums.items() if not torch.isfinite(value).all()]
        if odd:
            raise LearngeneError(
                f"the loss is not finite (terms: {', '.join(odd)}) at step {self.global_step} of epoch {self.current_epoch}; the last "
                f"good checkpoint is kept. Try a lower lr (now {self.recipe.lr}), more warm-up, clip_grad, or precision 32-true"
            )

    def mean_losses(self) -> dict[str, float]:
        """Each term's mean over the epoch so far."""
        return {name: float(value) / max(1, self.loss_count) for name, value in self.loss_sums.items()}

    # validation -------------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.trainer.datamodule.take_bad(batch)  # type: ignore[attr-defined]
        images, targets = batch["image"], batch["target"]
        if images is None:
            return
        logits = self.model(images).float()
        values: dict[str, Tensor] = {}
        if self.labelled:
            values |= score(logits, targets)
        if isinstance(self.objective, Distillation) and self.objective.compares_logits:
            teacher = self.objective.ancestor.to(images.device)(images)
            values["kl"] = soft_kl(logits, teacher)
            values["agreement"] = (logits.argmax(-1) == teacher.argmax(-1)).float().mean()
        for name, value in values.items():
            self.log(f"val_{name}", value, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True)

    # optimizer --------------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        scale = recipe.batch_size * self.trainer.world_size * recipe.accumulate / 512
        options: dict[str, Any] = {"opt": recipe.opt, "lr": recipe.lr * scale, "weight_decay": recipe.weight_decay}
        optimizer = create_optimizer_v2(self.model, **options, layer_decay=recipe.layer_decay)
        extra = list(self.objective.parameters())
        if extra:
            optimizer.add_param_group({"params": extra, "weight_decay": recipe.weight_decay})
        cycles = max(1, recipe.rifle)
        warmup = min(round(recipe.warmup_epochs * self._steps_per_epoch()), steps - 1)
        scheduler = CosineLRScheduler(
            optimizer,
            t_initial=max(1, steps - warmup) if cycles == 1 else self.cycle_steps(cycles),
            lr_min=recipe.min_lr * scale,
            cycle_limit=cycles,
            warmup_t=warmup,
            warmup_prefix=cycles == 1,
            t_in_epochs=False,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def cycle_steps(self, cycles: int) -> int:
        """Optimizer steps in each of so many cycles; the last takes the rest."""
        return max(1, math.ceil(int(self.trainer.estimated_stepping_batches) / cycles))

    def _steps_per_epoch(self) -> float:
        images = self.trainer.datamodule.train_images  # type: ignore[attr-defined]
        return images / (self.recipe.batch_size * self.trainer.world_size * self.recipe.accumulate)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step_update(self.global_step)


def score(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, top-1 and top-5 accuracy (shares, not percent) of a batch of logits (B, K) and labels (B,)."""
    classes = logits.shape[1]
    accuracy = {f"top{k}": multiclass_accuracy(logits, targets, classes, average="micro", top_k=min(k, classes)) for k in (1, 5)}
    return {"loss": nn.functional.cross_entropy(logits, targets), **accuracy}


def freeze(model: nn.Module, layers: int) -> list[nn.Module]:
    """Switch off gradients of the embeddings and the first ``layers`` layers (-1: all but the head); what was frozen.

    Raises:
        LearngeneError: more layers than there are.
    """
    if layers == 0:
        return []
    blocks = find_blocks(model)
    count = len(model.get_submodule(blocks))  # type: ignore[arg-type]
    if layers > count:
        raise LearngeneError(f"freeze {layers}: the model has {count} layers; use at most that, or -1 for all but the head")
    head = model.get_classifier()  # type: ignore[operator]
    heads = {id(p) for part in (head if isinstance(head, tuple) else (head,)) for p in part.parameters()}
    for name, parameter in model.named_parameters():
        layer = int(name[len(blocks) + 1 :].split(".")[0]) if name.startswith(f"{blocks}.") else None
        after = layer is None and not _is_embedding(name)
        stays = id(parameter) in heads if layers == -1 else (after or (layer is not None and layer >= layers))
        if not stays:
            parameter.requires_grad_(False)
    if layers == -1:
        frozen = [child for child in model.children() if child is not head]
    else:
        frozen = list(model.get_submodule(blocks).children())[:layers]
    return frozen


def _is_embedding(name: str) -> bool:
    return any(part in name for part in ("embed", "token", "stem", "norm_pre"))
