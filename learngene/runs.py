"""The directory of one training run: what is in it, who may write there, and what is never overwritten."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from learngene.errors import LearngeneError
from learngene.files import alone, check_free, is_locked, local_path, write_text
from learngene.fingerprints import first_change, way_out, what_differs
from learngene.log import only_from
from learngene.processes import is_follower
from learngene.provenance import commit, hardware, versions
from learngene.trust.limits import MAX_RECORD, read_json

log = logging.getLogger("learngene")


def previous_checkpoint(path: Path) -> Path:
    """Where the checkpoint before ``path`` is kept."""
    return path.with_name(f"previous{path.suffix}")


def newest_checkpoint(path: Path) -> Path | None:
    """``path`` or the one before it, whichever is whole (every byte is checked by its CRC); none if neither
    was written.

    Raises:
        LearngeneError: there were checkpoints, and none of them is whole.
    """
    damaged: list[Path] = []
    for candidate in (path, previous_checkpoint(path)):
        if candidate.exists():
            if _is_whole(candidate):
                if damaged:
                    log.warning("%s is damaged; going on from %s", damaged[0], candidate.name)
                return candidate
            damaged.append(candidate)
    if damaged:
        raise LearngeneError(
            f"'{damaged[0]}' is damaged, and there is no older checkpoint; pass --overwrite to begin again"
        )
    return None


def _is_whole(path: Path) -> bool:
    """Whether every byte is as it was written, and nothing but tensors and plain values is in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return False
        torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception:  # damage takes many forms
        return False
    return True


def read_record(folder: Path) -> dict[str, Any] | None:
    """The ``run.json`` of a run's directory; none where there is none.

    Raises:
        LearngeneError: unreadable, or of something else.
    """
    file = folder / RunDirectory.RUN
    if not file.is_file():
        return None
    record = read_json(file, MAX_RECORD)
    if not isinstance(record, dict) or not all(
        isinstance(record.get(k, {}), dict) for k in ("config", "results", "settled")
    ):
        raise LearngeneError(f"'{file}' is no record of a run; choose another --out")
    return record


def is_finished(folder: Path) -> bool:
    """Whether a run in this directory has been finished."""
    return (read_record(folder) or {}).get("status") == "finished"


