"""Caching as a job: show every view to the ancestor once, and write down what it says."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from learngene.costs import ancestor_flops
from learngene.data import ImageData, Source, fingerprint, open_training
from learngene.data.classes import IGNORE_LABELS, matched
from learngene.data.teacher import DTYPES, LogitCache
from learngene.errors import LearngeneError
from learngene.families.ancestors import AncestorImages, open_ancestor, student_architecture, student_data_config
from learngene.families.records import image_mode, model_name
from learngene.families.weights import digest_of
from learngene.files import alone, check_free
from learngene.objectives import Ancestor
from learngene.recipe import DataOptions, DistillOptions, Recipe
from learngene.training.devices import check_devices, training_device
from learngene.training.precision import Step, choose_precision
from learngene.training.randomness import mixing, seed_step

log = logging.getLogger("learngene")


LOCK = "cache.lock"


@isolate_rng()
def run_caching(
    ancestor: Any,
    data: str,
    out: Path,
    arch: str | None,
    arch_args: Mapping[str, Any] | None,
    top_k: int,
    dtype: str,
    said: AncestorImages,
    recipe: Recipe,
    loading: DataOptions,
    *,
    resume: bool,
    overwrite: bool,
) -> dict[str, Any]:
    """See `learngene.cache`."""
    check_devices(recipe)
    _check_out(out, resume=resume, overwrite=overwrite)
    teacher = open_ancestor(ancestor, said, arch, arch_args or {})
    classes: int = getattr(teacher, "num_classes", 0)
    if top_k < 1 or not classes:
        raise LearngeneError(f"top_k {top_k}: keep at least 1 of the ancestor's classes, of which it has {classes}")
    top_k = min(top_k, classes)
    if dtype not in DTYPES:
        raise LearngeneError(f"dtype '{dtype}': use one of {', '.join(DTYPES)}")
    with torch.device("meta"):
        skeleton = student_architecture(teacher, arch, arch_args or {}).build(1)
    model_data = student_data_config(teacher, arch, skeleton, loading)
    train, val = open_training(data, loading, image_mode(skeleton))
    if not loading.unlabeled:
        train, val = matched(teacher, model_name(ancestor), IGNORE_LABELS, train, val)
    device = training_device(recipe)
    guide = Ancestor(teacher, model_data)
    images = ImageData(train, val, model_data, recipe, loading, device=device)
    key = cache_key(guide, model_data, train, recipe, on_device=images.pixels() is not None)
    flops = ancestor_flops(guide, model_data)
    with alone(out / LOCK, f"another process writes the cache '{out}'; wait for it, or choose another --out"), _taken_back(out):
        if overwrite or not (out / LogitCache.RECORD).exists():
            _clear(out)
            sizes = {"views": images.train_batches * recipe.batch_size, "batch_size": recipe.batch_size}
            precision = choose_precision(recipe, _look_at_noise(guide, model_data["input_size"]))
            cached = LogitCache.create(out, key, top_k=top_k, dtype=dtype, classes=classes, precision=precision, **sizes)
        else:
            cached = LogitCache(out)
            cached.check(key)
            if cached.views != images.train_batches * recipe.batch_size or cached.shard % recipe.batch_size:
                raise LearngeneError(f"'{out}' has sizes that cannot be; pass --overwrite to begin again")
            if (cached.top_k, cached.dtype) != (top_k, dtype):
                raise LearngeneError(
                    f"'{out}' keeps {cached.top_k} values in {cached.dtype}; resume with the same --top-k and --dtype"
                )
        _fill(cached, guide.to(device), images, recipe, device, flops)
    return {"cache": str(out), "epochs": cached.epochs, "views": cached.views, "bytes": cached.bytes, **cached.cost}


def _check_out(out: Path, *, resume: bool, overwrite: bool) -> None:
    if not (out / LogitCache.RECORD).exists():
        if not out.is_dir() or {path.name for path in out.iterdir()} - {LOCK}:
            check_free(out, hint="choose another --out")
    elif not (resume or overwrite):
        raise LearngeneError(
            f"'{out}' holds a cache; pass --resume to go on with it, --overwrite to delete it, or choose another --out"
        )


@contextlib.contextmanager
def _taken_back(out: Path) -> Iterator[None]:
    """Leave nothing of a cache whose bad input shows in its first shard; the same command may then run again, without --overwrite."""
    is_new = not (out / LogitCache.RECORD).exists()
    try:
        yield
    except LearngeneError:
        if is_new and not any(out.glob("epoch-*.safetensors")):
            _clear(out)
        raise


def _clear(out: Path) -> None:
    for path in [out / LogitCache.RECORD, *out.glob("epoch-*.safetensors")]:
        path.unlink(missing_ok=True)


def _look_at_noise(guide: Ancestor, input_size: Sequence[int]) -> Step:
    """A forward pass of the ancestor on so many images of noise, for timing."""

    def step(images: int) -> None:
        guide(torch.randn(images, *input_size))

    return step


def _fill(cached: LogitCache, guide: Ancestor, images: ImageData, recipe: Recipe, device: torch.device, flops: int) -> None:
    """Write the shards that are missing, each from its own place in the epoch."""
    missing = cached.missing(recipe.epochs)
    loader: Any = images.train_dataloader()
    batches = cached.shard // recipe.batch_size
    for number, (epoch, shard) in enumerate(missing, start=1):
        began = time.perf_counter()
        sampler = loader.sampler
        sampler.epoch, sampler.first_batch = epoch, shard * batches
        seeds, logits = _look(guide, images, islice(loader, batches), recipe, device, cached.precision, epoch, shard * batches)
        seconds = time.perf_counter() - began
        cached.write(epoch, shard, seeds, logits, {"images": len(seeds), "seconds": seconds, "flops": len(seeds) * flops})
        log.info("epoch %d, shard %d of %d: %d views, %.0f images/s, %d to go", epoch + 1, shard + 1, cached.shards_per_epoch,
                 len(seeds), len(seeds) / seconds, len(missing) - number)  # fmt: skip


def _look(
    guide: Ancestor, images: ImageData, batches: Any, recipe: Recipe, device: torch.device, precision: str, epoch: int, first: int
) -> tuple[np.ndarray, torch.Tensor]:
    """Seeds (N,) and logits (N, K) of some batches, mixed as training will mix them."""
    mix = mixing(recipe, getattr(guide.model, "num_classes", 0))
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    seeds, logits = [], []
    with torch.no_grad(), torch.autocast(device.type, half, enabled=half is not None):
        for number, batch in enumerate(batches, start=first):
            images.take_bad(batch)
            if batch["image"] is None:
                raise LearngeneError("none of the images of a batch can be read; check the data set and the disk")
            seed_step(recipe.seed, epoch, number, 0)
            pictures = batch["image"].to(device)
            if mix is not None:
                pictures, _ = mix(pictures, batch["target"].to(device).clamp(min=0))
            seeds.append(batch["seed"])
            logits.append(guide(pictures).float().cpu())
    return np.concatenate(seeds), torch.cat(logits)


def open_cache(path: str | Path, terms: DistillOptions) -> LogitCache:
    """A cache of the ancestor's logits, for these terms of the loss."""
    if terms.feature:
        raise LearngeneError(f"feature {terms.feature} needs the ancestor's layers, and a cache has only its logits; drop one")
    if not (terms.kl or terms.hard):
        raise LearngeneError("kl and hard are both 0, so nothing of the cache would be used; drop --cache")
    return LogitCache(path)


VIEW_FIELDS = (
    "seed",
    "batch_size",
    "repeats",
    "hflip",
    "crop_scale",
    "color_jitter",
    "auto_augment",
    "random_erasing",
    "mixup",
    "cutmix",
)


def cache_key(guide: Ancestor, model_data: Mapping[str, Any], train: Source, recipe: Recipe, *, on_device: bool) -> dict[str, Any]:
    """What cached logits belong to. Equal keys mean equal views and an equal ancestor."""
    if train.stream is not None:
        raise LearngeneError(f"{train.name} is streamed, so its views have no fixed order; a cache needs images by index")
    own = guide.own_data
    views = {name: getattr(recipe, name) for name in VIEW_FIELDS} | {"on_device": on_device}
    shown = ("input_size", "mean", "std", "interpolation")
    return {
        "ancestor": digest_of(guide.model.state_dict()),
        "ancestor's normalisation": {k: own.get(k) for k in shown},
        "classes": getattr(guide.model, "num_classes", None),
        "data": fingerprint(train),
        "views": views,
        "images": {k: model_data.get(k) for k in shown},
    }
