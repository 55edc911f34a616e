"""Batches for training and validation. All randomness is a function of (seed, epoch, place in the epoch).

A sampler hands out (index, view seed) pairs and the view of an image is drawn from its seed alone, so that
the number of workers changes nothing, and a resumed run sees the very images that an uninterrupted one would.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from learngene.data.device import DeviceBatches, stack
from learngene.data.labels import Labels
from learngene.data.loaders import Batch, Fill, Loader, Unreadable, deaf, noise
from learngene.data.source import Source
from learngene.data.stream import Shards, Stream
from learngene.data.teacher import LogitCache
from learngene.data.views import Views, ViewSampler, eval_transform, seed_view, train_transform
from learngene.errors import LearngeneError
from learngene.recipe import DataOptions, Recipe

log = logging.getLogger(__name__)


class ImageData(L.LightningDataModule):
    """Training and validation batches of two sources.

    Args:
        train: none for evaluating.
        data_config: the model's (``input_size``, ``mean``, ``std``).
        device: where images are to live outside of training.
        teacher: the ancestor's logits of the very views that will be shown, which are put into the batches of
            training. They were written by one process; several may read them, but for mixup and CutMix.
    """

    def __init__(
        self,
        train: Source | None,
        val: Source,
        data_config: Mapping[str, Any],
        recipe: Recipe,
        options: DataOptions,
        *,
        device: torch.device | None = None,
        teacher: LogitCache | None = None,
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self._own_device = device or torch.device("cpu")
        hold = options.in_memory
        self.train = train.in_memory() if train is not None and hold else train
        self.val = val.in_memory() if hold else val
        self.data_config, self.recipe, self.options = data_config, recipe, options
        limit = max(10, (len(train or ()) + len(val)) // 100)
        self._unreadable = Unreadable(limit if options.max_bad_images is None else options.max_bad_images)
        self._pixels: Tensor | None = None

    def setup(self, stage: str) -> None:
        """Lightning calls this when the processes know each other.

        Raises:
            LearngeneError: the kept logits are not those of this run.
        """
        if self.teacher is None or stage != "fit":
            return
        self.teacher.check_epochs(self.recipe.epochs_of(self.train_batches))
        _, world = self._world
        if (self.recipe.mixup or self.recipe.cutmix) and world > 1:
            raise LearngeneError(
                f"mixup and cutmix pair the images of one process, so a cache with them is for 1, "
                f"not {world}; use --devices 1, or drop --cache"
            )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Put what the ancestor said of these views into a batch of training.

        Where training mixes images, these are the logits of the mixtures.
        """
        if self.teacher is None or "number" not in batch:
            return batch
        images, (rank, world) = batch["image"], self._world
        # ranks take turns within the row of an epoch's views, see `ViewSampler.views`
        places = rank + world * (batch["number"] * self.recipe.batch_size + np.arange(len(images)))
        teacher = self.teacher.read(batch["epoch"], places, batch["seed"], images.device)
        return {**batch, "teacher": teacher}

    def noise(self, images: int) -> Batch:
        """A batch of so many images (B) of noise, as training will have them."""
        classes = None if self.teacher is None else self.teacher.classes
        return noise(images, self.data_config["input_size"], classes=classes)

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

    def train_dataloader(self) -> DataLoader[Any] | DeviceBatches:
        """Batches of augmented views, always full ones."""
        source = self._train_source
        pixels = self.pixels()
        if pixels is not None:
            sampler = self._sampler()
            return DeviceBatches(pixels, source.targets, sampler, self.data_config, self.recipe, self._device)
        transform = train_transform(self.data_config, self.recipe)
        if source.stream is not None:
            return self._stream(source, transform, fill=True)
        return self._loader(Views(source, transform), fill=True, sampler=self._sampler())

    def sample(self, views: int) -> Tensor:
        """So many training views (N, C, H, W), those of an epoch's beginning; fewer where there are fewer."""
        kept: list[Tensor] = []
        loader = self.train_dataloader()
        if isinstance(loader.sampler, ViewSampler):
            loader.sampler.first_batch = 0  # not where training stopped
        for batch in loader:
            kept.append(batch["image"].cpu())
            if sum(map(len, kept)) >= views:
                break
        return torch.cat(kept)[:views]

    def pixels(self) -> Tensor | None:
        """The training images (N, C, H, W) uint8, if they are to live on the device.

        Raises:
            LearngeneError: they cannot, and it was asked for.
        """
        if self._pixels is None and self._wants_pixels():
            try:
                self._pixels = stack(self._train_source, self.recipe, self.data_config["input_size"])
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
        transform = eval_transform(self.data_config)
        rank, world = self._world
        if self.val.stream is not None:
            loader = self._stream(self.val, transform, fill=False)
        else:
            # each rank every world-th image, so that together they see each once
            mine = range(rank, len(self.val), world)
            loader = self._loader(Views(self.val, transform), fill=False, sampler=mine)
        # a rank without any image would leave the others waiting for its metrics
        loader.all_of = self.val.name if world == 1 else f"{self.val.name} that rank {rank} sees"
        return loader

    def _loader(self, views: Views, *, fill: bool, sampler: Any) -> Loader:
        workers = self._workers()
        loader = Loader(
            views,
            self.recipe.batch_size,
            sampler=sampler,
            collate_fn=Fill(fill),
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            multiprocessing_context="fork" if workers else None,  # sources hold open readers and closures
            worker_init_fn=deaf,
            pin_memory=torch.cuda.is_available(),
        )
        loader.unreadable, loader.order = self._unreadable, sampler if fill else None
        return loader

    def _stream(self, source: Source, transform: Any, *, fill: bool) -> Loader:
        rank, world = self._world
        recipe, workers = self.recipe, min(self._workers(), 4)
        data: Any = source.stream
        order = self._sampler() if fill else None
        if isinstance(data, Shards):
            seeding = seed_view if fill else None
            size, seed = recipe.batch_size, recipe.seed
            data = Stream(data, transform, size, seed_view=seeding, seed=seed, rank=rank, world=world)
            if order is not None:
                data.epoch, data.first_batch = order.epoch, order.first_batch
        else:  # timm's tfds reader: asked torch for these before there were other processes
            data.transform = transform
            data.reader.dist_rank, data.reader.dist_num_replicas = rank, world
        labels = None if self.options.unlabeled else Labels(source.name, source.num_classes, source.classes)
        loader = Loader(
            data,
            recipe.batch_size,
            collate_fn=Fill(fill, labels),
            num_workers=workers,
            drop_last=fill,
            worker_init_fn=deaf,
            multiprocessing_context="fork" if workers else None,
        )
        loader.unreadable, loader.order = self._unreadable, order

        def set_epoch(epoch: int) -> None:
            data.set_epoch(epoch)
            if order is not None:
                order.set_epoch(epoch)

        # Lightning tells the epoch to samplers only
        loader.sampler.set_epoch = set_epoch  # type: ignore[attr-defined]
        return loader

    def _workers(self) -> int:
        if self.options.workers != "auto":
            return int(self.options.workers)
        small = min(self.data_config["input_size"][-2:]) < 64
        if self.val.held and small:
            return 0
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, min(16, cores // (self.trainer.num_devices if self.trainer is not None else 1)))
