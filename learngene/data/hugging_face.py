"""Tables and streams of Hugging Face's datasets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from learngene.data.columns import Columns, decode_cell, find_columns, labels_of, undecoded
from learngene.data.folders import Files, shards_on_disk
from learngene.data.images import Mode
from learngene.data.labels import Labels
from learngene.data.names import first_names
from learngene.data.stream import Shards
from learngene.errors import LearngeneError
from learngene.recipe import DataOptions


def builder_of(data: str, options: DataOptions) -> Any:
    """What knows the splits and files of a data set of the Hugging Face hub or a local folder."""
    import datasets

    return datasets.load_dataset_builder(data.partition("/")[2], cache_dir=options.data_root)


def data_files(builder: Any, split: str) -> tuple[Files | None, str | None]:
    """The files of a split on this machine, or a version.

    Of files elsewhere, and of a part of a split, the version tells all files of the data set from others.
    """
    splits = builder.config.data_files or {}
    files = shards_on_disk(splits.get(split, ()))
    if files is not None:
        return files, None
    known = [
        [str(name), list(found), getattr(found, "origin_metadata", None)] for name, found in splits.items()
    ]
    return None, f"{builder.hash} {hashlib.sha256(json.dumps(known).encode()).hexdigest()}"


def hugging_face_shards(
    builder: Any, split: str, name: str, mode: Mode, options: DataOptions, total: int | None
) -> tuple[Shards, Any]:
    """A stream of a data set, and its class names, where it has them.

    Args:
        total: its number of images, if somebody said it.

    Raises:
        LearngeneError: the number of images is not known, there are no columns for images and labels, or a
            label is out of range.
    """
    if options.download:
        table = open_table(builder, split, name, options)
        lengths, read = _pieces(table)
    else:
        table, lengths, read = _open_stream(builder, split, name, options, total)
    if not sum(lengths):
        raise LearngeneError(
            f"{name} does not say how many images it has; give the number of training images with "
            f"--num-samples, or pass --download"
        )

    def decode_row(row: tuple[str, Any, Any]) -> tuple[Image.Image, int]:
        place, cell, label = row
        target = -1 if table.labels is None else table.labels.index(label, place)
        return decode_cell(cell, mode), target

    return Shards(name, lengths, read, decode_row), None if table.labels is None else table.labels.names


@dataclass(frozen=True)
class OpenedTable:
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


def open_table(builder: Any, split: str, name: str, options: DataOptions) -> OpenedTable:
    """A table on disk, with all of its labels checked.

    Raises:
        LearngeneError: there are no columns for images and labels, or a label is out of range.
    """
    builder.download_and_prepare()
    rows = builder.as_dataset(split=split)
    columns = find_columns(rows.features, options, name)
    rows = undecoded(
        rows.select_columns([column for column in (columns.image, columns.label) if column]), columns.image
    )
    if columns.label is None:
        return OpenedTable(rows, columns, None)
    known = set(builder.info.splits or ())
    training = options.train_split if options.train_split.partition("[")[0] in known else split
    train = rows if training == split else builder.as_dataset(split=training)
    files = [*_first_file(builder, split), *_parquet_files(builder, split)]
    here = [file for file in files if Path(file).is_file()]  # those of a hub may be out of reach by now
    _check_names(_ends(here), columns.label, name)
    labels = labels_of(rows.features[columns.label], name, options, lambda: _column(train, columns.label))
    return OpenedTable(rows, columns, labels, labels.indices(_column(rows, columns.label), "row {}".format))


def _column(rows: Any, column: str | None) -> list[Any]:
    return rows.select_columns([column]).with_format("arrow")[:][column].to_pylist() if len(rows) else []


def _pieces(
    table: OpenedTable, size: int = 1000
) -> tuple[tuple[int, ...], Callable[[int, int], Iterator[Any]]]:
    """A table with random access in pieces of equal size: their lengths, and how their rows are read."""
    total, columns = len(table.rows), table.columns
    lengths = tuple(min(size, total - front) for front in range(0, total, size))

    def read(shard: int, first: int) -> Iterator[Any]:
        for i in range(shard * size + first, shard * size + lengths[shard]):
            row = table.rows[i]
            yield f"row {i}", row[columns.image], row.get(columns.label)

    return lengths, read


def _open_stream(
    builder: Any, split: str, name: str, options: DataOptions, total: int | None
) -> tuple[OpenedTable, tuple[int, ...], Callable[[int, int], Iterator[Any]]]:
    """Rows from front to back: the table, the lengths of its shards, and how their rows are read.

    Of parquet files, the ends say how many rows there are and between which numbers the labels lie.
    """
    rows = builder.as_streaming_dataset(split=split).decode(False)
    columns = find_columns(_features(rows, builder), options, name)
    ends = _ends(_parquet_files(builder, split))
    lengths = tuple(end.num_rows for end in ends.values())
    if len(lengths) != rows.num_shards:  # other files do not say
        known = (builder.info.splits or {}).get(split)
        lengths = (total or getattr(known, "num_examples", 0) or 0,)
    labels = None
    if columns.label is not None:
        training = _parquet_files(builder, options.train_split) or _parquet_files(builder, split)
        text = partial(_parquet_column, training, columns.label) if training else None
        labels = _stream_labels(_features(rows, builder)[columns.label], name, options, text)
        _check_names({**_ends(_first_file(builder, split)), **ends}, columns.label, name)
        _check_parquet(ends, columns.label, labels)

    def read(shard: int, first: int) -> Iterator[Any]:
        count = rows.num_shards
        part = rows if len(lengths) != count else rows.shard(num_shards=count, index=shard)
        number = first
        # by batches, else datasets divides it over workers once more
        for batch in part.skip(first).iter(batch_size=16):
            images = batch[columns.image]
            found = batch[columns.label] if columns.label else [None] * len(images)
            for image, label in zip(images, found, strict=True):
                yield f"row {number} of shard {shard}", image, label
                number += 1

    return OpenedTable(rows, columns, labels), lengths, read


def _features(rows: Any, builder: Any) -> Any:
    """The columns with their types; by the first row, where the files do not say."""
    import datasets

    known = rows.features or builder.info.features
    return known if known is not None else datasets.Dataset.from_list(list(rows.take(1))).features


def _stream_labels(
    feature: Any, name: str, options: DataOptions, text: Callable[[], list[Any]] | None
) -> Labels:
    """As `labels_of`; a stream of numbers does not say how many classes there are.

    Not even where its files could be asked.
    """
    return labels_of(feature, name, options, text if "string" in str(getattr(feature, "dtype", "")) else None)


def _parquet_files(builder: Any, split: str) -> list[str]:
    """The parquet files of a split; nothing for files of another kind."""
    files = list((builder.config.data_files or {}).get(split, ()))
    return files if all(Path(file).suffix == ".parquet" for file in files) else []


def _first_file(builder: Any, split: str) -> list[str]:
    """The first parquet file of the first split, whose class names ``datasets`` believes for all."""
    return _parquet_files(builder, next(iter(builder.config.data_files or ()), split))[:1]


def _ends(files: Sequence[str]) -> dict[str, Any]:
    """What the ends of parquet files say of them: pyarrow's ``FileMetaData``."""
    import fsspec
    import pyarrow.parquet

    found = {}
    for file in files:
        with fsspec.open(file) as opened:
            found[file] = pyarrow.parquet.read_metadata(opened)
    return found


