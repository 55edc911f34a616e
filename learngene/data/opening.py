"""Which room opens a data set: a folder, a .tar, the embedded images, or one by name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from learngene.data import torch_sets
from learngene.data.embedded import EMBEDDED, load_embedded
from learngene.data.folders import list_all, list_classes
from learngene.data.images import Mode, decode, to_mode
from learngene.data.labels import Labels, check_count
from learngene.data.names import SPLIT_FOLDERS, is_same_split, natural
from learngene.data.source import Source
from learngene.errors import LearngeneError
from learngene.recipe import DataOptions

log = logging.getLogger(__name__)


_NAMED = ("torch", "hfds", "hfids", "tfds", "wds")


def _is_named(data: str) -> bool:
    return "/" in data and data.split("/")[0] in _NAMED and not Path(data).exists()


def _is_torch_folder(data: str) -> bool:
    """Whether these are class folders under ``data_root``, by torchvision's name for such."""
    return _is_named(data) and data.startswith("torch/") and torch_sets.known(data) in torch_sets.FOLDERS


def root_of(data: str, options: DataOptions) -> Path:
    """Where folders are looked for."""
    if not _is_torch_folder(data):
        return Path(data)
    if options.data_root is None:
        raise LearngeneError(f"{data} is a folder of class folders; name it with --data-root")
    return Path(options.data_root)


def open_role(
    data: str, options: DataOptions, role: str, split: str, mode: Mode, *, quiet: bool = False
) -> Source:
    if role != "train" and is_same_split(split, options.train_split):
        raise LearngeneError(
            f"the {role} split '{split}' is the one that is trained on, or has images of it ('{options.train_split}'); "
            f"name another with --{role}-split, or none"
        )
    _check_columns(data, options)
    if data == EMBEDDED:
        return _embedded(options, role, split, mode)
    if _is_named(data) and not _is_torch_folder(data):
        if data.startswith("torch/"):
            return _torch(data, options, role, split, mode)
        from learngene.data.named import open_named  # which makes sources itself

        return open_named(data, options, role, split, mode)
    return _folder(data, options, role, split, mode, quiet=quiet)


def _check_columns(data: str, options: DataOptions) -> None:
    """Raise if a column is named of what has none."""
    for option in ("image_column", "label_column"):
        column = getattr(options, option)
        if column is not None and (not _is_named(data) or data.startswith("torch/")):
            raise LearngeneError(
                f"{option} '{column}': '{data}' has no columns; drop --{option.replace('_', '-')}"
            )


def _embedded(options: DataOptions, role: str, split: str, mode: Mode) -> Source:
    if Path(EMBEDDED).is_dir():
        raise LearngeneError(
            f"'{EMBEDDED}' is a folder here and also the data set inside the package; write ./{EMBEDDED} for the folder, or rename it"
        )
    if split not in ("train", "test"):
        raise LearngeneError(
            f"{EMBEDDED} has no split '{split}'; it has train and test (drop --{role}-split)"
        )
    images, targets, classes = load_embedded("test" if split == "test" else "train")
    if not options.unlabeled:
        check_count(EMBEDDED, classes, options.num_classes)
    return Source(
        f"{EMBEDDED} ({role})",
        len(images),
        lambda i: Image.fromarray(images[i]).convert(mode),
        lambda i: f"{EMBEDDED} image {i}",
        targets,
        classes,
        held=True,
    )


