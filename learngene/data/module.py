"""Batches for training and validation. All randomness is a function of (seed, epoch, place in the epoch).

A sampler hands out (index, view seed) pairs and the view of an image is drawn from its seed alone, so that the number
of workers changes nothing, and a resumed run sees the very images that an uninterrupted one would.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import posterize
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from learngene.data.sources import Source
from learngene.data.stream import BROKEN_IMAGE, Shards, Stream
from learngene.errors import LearngeneError
from learngene.recipe import DataOptions, Recipe

log = logging.getLogger(__name__)
Batch = dict[str, Any]  # image (B, C, H, W) float, target (B,) int64, bad: names of images that could not be read


class ViewSampler(Sampler[tuple[int, int]]):
    """(index, view seed) pairs of one epoch for one rank, in whole batches.

    Each image comes ``repeats`` times in a row (spread over ranks), and the epoch keeps its length.
    """

    def __init__(self, length: int, batch_size: int, *, seed: int, repeats: int = 1, rank: int = 0, world: int = 1) -> None:
        self.length, self.batch_size, self.seed, self.repeats = length, batch_size, seed, repeats
        self.rank, self.world, self.epoch = rank, world, 0

    @property
    def batches(self) -> int:
        """Whole batches in an epoch; one, filled up by starting over, where there are fewer images than that."""
        return max(1, self.length // (self.batch_size * self.world))

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before every epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        total = len(self) * self.world
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(self.length).repeat(self.repeats)
        order = np.resize(order, total)
        seeds = generator.integers(2**32, size=total)
        for place in range(self.rank, total, self.world):
            yield int(order[place]), int(seeds[place])


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
            return {"bad": f"{self.source.describe(index)} ({error})"}
        image = self.transform(picture)
        target = -1 if self.source.targets is None else int(self.source.targets[index])
        return {"image": image, "target": target}


def seed_view(seed: int) -> None:
    """Seed every generator that timm's and torchvision's transforms draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


def collate(samples: list[dict[str, Any]], *, fill: bool) -> Batch:
    """A batch; images that could not be read are left out, or replaced by their neighbours to keep the size (``fill``)."""
    good = [s for s in samples if "image" in s]
    bad = [s["bad"] for s in samples if "bad" in s]
    if not good:
        return {"image": None, "target": None, "bad": bad}
    if fill:
        good += [good[i % len(good)] for i in range(len(bad))]
    image = torch.stack([s["image"] for s in good])
    return {"image": image, "target": torch.tensor([s["target"] for s in good]), "bad": bad}


class _Fill:
    """`collate` with its switch, as an object that worker processes can be sent."""

    def __init__(self, fill: bool) -> None:
        self.fill = fill

    def __call__(self, samples: list[Any]) -> Batch:
        if samples and isinstance(samples[0], tuple):  # a stream's (image, target) pairs
            samples = [{"image": image, "target": target} for image, target in samples]
        return collate(samples, fill=self.fill)


def train_transform(config: Mapping[str, Any], recipe: Recipe) -> Callable[[Image.Image], Tensor]:
    """timm's training transform for a model's data config and a recipe's augmentation."""
    grey = config["input_size"][0] == 1
    transform = create_transform(
        tuple(config["input_size"]),
        is_training=True,
        scale=(recipe.crop_scale, 1.0),
        ratio=(3 / 4, 4 / 3),
        hflip=recipe.hflip,
        color_jitter=None if grey else recipe.color_jitter or None,
        auto_augment=recipe.auto_augment,
        re_prob=recipe.random_erasing,
        re_mode="pixel",
        interpolation=config.get("interpolation", "bicubic"),
        mean=config["mean"],
        std=config["std"],
    )
    for step in transform.transforms:
        for op in [*getattr(step, "ops", ()), *(op for policy in getattr(step, "policy", ()) for op in policy)]:
            if op.aug_fn is posterize:
                op.aug_fn = _posterize
    return transform


def _posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
    """timm asks for 0 bits at the strongest setting, which newer Pillow refuses (13.0, for one)."""
    return posterize(image, max(1, bits_to_keep), **options)


def eval_transform(config: Mapping[str, Any]) -> Callable[[Image.Image], Tensor]:
    """timm's evaluation transform for a model's data config."""
    return create_transform(
        tuple(config["input_size"]),
        is_training=False,
        interpolation=config.get("interpolation", "bicubic"),
        crop_pct=config.get("crop_pct"),
        crop_mode=config.get("crop_mode"),
        mean=config["mean"],
        std=config["std"],
    )


