"""Views to batches, in worker processes or here."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from learngene.data.labels import Labels
from learngene.errors import LearngeneError
from learngene.trust.limits import printable

# image (B, C, H, W) float; target (B,) int64; seed (B,) of each view; bad: which images cannot be read, why.
# Of training also epoch and number; and teacher, the ancestor's logits (B, K), where they were kept.
Batch = dict[str, Any]
log = logging.getLogger(__name__)


def collate(samples: list[dict[str, Any]], *, fill: bool) -> Batch:
    """A batch without the images that could not be read.

    Args:
        fill: put their neighbours in their places, so that a batch keeps its size.
    """
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


class Unreadable:
    """Counts the images that cannot be read, each once, over all loaders of a run.

    Args:
        limit: stop when there are more.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._names: set[str] = set()

    def count(self, batch: Batch, *, whole: bool) -> None:
        """Warn of each image of a batch that could not be read.

        Args:
            whole: a batch has to have images.

        Raises:
            LearngeneError: too many, or a whole batch of them.
        """
        for name, error in batch["bad"]:  # of one image, PIL's words differ from time to time
            if name not in self._names:
                self._names.add(name)
                log.warning("skipped an image that cannot be read: %s", printable(f"{name} ({error})"))
        if len(self._names) > self.limit:
            raise LearngeneError(
                f"{len(self._names)} images cannot be read, more than the {self.limit} allowed; "
                f"mend them or raise --max-bad-images"
            )
        if whole and batch["image"] is None:
            raise LearngeneError(
                f"none of the {len(batch['bad'])} images of a batch can be read; "
                f"check the data set and the disk"
            )


class Loader(DataLoader[Any]):
    """torch's loader, of batches that hold images; what cannot be read is counted here, where it is read.

    An error of ours that ends a worker arrives as the sentence it is, without the worker's traceback around
    it.

    Attributes:
        unreadable: counts; set by who makes the loader.
        order: of training, has ``epoch`` and ``first_batch``, by which batches are numbered: ``epoch`` and
            ``number`` say which one of a rank's epoch it is. None for validation, where whole batches may be
            left out.
        all_of: name of the images, where it is an error that none of them can be read.
    """

    unreadable: Unreadable
    order: Any = None
    all_of: str | None = None

    def __iter__(self) -> Any:
        return _checked(super().__iter__(), self.unreadable, self.order, self.all_of)


def _checked(
    batches: Iterator[Batch], unreadable: Unreadable, order: Any, all_of: str | None
) -> Iterator[Batch]:
    """Count, number, and say in one sentence what is wrong. The loader is not held, see below."""
    sentence, bad, good = None, False, False
    epoch, first = (0, 0) if order is None else (order.epoch, order.first_batch)
    try:
        for number, batch in enumerate(batches, start=first):
            unreadable.count(batch, whole=order is not None)
            bad, good = bad or bool(batch["bad"]), good or batch["image"] is not None
            if batch["image"] is not None:
                yield batch if order is None else {**batch, "epoch": epoch, "number": number}
        if all_of is not None and bad and not good:
            sentence = f"none of the images of {all_of} can be read; check the data set and the disk"
    except LearngeneError as error:
        # of a worker's error, torch has put its traceback before the sentence
        name = f"{LearngeneError.__module__}.{LearngeneError.__qualname__}: "
        sentence = str(error).rpartition(name)[2].strip()
    # raised outside of the except clause, so that nothing holds the loader, and its workers end now
    if sentence is not None:
        del batches
        raise LearngeneError(sentence)


def noise(images: int, input_size: Sequence[int], *, classes: int | None = None) -> Batch:
    """A batch of so many images (B) of noise, for timing a step.

    Args:
        classes: K, of what an ancestor might say of them, if that is to be in the batch.
    """
    batch = {"image": torch.randn(images, *input_size), "target": torch.zeros(images, dtype=torch.int64)}
    return batch if classes is None else {**batch, "teacher": torch.randn(images, classes)}


def deaf(worker: int) -> None:
    """A worker leaves it to the process that it serves to save and stop; ending is for the end."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
