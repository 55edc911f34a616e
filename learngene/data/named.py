"""Data sets by name: ``hfds/...``, and the streams ``tfds/...`` (as timm opens it), ``hfids/...`` and ``wds/...``.

Files are decoded by `learngene.data.images` alone, and labels are checked by `learngene.data.labels`: all of them when a data set
is opened that has random access, those of a stream as they are read.
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
from learngene.data.stream import Shards
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
    with _in_one_sentence(name, options):
        if data.startswith("hfds/"):
            return _hugging_face(data, split, name, mode, options)
        if data.startswith("hfids/"):
            builder = builder_of(data, options)
            shards, names = hugging_face_shards(builder, split, name, mode, options, total)
            files, version = data_files(builder, split)
            return replace(_streamed(shards, names, options), files=files, version=version)
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
            found = _streamed(
                webdataset_shards(dataset.reader, name, mode, options, ahead=role != "train"), None, options
            )
            return replace(
                found,
                files=shards_on_disk(
                    [f"{dataset.reader.root}/{f}" for f in dataset.reader.split_info.filenames]
                ),
            )
    classes = getattr(dataset.reader, "class_to_idx", None)
    return _streamed(dataset, tuple(sorted(classes, key=classes.get)) if classes else None, options, name)


@contextmanager
def _in_one_sentence(name: str, options: DataOptions) -> Iterator[None]:
    try:
        yield
    except LearngeneError:
        raise
    except Exception as error:  # readers raise anything: ImportError, HTTP errors, RuntimeError, ...
        root = f" under '{options.data_root}'" if options.data_root else "; name its folder with --data-root"
        raise LearngeneError(f"{name} cannot be opened{root} ({type(error).__name__}: {error})") from error


def present_split(data: str, role: str, options: DataOptions) -> str | None:
    """A split of a usual name that the data set has, and whose images are not trained on.

    Raises:
        LearngeneError: its splits cannot be listed.
    """
    with _in_one_sentence(data, options):
        there = _splits(data, options)
    return next(
        (
            name
            for name in SPLIT_FOLDERS[role]
            if name in there and not is_same_split(name, options.train_split)
        ),
        None,
    )


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

    def read(index: int) -> Image.Image:
        return decode_cell(images[index][column], mode)

    found = Source(
        name, len(rows), read, lambda i: f"{name} row {i}", table.targets, names, class_count=count
    )
    return replace(found, version=getattr(rows, "_fingerprint", None))


def _streamed(stream: Any, names: tuple[str, ...] | None, options: DataOptions, name: str = "") -> Source:
    name = stream.name if isinstance(stream, Shards) else name
    if names is None and options.num_classes is None and not options.unlabeled:
        raise LearngeneError(
            f"{name} is streamed and does not say how many classes it has; name the number with --num-classes"
        )
    if names is not None and not options.unlabeled:
        check_count(name, names, options.num_classes)
    return Source(
        name, len(stream), _no_access, str, None, names, stream=stream, class_count=options.num_classes
    )


def _no_access(index: int) -> Image.Image:
    raise TypeError("a stream has no images by index")
