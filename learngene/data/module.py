"""Batches for training and validation. All randomness is a function of (seed, epoch, place in the epoch).

A sampler hands out (index, view seed) pairs and the view of an image is drawn from its seed alone, so that the number
of workers changes nothing, and a resumed run sees the very images that an uninterrupted one would.
"""

from __future__ import annotations

import logging
import os
import random
import signal
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

from learngene.data.device import DeviceBatches, stack
from learngene.data.images import BROKEN_IMAGE
from learngene.data.labels import Labels
from learngene.data.sources import Source
from learngene.data.stream import Shards, Stream
from learngene.errors import LearngeneError
from learngene.limits import printable
from learngene.recipe import DataOptions, Recipe

log = logging.getLogger(__name__)
Batch = dict[str, Any]  # image (B, C, H, W) float, target (B,) int64, seed of each view (B,), bad: names of unreadable images


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
        first_batch: int = 0,
    ) -> None:
        self.length, self.batch_size, self.seed, self.repeats = length, batch_size, seed, repeats
        self.rank, self.world = rank, world
        self.epoch, self.first_batch = epoch, first_batch

    @property
    def batches(self) -> int:
        """Whole batches in an epoch; one, filled up by starting over, where there are fewer images than that."""
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
        order = generator.permutation(self.length).repeat(self.repeats)
        order = np.resize(order, total)
        seeds = generator.integers(2**32, size=total)
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
            return {"bad": f"{self.source.describe(index)} ({error})"}
        image = self.transform(picture)
        target = -1 if self.source.targets is None else int(self.source.targets[index])
        return {"image": image, "target": target, "seed": seed}


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
    seeds = [s.get("seed") for s in good]
    return {
        "image": image,
        "target": torch.tensor([s["target"] for s in good]),
        "seed": None if None in seeds else np.array(seeds),
        "bad": bad,
    }


class _Fill:
    """`collate` with its switch, as an object that worker processes can be sent.

    Args:
        labels: that are allowed in the (image, label) pairs of timm's readers; none leaves them unread.
    """

    def __init__(self, fill: bool, labels: Labels | None = None) -> None:
        self.fill, self.labels = fill, labels

    def __call__(self, samples: list[Any]) -> Batch:
        if samples and isinstance(samples[0], tuple):
            samples = [{"image": image, "target": self._class(label)} for image, label in samples]
        return collate(samples, fill=self.fill)

    def _class(self, label: Any) -> int:
        return -1 if self.labels is None else self.labels.index(label, "an image")


class _Loader(DataLoader[Any]):
    """torch's loader. An error of ours that ends a worker arrives as the sentence it is, without the worker's traceback around it.

    Attributes:
        all_of: name of the images, where this is all of them and it is an error that none can be read.
    """

    all_of: str | None = None

    def __iter__(self) -> Any:
        return _in_one_sentence(super().__iter__(), self.all_of)


def _in_one_sentence(batches: Iterator[Batch], all_of: str | None) -> Iterator[Batch]:
    sentence, bad, good = None, False, False
    try:
        for batch in batches:
            bad, good = bad or bool(batch["bad"]), good or batch["image"] is not None
            yield batch
        if all_of is not None and bad and not good:
            sentence = f"none of the images of {all_of} can be read; check the data set and the disk"
    except LearngeneError as error:
        name = f"{LearngeneError.__module__}.{LearngeneError.__qualname__}: "  # what torch has put the sentence behind
        sentence = str(error).rpartition(name)[2].strip()
    if sentence is not None:  # no longer within the except clause, so that nothing holds the loader, and its workers end now
        del batches
        raise LearngeneError(sentence)


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


