"""Where images come from. A source is a list of PIL images with optional labels; streams are kept apart.

timm's ``create_dataset`` opens folders, tar files, ``torch/...``, ``hfds/...`` and the streams ``wds/...``, ``hfids/...``.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from learngene import fingerprints
from learngene.data import torch_sets
from learngene.data.embedded import EMBEDDED, load_embedded
from learngene.data.folders import SPLIT_FOLDERS, Files, list_all, list_classes, natural, twin
from learngene.data.images import BROKEN_IMAGE, Mode, decode, to_mode
from learngene.data.labels import Labels, check_count
from learngene.data.stream import Shards
from learngene.errors import LearngeneError
from learngene.recipe import DataOptions

log = logging.getLogger(__name__)
SAMPLE = 64  # images whose pixels are looked at to tell a data set from another
_NAMED = ("torch", "hfds", "hfids", "tfds", "wds")


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
        class_count: number of classes, for streams that know no names.
        files: of the images, by index; of a stream its shards, where they are on disk; none where there are none, or nobody knows.
        version: of a data set, if its library tells versions apart.
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
    files: Files | None = None
    version: str | None = None

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
        return replace(
            self,
            name=name,
            length=len(picked),
            read=lambda i: self.read(int(picked[i])),
            describe=lambda i: self.describe(int(picked[i])),
            targets=None if self.targets is None else self.targets[picked],
            files=None if self.files is None else self.files.pick(picked),
        )

    def arranged(self, classes: Sequence[str]) -> Source:
        """The same images with labels that are places in ``classes``, which may be more than there are images of.

        Where the names of the classes are not known, nothing changes.

        Raises:
            LearngeneError: there are images of a class that is not among them (of a stream: it has such a class).
        """
        if self.classes is None or tuple(classes) == self.classes:
            return self
        place = np.array([_place(name, classes) for name in self.classes], dtype=np.int64)
        used = range(len(place)) if self.stream is not None or self.targets is None else np.unique(self.targets)
        for label in used:
            if 0 <= label < len(place) and place[label] < 0:
                name = self.classes[label]
                also = "twice" if name in classes else "not"
                other = twin(name, classes)  # which prints alike
                shown = f"'{name}'" if other is None else ascii(name)
                form = "" if other is None else f" ({other!a}, the same text in another Unicode form, is)"
                raise LearngeneError(
                    f"'{self.name}' has a class {shown} that is {also} among the {len(classes)} classes trained on{form}; "
                    f"use the same classes in all splits, or a model that was trained on these"
                )
        targets = None if self.targets is None else np.array([_relabel(place, label) for label in self.targets], dtype=np.int64)
        stream = None if self.stream is None else _relabelled(self.stream, place)
        return replace(self, targets=targets, classes=tuple(classes), class_count=None, stream=stream)

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        """Made once: a stat of every file."""
        labels = b"" if self.targets is None else np.asarray(self.targets, dtype=np.int64).tobytes()
        known: dict[str, Any] = {
            "images": len(self),
            "classes": hashlib.sha256(json.dumps(self.classes).encode()).hexdigest(),
            "labels": hashlib.sha256(labels).hexdigest(),
        }
        if self.version is not None:
            known["version"] = self.version
        if self.files is not None:
            known |= fingerprints.of_files(self.files.stamps())
        total = hashlib.sha256(json.dumps([len(self), self.classes]).encode())
        total.update(labels)
        if self.stream is None:
            count = len(self) if self.held and self.files is None else SAMPLE
            for index in np.unique(np.linspace(0, len(self) - 1, count).astype(int)):
                total.update(_pixels(self, int(index)))
        return known | {"sample": total.hexdigest()}

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
        return replace(self, read=lambda i: _from_memory(kept[i]), held=True)


def _place(name: str, classes: Sequence[str]) -> int:
    """Where a class is in a list; -1 if it is not there, or more than once."""
    return list(classes).index(name) if list(classes).count(name) == 1 else -1


def _relabelled(stream: Any, place: np.ndarray) -> Any:
    """A stream whose labels are places in another list."""
    if isinstance(stream, Shards):
        return replace(stream, decode=partial(_decode_relabelled, stream.decode, place))
    other = copy.copy(stream)  # timm's
    other.target_transform = partial(_relabel, place)
    return other


def _decode_relabelled(decode: Callable[[Any], tuple[Image.Image, int]], place: np.ndarray, sample: Any) -> tuple[Image.Image, int]:
    picture, label = decode(sample)
    return picture, _relabel(place, label)


def _relabel(place: np.ndarray, label: int) -> int:
    return int(place[label]) if 0 <= label < len(place) else label  # no label, or one that the reader's own check refuses


def fingerprint(source: Source) -> dict[str, Any]:
    """What tells the images of a source from others, as plain values; `learngene.fingerprints.difference` compares two.

    Names, bytes and times of all files, labels, class names, and the pixels of some images, evenly spread; of all images, where
    they are in memory and have no files. Of a stream only its files are looked at, where they are on this machine.
    """
    return source._fingerprint


def _pixels(source: Source, index: int) -> bytes:
    try:
        picture = np.asarray(source.read(index))
    except BROKEN_IMAGE:
        return b""
    return str(picture.shape).encode() + picture.tobytes()


def _from_memory(kept: np.ndarray | Exception) -> Image.Image:
    if isinstance(kept, Exception):
        raise kept
    return Image.fromarray(kept)


def open_training(data: str, options: DataOptions, mode: Mode) -> tuple[Source, Source]:
    """The training and validation images. Validation is cut from train, stratified and seeded, if there is none.

    Raises:
        LearngeneError: missing, empty, one class only, a stream without a validation split, or training images among the others.
    """
    name = options.val_split or _present_split(data, "val", options)
    train = _open(data, options, "train", options.train_split, mode)
    _check_classes(train, options)
    if name:
        val = _aligned(_open(data, options, "val", name, mode), train)
        check_apart(train, val)
        return training_share(train, options), val
    if train.stream is not None:
        raise LearngeneError(f"{data} is streamed, so no validation split can be cut from it; name one with --val-split")
    kept, held = stratified_cut(train, options.val_fraction, options.split_seed)
    kept = _without_copies(train, kept, held)
    return training_share(train.subset(kept, train.name), options), train.subset(held, f"{train.name} (validation cut)")


def _aligned(source: Source, train: Source) -> Source:
    """A split with the labels of the training images."""
    return source if train.classes is None else source.arranged(train.classes)


def _without_copies(train: Source, kept: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Indices to train on, without those that are links to an image that is held out."""
    if train.files is None:
        return kept
    places = train.files.places()
    out = {places[i] for i in held}
    apart = np.array([i for i in kept if places[i] not in out], dtype=np.int64)
    if not len(apart):
        raise LearngeneError(f"all images of '{train.name}' are links to the few that are held out for validation; add images")
    if len(apart) < len(kept):
        log.warning("%d images of '%s' are links to images that are held out; not trained on", len(kept) - len(apart), train.name)
    return apart


