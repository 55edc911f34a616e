"""The ancestor's outputs, kept on disk: the top k log-probabilities of every view, with the view's seed.

A cache is a directory: ``cache.json`` (what it belongs to, and the SHA-256 of each shard) and shards
``epoch-0003-0000.safetensors`` of `SHARD` views, in the order in which an epoch shows them. Classes outside
the top k share what is left of the probability (TinyViT, arXiv 2207.10666).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from learngene.devices import to_device
from learngene.errors import LearngeneError
from learngene.files import atomic_file, write_text
from learngene.fingerprints import first_change, way_out, what_differs
from learngene.trust.limits import MAX_NUMBER, MAX_RECORD, read_json

FORMAT_VERSION = 1
SHARD = 2**16  # views, rounded up to whole batches
NAME = re.compile(r"epoch-\d{4,}-\d{4,}\.safetensors")
DTYPES = {"float16": np.float16, "float32": np.float32}
AGAIN = "write another one with 'learngene cache', or distil without a cache"
SAME = "use what it was made with, or write another one with 'learngene cache' to another --out"


class LogitCache:
    """Top k log-probabilities of the views of some epochs.

    Args:
        path: the directory; its ``cache.json`` is read.

    Raises:
        LearngeneError: it is no cache, of a newer format, or garbled.
    """

    RECORD = "cache.json"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        record = _read_record(self.path / self.RECORD)
        try:
            self.key: dict[str, Any] = dict(record["key"])
            self.top_k, self.classes = int(record["top_k"]), int(record["classes"])
            self.views, self.shard = int(record["views"]), int(record["shard"])
            self.epochs, self.dtype = int(record["epochs"]), str(record["dtype"])
            self.precision = str(record.get("precision", "32-true"))  # of the ancestor's forward passes
            self.cost: dict[str, float] = {k: float(v) for k, v in record["cost"].items()}
            self.shards: dict[str, str] = {str(k): str(v) for k, v in record["shards"].items()}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise LearngeneError(f"'{self.path / self.RECORD}' lacks or garbles {error}; {AGAIN}") from None
        sizes = 0 < self.top_k <= self.classes <= MAX_NUMBER and self.shard > 0 and 0 < self.views <= 2**40
        names = all(NAME.fullmatch(name) for name in self.shards)
        if not (sizes and names and self.dtype in DTYPES and all(map(math.isfinite, self.cost.values()))):
            raise LearngeneError(f"'{self.path / self.RECORD}' has sizes or names that cannot be; {AGAIN}")
        self._open: tuple[str, dict[str, np.ndarray]] = ("", {})

    @classmethod
    def create(
        cls,
        path: Path,
        key: Mapping[str, Any],
        *,
        top_k: int,
        dtype: str,
        classes: int,
        views: int,
        batch_size: int,
        precision: str = "32-true",
    ) -> LogitCache:
        """An empty cache for epochs of ``views`` views."""
        shard = batch_size * math.ceil(SHARD / batch_size)
        content: dict[str, Any] = {"top_k": top_k, "dtype": dtype, "classes": classes}
        sizes = {"views": views, "shard": shard, "precision": precision}
        empty: dict[str, Any] = {"epochs": 0, "cost": {}, "shards": {}}
        _write_record(path, {"key": dict(key), **content, **sizes, **empty})
        return cls(path)

    def check(self, key: Mapping[str, Any]) -> None:
        """Raise unless the cache was made with the same ancestor, images and views; what differs is named."""
        for name, value in json.loads(json.dumps(dict(key))).items():
            if name == "data" and isinstance(value, dict):
                self._check_images(value)
            elif self.key.get(name) != value or (name == "classes" and value != self.classes):
                of = name if name.startswith("ancestor") else ""
                what, then, now = first_change(self.key.get(name), value)
                raise LearngeneError(
                    f"the cache '{self.path}' was made with {f'{of} {what}'.strip() or name} "
                    f"{_abridged(then)}, now {_abridged(now)}; {SAME}"
                )

    def _check_images(self, now: Mapping[str, Any]) -> None:
        then = self.key.get("data")
        what = what_differs(then, now)
        if what:
            raise LearngeneError(
                f"the cache '{self.path}' is of another data ({what}); {AGAIN}{way_out(then, now)}"
            )

    def check_epochs(self, epochs: int) -> None:
        """Raise unless so many epochs are there."""
        if epochs > self.epochs:
            raise LearngeneError(
                f"the cache '{self.path}' holds {self.epochs} of {epochs} epochs; "
                f"'learngene cache --resume --epochs {epochs}' with the same options adds the others"
            )

    @property
    def bytes(self) -> int:
        """Of all shards on disk."""
        return sum((self.path / name).stat().st_size for name in self.shards)

    @property
    def shards_per_epoch(self) -> int:
        return math.ceil(self.views / self.shard)

    def write(
        self, epoch: int, shard: int, seeds: np.ndarray, logits: Tensor, cost: Mapping[str, float]
    ) -> None:
        """Add a shard: seeds (N,) of its views and the ancestor's logits (N, K).

        Raises:
            LearngeneError: logits that are not finite.
        """
        if not torch.isfinite(logits).all():
            raise LearngeneError("the ancestor's logits are not finite; try --precision 32-true")
        values, indices = logits.float().log_softmax(-1).topk(self.top_k)
        content = save(
            {
                "seed": seeds.astype(np.uint32),
                "index": indices.cpu().numpy().astype(_index_type(self.classes)),
                "value": values.cpu().numpy().astype(DTYPES[self.dtype]),
            }
        )
        name = shard_name(epoch, shard)
        with atomic_file(self.path / name) as scratch:
            scratch.write_bytes(content)
        self.shards[name] = hashlib.sha256(content).hexdigest()
        self.cost = {k: self.cost.get(k, 0) + v for k, v in cost.items()}
        while all(shard_name(self.epochs, place) in self.shards for place in range(self.shards_per_epoch)):
            self.epochs += 1
        sizes = ("top_k", "dtype", "classes", "views", "shard", "precision")
        names = ("key", *sizes, "epochs", "cost", "shards")
        _write_record(self.path, {name: getattr(self, name) for name in names})

    def read(
        self, epoch: int, places: np.ndarray, seeds: np.ndarray | None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Log-probabilities (B, K) of the views at some places (B,) of an epoch.

        Args:
            seeds: (B,) of the views that were drawn, which must be those that the ancestor saw.

        Raises:
            LearngeneError: views that are not in the cache, a shard that is missing or damaged, or others.
        """
        self.check_epochs(epoch + 1)
        if len(places) and places.max() >= self.views:
            raise LearngeneError(
                f"the cache '{self.path}' holds {self.views} views an epoch, not {places.max() + 1}; {AGAIN}"
            )
        parts = []
        for shard in np.unique(places // self.shard):
            mine = places // self.shard == shard
            content = self._load(shard_name(epoch, int(shard)))
            rows = places[mine] - shard * self.shard
            if rows.max() >= len(content["seed"]):
                raise LearngeneError(
                    f"'{self.path / shard_name(epoch, int(shard))}' holds too few views; {AGAIN}"
                )
            if seeds is None or not np.array_equal(content["seed"][rows], seeds[mine].astype(np.uint32)):
                raise LearngeneError(
                    f"the views of epoch {epoch + 1} are not those in the cache '{self.path}'; {AGAIN}"
                )
            parts.append((np.flatnonzero(mine), content["index"][rows], content["value"][rows]))
        order = np.argsort(np.concatenate([part[0] for part in parts]))
        index, value = (np.concatenate([part[i] for part in parts])[order] for i in (1, 2))
        return spread(
            to_device(value.astype(np.float32), device),
            to_device(index.astype(np.int64), device),
            self.classes,
        )

    def _load(self, name: str) -> dict[str, np.ndarray]:
        if self._open[0] != name:
            self._open = (name, self._checked(name))
        return self._open[1]

    def _checked(self, name: str) -> dict[str, np.ndarray]:
        path = self.path / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise LearngeneError(
                f"'{path}' cannot be read ({error.strerror}); 'learngene cache --resume' writes it again"
            ) from None
        if hashlib.sha256(content).hexdigest() != self.shards.get(name):
            raise LearngeneError(
                f"'{path}' is damaged (its checksum differs); delete it, "
                f"and 'learngene cache --resume' writes it again"
            )
        try:
            shard = load(content)
            rows, index, value = len(shard["seed"]), shard["index"], shard["value"]
            fits = index.shape == value.shape == (rows, self.top_k) and 0 < rows <= self.shard
            known = fits and index.min() >= 0 and index.max() < self.classes
            likely = fits and np.isfinite(value).all() and value.max() < 1e-3  # logarithms of probabilities
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise LearngeneError(f"'{path}' is damaged ({error}); {AGAIN}") from None
        if not (known and likely):
            raise LearngeneError(f"'{path}' does not hold what {self.RECORD} says; {AGAIN}")
        return shard

    def missing(self, epochs: int) -> list[tuple[int, int]]:
        """(epoch, shard) of what is not there, in order."""
        every = [(epoch, shard) for epoch in range(epochs) for shard in range(self.shards_per_epoch)]
        return [pair for pair in every if not self._holds(shard_name(*pair))]

    def _holds(self, name: str) -> bool:
        return name in self.shards and (self.path / name).exists()


def _write_record(path: Path, record: Mapping[str, Any]) -> None:
    text = json.dumps({"format_version": FORMAT_VERSION, **record}, indent=2)
    write_text(path / LogitCache.RECORD, text + "\n")


def spread(value: Tensor, index: Tensor, classes: int) -> Tensor:
    """Log-probabilities (B, K) from the top k of them (B, k): all other classes share what is left evenly.

    Exact for k = K, up to the precision of ``value``.
    """
    others = classes - value.shape[1]
    left = (1 - value.exp().sum(-1, keepdim=True)).clamp(min=1e-8)
    base = (left / max(1, others)).log().expand(-1, classes)
    return base.scatter(1, index, value)


def shard_name(epoch: int, shard: int) -> str:
    return f"epoch-{epoch:04d}-{shard:04d}.safetensors"


def _index_type(classes: int) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if classes <= 2**8 else np.uint16 if classes <= 2**16 else np.uint32


def _read_record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise LearngeneError(
            f"'{path.parent}' is no cache (it has no {path.name}); 'learngene cache' writes one"
        )
    record = read_json(path, MAX_RECORD)
    version = record.get("format_version") if isinstance(record, dict) else None
    if type(version) is not int or not 0 < version <= FORMAT_VERSION:
        raise LearngeneError(
            f"'{path}' has cache format {version}, this package reads up to {FORMAT_VERSION}; upgrade it"
        )
    return record


def _abridged(value: Any) -> str:
    """A value in a message: a word without quotes, a digest by its beginning."""
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:12] + "..."
