"""Where images come from. A source is a list of PIL images with optional labels; streams are kept apart.

timm's ``create_dataset`` opens folders, tar files, ``torch/...``, ``hfds/...`` and the streams ``wds/...``, ``hfids/...``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timm.data import create_dataset
from timm.data.readers.img_extensions import get_img_extensions
from timm.utils.misc import natural_key

from learngene.data.embedded import EMBEDDED, load_embedded
from learngene.data.images import BROKEN_IMAGE, Mode, decode, to_mode
from learngene.errors import LearngeneError
from learngene.recipe import DataOptions

log = logging.getLogger(__name__)
_SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Source:
    """A list of images.

    Attributes:
        name: for messages, e.g. ``photos/train``.
        length: number of images.
        read: image by index, as PIL; raises OSError for one that cannot be read.
        describe: file name (or the like) of an image, for messages.
        targets: (N,) class indices, or none.
        classes: class names by index, when known.
        stream: `Shards` instead, for sources without random access (for tfds/... timm's iterable data set).
        held: whether the images are decoded and in memory.
        class_count: number of classes, for data sets that know no names.
    """

    name: str
    length: int
    read: Callable[[int], Image.Image]
    describe: Callable[[int], str]
    targets: np.ndarray | None
    classes: tuple[str, ...] | None
    stream: Any = None
    held: bool = False
    class_count: int | None = None

    def __len__(self) -> int:
        return self.length

    @property
    def num_classes(self) -> int | None:
        """Number of classes, from the names or else the labels."""
        if self.class_count is not None:
            return self.class_count
        if self.classes is not None:
            return len(self.classes)
        return int(self.targets.max()) + 1 if self.targets is not None and len(self.targets) else None

    def subset(self, indices: Sequence[int] | np.ndarray, name: str) -> Source:
        """Some of the images."""
        picked = np.asarray(indices)
        return Source(
            name,
            len(picked),
            lambda i: self.read(int(picked[i])),
            lambda i: self.describe(int(picked[i])),
            None if self.targets is None else self.targets[picked],
            self.classes,
            held=self.held,
            class_count=self.class_count,
        )

    def in_memory(self) -> Source:
        """The same images, decoded once; those that cannot be read stay unreadable."""
        if self.stream is not None:
            raise LearngeneError(f"{self.name} is streamed and cannot be held in memory; drop --in-memory")
        if self.held:
            return self

        def decode(index: int) -> np.ndarray | Exception:
            try:
                return np.asarray(self.read(index))
            except BROKEN_IMAGE as error:
                return error

        with ThreadPoolExecutor() as pool:
            kept = list(pool.map(decode, range(len(self))))
        held = partial(Source, held=True, class_count=self.class_count)
        return held(self.name, len(self), lambda i: _from_memory(kept[i]), self.describe, self.targets, self.classes)


def fingerprint(source: Source, samples: int = 64) -> str:
    """SHA-256 over number, labels and class names of the images, and the pixels of some of them, evenly spread."""
    if source.stream is not None:
        raise LearngeneError(f"{source.name} is streamed, so its views have no fixed order; a cache needs images by index")
    total = hashlib.sha256(json.dumps([len(source), source.classes]).encode())
    total.update(b"" if source.targets is None else np.asarray(source.targets, dtype=np.int64).tobytes())
    for index in np.unique(np.linspace(0, len(source) - 1, samples).astype(int)):
        try:
            picture = np.asarray(source.read(int(index)))
        except BROKEN_IMAGE:
            continue
        total.update(str(picture.shape).encode() + picture.tobytes())
    return total.hexdigest()


def _from_memory(kept: np.ndarray | Exception) -> Image.Image:
    if isinstance(kept, Exception):
        raise kept
    return Image.fromarray(kept)


def open_training(data: str, options: DataOptions, mode: Mode) -> tuple[Source, Source]:
    """The training and validation images. Validation is cut from train, stratified and seeded, if there is none.

    Raises:
        LearngeneError: missing, empty, one class only, or a stream without a validation split.
    """
    train = _open(data, options, "train", options.train_split, mode)
    _check_classes(train, options)
    name = options.val_split or _present_split(data, "val")
    if name:
        return training_share(train, options), _open(data, options, "val", name, mode, train.classes)
    if train.stream is not None:
        raise LearngeneError(f"{data} is streamed, so no validation split can be cut from it; name one with --val-split")
    kept, held = stratified_cut(train, options.val_fraction, options.split_seed)
    return training_share(train.subset(kept, train.name), options), train.subset(held, f"{train.name} (validation cut)")


def training_share(train: Source, options: DataOptions) -> Source:
    """The first ``train_fraction`` of every class in a seeded order, so that smaller shares lie inside larger ones.

    Raises:
        LearngeneError: the images are streamed.
    """
    if options.train_fraction == 1:
        return train
    if train.stream is not None:
        raise LearngeneError(f"train_fraction {options.train_fraction}: {train.name} is streamed; leave it at 1")
    targets = train.targets if train.targets is not None else np.zeros(len(train), dtype=np.int64)
    order = np.random.default_rng(options.split_seed).permutation(len(train))
    members = [order[targets[order] == label] for label in np.unique(targets)]
    kept = np.concatenate([m[: max(1, round(len(m) * options.train_fraction))] for m in members])
    return train.subset(np.sort(kept), train.name)


def has_test_split(data: str, options: DataOptions) -> bool:
    """Whether there are test images: a split that was named, a test folder, or the test part of a named data set."""
    return bool(options.test_split or _present_split(data, "test"))


def open_split(data: str, options: DataOptions, split: str, mode: Mode, classes: Sequence[str] | None = None) -> Source:
    """The images to evaluate on: ``train``, ``val``, ``test``, or ``auto`` (test if there is one, else val).

    Args:
        classes: names of the classes in the order of the labels; by default those of the training images. A folder
            may lack some of them, but have no other.

    Raises:
        LearngeneError: as `open_training`, or there is no test split.
    """
    test = options.test_split or _present_split(data, "test")
    if split == "auto":
        split = "test" if test else "val"
    if split == "test":
        if test is None:
            looked = ", ".join(_SPLIT_FOLDERS["test"])
            raise LearngeneError(f"{data} has no test split (looked for {looked}); name it with --test-split, or use --split val")
        if classes is None and Path(data).is_dir():
            classes = _open(data, options, "train", options.train_split, mode).classes
        return _open(data, options, "test", test, mode, classes)
    if split not in ("train", "val"):
        raise LearngeneError(f"split '{split}': use auto, train, val or test")
    return open_training(data, options, mode)[split == "val"]


def stratified_cut(source: Source, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices to keep and to hold out: the same share of every class, at least one image of each on both sides."""
    generator = np.random.default_rng(seed)
    targets = source.targets if source.targets is not None else np.zeros(len(source), dtype=np.int64)
    held = []
    for label in np.unique(targets):
        members = generator.permutation(np.flatnonzero(targets == label))
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        held.append(members[:count])
    out = np.sort(np.concatenate(held))
    if not len(out):
        raise LearngeneError(
            f"{source.name} has {len(source)} images, too few to hold out {fraction:.0%} for validation; add images or a val folder"
        )
    return np.setdiff1d(np.arange(len(source)), out), out


def _open(data: str, options: DataOptions, role: str, split: str, mode: Mode, classes: Sequence[str] | None = None) -> Source:
    if data == EMBEDDED:
        return _embedded(role, mode)
    if "/" in data and data.split("/")[0] in ("torch", "hfds", "hfids", "tfds", "wds") and not Path(data).exists():
        from learngene.data.named import open_named  # which makes sources itself

        return open_named(data, options, role, split, mode)
    return _folder(Path(data), options, role, split, mode, classes)


def _embedded(role: str, mode: Mode) -> Source:
    images, targets, classes = load_embedded("test" if role == "test" else "train")
    return Source(
        f"{EMBEDDED} ({role})",
        len(images),
        lambda i: Image.fromarray(images[i]).convert(mode),
        lambda i: f"{EMBEDDED} image {i}",
        targets,
        classes,
        held=True,
    )


def _folder(root: Path, options: DataOptions, role: str, split: str, mode: Mode, classes: Sequence[str] | None) -> Source:
    if not root.exists():
        raise LearngeneError(
            f"there is no data at '{root}'; give a folder of class folders, a .tar file, '{EMBEDDED}', or torch/..., hfds/..., wds/..."
        )
    if root.is_dir():
        root = _split_folder(root, role, split)
        if options.unlabeled:
            return _unlabeled(root, mode)
        names = _class_folders(root, classes)
        kwargs: dict[str, Any] = {"class_map": {name: index for index, name in enumerate(names)}}
    elif root.suffix == ".tar":
        kwargs = {"cache_tarfiles": False}  # one open tar breaks across processes
    else:
        raise LearngeneError(f"'{root}' is a file but not a .tar; give a folder of class folders or a .tar of them")
    try:
        reader = create_dataset("", str(root), search_split=False, **kwargs).reader
    except (RuntimeError, OSError, AssertionError, tarfile.TarError) as error:
        raise LearngeneError(f"the images in '{root}' cannot be listed: {error}") from None
    if root.is_dir():
        targets = np.array([target for _, target in reader.samples], dtype=np.int64)
    else:
        _check_tar(root, reader)
        targets = np.array(reader.targets, dtype=np.int64)
        names = tuple(sorted(reader.class_name_to_idx, key=reader.class_name_to_idx.get))
    return _from_reader(reader, str(root), mode, None if options.unlabeled else targets, names)


def _split_folder(root: Path, role: str, split: str) -> Path:
    """The folder of a split; the root itself for train, if it has no folder that is named like a split.

    Raises:
        LearngeneError: there is no such folder. Test images are never taken for training.
    """
    known = _SPLIT_FOLDERS[role]
    found = _find_folder(root, (split, *(known if split in known else ())))
    if found is not None:
        return root / found
    others = [name for names in _SPLIT_FOLDERS.values() for name in names if _find_folder(root, (name,))]
    if role == "train" and split == "train" and not others:
        return root
    beside = f" beside {', '.join(others)}" if others else ""
    raise LearngeneError(
        f"there is no folder '{split}'{beside} in '{root}'; name the {role} split with --{role}-split ('.' is the root)"
    )


def _find_folder(root: Path, names: Sequence[str]) -> str | None:
    """The first of some folder names that is there, in small or capital letters."""
    if not root.is_dir():
        return None
    there = {child.name.lower(): child.name for child in root.iterdir() if child.is_dir()} | {".": "."}
    return next(
        (there[name.lower()] for name in names if name.lower() in there), next((n for n in names if (root / n).is_dir()), None)
    )


def _class_folders(root: Path, classes: Sequence[str] | None) -> tuple[str, ...]:
    """Names of the class folders, in natural order, or the given classes if all folders are among them.

    Raises:
        LearngeneError: no class folders, or one that the given classes do not have.
    """
    extensions = get_img_extensions(as_set=True)
    images = [path for path in root.rglob("*") if path.suffix.lower() in extensions]
    inside = [path for path in images if path.parent.parent == root and not path.parent.name.startswith(".")]
    found = sorted({path.parent.name for path in inside}, key=natural_key)
    if not found:
        what = f"{len(images)} images but no class folders" if images else "no images in class folders"
        raise LearngeneError(
            f"'{root}' holds {what}; put each class's images in a folder of its own, or pass --unlabeled to distil without labels"
        )
    if len(images) > len(inside):
        odd = next(path for path in images if path not in set(inside))
        log.warning("%d images in '%s' are in no class folder and left out, e.g. %s", len(images) - len(inside), root, odd)
    unknown = [name for name in found if classes is not None and name not in classes]
    if unknown:
        raise LearngeneError(
            f"'{root}' has a class '{unknown[0]}' that is not among the {len(classes or ())} classes trained on; "
            f"use the same class folders in all splits"
        )
    return tuple(classes or found)


def _check_tar(root: Path, reader: Any) -> None:
    """Raise if a tar holds several splits: they would be mixed."""
    parts = {part.lower() for sample in reader.samples for part in Path(sample[0].name).parts[:-2]}
    splits = sorted(parts & {name for names in _SPLIT_FOLDERS.values() for name in names})
    if len(splits) > 1:
        raise LearngeneError(
            f"'{root}' holds several splits ({', '.join(splits)}), which would be mixed; make one .tar of each, or unpack it"
        )


def _present_split(data: str, role: str) -> str | None:
    """A split that is there without being named: a folder by one of its usual names, or the test part of a named set."""
    if data == EMBEDDED:
        return "test" if role == "test" else None
    if data.startswith("torch/"):
        return "validation" if role == "test" or data in ("torch/imagenet", "torch/places365") else None
    return _find_folder(Path(data), _SPLIT_FOLDERS[role])


def _unlabeled(root: Path, mode: Mode) -> Source:
    extensions = get_img_extensions(as_set=True)
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in extensions and path.is_file())
    if not files:
        raise LearngeneError(f"there are no images under '{root}' (looked for {', '.join(sorted(extensions))}); check the path")
    return Source(str(root), len(files), lambda i: decode(files[i], mode), lambda i: str(files[i]), None, None)


def _from_reader(reader: Any, name: str, mode: Mode, targets: np.ndarray | None, classes: tuple[str, ...] | None) -> Source:
    def read(index: int) -> Image.Image:
        file = reader[index][0]
        if isinstance(file, Image.Image):
            return to_mode(file, mode)
        with file:
            return decode(file, mode)

    return Source(name, len(reader), read, lambda i: str(reader.filename(i, absolute=True)), targets, classes)


def _check_classes(source: Source, options: DataOptions) -> None:
    if len(source) == 0:
        raise LearngeneError(f"{source.name} holds no images; check the path")
    if options.unlabeled or source.stream is not None:
        return
    found = len(np.unique(source.targets)) if source.targets is not None else 0
    if found < 2:
        raise LearngeneError(
            f"{source.name} has {found} class with images, training needs at least 2; add class folders, or pass --unlabeled to distil without labels"
        )
