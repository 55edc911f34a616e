"""Folders as trees: a disk, or the inside of a .tar."""

from __future__ import annotations

import logging
import os
import posixpath
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from learngene.data.images import is_image, is_passed_over

log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """What a folder holds: its name, what it is, where it is without links, whether it is a link."""

    name: str
    kind: Literal["file", "folder", "nothing"]
    real: str
    link: bool


class Tree(Protocol):
    """A disk, or the inside of a .tar."""

    def entries(self, folder: str) -> Iterable[Entry]: ...


class Disk:
    """The file system; folders are named by their real paths."""

    def entries(self, folder: str) -> Iterator[Entry]:
        with os.scandir(folder) as found:
            for child in found:
                link = child.is_symlink()
                real = os.path.realpath(child.path) if link else child.path
                at: Any = Path(real) if link else child
                is_folder, is_file = at.is_dir(), at.is_file()
                kind: Any = "folder" if is_folder else "file" if is_file else "nothing"
                yield Entry(child.name, kind, real, link)


class Tar:
    """The members of a .tar as a tree; the root is '', a member '/cat/1.png'.

    Of members with one name the last counts, as in unpacking.

    Attributes:
        members: the regular files.

    Raises:
        tarfile.TarError: it cannot be listed.
    """

    def __init__(self, path: Path) -> None:
        self.members: dict[str, tarfile.TarInfo] = {}
        self._children: dict[str, set[str]] = {"": set()}
        self._links: dict[str, str | None] = {}
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                self._add(member)
            end = tar.offset
        check_end(path, end)

    def _add(self, member: tarfile.TarInfo) -> None:
        name = posixpath.normpath(f"/{member.name.lstrip('/')}")
        if name == "/":
            return
        if member.isreg() and not member.issparse():
            self.members[name] = member
        elif member.isdir():
            self._children.setdefault(name, set())
        else:
            self._links[name] = self._target(name, member)
        while name:
            folder, _, last = name.rpartition("/")
            self._children.setdefault(folder, set()).add(last)
            name = folder

    @staticmethod
    def _target(name: str, member: tarfile.TarInfo) -> str | None:
        """Where a link leads; none: out of the archive, or it is no link."""
        if member.islnk():
            return posixpath.normpath(f"/{member.linkname.lstrip('/')}")
        if not member.issym() or member.linkname.startswith("/"):
            return None
        inside = posixpath.normpath(posixpath.join(posixpath.dirname(name)[1:], member.linkname))
        return None if inside.startswith("..") else "" if inside == "." else f"/{inside}"

    def _real(self, path: str, depth: int = 0) -> str | None:
        """A path without links; none where a link leads out, to itself, or through too many others."""
        real: str | None = ""
        for part in path.split("/")[1:]:
            step = f"{real}/{part}"
            if step in self._links:
                target = self._links[step]
                real = None if target is None or depth > 40 else self._real(target, depth + 1)
                self._links[step] = real  # so that each link is followed once
                if real is None:
                    return None
            else:
                real = step
        return real

    def entries(self, folder: str) -> Iterator[Entry]:
        for name in self._children.get(folder, ()):
            path = f"{folder}/{name}"
            real = self._real(path)
            is_file, is_folder = real in self.members, real in self._children
            kind: Any = "file" if is_file else "folder" if is_folder else "nothing"
            yield Entry(name, kind, real or "", path in self._links)

    def images(self) -> list[list[str]]:
        """The paths of images that are not hidden, in parts; what links lead to is there without them."""
        parts = [path.split("/")[1:] for path in self.members if is_image(path)]
        return [path for path in parts if not any(map(is_passed_over, path))]

    def top(self) -> str:
        """The folder that holds the class folders: the root, or what lies under folders that hold one."""
        top: list[str] = []
        parts = self.images()
        while parts and all(len(p) - len(top) > 2 for p in parts) and len({p[len(top)] for p in parts}) == 1:
            top.append(parts[0][len(top)])
        return "".join(f"/{name}" for name in top)


def check_end(path: Path, end: int) -> None:
    """Raise where tarfile stops without a word: at a damaged or cut header, or before a second archive.

    Args:
        end: the byte behind the last member.
    """
    with path.open("rb") as file:
        file.seek(end)
        mark = file.read(tarfile.BLOCKSIZE)
        if not mark:
            log.warning("'%s' has no end mark; if it was cut, images are missing", path)
        elif mark.strip(b"\0") or len(mark) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"it is damaged or cut at byte {end}; make it again")
        elif any(rest.strip(b"\0") for rest in iter(lambda: file.read(2**20), b"")):
            raise tarfile.ReadError("another archive follows behind its end; make one .tar of them")
