"""Write files and directories whole or not at all, and to stay; and locks.

What is written gets its name only when its bytes are on the disk, and the name is on the disk before the
writer goes on: after a crash or a power cut there is the earlier file or the new one, never a part.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from learngene.errors import LearngeneError


def local_path(name: str | Path) -> Path:
    """Of a file or directory as it was named; timm's ``local-dir:`` may stand before it."""
    return Path(str(name).removeprefix("local-dir:"))


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A scratch path beside ``path`` to write to; on success it is flushed to disk and takes the name
    ``path``.

    Raises:
        LearngeneError: the disk is full, read-only or not ours to write to. What was at ``path`` before is
            still there.
    """
    path = Path(path)
    _make_parent(path)
    with _plain_words(path):
        descriptor, name = tempfile.mkstemp(
            prefix=f".{path.name[:100]}.", suffix=path.suffix[:20], dir=path.parent
        )
        os.close(descriptor)
        scratch = Path(name)
        try:
            yield scratch
            scratch.chmod(0o666 & ~_umask())
            _flush(scratch)
            scratch.replace(path)
            _flush(path.parent)
        finally:
            _tidy(scratch)


@contextlib.contextmanager
def atomic_directory(
    path: str | Path, *, overwrite: bool = False, own: Sequence[str] | None = None
) -> Iterator[Path]:
    """A scratch directory beside ``path`` to fill; on success it takes the name ``path``.

    Args:
        overwrite, own: what an earlier directory may be, see `check_free`.

    Raises:
        LearngeneError: ``path`` exists and may not be replaced (see `check_free`); or it cannot be written
            (see `atomic_file`).
    """
    path = Path(path)
    check_free(path, overwrite=overwrite, own=own)
    _make_parent(path)
    with _plain_words(path):
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", dir=path.parent))
        try:
            yield scratch
            for file in (scratch, *scratch.rglob("*")):  # some writers keep files to their owner
                file.chmod((0o777 if file.is_dir() else 0o666) & ~_umask())
                _flush(file)
            _take_name(scratch, path)
            _flush(path.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _take_name(scratch: Path, path: Path) -> None:
    """Give a finished directory its name; an earlier one goes only then, and comes back if that fails."""
    if not path.exists():
        scratch.replace(path)
        return
    old = scratch.with_name(f"{scratch.name}.old")
    path.rename(old)
    try:
        scratch.replace(path)
    except OSError:
        old.rename(path)
        raise
    if old.is_symlink():  # the link was replaced; what it led to is not ours to delete
        old.unlink()
    else:
        shutil.rmtree(old)


def _flush(path: Path) -> None:
    """Wait until a file's bytes, or a directory's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some network file systems cannot flush directories
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
        ):
            raise
    finally:
        os.close(descriptor)


def _tidy(scratch: Path) -> None:
    with contextlib.suppress(OSError):  # the reason why it could not be written says more
        scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def _plain_words(path: Path) -> Iterator[None]:
    """Say in one sentence that ``path`` could not be written, and why."""
    try:
        yield
    except Exception as error:
        reason = write_failure(error)
        if reason is None:
            raise
        raise LearngeneError(
            f"'{path}' cannot be written ({reason}); free some space or choose another --out, and run the "
            "command again"
        ) from error


