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

import hashlib
import json
import logging
import multiprocessing
import random
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from learngene.data.columns import Columns, decode_cell, find_columns, labels_of, undecoded
from learngene.data.folders import Files, LeftOut, check_end, shards_on_disk
from learngene.data.images import BROKEN_IMAGE, Mode, decode, is_image, is_passed_over
from learngene.data.labels import Labels
from learngene.errors import LearngeneError
from learngene.recipe import DataOptions

log = logging.getLogger(__name__)
BUFFER = 2048  # undecoded images that a worker shuffles


class Once:
    """Warns the first time only, over all epochs and the worker processes of a loader, which are new ones in each epoch."""

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

    def _place(self, shard: int) -> str:
        return f"'{self.places[shard]}'" if self.places else f"shard {shard}"

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
                        f"{self.name}: {self._place(shard)} holds {found - front} images, not {self.lengths[shard]}; make it again if it "
                        f"was cut, or mend the data set's info file, or --num-samples"
                    )
                if last == self.lengths[shard] and next(samples, None) is not None:
                    self.say(
                        f"{self.name}: {self._place(shard)} holds more images than the {last} that are read; mend the data set's info file, "
                        f"or --num-samples"
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
        except LearngeneError:  # which is a ValueError, and no broken image
            raise
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


def webdataset_shards(reader: Any, name: str, mode: Mode, options: DataOptions, *, ahead: bool = False) -> Shards:
    """The tar files that timm's webdataset reader has found.

    Args:
        ahead: look at the labels now, where that takes no reading of images, instead of when an image is read.

    Raises:
        LearngeneError: the number of images is not known, or a label is out of range.
    """
    info = reader.split_info
    files = [f"{reader.root}/{file}" for file in info.filenames]
    lengths = tuple(info.shard_lengths)
    missing = [file for file in files if not re.match(r"\w\w+:", file) and not Path(file).exists()]
    if missing:
        raise _unreadable(name, missing[0], FileNotFoundError(f"{len(missing)} of {len(files)} shards are not there"))
    groups = [[file] for file in files]
    if len(lengths) != len(files):
        lengths, groups = (reader.num_samples,), [files]
    if not sum(lengths):
        raise LearngeneError(
            f"{name} does not say how many images it has; write the number behind the split, e.g. '{{split}}|1000'"
        )

    say, places = [Once() for _ in groups], tuple(", ".join(group[:3]) + (", ..." if group[3:] else "") for group in groups)

    def read(shard: int, first: int) -> Iterator[Any]:
        import webdataset

        left = LeftOut(places[shard])
        wanted = webdataset.tarfile_to_samples(select_files=partial(_is_wanted, left))
        try:
            yield from islice(webdataset.DataPipeline(webdataset.SimpleShardList(groups[shard]), wanted), first, None)
        except Exception as error:  # its readers raise anything: ReadError, OSError, EOFError, errors of HTTP and gzip, ...
            raise _unreadable(name, places[shard], error) from error
        if left:
            say[shard](left.text())

    labels = None if options.unlabeled else Labels(name, options.num_classes)
    files_of = _Sample(name, mode, labels, options.label_column or info.alt_label, options.image_column)
    if ahead and labels is not None and labels.count is not None:
        for file in files:
            files_of.check_shard(Path(file))
    return Shards(name, lengths, read, files_of, places=places)


def _is_wanted(left: LeftOut, name: str) -> bool:
    """Whether a file of a shard is not hidden; those that are go among what is left out."""
    if any(is_passed_over(part) for part in name.split("/") if part not in (".", "..")):
        left.hidden += [name] if is_image(name) else []
        return False
    return True


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))


def _unreadable(name: str, shard: str, error: Exception) -> LearngeneError:
    cause = error.args[0] if error.args and not isinstance(error, OSError) else error  # webdataset puts objects behind it
    return LearngeneError(f"{name}: '{shard}' is missing, cut or damaged ({cause}); fetch or make it again")


