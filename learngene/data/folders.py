"""Images in class folders, on disk or in a .tar: one walk, one rule of what a class is, one warning.

A class is a folder right under the root, its images are those that lie right in it. Links are followed, and a
link back to where the walk has been is noticed. Files that are no images, images elsewhere, and what is
hidden or a system's own are left out, and that is said.
"""

from __future__ import annotations

import io
import logging
import math
import os
import tarfile
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from learngene.data.images import Mode, decode, is_image, is_passed_over
from learngene.data.names import SPLIT_FOLDERS, check_forms, natural, shown_name
from learngene.data.trees import Disk, Entry, Tar, Tree
from learngene.errors import LearngeneError
from learngene.fingerprints import Stamp

log = logging.getLogger(__name__)


@dataclass
class LeftOut:
    """What is not used of a data set, by kind."""

    root: str
    loose: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def parts(self) -> list[str]:
        """A phrase for each kind that there is."""
        endings = Counter(PurePosixPath(name).suffix.lower() or "without ending" for name in self.other)
        others = ", ".join(f"{ending} {count}" for ending, count in endings.most_common(5))
        kinds = (
            (self.loose, "images in no class folder"),
            (self.other, f"files of other kinds ({others})"),
            (self.hidden, "hidden images and folders, or a system's own"),
            (self.broken, "links that lead nowhere, or things that are no files"),
            (self.again, "links to folders that are read already"),
            (self.empty, "folders without images of their own, which are no classes"),
        )
        return [f"{len(names)} {what} (e.g. {shown_name(min(names))})" for names, what in kinds if names]

    def __bool__(self) -> bool:
        return any((self.loose, self.other, self.hidden, self.broken, self.again, self.empty))

    def text(self) -> str:
        """All of it in a line."""
        return f"left out of '{self.root}': {'; '.join(self.parts())}"

    def say(self) -> None:
        """One warning, if anything is left out."""
        if self:
            log.warning(self.text())


@dataclass(frozen=True)
class Files:
    """The files of images, by index.

    Attributes:
        root: the folder, or the .tar.
        names: below the root.
        real: where a name leads that is a link, or lies behind one.
        members: of the .tar.
    """

    root: Path
    names: Sequence[str]
    real: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, tarfile.TarInfo] | None = None

    def pick(self, indices: np.ndarray) -> Files:
        """Some of them."""
        return replace(self, names=[self.names[i] for i in indices])

    def read(self, index: int, mode: Mode) -> Image.Image:
        """An image."""
        if self.members is None:
            return decode(self.root / self.names[index], mode)
        member = self._member(self.names[index])
        with self.root.open("rb") as file:  # anew: an open file does not survive being shared by processes
            file.seek(member.offset_data)
            return decode(io.BytesIO(file.read(member.size)), mode)

    def describe(self, index: int) -> str:
        """Where an image is, for messages."""
        return str(self.root / self.names[index])

    def places(self) -> list[str]:
        """Where the files really are; hard links to a file are at one place. On disk, one stat each."""
        root = os.path.realpath(self.root)
        if self.members is not None:
            return [f"{root}{self.real.get(name, f'/{name}')}" for name in self.names]
        return [_real_place(self.real.get(name, f"{root}/{name}")) for name in self.names]

    def stamps(self) -> Iterator[Stamp]:
        """Name, bytes and time (ns) of each file; of a .tar its own as well. One stat each."""
        if self.members is not None:
            yield _stamp(self.root, "")
        for name in self.names:
            if self.members is None:
                yield _stamp(self.root / name, name)
            else:
                member = self._member(name)
                yield name, member.size, int(member.mtime * 1e9) if math.isfinite(member.mtime) else 0

    def _member(self, name: str) -> tarfile.TarInfo:
        assert self.members is not None
        return self.members[self.real.get(name, f"/{name}")]


def _stamp(path: Path, name: str) -> Stamp:
    try:
        found = path.stat()
    except OSError:  # gone since it was listed; reading it will say so
        return name, -1, 0
    return name, found.st_size, found.st_mtime_ns


def _real_place(path: str) -> str:
    """A path without symbolic links, or for a file of several names what they have in common."""
    try:
        found = Path(path).stat()
    except OSError:  # gone since it was listed; reading it will say so
        return path
    return f"{found.st_dev}:{found.st_ino}" if found.st_nlink > 1 else path


class Listing(NamedTuple):
    """What was found: files, their classes (N,) as places in the names, the names in order."""

    files: Files
    targets: np.ndarray
    classes: tuple[str, ...]


def list_classes(root: Path, *, quiet: bool = False, order: Any = natural) -> Listing:
    """The images in the class folders of a folder or a .tar.

    Args:
        quiet: do not say what is left out.
        order: key of the order of classes.

    Raises:
        LearngeneError: none are there, or they cannot be listed.
    """
    tree, base, members = _open_tree(root, labelled=True)
    found, left = _walk(tree, base, str(root), labelled=True)
    if not found:
        loose = f"{len(left.loose)} images but no class folders"
        what = loose if left.loose else "no images in class folders"
        left = replace(left, loose=[])
        also = f" ({'; '.join(left.parts())})" if left else ""
        raise LearngeneError(
            f"'{root}' holds {what}{also}; put each class's images in a folder of its own, "
            f"or pass --unlabeled to distil without labels"
        )
    if not quiet:
        left.say()
    found.sort(key=lambda pair: natural(pair[0]))
    classes = sorted({name.partition("/")[0] for name, _ in found}, key=order)
    check_forms(classes, str(root))
    number = {name: index for index, name in enumerate(classes)}
    targets = np.array([number[name.partition("/")[0]] for name, _ in found], dtype=np.int64)
    files = _files(root, base, found, members)
    if files.real and not quiet:
        _say_doubles(files, targets)
    return Listing(files, targets, tuple(classes))