def write_failure(error: BaseException) -> str | None:
    """What the system said when a file could not be written; none for an error of another kind.

    safetensors and torch write by themselves, and raise errors of their own that hold the system's in words.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    told = re.search(r"os error (\d+)", str(error))
    if told:
        return os.strerror(int(told[1]))
    torch_writer = isinstance(error, RuntimeError) and (
        "inline_container" in str(error) or "PytorchStreamWriter" in str(error)
    )
    return "the disk is full or has gone" if torch_writer else None


@contextlib.contextmanager
def locked(path: str | Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file while the block runs; yields whether it was had.

    It is let go when the process ends, however it ends: forked workers that outlive it do not go on holding
        it (filelock 3.30).

    Args:
        wait: until another process lets go of it; else give up at once and yield False.

    Raises:
        LearngeneError: it cannot be written, or the file system has no locks; a marker file instead would
            outlive a crash.
    """
    path = Path(path)
    _make_parent(path)
    lock = FileLock(path, timeout=-1 if wait else 0, fallback_to_soft=False)
    with _plain_words(path):
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
                raise
            raise LearngeneError(
                f"the file system of '{path}' has no locks ({error.strerror}), which sharing work needs"
            ) from None
    try:
        yield True
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether another process holds this lock file."""
    with locked(path, wait=False) as mine:
        return not mine


@contextlib.contextmanager
def alone(lock: Path, busy: str) -> Iterator[None]:
    """Keep other processes out while the block runs; the lock file goes with it, and so does its folder if it
    is new and empty.

    Raises:
        LearngeneError: ``busy``, when another process is in.
    """
    was_there = lock.parent.is_dir()
    with locked(lock, wait=False) as mine:
        if not mine:
            raise LearngeneError(busy)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            if not was_there:
                with contextlib.suppress(OSError):  # something was written, as it should be
                    lock.parent.rmdir()


def check_free(
    path: str | Path,
    *,
    overwrite: bool = False,
    own: Sequence[str] | None = None,
    reads: Collection[str | Path | None] = (),
    hint: str = "choose another --out, or pass --overwrite",
) -> None:
    """Raise unless ``path`` can become an output directory without losing anything but an earlier output.

    Args:
        overwrite: an earlier output may be replaced.
        own: the files that an earlier output consists of, of which the first is always there; by default it
            may hold anything.
        reads: files and directories that the command reads. Names that are not there, as of known data sets,
            are passed over.

    Raises:
        LearngeneError: there is a file, or a directory that may not be replaced.
    """
    path = Path(path)
    if not path.is_dir():
        if path.exists():
            raise LearngeneError(f"'{path}' is a file, not a directory; choose another --out")
        return
    held = sorted(path.iterdir())
    if not held:
        return
    if not overwrite:
        raise LearngeneError(f"the output directory '{path}' is not empty; {hint}")
    home = path.resolve()
    for read in (read for read in reads if read):
        used = Path(read).resolve()
        if used.exists() and (used == home or home in used.parents or used in home.parents):
            raise LearngeneError(
                f"--overwrite would replace '{path}', which holds or lies in '{read}' that is read; choose "
                "another --out"
            )
    if own is None:
        return
    foreign = next((file.name for file in held if file.name not in own or not file.is_file()), None)
    if foreign or not (path / own[0]).is_file():
        why = f"holds '{foreign}'" if foreign else f"lacks {own[0]}"
        raise LearngeneError(
            f"'{path}' {why}, so it is not what --overwrite replaces, an earlier output; choose another --out"
        )


def check_new_file(path: str | Path, *, overwrite: bool = False) -> None:
    """Raise unless a file can be written to ``path`` without losing anything.

    Raises:
        LearngeneError: there is a directory, or a file and ``overwrite`` is off.
    """
    path = Path(path)
    if path.is_dir():
        raise LearngeneError(f"'{path}' is a directory; --out is the file to write")
    if path.exists() and not overwrite:
        raise LearngeneError(f"'{path}' exists; choose another --out, or pass --overwrite")


def check_writable(path: Path) -> None:
    """Raise unless a file may be made, or written over.

    Raises:
        LearngeneError: it or its folder is protected.
    """
    protected = next((p for p in (path, path.parent) if p.exists() and not os.access(p, os.W_OK)), None)
    if protected is not None:
        raise LearngeneError(f"'{protected}' is protected against writing; name another file with --out")


def write_text(path: str | Path, text: str) -> None:
    """`atomic_file` for a string, UTF-8."""
    with atomic_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LearngeneError(
            f"the folder '{path.parent}' cannot be made ({error.strerror}); choose another --out"
        ) from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
