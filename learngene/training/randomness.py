"""What a training step draws: its seed, and mixup."""

from __future__ import annotations

import random

import numpy as np
import torch
from timm.data import Mixup

from learngene.recipe import Recipe


def seed_step(seed: int, epoch: int, batch: int, rank: int) -> None:
    """Seed every generator that a training step draws from."""
    number = int(np.random.SeedSequence((seed, epoch, batch, rank)).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def mixing(recipe: Recipe, num_classes: int) -> Mixup | None:
    """timm's mixup and CutMix, if the recipe has any."""
    if not (recipe.mixup or recipe.cutmix):
        return None
    return Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=num_classes)
