"""Data sets read from front to back, divided over ranks and workers so that each image comes exactly once.

The images of an epoch are one row, shard after shard (shuffled by epoch for training). Each rank takes an equal piece of the
row, each of its workers some whole batches of that; a shard on a border is read by both neighbours, each skipping the
other's part. For this the number of images in each shard must be known: webdataset's ``_info.json`` says it, parquet
files do, and what is downloaded has random access. Where only the total is known it is one long shard, which every
worker reads from its front to the end of the worker's part.

timm's readers are not used for this: they ask torch for rank and world when they are opened, before Lightning has
started the processes, so that every rank would see all images; and they fill up, repeat and drop to even out shards.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from learngene.data.images import BROKEN_IMAGE
from learngene.errors import LearngeneError
from learngene.recipe import DataOptions

BUFFER = 2048  # undecoded images that a worker shuffles


@dataclass(frozen=True)
class Shards:
    """A data set in pieces that are read from front to back.

    Attributes:
        name: for messages.
        lengths: number of images in each shard.
        read: the undecoded samples of a shard, from a number on, in order.
        decode: image (PIL) and class of a sample.
    """

    name: str
    lengths: tuple[int, ...]
    read: Callable[[int, int], Iterable[Any]]
    decode: Callable[[Any], tuple[Image.Image, int]]

    def __len__(self) -> int:
        return sum(self.lengths)

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
                for sample in islice(self.read(shard, first), last - first):
                    yield found, sample
                    found += 1
                if found < front + last:
                    raise LearngeneError(
                        f"{self.name}: shard {shard} holds {found - front} images, not {self.lengths[shard]}; mend the data set's "
                        f"info file, or --num-samples"
                    )
            front += self.lengths[shard]


class Stream(IterableDataset[dict[str, Any]]):
    """One rank's images of an epoch, the same for the same (seed, epoch, ranks, workers).

    Training leaves out the last few images of the row, fewer than one batch of all ranks, so that all ranks have the same
    number of whole batches. Validation leaves out none.

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
        self.shards, self.transform, self.batch_size, self.seed_view = shards, transform, batch_size, seed_view
        self.seed, self.epoch, self.first_batch = seed, 0, 0  # set from outside: a resumed run goes on behind some batches
        total = len(shards)
        if seed_view is not None:
            if total < batch_size * world:
                raise LearngeneError(
                    f"{shards.name} has {total} images, fewer than one batch of {batch_size} x {world}; lower --batch-size"
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
        if self.seed_view is None:
            samples = self.shards.walk(range(len(self.shards.lengths)), start, stop)
        else:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.shards.lengths))
            samples = shuffled(self.shards.walk(order.tolist(), start, stop), random.Random(f"{self.seed} {self.epoch} {start}"))
        for place, sample in islice(samples, done * self.batch_size, None):
            yield self._view(place, sample)

    def _share(self) -> tuple[int, int, int]:
        """What this worker reads, from place to place, and how many batches of it are done.

        The loader asks its workers in turn, so that batch i of an epoch is worker i's, modulo their number. Of a resumed
        epoch the worker that it asks first takes the part of the one whose turn it was.
        """
        worker = get_worker_info()
        workers = worker.num_workers if worker else 1
        turn = (self.first_batch + (worker.id if worker else 0)) % workers
        each, more = divmod(-(-len(self) // self.batch_size), workers)
        places = [min(self.start + (n * each + min(n, more)) * self.batch_size, self.stop) for n in (turn, turn + 1)]
        return places[0], places[1], self.first_batch // workers + (turn < self.first_batch % workers)

    def _view(self, place: int, sample: Any) -> dict[str, Any]:
        seed = None
        if self.seed_view is not None:
            seed = int(np.random.SeedSequence((self.seed, self.epoch, place)).generate_state(1)[0])
            self.seed_view(seed)
        try:
            picture, target = self.shards.decode(sample)
        except BROKEN_IMAGE as error:
            return {"bad": f"{self.shards.name} image {place} ({error})"}
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


def webdataset_shards(reader: Any, name: str, mode: str, *, labelled: bool) -> Shards:
    """The tar files that timm's webdataset reader has found."""
    info = reader.split_info
    files = [f"{reader.root}/{file}" for file in info.filenames]
    lengths = tuple(info.shard_lengths)
    groups = [[file] for file in files]
    if len(lengths) != len(files):
        lengths, groups = (reader.num_samples,), [files]
    if not sum(lengths):
        raise LearngeneError(
            f"{name} does not say how many images it has; write the number behind the split, e.g. '{{split}}|1000'"
        )

    def read(shard: int, first: int) -> Iterator[Any]:
        import webdataset

        return islice(
            webdataset.DataPipeline(webdataset.SimpleShardList(groups[shard]), webdataset.tarfile_to_samples()), first, None
        )

    return Shards(name, lengths, read, partial(_decode_files, mode=mode, key=info.alt_label, labelled=labelled))


def _decode_files(sample: dict[str, Any], *, mode: str, key: str, labelled: bool) -> tuple[Image.Image, int]:
    """A sample of webdataset: an image file and its class, in a .cls file or a field of a .json file."""
    image = next((sample[suffix] for suffix in ("jpg", "jpeg", "png", "webp") if suffix in sample), None)
    if image is None or (labelled and ((key and "json" not in sample) or (not key and "cls" not in sample))):
        raise LearngeneError(
            f"sample {sample.get('__key__')} of {sample.get('__url__')} has {sorted(sample)}: no image, or no class"
        )
    target = -1
    if labelled:
        target = int(json.loads(sample["json"])[key] if key else sample["cls"])
    with Image.open(BytesIO(image)) as picture:
        return picture.convert(mode), target


def hugging_face_shards(data: str, split: str, name: str, mode: str, options: DataOptions, total: int | None) -> tuple[Shards, Any]:
    """A data set of the Hugging Face hub or a local folder, and its class names, where it has them.

    Args:
        total: its number of images, if somebody said it.

    Raises:
        LearngeneError: the number of images is not known.
    """
    import datasets

    builder = datasets.load_dataset_builder(data.partition("/")[2], cache_dir=options.data_root)
    if options.download:
        builder.download_and_prepare()
        lengths, read = _downloaded(builder.as_dataset(split=split).cast_column("image", datasets.Image(decode=False)))
    else:
        lengths, read = _streamed(builder, split, total)
    if not sum(lengths):
        raise LearngeneError(
            f"{name} does not say how many images it has; give the number of training images with --num-samples, or pass --download"
        )

    def decode(sample: dict[str, Any]) -> tuple[Image.Image, int]:
        file = sample["image"]
        with Image.open(BytesIO(file["bytes"]) if file["bytes"] is not None else file["path"]) as picture:
            return picture.convert(mode), -1 if options.unlabeled else int(sample["label"])

    label = (builder.info.features or {}).get("label")
    return Shards(name, lengths, read, decode), tuple(getattr(label, "names", None) or ()) or None


def _downloaded(rows: Any, size: int = 1000) -> tuple[tuple[int, ...], Callable[[int, int], Iterator[Any]]]:
    """Random access: pieces of equal size."""
    total = len(rows)
    lengths = tuple(min(size, total - front) for front in range(0, total, size))
    return lengths, lambda shard, first: (rows[i] for i in range(shard * size + first, shard * size + lengths[shard]))


def _streamed(builder: Any, split: str, total: int | None) -> tuple[tuple[int, ...], Callable[[int, int], Iterator[Any]]]:
    rows = builder.as_streaming_dataset(split=split).decode(False)
    lengths = _parquet_lengths(builder, split)
    if len(lengths) != rows.num_shards:  # other files do not say
        known = (builder.info.splits or {}).get(split)
        lengths = (total or getattr(known, "num_examples", 0) or 0,)

    def read(shard: int, first: int) -> Iterator[Any]:
        part = rows if len(lengths) != rows.num_shards else rows.shard(num_shards=rows.num_shards, index=shard)
        for batch in part.skip(first).iter(batch_size=16):  # by batches, else datasets divides it over workers once more
            yield from ({"image": image, "label": label} for image, label in zip(batch["image"], batch["label"], strict=True))

    return lengths, read


def _parquet_lengths(builder: Any, split: str) -> tuple[int, ...]:
    """From the ends of the files; nothing for files of another kind."""
    import fsspec
    import pyarrow.parquet

    files = list((builder.config.data_files or {}).get(split, ()))
    if not files or any(Path(file).suffix != ".parquet" for file in files):
        return ()
    lengths = []
    for file in files:
        with fsspec.open(file) as opened:
            lengths.append(pyarrow.parquet.ParquetFile(opened).metadata.num_rows)
    return tuple(lengths)
