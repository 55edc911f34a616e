"""The command line: every job is a command, and its fields are the options.

A user's mistake ends in one sentence on stderr and exit status 2; only bugs show tracebacks.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from learngene.errors import LearngeneError
from learngene.job import Job
from learngene.jobs import jobs
from learngene.trust.limits import printable
from learngene.words import parse_words

RECORDS = ("run.json", "cache.json")  # of run directories and caches, by which --resume goes on
HELP = """learngene: one big ViT, many sizes of it.

usage: learngene COMMAND [options]   (learngene COMMAND --help lists them)

"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 2 for a user's mistake, or 130 when interrupted."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: learngene ... >&-
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  as long as the process lives
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _answer(words)
        sys.stdout.flush()  # not at the interpreter's exit, where a reader that has gone ends in a traceback
        return status
    except BrokenPipeError:  # learngene ... | head
        _discard_output()
        return 0
    except OSError as error:
        if error.filename is not None or error.errno != errno.ENOSPC:
            raise
        _discard_output()
        return _complain(words, f"error: the output cannot be written ({error.strerror}); free some space")


def _answer(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        lines = [f"  {command:10} {job.SUMMARY}" for command, job in jobs().items()]
        print(HELP + "\n".join(lines) + "\n\n  --version")
        return 0
    if words[0] == "--version":
        from learngene import __version__

        print(__version__)
        return 0
    command, *rest = words
    try:
        if command not in jobs():
            raise LearngeneError(f"there is no command '{command}'; the commands are {', '.join(jobs())}")
        return _run(jobs()[command], rest)
    except LearngeneError as error:
        return _complain(words, f"error: {error}")
    except OSError as error:  # a name that is too long, a folder that may not be read, ...
        if error.filename is None:
            raise
        why = f"'{error.filename}' cannot be used ({error.strerror})"
        return _complain(words, f"error: {why}; check the path and its rights")
    except KeyboardInterrupt as stop:
        return _complain(words, f"interrupted; {str(stop) or 'nothing was begun'}", status=130)


def _complain(words: Sequence[str], text: str, status: int = 2) -> int:
    """One line on stderr; the exit status."""
    with contextlib.suppress(BrokenPipeError):
        print(f"learngene {printable(words[0])}: {printable(text)}", file=sys.stderr)
    return status


def _discard_output() -> None:
    """What is still to be printed goes nowhere, so that the interpreter's own flush at its exit is quiet."""
    with contextlib.suppress(OSError):  # a stdout that is no file, as in a notebook
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(job: type[Job], words: list[str]) -> int:
    said = parse_words(job, words)
    if said is None:  # help or a config was printed
        return 0
    as_json = said.pop("json", False)
    _configure_logging(as_json)
    value = job(**said)
    before = _records(value)
    try:
        result = value.run()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_after_interrupt(value, before)) from None
    if as_json:
        print(json.dumps(result, indent=2, default=str))
    else:
        job.show(result)
    return 0


def _records(value: Job) -> dict[str, int]:
    """The records of runs in the job's output directory, and when they were written."""
    files = [Path(getattr(value, "out", None) or "") / name for name in RECORDS]
    return {file.name: file.stat().st_mtime_ns for file in files if file.is_file()}


def _after_interrupt(value: Job, before: Mapping[str, int]) -> str:
    """What the user can do now, by what the job has left in its output directory.

    Args:
        before: the records when it began; one that was to be overwritten, and still is the same, is no
            one's to resume.
    """
    out, overwrite = getattr(value, "out", None), getattr(value, "overwrite", None)
    if hasattr(value, "resume"):
        records = _records(value)
        if not records or (overwrite and records == before):
            return "nothing was begun; the same command begins anew"
        return f"the same command with --resume{' instead of --overwrite' if overwrite else ''} goes on"
    if overwrite is False and out is not None and Path(out).is_dir() and any(Path(out).iterdir()):
        return f"what is complete in '{out}' stays; the same command with --overwrite begins anew"
    return "the same command begins anew"


def _configure_logging(quiet: bool) -> None:
    """The package's log on stderr: rich on a terminal, plain lines in a redirected log."""
    logger = logging.getLogger("learngene")
    level = logging.WARNING if quiet else logging.INFO
    logger.setLevel(level)
    logger.handlers.clear()
    handler: logging.Handler
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        console = Console(stderr=True)
        handler = RichHandler(console=console, show_path=False, show_level=False, log_time_format="%H:%M:%S")
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    handler.setLevel(level)
    logger.addHandler(handler)