def deaf(worker: int) -> None:
    """A worker leaves it to the process that it serves to save and stop; ending is for the end."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class ImageData(L.LightningDataModule):
    """Training and validation batches of two sources, for a model's data config (``input_size``, ``mean``, ``std``)."""

    def __init__(
        self,
        train: Source | None,
        val: Source,
        config: Mapping[str, Any],
        recipe: Recipe,
        options: DataOptions,
        *,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self._own_device = device or torch.device("cpu")
        hold = options.in_memory
        self.train = train.in_memory() if train is not None and hold else train
        self.val = val.in_memory() if hold else val
        self.config, self.recipe, self.options = config, recipe, options
        self._bad: set[str] = set()
        self._pixels: Tensor | None = None

    @property
    def train_batches(self) -> int:
        """Batches of one rank in an epoch."""
        return self._sampler().batches

    @property
    def _world(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)

    @property
    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer is not None else self._own_device

    @property
    def _position(self) -> tuple[int, int]:
        """Epoch, and batches of it that are done, where a resumed run begins."""
        if self.trainer is None or self.trainer.fit_loop is None:
            return 0, 0
        loop: Any = self.trainer.fit_loop
        return loop.epoch_progress.current.processed, loop.epoch_loop.batch_progress.current.processed

    @property
    def _train_source(self) -> Source:
        assert self.train is not None, "made for evaluation, without training images"
        return self.train

    def _sampler(self) -> ViewSampler:
        rank, world = self._world
        recipe = self.recipe
        epoch, done = self._position
        sampler = ViewSampler(
            len(self._train_source),
            recipe.batch_size,
            seed=recipe.seed,
            repeats=recipe.repeats,
            rank=rank,
            world=world,
            epoch=epoch,
        )
        sampler.first_batch = done % sampler.batches
        return sampler

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of augmented views, always full ones."""
        source = self._train_source
        pixels = self.pixels()
        if pixels is not None:
            sampler = self._sampler()
            return DeviceBatches(pixels, source.targets, sampler, self.config, self.recipe, self._device)  # type: ignore[return-value]
        transform = train_transform(self.config, self.recipe)
        if source.stream is not None:
            return self._stream(source, transform, fill=True)
        return self._loader(Views(source, transform), fill=True, sampler=self._sampler())

    def pixels(self) -> Tensor | None:
        """The training images (N, C, H, W) uint8, if they are to live on the device.

        Raises:
            LearngeneError: they cannot, and it was asked for.
        """
        if self._pixels is None and self._wants_pixels():
            try:
                self._pixels = stack(self._train_source, self.recipe, self.config["input_size"])
            except LearngeneError as error:
                if self.options.on_device is True:
                    raise
                log.debug("images stay in the host's memory: %s", error)
        return self._pixels

    def _wants_pixels(self) -> bool:
        if self.options.on_device != "auto":
            return self.options.on_device
        return self._device.type == "cuda" and self._train_source.held

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation images, each once over all ranks."""
        transform = eval_transform(self.config)
        rank, world = self._world
        if self.val.stream is not None:
            loader = self._stream(self.val, transform, fill=False)
        else:
            loader = self._loader(Views(self.val, transform), fill=False, sampler=range(rank, len(self.val), world))
        loader.all_of = self.val.name if world == 1 else None
        return loader

    def _loader(self, views: Views, *, fill: bool, sampler: Any) -> _Loader:
        workers = self._workers()
        return _Loader(
            views,
            self.recipe.batch_size,
            sampler=sampler,
            collate_fn=_Fill(fill),
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            multiprocessing_context="fork" if workers else None,  # sources hold open readers and closures
            worker_init_fn=deaf,
            pin_memory=torch.cuda.is_available(),
        )

    def _stream(self, source: Source, transform: Any, *, fill: bool) -> _Loader:
        rank, world = self._world
        recipe, workers = self.recipe, min(self._workers(), 4)
        data: Any = source.stream
        if isinstance(data, Shards):
            data = Stream(
                data, transform, recipe.batch_size, seed_view=seed_view if fill else None, seed=recipe.seed, rank=rank, world=world
            )
            if fill:
                sampler = self._sampler()
                data.epoch, data.first_batch = sampler.epoch, sampler.first_batch
        else:  # timm's tfds reader: asked torch for these before there were other processes
            data.transform = transform
            data.reader.dist_rank, data.reader.dist_num_replicas = rank, world
        labels = None if self.options.unlabeled else Labels(source.name, source.num_classes, source.classes)
        loader = _Loader(
            data,
            recipe.batch_size,
            collate_fn=_Fill(fill, labels),
            num_workers=workers,
            drop_last=fill,
            worker_init_fn=deaf,
            multiprocessing_context="fork" if workers else None,
        )
        loader.sampler.set_epoch = data.set_epoch  # type: ignore[attr-defined]  # Lightning tells the epoch to samplers only
        return loader

    def _workers(self) -> int:
        if self.options.workers != "auto":
            return int(self.options.workers)
        small = min(self.config["input_size"][-2:]) < 64
        if self.val.held and small:
            return 0
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, min(16, cores // (self.trainer.num_devices if self.trainer is not None else 1)))

    def take_bad(self, batch: Batch) -> None:
        """Warn of each image that could not be read, once; stop when there are too many.

        Raises:
            LearngeneError: more bad images than ``max_bad_images`` allows, or a whole batch of them.
        """
        for name in batch["bad"]:
            if name not in self._bad:
                self._bad.add(name)
                log.warning("skipped an image that cannot be read: %s", printable(name))
        limit = self.options.max_bad_images
        if limit is None:
            limit = max(10, (len(self.train or ()) + len(self.val)) // 100)
        if len(self._bad) > limit:
            raise LearngeneError(
                f"{len(self._bad)} images cannot be read, more than the {limit} allowed; mend them or raise --max-bad-images"
            )
        if batch["image"] is None and self.train is not None and self.trainer is not None and self.trainer.training:
            raise LearngeneError(f"none of the {len(batch['bad'])} images of a batch can be read; check the data set and the disk")
