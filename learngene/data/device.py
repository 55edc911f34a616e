"""A small training set that lives on the device as uint8 and is cropped, flipped and normalised there.

Each view is a function of its seed, as everywhere. The views are like timm's (same distribution of crops,
always bicubic), not the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from learngene.data.images import BROKEN_IMAGE
from learngene.data.source import Source
from learngene.devices import to_device
from learngene.errors import LearngeneError
from learngene.recipe import Recipe

ATTEMPTS = 10  # at a crop that fits, as in timm and torchvision
LIMIT = 4 * 2**30  # bytes of images; more than that is not small


def uniforms(seeds: np.ndarray, count: int) -> np.ndarray:
    """(B, count) numbers in [0, 1), a function of (B,) seeds, each of which begins a stream of its own.

    SplitMix64 (Steele et al. 2014).
    """
    step = np.uint64(0x9E3779B97F4A7C15)
    start = seeds.astype(np.uint64)[:, None] << np.uint64(20)
    with np.errstate(over="ignore"):
        z: np.ndarray = (start + np.arange(1, count + 1, dtype=np.uint64)) * step
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) / 2.0**53


def random_boxes(seeds: np.ndarray, height: int, width: int, crop_scale: float) -> np.ndarray:
    """(B, 4) boxes left, top, width, height in pixels: area from ``crop_scale`` to 1, ratio from 3/4 to 4/3.

    Where no attempt fits, the largest box in the middle with such a ratio, as torchvision does.
    """
    u = uniforms(seeds, 2 * ATTEMPTS + 2)
    area = height * width * (crop_scale + (1 - crop_scale) * u[:, :ATTEMPTS])
    ratio = np.exp(math.log(4 / 3) * (2 * u[:, ATTEMPTS : 2 * ATTEMPTS] - 1))
    widths, heights = np.round(np.sqrt(area * ratio)), np.round(np.sqrt(area / ratio))
    fits = (widths <= width) & (heights <= height)
    first = fits.argmax(1)
    rows = np.arange(len(seeds))
    some = fits.any(1)
    largest = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    w, h = np.where(some, widths[rows, first], largest[0]), np.where(some, heights[rows, first], largest[1])
    left = np.where(some, np.floor(u[:, -2] * (width - w + 1)), (width - w) // 2)
    top = np.where(some, np.floor(u[:, -1] * (height - h + 1)), (height - h) // 2)
    return np.stack([left, top, w, h], axis=1)


def crop(images: Tensor, boxes: Tensor, flip: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic crops (B, C, h, w) of float images (B, C, H, W).

    Args:
        boxes: (B, 4) left, top, width and height in pixels.
        flip: (B,) -1 where left and right change places, else 1.
        size: h and w.
    """
    height, width = images.shape[-2:]
    left, top, w, h = boxes.unbind(1)
    zero = torch.zeros_like(w)
    theta = torch.stack(
        [flip * w / width, zero, (2 * left + w) / width - 1, zero, h / height, (2 * top + h) / height - 1],
        dim=1,
    ).view(-1, 2, 3)
    grid = F.affine_grid(theta, [*images.shape[:2], *size], align_corners=False)
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)


class DeviceBatches:
    """Batches of augmented views, made on the device. Lightning sees it as a data loader.

    Args:
        images: (N, C, H, W) uint8, from `stack`.
        targets: (N,) class indices, or none.
        sampler: of (index, view seed) pairs.
        data_config: ``input_size`` (C, h, w), ``mean`` and ``std``.
        device: where the images are to live.
    """

    def __init__(
        self,
        images: Tensor,
        targets: np.ndarray | None,
        sampler: Any,
        data_config: Mapping[str, Any],
        recipe: Recipe,
        device: torch.device,
    ) -> None:
        self.sampler, self.recipe, self.device = sampler, recipe, device
        self.size: tuple[int, int] = tuple(data_config["input_size"][-2:])
        self.images = images.to(device)
        known = np.full(len(images), -1) if targets is None else targets
        self.targets = torch.as_tensor(known, dtype=torch.int64, device=device)
        self.mean, self.std = (
            torch.tensor(data_config[key], device=device).view(1, -1, 1, 1) for key in ("mean", "std")
        )

    def __len__(self) -> int:
        return self.sampler.batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        size, epoch, done = self.recipe.batch_size, self.sampler.epoch, self.sampler.first_batch
        indices, seeds = self.sampler.views()
        for number, first in enumerate(range(0, len(indices), size), start=done):
            batch = self.batch(indices[first : first + size], seeds[first : first + size])
            yield {**batch, "epoch": epoch, "number": number}

    def batch(self, indices: np.ndarray, seeds: np.ndarray) -> dict[str, Any]:
        """The views of some images (B,) drawn from seeds (B,)."""
        where = to_device(indices, self.device)
        images = self.images[where].float()
        height, width = images.shape[-2:]
        boxes = random_boxes(seeds, height, width, self.recipe.crop_scale)
        flip = np.where(uniforms(seeds, 2 * ATTEMPTS + 3)[:, -1] < self.recipe.hflip, -1.0, 1.0)
        crops = crop(images, self._put(boxes), self._put(flip), self.size).clamp(0, 255)
        return {
            "image": (crops / 255 - self.mean) / self.std,
            "target": self.targets[where],
            "seed": seeds,
            "bad": [],
        }

    def _put(self, values: np.ndarray) -> Tensor:
        return to_device(values.astype(np.float32), self.device)


def stack(source: Source, recipe: Recipe, size: Sequence[int]) -> Tensor:
    """The images of a source as (N, C, H, W) uint8, for a model that takes ``size`` (C, h, w).

    Raises:
        LearngeneError: they are streamed, of several sizes, larger than the model's, too many, or cannot be
            read; or the recipe asks for something that is done image by image.
    """
    for name in ("auto_augment", "random_erasing", "color_jitter"):
        if getattr(recipe, name):
            raise LearngeneError(
                f"on_device: {name} {getattr(recipe, name)} is done image by image; drop it, or --on-device"
            )
    if source.stream is not None:
        raise LearngeneError(f"on_device: {source.name} is streamed; drop --on-device")
    pictures: list[np.ndarray] = []
    for index in range(len(source)):
        try:
            picture = np.asarray(source.read(index))
        except BROKEN_IMAGE as error:
            raise LearngeneError(
                f"on_device: {source.describe(index)} cannot be read ({error}); drop --on-device"
            ) from None
        height, width = picture.shape[:2]
        if pictures and picture.shape != pictures[0].shape:
            raise LearngeneError(
                f"on_device: the images of {source.name} are not of one size; drop --on-device"
            )
        if height > size[1] or width > size[2]:
            raise LearngeneError(
                f"on_device: images of {height} x {width} pixels would have to shrink to {size[1]} x "
                f"{size[2]}; drop --on-device"
            )
        if picture.nbytes * len(source) > LIMIT:
            raise LearngeneError(
                f"on_device: {source.name} takes {picture.nbytes * len(source) / 2**30:.1f} GiB, "
                f"more than {LIMIT / 2**30:.0f}; drop --on-device"
            )
        pictures.append(picture)
    stacked = np.stack(pictures)  # (N, H, W, C), or (N, H, W) of grey ones
    stacked = stacked if stacked.ndim == 4 else stacked[..., None]
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous()