class ImageData(L.LightningDataModule):
    """Training and validation batches of two sources, for a model's data config (``input_size``, ``mean``, ``std``)."""

    def __init__(self, train: Source | None, val: Source, config: Mapping[str, Any], recipe: Recipe, options: DataOptions) -> None:
        super().__init__()
        hold = options.in_memory
        self.train = train.in_memory() if train is not None and hold else train
        self.val = val.in_memory() if hold else val
        self.config, self.recipe, self.options = config, recipe, options
        self._bad: set[str] = set()

    @property
    def train_images(self) -> int:
        """Images seen in one epoch by all ranks together."""
        return self._sampler().batches * self.recipe.batch_size * self._world[1]

    @property
    def _world(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)

    @property
    def _train_source(self) -> Source:
        assert self.train is not None, "made for evaluation, without training images"
        return self.train

    def _sampler(self) -> ViewSampler:
        rank, world = self._world
        recipe = self.recipe
        return ViewSampler(
            len(self._train_source), recipe.batch_size, seed=recipe.seed, repeats=recipe.repeats, rank=rank, world=world
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of augmented views, always full ones."""
        transform = train_transform(self.config, self.recipe)
        source = self._train_source
        if source.stream is not None:
            return self._stream(source, transform, fill=True)
        return self._loader(Views(source, transform), fill=True, sampler=self._sampler())

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation images, each once over all ranks."""
        transform = eval_transform(self.config)
        if self.val.stream is not None:
            return self._stream(self.val, transform, fill=False)
        rank, world = self._world
        return self._loader(Views(self.val, transform), fill=False, sampler=range(rank, len(self.val), world))

    def _loader(self, views: Views, *, fill: bool, sampler: Any) -> DataLoader[Any]:
        workers = self._workers()
        return DataLoader(
            views,
            self.recipe.batch_size,
            sampler=sampler,
            collate_fn=_Fill(fill),
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="fork" if workers else None,  # sources hold open readers and closures
            pin_memory=torch.cuda.is_available(),
        )

    def _stream(self, source: Source, transform: Any, *, fill: bool) -> DataLoader[Any]:
        rank, world = self._world
        recipe, workers = self.recipe, min(self._workers(), 4)
        data: Any = source.stream
        if isinstance(data, Shards):
            view = seed_view if fill else None
            data = Stream(data, transform, recipe.batch_size, seed_view=view, seed=recipe.seed, rank=rank, world=world)
        else:  # timm's tfds reader: asked torch for these before there were other processes
            data.transform = transform
            data.reader.dist_rank, data.reader.dist_num_replicas = rank, world
        loader = DataLoader(
            data,
            recipe.batch_size,
            collate_fn=_Fill(fill),
            num_workers=workers,
            drop_last=fill,
            multiprocessing_context="fork" if workers else None,
        )
        loader.sampler.set_epoch = data.set_epoch  # type: ignore[attr-defined]  # Lightning tells the epoch to samplers only
        return loader

    def _workers(self) -> int:
        if self.options.workers != "auto":
            return int(self.options.workers)
        small = min(self.config["input_size"][-2:]) < 64
        return 0 if self.val.held and small else max(1, min(16, os.cpu_count() or 1))

    def take_bad(self, batch: Batch) -> None:
        """Warn of each image that could not be read, once; stop when there are too many.

        Raises:
            LearngeneError: more bad images than ``max_bad_images`` allows, or a whole batch of them.
        """
        for name in batch["bad"]:
            if name not in self._bad:
                self._bad.add(name)
                log.warning("skipped an image that cannot be read: %s", name)
        limit = self.options.max_bad_images
        if limit is None:
            limit = max(10, (len(self.train or ()) + len(self.val)) // 100)
        if len(self._bad) > limit:
            raise LearngeneError(
                f"{len(self._bad)} images cannot be read, more than the {limit} allowed; mend them or raise --max-bad-images"
            )
        if batch["image"] is None and self.train is not None and self.trainer is not None and self.trainer.training:
            raise LearngeneError(f"none of the {len(batch['bad'])} images of a batch can be read; check the data set and the disk")
