"""Data sets read from front to back, divided over ranks and workers so that each image comes exactly once.

The images of an epoch are one row, shard after shard (shuffled by epoch for training). Each rank takes an
equal piece of the row, each of its workers some whole batches of that; a shard on a border is read by both
neighbours, each skipping the other's part. For this the number of images in each shard must be known:
webdataset's ``_info.json`` says it, parquet files do, and what is downloaded has random access. Where only
the total is known it is one long shard, which every worker reads from its front to the end of the worker's
part.

timm's readers are not used for this: they ask torch for rank and world when they are opened, before Lightning
has started the processes, so that every rank would see all images; and they fill up, repeat and drop to even
out shards.
"""

from __future__ import annotations

import logging
import multiprocessing
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from learngene.data.images import BROKEN_IMAGE
from learngene.errors import LearngeneError

log = logging.getLogger(__name__)
BUFFER = 2048  # undecoded images that a worker shuffles


class Once:
    """Warns the first time only, over all epochs and workers of a loader, which are new in each epoch."""

    def __init__(self) -> None:
        self._said = multiprocessing.RawValue("b", 0)  # the processes share it

    def __call__(self, text: str) -> None:
        if not self._said.value:
            self._said.value = 1
            log.warning(text)


@dataclass(frozen=True)
class Shards:
    """A data set in pieces that are read from front to back.

    Attributes:
        name: for messages.
        lengths: number of images in each shard.
        read: the undecoded samples of a shard, from a number on, in order.
        decode: image (PIL) and class of a sample.
        say: warn.
        places: names of the shards, for messages.
    """

    name: str
    lengths: tuple[int, ...]
    read: Callable[[int, int], Iterable[Any]]
    decode: Callable[[Any], tuple[Image.Image, int]]
    say: Callable[[str], None] = field(default_factory=Once)
    places: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(self.lengths)

    def _shard_name(self, shard: int) -> str:
        return f"'{self.places[shard]}'" if self.places else f"shard {shard}"

    def describe(self, place: int, order: Sequence[int]) -> str:
        """The image at a place of the row of shards, for messages: the same words in whatever order."""
        shard, number = order[0], place
        for shard in order:
            if number < self.lengths[shard]:
                break
            number -= self.lengths[shard]
        return f"{self.name} image {number} of {self._shard_name(shard)}"

    def walk(self, order: Sequence[int], start: int, stop: int) -> Iterator[tuple[int, Any]]:
        """The samples from place ``start`` to ``stop`` of the row of shards, with their places.

        Raises:
            LearngeneError: a shard holds fewer images than it should.
        """
        front = 0
        for shard in order:
            first, last = max(start - front, 0), min(stop - front, self.lengths[shard])
            if first < last:
                found = front + first
                samples = iter(self.read(shard, first))
                for sample in islice(samples, last - first):
                    yield found, sample
                    found += 1
                if found < front + last:
                    raise LearngeneError(
                        f"{self.name}: {self._shard_name(shard)} holds {found - front} images, "
                        f"not {self.lengths[shard]}; make it again if it was cut, "
                        f"or mend the data set's info file, or --num-samples"
                    )
                if last == self.lengths[shard] and next(samples, None) is not None:
                    self.say(
                        f"{self.name}: {self._shard_name(shard)} holds more images than the {last} that are "
                        f"read; mend the data set's info file, or --num-samples"
                    )
            front += self.lengths[shard]


class Stream(IterableDataset[dict[str, Any]]):
    """One rank's images of an epoch, the same for the same (seed, epoch, ranks, workers).

    Training leaves out the last few images of the row, fewer than one batch of all ranks, so that all ranks
    have the same number of whole batches. Validation leaves out none.

    Args:
        shards: where the images come from.
        transform: PIL to tensor.
        batch_size: of the loader.
        seed_view: seeds the transform for training; none is validation.
        seed: of order and views.
        rank: of this process.
        world: how many there are.
    """

    def __init__(
        self,
        shards: Shards,
        transform: Callable[[Image.Image], Any],
        batch_size: int,
        *,
        seed_view: Callable[[int], None] | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.shards, self.transform, self.batch_size = shards, transform, batch_size
        self.seed_view, self.seed = seed_view, seed
        self.epoch = self.first_batch = 0  # set from outside: a resumed run goes on behind some batches
        total = len(shards)
        if seed_view is not None:
            if total < batch_size * world:
                raise LearngeneError(
                    f"{shards.name} has {total} images, fewer than one batch of {batch_size} x {world}; "
                    f"lower --batch-size"
                )
            total -= total % (batch_size * world)
        self.start, self.stop = total * rank // world, total * (rank + 1) // world

    def __len__(self) -> int:
        return self.stop - self.start

    def set_epoch(self, epoch: int) -> None:
        """Another order and other views."""
        if epoch != self.epoch:
            self.epoch, self.first_batch = epoch, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        start, stop, done = self._share()
        order = list(range(len(self.shards.lengths)))
        if self.seed_view is not None:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(len(order)).tolist()
        samples = self.shards.walk(order, start, stop)
        if self.seed_view is not None:
            samples = shuffled(samples, random.Random(f"{self.seed} {self.epoch} {start}"))
        for place, sample in islice(samples, done * self.batch_size, None):
            yield self._view(place, sample, order)

    def _share(self) -> tuple[int, int, int]:
        """What this worker reads, from place to place, and how many batches of it are done.

        The loader asks its workers in turn, so that batch i of an epoch is worker i's, modulo their number.
        Of a resumed epoch the worker that it asks first takes the part of the one whose turn it was.
        """
        worker = get_worker_info()
        workers = worker.num_workers if worker else 1
        turn = (self.first_batch + (worker.id if worker else 0)) % workers
        each, more = divmod(-(-len(self) // self.batch_size), workers)
        first, last = (self.start + (n * each + min(n, more)) * self.batch_size for n in (turn, turn + 1))
        done = self.first_batch // workers + (turn < self.first_batch % workers)
        return min(first, self.stop), min(last, self.stop), done

    def _view(self, place: int, sample: Any, order: Sequence[int]) -> dict[str, Any]:
        seed = None
        if self.seed_view is not None:
            seed = int(np.random.SeedSequence((self.seed, self.epoch, place)).generate_state(1)[0])
            self.seed_view(seed)
        try:
            picture, target = self.shards.decode(sample)
        except LearngeneError:  # which is a ValueError, and no broken image
            raise
        except BROKEN_IMAGE as error:
            return {"bad": (self.shards.describe(place, order), str(error))}
        return {"image": self.transform(picture), "target": target, "seed": seed}


def shuffled(samples: Iterator[Any], generator: random.Random, size: int = BUFFER) -> Iterator[Any]:
    """The same samples in another order: out of a buffer of so many, one is drawn for each that comes in."""
    held = list(islice(samples, size))
    for sample in samples:
        place = generator.randrange(len(held))
        yield held[place]
        held[place] = sample
    generator.shuffle(held)
    yield from held
