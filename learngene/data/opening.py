"""Which room opens a data set: a folder, a .tar, the embedded images, or one by name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from learngene.data import torch_sets
from learngene.data.embedded import EMBEDDED, load_embedded
from learngene.data.folders import list_all, list_classes
from learngene.data.images import Mode
from learngene.data.labels import Labels, check_count
from learngene.data.named import listed_split, open_named
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
    """Where folders are looked for.

    Raises:
        LearngeneError: it is not named.
    """
    if not _is_torch_folder(data):
        return Path(data)
    if options.data_root is None:
        raise LearngeneError(f"{data} is a folder of class folders; name it with --data-root")
    return Path(options.data_root)


def open_role(
    data: str, options: DataOptions, role: str, split: str, mode: Mode, *, quiet: bool = False
) -> Source:
    """The images of a split.

    Args:
        role: ``train``, ``val`` or ``test``: what they are for.
        quiet: do not say what is left out of a folder.

    Raises:
        LearngeneError: it is not there, it is trained on, or it does not fit the options.
    """
    if role != "train" and is_same_split(split, options.train_split):
        raise LearngeneError(
            f"the {role} split '{split}' is the one that is trained on, or has images of it "
            f"('{options.train_split}'); name another with --{role}-split, or none"
        )
    _check_columns(data, options)
    if data == EMBEDDED:
        return _embedded(options, role, split, mode)
    if _is_named(data) and not _is_torch_folder(data):
        if data.startswith("torch/"):
            return _torch(data, options, role, split, mode)
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
            f"'{EMBEDDED}' is a folder here and also the data set inside the package; "
            f"write ./{EMBEDDED} for the folder, or rename it"
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
            f"there is no data at '{root}'; give a folder of class folders, a .tar file, '{EMBEDDED}', "
            f"or torch/..., hfds/..., wds/..."
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
        order = str if _is_torch_folder(data) else natural
        files, targets, classes = list_classes(root, quiet=quiet, order=order)
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
        others = (path for path in sorted(root.iterdir()) if path.is_dir() and path.name != found)
        also = ", ".join(path.name for path in others if path.name.lower() in names)
        if also:
            log.warning("'%s' has the folders %s beside '%s'; only the latter is used", root, also, found)
        return root / found
    present = [name for names in SPLIT_FOLDERS.values() for name in names if _find_folder(root, (name,))]
    if role == "train" and split == "train" and not present:
        return root
    beside = f" beside {', '.join(present)}" if present else ""
    raise LearngeneError(
        f"there is no folder '{split}'{beside} in '{root}'; "
        f"name the {role} split with --{role}-split ('.' is the root)"
    )


def _find_folder(root: Path, names: Sequence[str]) -> str | None:
    """The first of some folder names that is there: as it is written, else in small or capital letters."""
    if not root.is_dir():
        return None
    folders = [child.name for child in sorted(root.iterdir(), reverse=True) if child.is_dir()]
    there = {name.lower(): name for name in folders} | {".": "."}
    for name in names:
        if (root / name).is_dir():
            return name
        if name.lower() in there:
            return there[name.lower()]
    return None


def present_split(data: str, role: str, options: DataOptions) -> str | None:
    """A split that is there without being named: a folder of a usual name, or a part of a named set."""
    if data == EMBEDDED:
        return "test" if role == "test" else None
    if _is_named(data) and not _is_torch_folder(data):
        if data.startswith("torch/"):
            return torch_sets.usual_split(data, role, options)
        return listed_split(data, role, options)
    return _find_folder(root_of(data, options), SPLIT_FOLDERS[role])


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