def _folder(data: str, options: DataOptions, role: str, split: str, mode: Mode, *, quiet: bool) -> Source:
    root = root_of(data, options)
    if not root.exists():
        raise LearngeneError(
            f"there is no data at '{root}'; give a folder of class folders, a .tar file, '{EMBEDDED}', or torch/..., hfds/..., wds/..."
        )
    if root.is_dir():
        root = _split_folder(root, role, split)
    elif root.suffix.lower() != ".tar":
        raise LearngeneError(
            f"'{root}' is a file but not a .tar; give a folder of class folders or a .tar of them"
        )
    elif (role, split) != ("train", "train"):
        raise LearngeneError(
            f"'{root}' is a .tar, which has no split '{split}'; drop --{role}-split, or unpack it"
        )
    if options.unlabeled:
        files, targets, classes = list_all(root), None, None
    else:
        files, targets, classes = list_classes(
            root, quiet=quiet, order=str if _is_torch_folder(data) else natural
        )
        if role == "train":  # other splits may lack some
            check_count(f"'{root}'", classes, options.num_classes)
    return Source(
        str(root),
        len(files.names),
        lambda i: files.read(i, mode),
        files.describe,
        targets,
        classes,
        files=files,
    )


def _split_folder(root: Path, role: str, split: str) -> Path:
    """The folder of a split; the root itself for train, if it has no folder that is named like a split.

    Raises:
        LearngeneError: there is no such folder. Test images are never taken for training.
    """
    known = SPLIT_FOLDERS[role]
    names = (split, *(known if split in known else ()))
    found = _find_folder(root, names)
    if found is not None:
        also = [
            p.name
            for p in sorted(root.iterdir())
            if p.name != found and p.is_dir() and p.name.lower() in names
        ]
        if also:
            log.warning(
                "'%s' has the folders %s beside '%s'; only the latter is used", root, ", ".join(also), found
            )
        return root / found
    others = [name for names in SPLIT_FOLDERS.values() for name in names if _find_folder(root, (name,))]
    if role == "train" and split == "train" and not others:
        return root
    beside = f" beside {', '.join(others)}" if others else ""
    raise LearngeneError(
        f"there is no folder '{split}'{beside} in '{root}'; name the {role} split with --{role}-split ('.' is the root)"
    )


def _find_folder(root: Path, names: Sequence[str]) -> str | None:
    """The first of some folder names that is there: as it is written, else in small or capital letters."""
    if not root.is_dir():
        return None
    there = {
        child.name.lower(): child.name for child in sorted(root.iterdir(), reverse=True) if child.is_dir()
    } | {".": "."}
    for name in names:
        if (root / name).is_dir():
            return name
        if name.lower() in there:
            return there[name.lower()]
    return None


def present_split(data: str, role: str, options: DataOptions) -> str | None:
    """A split that is there without being named: a folder by one of its usual names, or a part of a named set."""
    if data == EMBEDDED:
        return "test" if role == "test" else None
    if _is_named(data) and not _is_torch_folder(data):
        if data.startswith("torch/"):
            return torch_sets.usual_split(data, role, options)
        from learngene.data.named import present_split  # which makes sources itself

        return present_split(data, role, options)
    return _find_folder(root_of(data, options), SPLIT_FOLDERS[role])


def _from_reader(
    reader: Any, name: str, mode: Mode, targets: np.ndarray | None, classes: tuple[str, ...] | None
) -> Source:
    def read(index: int) -> Image.Image:
        file = reader[index][0]
        if isinstance(file, Image.Image):
            return to_mode(file, mode)
        with file:
            return decode(file, mode)

    return Source(name, len(reader), read, lambda i: str(reader.filename(i, absolute=True)), targets, classes)


def _torch(data: str, options: DataOptions, role: str, split: str, mode: Mode) -> Source:
    name = f"{data} ({role})"
    if role != "train" and torch_sets.part(data, split) == torch_sets.part(data, options.train_split):
        raise LearngeneError(
            f"the {role} split '{split}' of {data} is the one that is trained on; name another, or none"
        )
    found = torch_sets.open_torch(data, name, options, split, mode)
    describe = found.files.describe if found.files is not None else lambda i: f"{name} image {i}"
    targets, names = None, found.classes
    if not options.unlabeled:
        check_count(name, names or (), options.num_classes if names else None)
        targets = Labels(name, len(names) if names else options.num_classes, names).indices(
            found.targets.tolist(), describe
        )
    return Source(
        name, found.length, found.read, describe, targets, names, held=found.files is None, files=found.files
    )
