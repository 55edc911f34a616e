"""Damage a model's layers, and watch its accuracy come back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from learngene.families.anatomy import get_blocks
from learngene.families.architecture import architecture_of
from learngene.sharing import is_norm


def reset_layers(
    model: nn.Module, layers: Sequence[int], *, keep_norms: bool = False, seed: int = 0
) -> nn.Module:
    """Give layers (counted from 1) the weights that timm would begin them with: all, or all but the norms."""
    torch.manual_seed(seed)
    blocks = get_blocks(model)
    fresh = get_blocks(architecture_of(model).build(len(blocks)))
    for layer in layers:
        old, new = blocks[layer - 1], fresh[layer - 1]
        kept = {f"{name}." for name, part in old.named_modules() if is_norm(part)} if keep_norms else set()
        state = {
            k: v for k, v in new.state_dict().items() if not any(k.startswith(prefix) for prefix in kept)
        }
        old.load_state_dict(state, strict=not kept)
    return model


def freeze_all_but(model: nn.Module, layers: Sequence[int]) -> list[nn.Module]:
    """Switch off the gradients of all but some layers (counted from 1).

    Returns:
        The other layers, to be kept in eval mode.
    """
    blocks = get_blocks(model)
    model.requires_grad_(False)
    for layer in layers:
        blocks[layer - 1].requires_grad_(True)
    return [block for number, block in enumerate(blocks, start=1) if number not in layers]


class RecoveryWatch(Callback):
    """Validate at steps that grow by a half each time, and at the last; stop once the accuracy is back.

    Args:
        evaluate: validation top-1 (a share) of the model as it is.
        target: accuracy that counts as back.
        last: the last step there will be.
    """

    def __init__(self, evaluate: Callable[[], float], target: float, last: int) -> None:
        self.evaluate, self.target, self.last = evaluate, target, last
        self.points: list[tuple[int, float]] = []
        self.next = 1

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step < self.next or (self.points and self.points[-1][0] == step):
            return
        self.points.append((step, self.evaluate()))
        self.next = min(self.last, step + max(1, step // 2))
        trainer.should_stop = self.points[-1][1] >= self.target