def check_apart(train: Source, other: Source) -> None:
    """Raise if images of another split are files that are trained on; warn if they look like copies of those.

    Raises:
        LearngeneError: some files are in both, through links or folders that lie in each other.
    """
    if train.files is not None and other.files is not None:
        trained = set(train.files.places())
        both = [name for name, place in zip(other.files.names, other.files.places(), strict=True) if place in trained]
        if both:
            raise LearngeneError(
                f"{len(both)} of the {len(other.files.names)} files of '{other.name}' are files that '{train.name}' trains on, "
                f"e.g. {both[0]}; "
                f"keep them apart, or leave the split out (validation images are cut from train then)"
            )
    if train.stream is None and other.stream is None and len(train) == len(other) > 0:
        some = np.unique(np.linspace(0, len(train) - 1, 16).astype(int)).tolist()
        if all(_pixels(train, i) == _pixels(other, i) != b"" for i in some):
            log.warning("the images of '%s' look like copies of those of '%s', which are trained on", other.name, train.name)


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
    return bool(options.test_split or _present_split(data, "test", options))


def open_split(data: str, options: DataOptions, split: str, mode: Mode, classes: Sequence[str] | None = None) -> Source:
    """The images to evaluate on: ``train``, ``val``, ``test``, or ``auto`` (test if there is one, else val).

    Args:
        classes: names of the classes in the order of the labels; by default those of the training images. The data may lack
            some of them, but have no other.

    Raises:
        LearngeneError: as `open_training`, or there is no test split.
    """
    test = options.test_split or _present_split(data, "test", options)
    if split == "auto":
        split = "test" if test else "val"
    if split not in ("train", "val", "test"):
        raise LearngeneError(f"split '{split}': use auto, train, val or test")
    if split == "test":
        source = _open_test(data, options, test, mode, alone=classes is not None)
    else:
        source = open_training(data, options, mode)[split == "val"]
    return source if classes is None else source.arranged(classes)


def _open_test(data: str, options: DataOptions, split: str | None, mode: Mode, *, alone: bool) -> Source:
    """The test images, with the labels of the training images, from which they are kept apart.

    Args:
        alone: there may be no training images.
    """
    if split is None:
        looked = ", ".join(SPLIT_FOLDERS["test"])
        raise LearngeneError(f"{data} has no test split (looked for {looked}); name it with --test-split, or use --split val")
    test = _open(data, options, "test", split, mode)
    if not _root(data, options).is_dir() and (alone or not data.startswith("hfds/")):
        return test
    try:
        train = _open(data, options, "train", options.train_split, mode, quiet=True)
    except LearngeneError:
        if alone:
            return test
        raise
    check_apart(train, test)
    return test if alone else _aligned(test, train)


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


def _is_named(data: str) -> bool:
    return "/" in data and data.split("/")[0] in _NAMED and not Path(data).exists()


