"""Write files and directories whole or not at all. Standard library only."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from learngene.errors import LearngeneError


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A scratch path beside ``path`` to write to; on success it is flushed to disk and takes the name ``path``."""
    path = Path(path)
    _make_parent(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    scratch = Path(name)
    try:
        yield scratch
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        scratch.chmod(0o666 & ~_umask())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A scratch directory beside ``path`` to fill; on success it takes the name ``path``.

    Raises:
        LearngeneError: ``path`` exists and holds something, and ``overwrite`` is off.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    _make_parent(path)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield scratch
        scratch.chmod(0o777 & ~_umask())
        for file in scratch.rglob("*"):  # some writers keep files to their owner
            file.chmod((0o777 if file.is_dir() else 0o666) & ~_umask())
        if path.exists():
            old = scratch.with_name(f"{scratch.name}.old")
            path.rename(old)
            scratch.replace(path)
            shutil.rmtree(old)
        else:
            scratch.replace(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def locked(path: str | Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file while the block runs; yields whether it was had. It is let go when the process ends, however it ends.

    Args:
        wait: until another process lets go of it; else give up at once and yield False.
    """
    import fcntl

    path = Path(path)
    _make_parent(path)
    with path.open("a") as file:
        _locks.add(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            raise LearngeneError(f"the file system of '{path}' has no locks ({error.strerror}), which sharing work needs") from None
        try:
            yield True
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


_locks: weakref.WeakSet[IO[str]] = weakref.WeakSet()


def _close_locks() -> None:
    """In a forked worker, which must not go on holding a lock when this process is gone."""
    for file in _locks:
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locks)


def check_free(path: str | Path, *, overwrite: bool = False, hint: str = "choose another --out, or pass --overwrite") -> None:
    """Raise unless ``path`` can become an output directory without losing anything."""
    path = Path(path)
    if path.is_dir():
        if any(path.iterdir()) and not overwrite:
            raise LearngeneError(f"the output directory '{path}' is not empty; {hint}")
    elif path.exists():
        raise LearngeneError(f"'{path}' is a file, not a directory; choose another --out")


def write_text(path: str | Path, text: str) -> None:
    """`atomic_file` for a string, UTF-8."""
    with atomic_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LearngeneError(f"the folder '{path.parent}' cannot be made ({error.strerror}); choose another --out") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