def _parquet_column(files: Sequence[str], column: str) -> list[Any]:
    """One column, without reading the others."""
    import fsspec
    import pyarrow.parquet

    values: list[Any] = []
    for file in files:
        with fsspec.open(file) as opened:
            values += pyarrow.parquet.read_table(opened, columns=[column])[column].to_pylist()
    return values


def _check_names(ends: Mapping[str, Any], column: str, name: str) -> None:
    """Raise if a parquet file names its classes in another order than the first one that names any."""
    believed: list[str] = []
    whose = ""
    for file, end in ends.items():
        own = _names_within(end, column)
        if not believed:
            believed, whose = own, file
        if any(one != other for one, other in zip(own, believed, strict=False)):
            raise LearngeneError(
                f"{name}: '{file}' has the classes {first_names(own)} in column '{column}', and '{whose}' "
                f"has {first_names(believed)}, so that a number means two classes; write them with the same "
                f"names in the same order"
            )


def _names_within(end: Any, column: str) -> list[str]:
    """Class names that ``datasets`` has left in a parquet file; nothing where there are none."""
    known = (end.metadata or {}).get(b"huggingface", b"")
    try:
        return list(map(str, json.loads(known)["info"]["features"][column]["names"]))
    except (ValueError, LookupError, TypeError):
        return []


def _check_parquet(ends: Mapping[str, Any], column: str, labels: Labels) -> None:
    """Raise if a label is out of range.

    Where the end of a file says between which numbers they lie, the column is not read.
    """
    for file, end in ends.items():
        if not _lie_within(end, column, labels):
            labels.indices(_parquet_column([file], column), partial("row {1} of {0}".format, file))


def _lie_within(metadata: Any, column: str, labels: Labels) -> bool:
    """Whether a parquet file is known to have no label out of range."""
    if labels.text or labels.count is None:
        return False
    for group in range(metadata.num_row_groups):
        chunks = [metadata.row_group(group).column(i) for i in range(metadata.num_columns)]
        found = next((chunk.statistics for chunk in chunks if chunk.path_in_schema == column), None)
        if found is None or not found.has_min_max or not found.has_null_count or found.null_count:
            return False
        if type(found.min) is not int or found.min < 0 or found.max >= labels.count:
            return False
    return True