def _say_doubles(files: Files, targets: np.ndarray) -> None:
    """Warn of images that have two classes, by links."""
    first: dict[str, int] = {}
    doubles = [
        index
        for index, place in enumerate(files.places())
        if targets[first.setdefault(place, index)] != targets[index]
    ]
    if doubles:
        example = shown_name(files.names[doubles[0]])
        log.warning(
            "%d images of '%s' have two classes, by links (e.g. %s)", len(doubles), files.root, example
        )


def list_all(root: Path) -> Files:
    """All images at any depth of a folder or a .tar, for training without labels.

    Raises:
        LearngeneError: none are there, or they cannot be listed.
    """
    tree, base, members = _open_tree(root, labelled=False)
    found, left = _walk(tree, base, str(root), labelled=False)
    if not found:
        also = f" ({'; '.join(left.parts())})" if left else ""
        raise LearngeneError(f"there are no images under '{root}'{also}; check the path")
    left.say()
    # folders by path, as ever: the images that are held out for validation are chosen by this order
    found.sort(key=lambda pair: natural(pair[0]) if members is not None else pair[0].split("/"))
    return _files(root, base, found, members)


def shards_on_disk(paths: Sequence[str]) -> Files | None:
    """The files of a stream, if all of them are on this machine."""
    if not paths or not all(Path(path).is_file() for path in paths):
        return None
    root = os.path.commonpath([Path(path).resolve().parent for path in paths])
    return Files(Path(root), [os.path.relpath(Path(path).resolve(), root) for path in paths])


def keep_images(names: Sequence[str], root: str) -> np.ndarray:
    """Indices of the names, in somebody else's list, that are images and not hidden; the others are said."""
    left = LeftOut(root)
    kept = []
    for index, name in enumerate(names):
        if any(map(is_passed_over, name.split("/"))):
            left.hidden += [name] if is_image(name) else []
        elif not is_image(name):
            left.other.append(name)
        else:
            kept.append(index)
    left.say()
    return np.array(kept, dtype=np.int64)


def _open_tree(root: Path, *, labelled: bool) -> tuple[Tree, str, Mapping[str, tarfile.TarInfo] | None]:
    """A tree, the name of its root, and the members if it is a .tar."""
    if root.is_dir():
        return Disk(), os.path.realpath(root), None
    try:
        tar = Tar(root)
    except (OSError, tarfile.TarError, ValueError) as error:
        raise LearngeneError(f"the images in '{root}' cannot be listed: {error}") from None
    above = {part.lower() for path in tar.images() for part in (path[:-2] if labelled else path[:-1])}
    splits = sorted(above & {name for names in SPLIT_FOLDERS.values() for name in names})
    if len(splits) > 1:
        raise LearngeneError(
            f"'{root}' holds several splits ({', '.join(splits)}), which would be mixed; "
            f"make one .tar of each, or unpack it"
        )
    top = tar.top()
    held_out = (*SPLIT_FOLDERS["val"], *SPLIT_FOLDERS["test"])
    held = [part for part in top.split("/") if part.lower() in held_out]
    if held:
        raise LearngeneError(
            f"'{root}' holds a folder '{held[0]}' and none to train on; make a .tar of the training images, "
            f"or unpack it and name the folder with --train-split"
        )
    return tar, top, tar.members


def _files(
    root: Path, base: str, found: list[tuple[str, Entry]], members: Mapping[str, tarfile.TarInfo] | None
) -> Files:
    top = f"{base[1:]}/" if members is not None and base else ""
    real = {f"{top}{name}": entry.real for name, entry in found if entry.real != f"{base}/{name}"}
    return Files(root, [f"{top}{name}" for name, _ in found], real, members)


def _walk(tree: Tree, base: str, root: str, *, labelled: bool) -> tuple[list[tuple[str, Entry]], LeftOut]:
    """The images under a root by name, and what else was there.

    Every folder is read once, those that no link is needed for first; only class folders may be one and the
    same under two names.
    """
    found: list[tuple[str, Entry]] = []
    left = LeftOut(root)
    folders, links = deque([("", base)]), deque[tuple[str, str]]()
    seen: set[str] = set()
    try:
        while folders or links:
            name, folder = (folders or links).popleft()
            is_class = labelled and name.count("/") == 1  # names of folders end in one
            above = f"{base}/".startswith(f"{folder}/")  # the root, or what it lies in
            if name and (above or (folder in seen and not is_class)):
                left.again.append(name.rstrip("/"))
                continue
            seen.add(folder)
            before = len(found)
            for entry in sorted(tree.entries(folder)):
                if entry.kind == "folder" and not is_passed_over(entry.name):
                    (links if entry.link else folders).append((f"{name}{entry.name}/", entry.real))
                else:
                    _sort_file(f"{name}{entry.name}", entry, found, left, used=is_class or not labelled)
            if is_class and len(found) == before:
                left.empty.append(name.rstrip("/"))
    except OSError as error:
        raise LearngeneError(f"the images in '{root}' cannot be listed: {error}") from None
    return found, left


def _sort_file(name: str, entry: Entry, found: list[tuple[str, Entry]], left: LeftOut, *, used: bool) -> None:
    if is_passed_over(entry.name):
        if entry.kind == "folder" or is_image(entry.name):  # a .DS_Store is no loss
            left.hidden.append(name)
    elif entry.kind == "nothing":
        left.broken.append(name)
    elif not is_image(entry.name):
        left.other.append(name)
    elif not used:
        left.loose.append(name)
    else:
        found.append((name, entry))
