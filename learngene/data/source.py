"""A source: a list of PIL images with optional labels, or a stream of them."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from PIL import Image

from learngene import fingerprints
from learngene.data.folders import Files
from learngene.data.images import BROKEN_IMAGE
from learngene.data.names import twin
from learngene.data.stream import Shards
from learngene.errors import LearngeneError

SAMPLE = 64  # images whose pixels are looked at to tell a data set from another


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
        files: of the images, by index; of a stream its shards, where they are on disk; none where there are
            none, or nobody knows.
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
        """The same images with labels that are places in ``classes``, of which there may be more.

        Where the names of the classes are not known, nothing changes.

        Raises:
            LearngeneError: there are images of a class that is not among them; or a stream has such a class.
        """
        if self.classes is None or tuple(classes) == self.classes:
            return self
        place = np.array([_label_place(name, classes) for name in self.classes], dtype=np.int64)
        targets = self.targets
        unknown = self.stream is not None or targets is None
        for label in range(len(place)) if unknown else np.unique(targets):  # type: ignore[arg-type]
            if 0 <= label < len(place) and place[label] < 0:
                name = self.classes[label]
                also = "twice" if name in classes else "not"
                other = twin(name, classes)  # which prints alike
                shown = f"'{name}'" if other is None else ascii(name)
                form = "" if other is None else f" ({other!a}, the same text in another Unicode form, is)"
                raise LearngeneError(
                    f"'{self.name}' has a class {shown} that is {also} among the {len(classes)} classes "
                    f"trained on{form}; use the same classes in all splits, or a model that was trained on "
                    f"these"
                )
        if targets is not None:
            targets = np.array([_relabel(place, label) for label in targets], dtype=np.int64)
        stream = None if self.stream is None else _relabelled(self.stream, place)
        return replace(self, targets=targets, classes=tuple(classes), class_count=None, stream=stream)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What tells the images from others, as plain values; made once.

        `learngene.fingerprints.what_differs` compares two.
        Names, bytes and times of all files (a stat of each), labels, class names, and the pixels of some
        images, evenly spread; of all images, where they are in memory and have no files. Of a stream only its
        files are looked at, where they are on this machine.
        """
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
                total.update(pixels_of(self, int(index)))
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


def _label_place(name: str, classes: Sequence[str]) -> int:
    """Where a class is in a list; -1 if it is not there, or more than once."""
    return list(classes).index(name) if list(classes).count(name) == 1 else -1


def _relabelled(stream: Any, place: np.ndarray) -> Any:
    """A stream whose labels are places in another list."""
    if isinstance(stream, Shards):
        return replace(stream, decode=partial(_decode_relabelled, stream.decode, place))
    other = copy.copy(stream)  # timm's
    other.target_transform = partial(_relabel, place)
    return other


def _decode_relabelled(
    decode: Callable[[Any], tuple[Image.Image, int]], place: np.ndarray, sample: Any
) -> tuple[Image.Image, int]:
    picture, label = decode(sample)
    return picture, _relabel(place, label)


def _relabel(place: np.ndarray, label: int) -> int:
    # others are no labels, or some that the reader's own check refuses
    return int(place[label]) if 0 <= label < len(place) else label


def pixels_of(source: Source, index: int) -> bytes:
    """Shape and pixels of an image; nothing if it cannot be read."""
    try:
        picture = np.asarray(source.read(index))
    except BROKEN_IMAGE:
        return b""
    return str(picture.shape).encode() + picture.tobytes()


def _from_memory(kept: np.ndarray | Exception) -> Image.Image:
    if isinstance(kept, Exception):
        raise kept
    return Image.fromarray(kept)
