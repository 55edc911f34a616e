"""Views of images: which ones an epoch shows, and how each is drawn.

All randomness is a function of (seed, epoch, place).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import posterize
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from learngene.data.images import BROKEN_IMAGE
from learngene.data.source import Source
from learngene.recipe import Recipe


class ViewSampler(Sampler[tuple[int, int]]):
    """(index, view seed) pairs of one epoch for one rank, in whole batches.

    Each image comes ``repeats`` times in a row (spread over ranks), and the epoch keeps its length.

    Args:
        epoch: the first one.
        first_batch: of the first epoch: a run that was interrupted after some batches goes on behind them.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int,
        repeats: int = 1,
        rank: int = 0,
        world: int = 1,
        epoch: int = 0,
    ) -> None:
        self.length, self.batch_size, self.seed, self.repeats = length, batch_size, seed, repeats
        self.rank, self.world = rank, world
        self.epoch, self.first_batch = epoch, 0

    @property
    def batches(self) -> int:
        """Whole batches in an epoch; one, filled up by starting over, where there are fewer images."""
        return max(1, self.length // (self.batch_size * self.world))

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before every epoch."""
        if epoch != self.epoch:
            self.epoch, self.first_batch = epoch, 0

    def views(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices and view seeds of what is left of this rank's epoch, in order."""
        total = len(self) * self.world
        generator = np.random.default_rng((self.seed, self.epoch))
        # One row for all ranks, a function of (seed, epoch) alone: whole batches for each, so it is cut, or
        # begun again, at `total`. An image's repeats are neighbours in it, and each rank takes every world-th
        # place: repeats go to different ranks.
        order = generator.permutation(self.length).repeat(self.repeats)
        order = np.resize(order, total)
        seeds = generator.integers(2**32, size=total)
        # `first_batch` batches of every rank are done: so many places of the row, each rank in this stride
        mine = slice(self.rank + self.first_batch * self.batch_size * self.world, total, self.world)
        return order[mine], seeds[mine]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        indices, seeds = self.views()
        yield from zip(indices.tolist(), seeds.tolist(), strict=True)


class Views(Dataset[dict[str, Any]]):
    """Images of a source through a transform; the view is drawn from a seed, if one comes with the index."""

    def __init__(self, source: Source, transform: Callable[[Image.Image], Tensor]) -> None:
        self.source, self.transform = source, transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index, seed = key if isinstance(key, tuple) else (key, None)
        if seed is not None:
            seed_view(seed)
        try:
            picture = self.source.read(index)
        except BROKEN_IMAGE as error:
            return {"bad": (self.source.describe(index), str(error))}
        image = self.transform(picture)
        target = -1 if self.source.targets is None else int(self.source.targets[index])
        return {"image": image, "target": target, "seed": seed}


def seed_view(seed: int) -> None:
    """Seed every generator that timm's and torchvision's transforms draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


def train_transform(data_config: Mapping[str, Any], recipe: Recipe) -> Callable[[Image.Image], Tensor]:
    """timm's training transform for a model's data config and a recipe's augmentation."""
    grey = data_config["input_size"][0] == 1
    transform = create_transform(
        tuple(data_config["input_size"]),
        is_training=True,
        scale=(recipe.crop_scale, 1.0),
        ratio=(3 / 4, 4 / 3),
        hflip=recipe.hflip,
        color_jitter=None if grey else recipe.color_jitter or None,
        auto_augment=recipe.auto_augment,
        re_prob=recipe.random_erasing,
        re_mode="pixel",
        interpolation=data_config.get("interpolation", "bicubic"),
        mean=data_config["mean"],
        std=data_config["std"],
    )
    for step in transform.transforms:
        for op in [
            *getattr(step, "ops", ()),
            *(op for policy in getattr(step, "policy", ()) for op in policy),
        ]:
            if op.aug_fn is posterize:
                op.aug_fn = _posterize
    return transform


def _posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
    """timm asks for 0 bits at the strongest setting, which newer Pillow refuses (13.0, for one)."""
    return posterize(image, max(1, bits_to_keep), **options)


def eval_transform(data_config: Mapping[str, Any]) -> Callable[[Image.Image], Tensor]:
    """timm's evaluation transform for a model's data config."""
    return create_transform(
        tuple(data_config["input_size"]),
        is_training=False,
        interpolation=data_config.get("interpolation", "bicubic"),
        crop_pct=data_config.get("crop_pct"),
        crop_mode=data_config.get("crop_mode"),
        mean=data_config["mean"],
        std=data_config["std"],
    )