@dataclass(frozen=True)
class _Sample:
    """How a sample of webdataset is read: files of one name, an image and its class in a .cls file or a field of a .json file.

    Attributes:
        name: of the data set, for messages.
        labels: that are allowed; none leaves them unread.
        key: the field of the .json file, or nothing for .cls.
        suffix: of the image file, if there are several.
    """

    name: str
    mode: Mode
    labels: Labels | None
    key: str
    suffix: str | None

    def __call__(self, sample: dict[str, Any]) -> tuple[Image.Image, int]:
        """Image and class."""
        place = f"sample {sample.get('__key__')} of {sample.get('__url__')}"
        files = {suffix: content for suffix, content in sample.items() if not suffix.startswith("__")}
        image = self._image(files, place)
        target = -1 if self.labels is None else self.labels.index(self._label(files, place), place)
        return decode(BytesIO(files[image]), self.mode), target

    def _image(self, files: dict[str, Any], place: str) -> str:
        """The suffix of the image: the one that was asked for, else a usual one, else the only one of an image format."""
        usual = [self.suffix] if self.suffix else ["jpg", "jpeg", "png", "webp"]
        found = next((suffix for suffix in usual if suffix in files), None)
        images = [] if self.suffix else [suffix for suffix in files if is_image(f"image.{suffix}")]
        if found is None and len(images) != 1:
            wrong = "several images; name one with --image-column SUFFIX" if images else "no image"
            raise LearngeneError(f"{self.name}: {place} has the files {sorted(files)}: {wrong}")
        return found or images[0]

    def _label(self, files: dict[str, Any], place: str) -> Any:
        if not self.key:
            if "cls" in files:
                return files["cls"]
            raise LearngeneError(
                f"{self.name}: {place} has the files {sorted(files)}: no class in a .cls file; name a field of .json with "
                f"--label-column, or pass --unlabeled to distil without labels"
            )
        try:
            return json.loads(files["json"])[self.key]
        except (KeyError, ValueError, TypeError, RecursionError):
            raise LearngeneError(
                f"{self.name}: {place} has the files {sorted(files)}: no class in a field '{self.key}' of a .json file; name "
                f"another with --label-column, or pass --unlabeled to distil without labels"
            ) from None

    def check_shard(self, path: Path) -> None:
        """Raise if a label in a local tar file is missing or out of range. The images in it are jumped over."""
        from webdataset.tariterators import base_plus_ext

        wanted = "json" if self.key else "cls"
        if self.labels is None or not path.is_file():
            return
        unlabelled: dict[str, str] = {}  # the suffixes of the images by their keys
        left = LeftOut(str(path))
        try:
            if _is_compressed(path):
                return  # it would have to be read in full
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    if not _is_wanted(left, member.name):
                        continue
                    key, suffix = base_plus_ext(member.name)
                    place = f"sample {key} of {path}"
                    content = tar.extractfile(member) if key and suffix.lower() == wanted else None
                    if content is not None:
                        self.labels.index(self._label({wanted: content.read()}, place), place)
                        unlabelled[key] = ""
                    elif key and is_image(f"image.{suffix}"):
                        unlabelled.setdefault(key, suffix)
                end = tar.offset
            check_end(path, end)
        except (tarfile.TarError, OSError) as error:
            raise _unreadable(self.name, str(path), error) from error
        for key, suffix in unlabelled.items():
            if suffix:
                self._label({suffix: b""}, f"sample {key} of {path}")


def builder_of(data: str, options: DataOptions) -> Any:
    """What knows the splits and files of a data set of the Hugging Face hub or a local folder."""
    import datasets

    return datasets.load_dataset_builder(data.partition("/")[2], cache_dir=options.data_root)


def data_files(builder: Any, split: str) -> tuple[Files | None, str | None]:
    """The files of a split on this machine; of others and of a part of a split, what tells one version of them all from another."""
    splits = builder.config.data_files or {}
    files = shards_on_disk(splits.get(split, ()))
    if files is not None:
        return files, None
    known = [[str(name), list(found), getattr(found, "origin_metadata", None)] for name, found in splits.items()]
    return None, f"{builder.hash} {hashlib.sha256(json.dumps(known).encode()).hexdigest()}"