class RunDirectory:
    """A directory for one training run, with a fixed layout.

    ``config.yaml`` (the resolved arguments; ``--config`` runs the job again), ``run.json`` (status, versions,
    hardware, results), ``metrics.csv`` (a row per epoch), ``log.txt``, ``last.ckpt`` (for resuming), and what
    the command makes: ``learngene.safetensors`` or ``model/``.

    Args:
        path: the directory.
        config: the resolved arguments, plain values.
        resume: go on from ``last.ckpt`` if there is one; a finished run is left as it is.
        overwrite: delete an earlier run in this directory first. Only a run directory is ever deleted.
        upgraded: puts the arguments that an earlier version wrote down into today's words.

    Raises:
        LearngeneError: the directory holds something else, a finished run, a run that was not to be resumed,
            or one with other arguments.
    """

    results: dict[str, Any]
    settled: dict[str, Any]  # what was decided when the run began, and holds when it is resumed
    TRACKERS = ("tensorboard", "wandb")
    CONFIG, RUN, METRICS = "config.yaml", "run.json", "metrics.csv"
    LOG, CHECKPOINT, LOCK = "log.txt", "last.ckpt", "run.lock"

    def __init__(
        self,
        path: str | Path,
        config: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
        upgraded: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> None:
        self.path = Path(path)
        self.config = json.loads(json.dumps(dict(config), default=str))
        self._upgraded = upgraded
        record = read_record(self.path)
        self._is_held = False
        self._images: dict[str, Any] = {}
        self._was_there = self.path.is_dir()
        self._is_new, self._is_begun = record is None or overwrite, False
        self._discard = record is not None and overwrite
        self.settled = (
            {} if self._discard and not is_follower() else dict((record or {}).get("settled") or {})
        )
        # knows only whether there is anything to do: the first process may be writing by now
        if is_follower():
            self.finished = record is not None and not overwrite and record.get("status") == "finished"
            self.results = (record or {}).get("results", {})
            return
        if self._discard:
            self._check_inputs()
            record = None
        self.finished = record is not None and record.get("status") == "finished"
        self.results = (record or {}).get("results", {})
        if record is not None:
            self._check(record, resume)
        elif not self._discard and not self._is_bare():
            check_free(
                self.path, hint="choose another --out (only an earlier run can be overwritten or resumed)"
            )

    def _is_bare(self) -> bool:
        """Whether an earlier run was killed before it wrote anything but its lock."""
        return self.path.is_dir() and {path.name for path in self.path.iterdir()} <= {self.LOCK}

    def _check_inputs(self) -> None:
        """Raise if overwriting would delete what the job is to read."""
        home = self.path.resolve()
        for name, value in _texts(self.config):
            with contextlib.suppress(OSError):  # a text that is too long for a name
                used = local_path(value)
                if value and used.exists() and (used.resolve() == home or home in used.resolve().parents):
                    raise LearngeneError(
                        f"--overwrite would delete {name} '{value}', which lies in '{self.path}'; choose "
                        "another --out"
                    )

    def _check(self, record: Mapping[str, Any], resume: bool) -> None:
        if not resume:
            state = "a finished run" if self.finished else "an unfinished run"
            way = (
                "pass --overwrite to delete it"
                if self.finished
                else "pass --resume to go on with it, or --overwrite to delete it"
            )
            raise LearngeneError(f"'{self.path}' holds {state}; choose another --out, or {way}")
        # not: unused options of old versions
        then_said = self._upgraded(record.get("config", {}))
        then_known = {k: v for k, v in then_said.items() if v or k in self.config}
        old, new = _resolved(then_known), _resolved(self.config)
        name, then, now = first_change(old, new)
        # without a name, one has an argument that is none, the other does not know it
        if then != now and name:
            raise LearngeneError(
                f"'{self.path}' was begun with {name} {then}, now it is {now}; "
                f"resume with the same arguments, or choose another --out"
            )

    def check_settled(self, name: str, value: str) -> None:
        """Keep with the run what something was, e.g. a digest of the ancestor, and raise if the run was begun
        with another.

        Raises:
            LearngeneError: it was another.
        """
        if is_follower():
            return
        if self.settled.setdefault(name, value) != value:
            raise LearngeneError(
                f"'{self.path}' was begun with another {name} under this name; bring the old one back, or "
                "choose another --out"
            )

    def check_images(self, **sources: Any) -> None:
        """Write down what the images are (in `begin`), and raise if the run was begun with others.

        Args:
            **sources: by role: train, val, test; each has a ``fingerprint``.

        Raises:
            LearngeneError: files were added, removed, replaced or written again, or the labels are others.
        """
        if not is_follower():
            self.check_fingerprints({role: source.fingerprint for role, source in sources.items()})

    def check_fingerprints(self, now: Mapping[str, Any]) -> None:
        """`check_images` of images whose fingerprints, by role, are known."""
        self._images = dict(now)
        # versions before 0.2 kept no such record
        old = None if self._discard else (read_record(self.path) or {}).get("images")
        check_same_images(self.path, old, self._images)

    @property
    def checkpoint(self) -> Path:
        return self.path / self.CHECKPOINT

    def newest(self) -> Path | None:
        """The checkpoint to go on from; the same in all processes, even while the first one deletes an
        earlier run.
        """
        if is_follower():
            return None if self._discard else newest_checkpoint(self.checkpoint)
        newest = newest_checkpoint(self.checkpoint)
        if newest not in (None, self.checkpoint):
            self.checkpoint.unlink(missing_ok=True)  # damaged, and not to take the place of the good one
        return newest

    def begin(self) -> None:
        """Make the directory and write down what is going to be done. An earlier run is deleted only now."""
        if is_follower():
            return
        try:
            if self._discard:
                self._empty()
            self._is_begun = True
            # slow the first time; from here on another process may look at the directory
            (
                versions(),
                hardware(),
                commit(),
            )
            self.path.mkdir(parents=True, exist_ok=True)
            self._write("running")
            write_text(self.path / self.CONFIG, yaml.safe_dump(self.config, sort_keys=False))
        except OSError as error:
            raise LearngeneError(
                f"the output directory '{self.path}' cannot be written ({error.strerror}); choose another "
                "--out"
            ) from None

    def _empty(self) -> None:
        for path in self.path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != self.LOCK:
                path.unlink()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs out of the directory while the block runs.

        Raises:
            LearngeneError: another run is at work there, or it cannot be written.
        """
        if is_follower() or self._is_held:
            yield
            return
        busy = f"another run is at work in '{self.path}'; wait for it, or choose another --out"
        try:
            with alone(self.path / self.LOCK, busy):
                self._is_held = True
                self._check_unfinished()
                with self.taken_back():
                    yield
        finally:
            self._is_held = False

    def _check_unfinished(self) -> None:
        """Raise if another run has finished here since this one looked."""
        if not self._discard and not self.finished and is_finished(self.path):
            raise LearngeneError(f"another run has just finished in '{self.path}'; choose another --out")

    @contextlib.contextmanager
    def taken_back(self) -> Iterator[None]:
        """Take back `begin` when bad input shows only in the block: the same command may then run again,
        without --overwrite.

        What was trained stays, and so does a run that was there before.
        """
        try:
            yield
        except LearngeneError:
            if not is_follower() and self._is_new and self._is_begun and not self._is_of_use():
                with contextlib.suppress(OSError):
                    self._empty()
                    if not self._was_there:  # while it is held, `alone` removes it
                        self.path.rmdir()
            raise

    def _is_of_use(self) -> bool:
        """Whether there is anything but records and logs, also of runs within this one, or another process is
        at work there.
        """
        files = [path for path in self.path.rglob("*") if path.is_file()]
        records = [path for path in files if path.name == self.RUN]
        locks = [path for path in files if path.suffix == ".lock" and path != self.path / self.LOCK]
        logs = [path for path in files if path.name in (self.CONFIG, self.LOG)]
        logs += [path for path in files if set(self.TRACKERS) & set(path.relative_to(self.path).parts)]
        return bool(
            set(files) - {*records, *locks, *logs, self.path / self.LOCK}
            or any(is_finished(path.parent) for path in records)
            or any(map(is_locked, locks))
        )

    def finish(self, **results: Any) -> dict[str, Any]:
        """Record the results; from now on the run is finished."""
        self.results = json.loads(json.dumps(results, default=str))
        if not is_follower():
            self._write("finished")
            previous_checkpoint(self.checkpoint).unlink(missing_ok=True)
        return self.results

    def _write(self, status: str) -> None:
        record = {"status": status, "config": self.config, "results": self.results, "settled": self.settled}
        if self._images:
            record["images"] = self._images
        record |= {"versions": versions(), "hardware": hardware(), "commit": commit()}
        write_text(self.path / self.RUN, json.dumps(record, indent=2) + "\n")

    @contextlib.contextmanager
    def logging(self) -> Iterator[None]:
        """Copy the log to ``log.txt`` while the run lasts."""
        if is_follower():
            yield
            return
        handler = logging.FileHandler(self.path / self.LOG, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        level = log.level
        with only_from(log.getEffectiveLevel()):
            log.addHandler(handler)
            log.setLevel(logging.DEBUG)
            try:
                yield
            finally:
                log.setLevel(level)
                log.removeHandler(handler)
                handler.close()


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The texts in plain values, however deep, each with the option that it belongs to."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(inner, name or str(key))


def _resolved(value: Any) -> Any:
    """A plain value in which all ways to write a path that is there are one: ``./DIR``, ``DIR/``,
    ``local-dir:DIR``.
    """
    if isinstance(value, dict):
        return {name: _resolved(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_resolved(inner) for inner in value]
    path = value.removeprefix("local-dir:") if isinstance(value, str) else ""
    with contextlib.suppress(OSError):  # a text that is too long for a name
        if path and Path(path).exists():
            return str(Path(path).resolve())
    return value


def check_same_images(path: Path, then: Any, now: Mapping[str, Any]) -> None:
    """Raise if a run, in whose record the images are ``then``, was made with others than those which are
    there ``now``.

    Args:
        path: of the run, for the message.
        then, now: fingerprints by role; a role that only one of them has is not compared.
    """
    for role in now if isinstance(then, Mapping) else ():
        what = what_differs(then[role], now[role]) if role in then else None
        if what:
            raise LearngeneError(
                f"'{path}' was begun with other {role} images: {what}; bring the old ones back, or choose "
                "another --out"
                f"{way_out(then[role], now[role])}"
            )
