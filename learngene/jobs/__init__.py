"""Every job: one file each, with a dataclass whose fields are its options and whose ``run()`` does it.

A new file here is a new command, a new Python function, and a new table on the terminal; nothing else has to
know of it.
"""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import Any

from learngene.job import Job, function_of
from learngene.log import be_seen

be_seen()


@functools.cache
def jobs() -> dict[str, type[Job]]:
    """The jobs by their commands, in the order of ``learngene --help``."""
    modules = [
        import_module(f"{__name__}.{found.name}")
        for found in pkgutil.iter_modules(__path__)
        if not found.ispkg
    ]
    kinds = {
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Job)
    }
    return {kind.COMMAND: kind for kind in sorted(kinds - {Job}, key=lambda kind: (kind.ORDER, kind.COMMAND))}


@functools.cache
def functions() -> dict[str, Callable[..., Any]]:
    """The Python function of each job, by its name."""
    return {kind.FUNCTION or command: function_of(kind) for command, kind in jobs().items()}