def hugging_face_shards(
    builder: Any, split: str, name: str, mode: Mode, options: DataOptions, total: int | None
) -> tuple[Shards, Any]:
    """A stream of a data set, and its class names, where it has them.

    Args:
        total: its number of images, if somebody said it.

    Raises:
        LearngeneError: the number of images is not known, there are no columns for images and labels, or a label is out of range.
    """
    if options.download:
        table = open_table(builder, split, name, options)
        lengths, read = _downloaded(table)
    else:
        table, lengths, read = _streamed(builder, split, name, options, total)
    if not sum(lengths):
        raise LearngeneError(
            f"{name} does not say how many images it has; give the number of training images with --num-samples, or pass --download"
        )

    def decode_row(row: tuple[str, Any, Any]) -> tuple[Image.Image, int]:
        place, cell, label = row
        target = -1 if table.labels is None else table.labels.index(label, place)
        return decode_cell(cell, mode), target

    return Shards(name, lengths, read, decode_row), None if table.labels is None else table.labels.names


@dataclass(frozen=True)
class Table:
    """A Hugging Face table.

    Attributes:
        rows: the undecoded table.
        columns: where images and labels are.
        labels: that are allowed; none leaves them unread.
        targets: (N,) class indices, where all of them were read.
    """

    rows: Any
    columns: Columns
    labels: Labels | None
    targets: np.ndarray | None = None


def open_table(builder: Any, split: str, name: str, options: DataOptions) -> Table:
    """A table on disk, with all of its labels checked.

    Raises:
        LearngeneError: there are no columns for images and labels, or a label is out of range.
    """
    builder.download_and_prepare()
    rows = builder.as_dataset(split=split)
    columns = find_columns(rows.features, options, name)
    rows = undecoded(rows.select_columns([column for column in (columns.image, columns.label) if column]), columns.image)
    if columns.label is None:
        return Table(rows, columns, None)
    known = set(builder.info.splits or ())
    training = options.train_split if options.train_split.partition("[")[0] in known else split
    train = rows if training == split else builder.as_dataset(split=training)
    _check_names(builder, split, columns.label, name, local=True)  # those of a hub may be out of reach by now
    labels = labels_of(rows.features[columns.label], name, options, lambda: _column(train, columns.label))
    return Table(rows, columns, labels, labels.indices(_column(rows, columns.label), "row {}".format))


def _column(rows: Any, column: str | None) -> list[Any]:
    return rows.select_columns([column]).with_format("arrow")[:][column].to_pylist() if len(rows) else []


def _downloaded(table: Table, size: int = 1000) -> tuple[tuple[int, ...], Callable[[int, int], Iterator[Any]]]:
    """Random access: pieces of equal size."""
    total, columns = len(table.rows), table.columns
    lengths = tuple(min(size, total - front) for front in range(0, total, size))

    def read(shard: int, first: int) -> Iterator[Any]:
        for i in range(shard * size + first, shard * size + lengths[shard]):
            row = table.rows[i]
            yield f"row {i}", row[columns.image], row.get(columns.label)

    return lengths, read


def _streamed(
    builder: Any, split: str, name: str, options: DataOptions, total: int | None
) -> tuple[Table, tuple[int, ...], Callable[[int, int], Iterator[Any]]]:
    """Rows from front to back; of parquet files, the ends say how many there are and between which numbers the labels lie."""
    rows = builder.as_streaming_dataset(split=split).decode(False)
    columns = find_columns(_features(rows, builder), options, name)
    lengths = _parquet_lengths(builder, split)
    if len(lengths) != rows.num_shards:  # other files do not say
        known = (builder.info.splits or {}).get(split)
        lengths = (total or getattr(known, "num_examples", 0) or 0,)
    labels = None
    if columns.label is not None:
        training = _parquet_files(builder, options.train_split) or _parquet_files(builder, split)
        text = partial(_parquet_column, training, columns.label) if training else None
        labels = _stream_labels(_features(rows, builder)[columns.label], name, options, text)
        _check_names(builder, split, columns.label, name)
        _check_parquet(_parquet_files(builder, split), columns.label, labels)

    def read(shard: int, first: int) -> Iterator[Any]:
        part = rows if len(lengths) != rows.num_shards else rows.shard(num_shards=rows.num_shards, index=shard)
        number = first
        for batch in part.skip(first).iter(batch_size=16):  # by batches, else datasets divides it over workers once more
            images = batch[columns.image]
            found = batch[columns.label] if columns.label else [None] * len(images)
            for image, label in zip(images, found, strict=True):
                yield f"row {number} of shard {shard}", image, label
                number += 1

    return Table(rows, columns, labels), lengths, read


