"""torchvision's data sets, of those that timm opens: parts, timm's names for them, labels and files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timm.data import create_dataset

from learngene.data.folders import Files, keep_images
from learngene.data.images import Mode, to_mode
from learngene.errors import LearngeneError
from learngene.recipe import DataOptions

IN_MEMORY = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist")  # parts train and test
# Parts train and validation: torchvision has no labelled test part.
IN_FILES = ("imagenet", "places365", "inaturalist", "inat")
FOLDERS = ("image_folder", "folder")  # class folders, in torchvision's order
_TRAIN = ("train", "training")
_HELD_OUT = ("test", "testing", "val", "valid", "validation", "eval", "evaluation")


@dataclass(frozen=True)
class TorchSet:
    """A part of a set: its images by index, their labels, class names, and files, where it has some."""

    length: int
    read: Callable[[int], Image.Image]
    targets: np.ndarray
    classes: tuple[str, ...] | None
    files: Files | None


def known(data: str) -> str:
    """The name behind ``torch/``, as timm reads it.

    Raises:
        LearngeneError: timm opens no such set.
    """
    name = data.split("/", 2)[-1].lower()
    every = (*IN_MEMORY, *IN_FILES, *FOLDERS)
    if name not in every:
        raise LearngeneError(
            f"there is no '{data}'; of torchvision's data sets timm opens {', '.join(every)}"
        )
    return name


def usual_split(data: str, role: str, options: DataOptions) -> str | None:
    """The part that is for validation or testing without being named; none: there is no such part."""
    name = known(data)
    if name in IN_MEMORY:
        return "test" if role == "test" else None
    if role != "val":
        return None  # images that training is watched with are no test images
    labels, slash, _ = options.train_split.rpartition("/")  # iNaturalist's 'genus/train'
    return f"{labels}{slash}validation"


def part(data: str, split: str) -> str:
    """timm's word for a split.

    Raises:
        LearngeneError: the set has no such part; timm would take another one.
    """
    word = split.lower()
    if word in _TRAIN:
        return "train"
    if known(data) not in IN_MEMORY:
        return split
    if word not in _HELD_OUT:
        raise LearngeneError(f"{data} has no split '{split}'; it has train and test")
    return "validation"


def open_torch(data: str, name: str, options: DataOptions, split: str, mode: Mode) -> TorchSet:
    """Open a part of a set from its files under ``data_root``.

    Images in files are opened by `images.decode`, as everywhere.

    Args:
        name: for messages.

    Raises:
        LearngeneError: it is not there, or has no labels.
    """
    word = part(data, split)
    try:
        dataset = create_dataset(data, options.data_root, split=word, download=options.download)
    except Exception as error:  # torchvision raises anything: RuntimeError, HTTP errors, AttributeError, ...
        root = f" under '{options.data_root}'" if options.data_root else "; name its folder with --data-root"
        raise LearngeneError(f"{name} cannot be opened{root} ({type(error).__name__}: {error})") from error
    if known(data) in IN_MEMORY:
        labels = np.asarray(dataset.targets)
        labels = labels[:, 0] if labels.ndim == 2 else labels  # QMNIST: the digit, and who wrote it
        if len(labels) != len(dataset):
            raise LearngeneError(
                f"{name} has {len(dataset)} images and {len(labels)} labels, which are not of one set; "
                f"fetch its files again"
            )
        names = tuple(map(str, dataset.classes)) or None
        labels = labels.astype(np.int64)
        return TorchSet(len(dataset), lambda i: to_mode(dataset[i][0], mode), labels, names, None)
    contents = _inaturalist if known(data).startswith("inat") else _imagenet_or_places
    paths, targets, classes = contents(dataset)
    root = str(getattr(dataset, "split_folder", dataset.root))
    relative = [os.path.relpath(path, root) for path in paths]
    kept = keep_images(relative, root)
    files = Files(Path(root), relative).pick(kept)
    return TorchSet(len(kept), lambda i: files.read(i, mode), targets[kept], classes, files)


def _imagenet_or_places(dataset: Any) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """Paths, labels and class names: ImageNet's WordNet ids, as those of its folders, and Places' categories.

    Two of ImageNet's classes are called 'crane'.
    """
    names = getattr(dataset, "wnids", None) or sorted(dataset.class_to_idx, key=dataset.class_to_idx.get)
    if any(target is None for _, target in dataset.imgs):
        raise LearngeneError("torchvision has no labels for this split; use validation")
    targets = np.array([target for _, target in dataset.imgs], dtype=np.int64)
    return [path for path, _ in dataset.imgs], targets, tuple(names)


def _inaturalist(dataset: Any) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """Paths, labels and class names: the species, or with a split such as 'genus/train' what it names."""
    if len(dataset.target_type) > 1:
        raise LearngeneError(f"{', '.join(dataset.target_type)}: an image has one label; name one of them")
    kind = dataset.target_type[0]
    index = sorted(dataset.index)  # torchvision's order within a class is the file system's
    paths = [f"{dataset.root}/{dataset.all_categories[category]}/{file}" for category, file in index]
    if kind == "full":
        species = np.array([category for category, _ in index], dtype=np.int64)
        return paths, species, tuple(dataset.all_categories)
    targets = np.array([dataset.categories_map[category][kind] for category, _ in index], dtype=np.int64)
    places = dataset.categories_index[kind]
    return paths, targets, tuple(sorted(places, key=places.get))
