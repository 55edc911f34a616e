"""Caching: show every view to the ancestor once, and write down what it says."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from learngene.data import ImageData, Source, open_training
from learngene.data.classes import IGNORE_LABELS, matched
from learngene.data.loaders import Batch
from learngene.data.teacher import LogitCache
from learngene.errors import LearngeneError
from learngene.families.ancestors import build_student, open_ancestor, student_architecture
from learngene.families.modes import left_as_it_was
from learngene.families.records import data_config_of, image_mode, model_name
from learngene.families.weights import digest_of
from learngene.files import alone, check_free
from learngene.objectives import Ancestor
from learngene.recipe import DataOptions, DistillOptions, Recipe, view_fields
from learngene.training.devices import check_devices, training_device
from learngene.training.precision import Step, autocast, choose_precision
from learngene.training.randomness import mixing, seed_step

if TYPE_CHECKING:
    from learngene.jobs.cache import Cache

log = logging.getLogger("learngene")
LOCK = "cache.lock"


@isolate_rng()
def write_cache(job: Cache) -> dict[str, Any]:
    """See `learngene.cache`."""
    with left_as_it_was(job.ancestor):
        # 1. what can be said without opening anything
        check_devices(job)
        out = Path(job.out)
        _check_out(out, resume=job.resume, overwrite=job.overwrite)
        # 2. open the ancestor and the images as the distillation will
        opened = open_ancestor(job.ancestor, job, job.arch, job.arch_args or {})
        classes: int = getattr(opened, "num_classes", 0)
        if job.top_k < 1 or not classes:
            raise LearngeneError(
                f"top_k {job.top_k}: keep at least 1 of the ancestor's classes, of which it has {classes}"
            )
        with torch.device("meta"):
            skeleton = build_student(opened, student_architecture(opened, job.arch, job.arch_args or {}), 1)
        data_config = job.evaluated(data_config_of(skeleton))
        train, val = open_training(job.data, job, image_mode(skeleton))
        if not job.unlabeled:
            train, val = matched(opened, model_name(job.ancestor), IGNORE_LABELS, train, val)
        device = training_device(job)
        ancestor = Ancestor(opened, data_config)
        images = ImageData(train, val, data_config, job.part(Recipe), job.part(DataOptions), device=device)
        key = cache_key(ancestor, data_config, train, job, on_device=images.pixels() is not None)
        # 3. show every view that is missing to the ancestor
        busy = f"another process writes the cache '{out}'; wait for it, or choose another --out"
        with alone(out / LOCK, busy), _taken_back(out):
            cache = _begun_or_resumed(job, key, images, ancestor, min(job.top_k, classes))
            _fill(cache, ancestor.to(device), images, job, device, ancestor.flops())
    return {
        "cache": str(out),
        "epochs": cache.epochs,
        "views": cache.views,
        "bytes": cache.bytes,
        **cache.cost,
    }


def _begun_or_resumed(
    job: Cache, key: Mapping[str, Any], images: ImageData, ancestor: Ancestor, top_k: int
) -> LogitCache:
    """An empty cache, or the one that is there, if it is of the same views and values."""
    out, views = Path(job.out), images.train_batches * job.batch_size
    if job.overwrite or not (out / LogitCache.RECORD).exists():
        _clear(out)
        precision = choose_precision(job, _look_at_noise(ancestor, images.data_config["input_size"]))
        classes: Any = ancestor.model.num_classes
        sizes: dict[str, Any] = {"views": views, "batch_size": job.batch_size, "precision": precision}
        return LogitCache.create(out, key, top_k=top_k, dtype=job.dtype, classes=classes, **sizes)
    cache = LogitCache(out)
    cache.check(key)
    if cache.views != views or cache.shard % job.batch_size:
        raise LearngeneError(f"'{out}' has sizes that cannot be; pass --overwrite to begin again")
    if (cache.top_k, cache.dtype) != (top_k, job.dtype):
        raise LearngeneError(
            f"'{out}' keeps {cache.top_k} values in {cache.dtype}; resume with the same --top-k and --dtype"
        )
    return cache


def open_cache(path: str | Path, terms: DistillOptions) -> LogitCache:
    """A cache of the ancestor's logits, for these terms of the loss.

    Raises:
        LearngeneError: the terms need more than logits, or none of them; or it is no cache.
    """
    if terms.feature:
        raise LearngeneError(
            f"feature {terms.feature} needs the ancestor's layers, and a cache has only its logits; drop one"
        )
    if not (terms.kl or terms.hard):
        raise LearngeneError("kl and hard are both 0, so nothing of the cache would be used; drop --cache")
    return LogitCache(path)


def cache_key(
    ancestor: Ancestor, data_config: Mapping[str, Any], train: Source, recipe: Recipe, *, on_device: bool
) -> dict[str, Any]:
    """What cached logits belong to. Equal keys mean equal views and an equal ancestor.

    Args:
        data_config: of the student's images.
        on_device: whether views are drawn on the device, which `DataOptions` may leave open.
    """
    if train.stream is not None:
        raise LearngeneError(
            f"{train.name} is streamed, so its views have no fixed order; a cache needs images by index"
        )
    shown = ("input_size", "mean", "std", "interpolation")
    drawn = {"on_device": on_device}
    views = {
        name: drawn[name] if name in drawn else getattr(recipe, name)
        for name in view_fields(Recipe, DataOptions)
    }
    return {
        "ancestor": digest_of(ancestor.model.state_dict()),
        "ancestor's normalisation": {name: ancestor.data_config.get(name) for name in shown},
        "classes": getattr(ancestor.model, "num_classes", None),
        "data": train.fingerprint,
        "views": views,
        "images": {name: data_config.get(name) for name in shown},
    }


def _check_out(out: Path, *, resume: bool, overwrite: bool) -> None:
    if not (out / LogitCache.RECORD).exists():
        if not out.is_dir() or {path.name for path in out.iterdir()} - {LOCK}:
            check_free(out, hint="choose another --out")
    elif not (resume or overwrite):
        raise LearngeneError(
            f"'{out}' holds a cache; pass --resume to go on with it, --overwrite to delete it, or choose "
            "another --out"
        )


@contextlib.contextmanager
def _taken_back(out: Path) -> Iterator[None]:
    """Leave nothing of a cache whose bad input shows in its first shard; the same command may then run again,
    without --overwrite.
    """
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


def _look_at_noise(ancestor: Ancestor, input_size: Sequence[int]) -> Step:
    """A forward pass of the ancestor on so many images of noise, for timing."""

    def step(images: int) -> None:
        ancestor(torch.randn(images, *input_size))

    return step


def _fill(
    cache: LogitCache, ancestor: Ancestor, images: ImageData, recipe: Recipe, device: torch.device, flops: int
) -> None:
    """Write the shards that are missing, each from its own place in the epoch."""
    missing = cache.missing(recipe.epochs)
    loader: Any = images.train_dataloader()
    batches = cache.shard // recipe.batch_size
    for number, (epoch, shard) in enumerate(missing, start=1):
        began = time.perf_counter()
        sampler = loader.sampler
        sampler.epoch, sampler.first_batch = epoch, shard * batches
        seeds, logits = _look(ancestor, islice(loader, batches), recipe, device, cache.precision)
        seconds = time.perf_counter() - began
        cache.write(
            epoch,
            shard,
            seeds,
            logits,
            {"images": len(seeds), "seconds": seconds, "flops": len(seeds) * flops},
        )
        log.info(
            "epoch %d, shard %d of %d: %d views, %.0f images/s, %d to go",
            epoch + 1, shard + 1, cache.shards_per_epoch, len(seeds), len(seeds) / seconds,
            len(missing) - number,
        )  # fmt: skip


def _look(
    ancestor: Ancestor, batches: Iterator[Batch], recipe: Recipe, device: torch.device, precision: str
) -> tuple[np.ndarray, torch.Tensor]:
    """Seeds (N,) and logits (N, K) of some batches, mixed as training will mix them."""
    mix = mixing(recipe, getattr(ancestor.model, "num_classes", 0))
    seeds, logits = [], []
    with torch.no_grad(), autocast(device, precision):
        for batch in batches:
            seed_step(recipe.seed, batch["epoch"], batch["number"], 0)
            pictures = batch["image"].to(device)
            if mix is not None:
                pictures, _ = mix(pictures, batch["target"].to(device).clamp(min=0))
            seeds.append(batch["seed"])
            logits.append(ancestor(pictures).float().cpu())
    return np.concatenate(seeds), torch.cat(logits)