def _features(rows: Any, builder: Any) -> Any:
    """The columns with their types; by the first row, where the files do not say."""
    import datasets

    known = rows.features or builder.info.features
    return known if known is not None else datasets.Dataset.from_list(list(rows.take(1))).features


def _stream_labels(feature: Any, name: str, options: DataOptions, text: Callable[[], list[Any]] | None) -> Labels:
    """As `labels_of`; a stream of numbers does not say how many classes there are, even where its files could be asked."""
    return labels_of(feature, name, options, text if "string" in str(getattr(feature, "dtype", "")) else None)


def _parquet_files(builder: Any, split: str) -> list[str]:
    """The parquet files of a split; nothing for files of another kind."""
    files = list((builder.config.data_files or {}).get(split, ()))
    return files if all(Path(file).suffix == ".parquet" for file in files) else []


def _parquet_lengths(builder: Any, split: str) -> tuple[int, ...]:
    """From the ends of the files; nothing for files of another kind."""
    import fsspec
    import pyarrow.parquet

    lengths = []
    for file in _parquet_files(builder, split):
        with fsspec.open(file) as opened:
            lengths.append(pyarrow.parquet.ParquetFile(opened).metadata.num_rows)
    return tuple(lengths)


def _parquet_column(files: Sequence[str], column: str) -> list[Any]:
    """One column, without reading the others."""
    import fsspec
    import pyarrow.parquet

    values: list[Any] = []
    for file in files:
        with fsspec.open(file) as opened:
            values += pyarrow.parquet.read_table(opened, columns=[column])[column].to_pylist()
    return values


def _check_names(builder: Any, split: str, column: str, name: str, *, local: bool = False) -> None:
    """Raise if a parquet file names its classes in another order than the first split's first file, which ``datasets`` believes for all.

    Args:
        local: look at files on this machine only.
    """
    first = next(iter(builder.config.data_files or ()), split)
    files = [*_parquet_files(builder, first)[:1], *_parquet_files(builder, split)]
    believed: list[str] = []
    for file in files:
        own = _names_within(file, column) if not local or Path(file).is_file() else []
        believed = believed or own
        if any(one != other for one, other in zip(own, believed, strict=False)):
            raise LearngeneError(
                f"{name}: '{file}' has the classes {_listed(own)} in column '{column}', and '{files[0]}' has {_listed(believed)}, so that "
                f"a number means two classes; write them with the same names in the same order"
            )


def _names_within(file: str, column: str) -> list[str]:
    """Class names that ``datasets`` has left in a parquet file; nothing where there are none."""
    import fsspec
    import pyarrow.parquet

    with fsspec.open(file) as opened:
        known = (pyarrow.parquet.read_schema(opened).metadata or {}).get(b"huggingface", b"")
    try:
        return list(map(str, json.loads(known)["info"]["features"][column]["names"]))
    except (ValueError, LookupError, TypeError):
        return []


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _check_parquet(files: Sequence[str], column: str, labels: Labels) -> None:
    """Raise if a label is out of range. Where the end of a file says between which numbers they lie, the column is not read."""
    import fsspec
    import pyarrow.parquet

    for file in files:
        with fsspec.open(file) as opened:
            within = _lie_within(pyarrow.parquet.ParquetFile(opened).metadata, column, labels)
        if not within:
            labels.indices(_parquet_column([file], column), partial("row {1} of {0}".format, file))


def _lie_within(metadata: Any, column: str, labels: Labels) -> bool:
    """Whether a parquet file is known to have no label out of range."""
    for group in range(metadata.num_row_groups):
        chunks = [metadata.row_group(group).column(i) for i in range(metadata.num_columns)]
        found = next((chunk.statistics for chunk in chunks if chunk.path_in_schema == column), None)
        if found is None or not found.has_min_max or not found.has_null_count or found.null_count:
            return False
        if labels.text or labels.count is None or type(found.min) is not int or found.min < 0 or found.max >= labels.count:
            return False
    return True
