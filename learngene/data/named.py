"""Data sets by name: ``hfds/...``, and the streams ``tfds/...`` (by timm), ``hfids/...`` and ``wds/...``.

Files are decoded by `learngene.data.images` alone, and labels are checked by `learngene.data.labels`: all of
them when a data set is opened that has random access, those of a stream as they are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from PIL import Image
from timm.data import create_dataset

from learngene.data.columns import decode_cell
from learngene.data.folders import shards_on_disk
from learngene.data.hugging_face import builder_of, data_files, hugging_face_shards, open_table
from learngene.data.images import Mode
from learngene.data.labels import check_count
from learngene.data.names import SPLIT_FOLDERS, is_same_split
from learngene.data.source import Source
from learngene.data.webdataset import webdataset_shards
from learngene.errors import LearngeneError
from learngene.recipe import DataOptions

STREAMS = ("wds/", "hfids/", "tfds/")


def open_named(data: str, options: DataOptions, role: str, split: str, mode: Mode) -> Source:
    """The images of a named data set.

    Raises:
        LearngeneError: it cannot be opened, its columns or labels are not what is needed.
    """
    streamed = data.startswith(STREAMS)
    name = f"{data} ({split})"
    total = options.num_samples if streamed and role == "train" else None
    with _explained(name, options):
        if data.startswith("hfds/"):
            return _hugging_face(data, split, name, mode, options)
        if data.startswith("hfids/"):
            builder = builder_of(data, options)
            shards, names = hugging_face_shards(builder, split, name, mode, options, total)
            files, version = data_files(builder, split)
            return replace(_stream_source(name, shards, names, options), files=files, version=version)
        dataset = create_dataset(
            data,
            options.data_root,
            split=split,
            download=options.download,
            is_training=role == "train",
            input_img_mode=mode,
            seed=options.split_seed,
            num_samples=total,
            **_reader_options(data, options),
        )
        if data.startswith("wds/"):
            reader = dataset.reader
            shards = webdataset_shards(reader, name, mode, options, ahead=role != "train")
            files = shards_on_disk([f"{reader.root}/{file}" for file in reader.split_info.filenames])
            return replace(_stream_source(name, shards, None, options), files=files)
    classes = getattr(dataset.reader, "class_to_idx", None)
    names = tuple(sorted(classes, key=classes.get)) if classes else None
    return _stream_source(name, dataset, names, options)


@contextmanager
def _explained(name: str, options: DataOptions) -> Iterator[None]:
    """Say in one sentence what a reader says in many ways."""
    try:
        yield
    except LearngeneError:
        raise
    except Exception as error:  # readers raise anything: ImportError, HTTP errors, RuntimeError, ...
        root = f" under '{options.data_root}'" if options.data_root else "; name its folder with --data-root"
        raise LearngeneError(f"{name} cannot be opened{root} ({type(error).__name__}: {error})") from error


def listed_split(data: str, role: str, options: DataOptions) -> str | None:
    """A split of a usual name that a named data set lists, and whose images are not trained on.

    Raises:
        LearngeneError: its splits cannot be listed.
    """
    with _explained(data, options):
        there = _splits(data, options)
    usual = (name for name in SPLIT_FOLDERS[role] if name in there)
    return next((name for name in usual if not is_same_split(name, options.train_split)), None)


def _splits(data: str, options: DataOptions) -> Set[str]:
    if data.startswith("wds/"):
        from timm.data.readers.reader_wds import _load_info  # the file may be at an address

        return set(_load_info(options.data_root or "").get("splits", ()))
    if data.startswith("tfds/"):
        import tensorflow_datasets as tfds  # type: ignore[import-not-found, unused-ignore]

        return set(tfds.builder(data.partition("/")[2], data_dir=options.data_root).info.splits)
    builder = builder_of(data, options)
    return set(map(str, builder.info.splits or builder.config.data_files or ()))


def _reader_options(data: str, options: DataOptions) -> dict[str, Any]:
    if not data.startswith("tfds/"):
        return {}
    image = options.image_column or "image"
    # without labels it reads the images twice: no other column is sure to be there
    return {"input_key": image, "target_key": image if options.unlabeled else options.label_column}


def _hugging_face(data: str, split: str, name: str, mode: Mode, options: DataOptions) -> Source:
    table = open_table(builder_of(data, options), split, name, options)
    rows, column = table.rows, table.columns.image
    images = rows.select_columns([column])
    names, count = (None, None) if table.labels is None else (table.labels.names, table.labels.count)
    return Source(
        name,
        len(rows),
        lambda i: decode_cell(images[i][column], mode),
        lambda i: f"{name} row {i}",
        table.targets,
        names,
        class_count=count,
        version=getattr(rows, "_fingerprint", None),
    )


def _stream_source(name: str, stream: Any, names: tuple[str, ...] | None, options: DataOptions) -> Source:
    if names is None and options.num_classes is None and not options.unlabeled:
        raise LearngeneError(
            f"{name} is streamed and does not say how many classes it has; name the number with --num-classes"
        )
    if names is not None and not options.unlabeled:
        check_count(name, names, options.num_classes)
    count = options.num_classes
    return Source(name, len(stream), _no_access, str, None, names, stream=stream, class_count=count)


def _no_access(index: int) -> Image.Image:
    raise TypeError("a stream has no images by index")
