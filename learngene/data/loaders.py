"""Views to batches, in worker processes or here."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from learngene.data.labels import Labels
from learngene.errors import LearngeneError

Batch = dict[str, Any]  # image (B, C, H, W) float, target (B,) int64, seed of each view (B,), bad: names of unreadable images


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


class Fill:
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


class Loader(DataLoader[Any]):
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


def deaf(worker: int) -> None:
    """A worker leaves it to the process that it serves to save and stop; ending is for the end."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