def _is_torch_folder(data: str) -> bool:
    """Whether these are class folders under ``data_root``, by torchvision's name for such."""
    return _is_named(data) and data.startswith("torch/") and torch_sets.known(data) in torch_sets.FOLDERS


def _root(data: str, options: DataOptions) -> Path:
    """Where folders are looked for."""
    if not _is_torch_folder(data):
        return Path(data)
    if options.data_root is None:
        raise LearngeneError(f"{data} is a folder of class folders; name it with --data-root")
    return Path(options.data_root)


def _open(data: str, options: DataOptions, role: str, split: str, mode: Mode, *, quiet: bool = False) -> Source:
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


def is_same_split(one: str, other: str) -> bool:
    """Whether two splits have images in common by their names: 'train' and 'train[:80%]', 'train+extra' and 'extra'."""

    def overlap(a: str, b: str) -> bool:
        whole = "[" not in a or "[" not in b
        return a == b or (whole and a.partition("[")[0] == b.partition("[")[0])

    return any(overlap(a.strip(), b.strip()) for a in one.split("+") for b in other.split("+"))


def _check_columns(data: str, options: DataOptions) -> None:
    """Raise if a column is named of what has none."""
    for option in ("image_column", "label_column"):
        column = getattr(options, option)
        if column is not None and (not _is_named(data) or data.startswith("torch/")):
            raise LearngeneError(f"{option} '{column}': '{data}' has no columns; drop --{option.replace('_', '-')}")


def _embedded(options: DataOptions, role: str, split: str, mode: Mode) -> Source:
    if Path(EMBEDDED).is_dir():
        raise LearngeneError(
            f"'{EMBEDDED}' is a folder here and also the data set inside the package; write ./{EMBEDDED} for the folder, or rename it"
        )
    if split not in ("train", "test"):
        raise LearngeneError(f"{EMBEDDED} has no split '{split}'; it has train and test (drop --{role}-split)")
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
    root = _root(data, options)
    if not root.exists():
        raise LearngeneError(
            f"there is no data at '{root}'; give a folder of class folders, a .tar file, '{EMBEDDED}', or torch/..., hfds/..., wds/..."
        )
    if root.is_dir():
        root = _split_folder(root, role, split)
    elif root.suffix.lower() != ".tar":
        raise LearngeneError(f"'{root}' is a file but not a .tar; give a folder of class folders or a .tar of them")
    elif (role, split) != ("train", "train"):
        raise LearngeneError(f"'{root}' is a .tar, which has no split '{split}'; drop --{role}-split, or unpack it")
    if options.unlabeled:
        files, targets, classes = list_all(root), None, None
    else:
        files, targets, classes = list_classes(root, quiet=quiet, order=str if _is_torch_folder(data) else natural)
        if role == "train":  # other splits may lack some
            check_count(f"'{root}'", classes, options.num_classes)
    return Source(str(root), len(files.names), lambda i: files.read(i, mode), files.describe, targets, classes, files=files)


def _split_folder(root: Path, role: str, split: str) -> Path:
    """The folder of a split; the root itself for train, if it has no folder that is named like a split.

    Raises:
        LearngeneError: there is no such folder. Test images are never taken for training.
    """
    known = SPLIT_FOLDERS[role]
    names = (split, *(known if split in known else ()))
    found = _find_folder(root, names)
    if found is not None:
        also = [p.name for p in sorted(root.iterdir()) if p.name != found and p.is_dir() and p.name.lower() in names]
        if also:
            log.warning("'%s' has the folders %s beside '%s'; only the latter is used", root, ", ".join(also), found)
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
    there = {child.name.lower(): child.name for child in sorted(root.iterdir(), reverse=True) if child.is_dir()} | {".": "."}
    for name in names:
        if (root / name).is_dir():
            return name
        if name.lower() in there:
            return there[name.lower()]
    return None


def _present_split(data: str, role: str, options: DataOptions) -> str | None:
    """A split that is there without being named: a folder by one of its usual names, or a part of a named set."""
    if data == EMBEDDED:
        return "test" if role == "test" else None
    if _is_named(data) and not _is_torch_folder(data):
        if data.startswith("torch/"):
            return torch_sets.usual_split(data, role, options)
        from learngene.data.named import present_split  # which makes sources itself

        return present_split(data, role, options)
    return _find_folder(_root(data, options), SPLIT_FOLDERS[role])


def _from_reader(reader: Any, name: str, mode: Mode, targets: np.ndarray | None, classes: tuple[str, ...] | None) -> Source:
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
        raise LearngeneError(f"the {role} split '{split}' of {data} is the one that is trained on; name another, or none")
    found = torch_sets.open_torch(data, name, options, split, mode)
    describe = found.files.describe if found.files is not None else lambda i: f"{name} image {i}"
    targets, names = None, found.classes
    if not options.unlabeled:
        check_count(name, names or (), options.num_classes if names else None)
        targets = Labels(name, len(names) if names else options.num_classes, names).indices(found.targets.tolist(), describe)
    return Source(name, found.length, found.read, describe, targets, names, held=found.files is None, files=found.files)


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
