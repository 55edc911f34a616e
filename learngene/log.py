"""The package's log is seen by default, without ``logging.basicConfig``, and keeps out of the way of who
configures logging.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator


class Fallback(logging.Handler):
    """Writes to stderr as long as nobody else listens: one who adds a handler gets the lines there, and here
    no more.
    """

    def emit(self, record: logging.LogRecord) -> None:
        own = logging.getLogger("learngene").handlers
        others = [
            handler
            for handler in own
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
        ]
        if not logging.getLogger().handlers and not others:
            print(self.format(record), file=sys.stderr)


def be_seen() -> None:
    """Let the log of a script or notebook be seen from INFO on, unless somebody has configured logging: its
    level is kept.
    """
    logger = logging.getLogger("learngene")
    if logger.hasHandlers() or logger.level != logging.NOTSET:
        return
    handler = Fallback(logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


@contextlib.contextmanager
def only_from(level: int) -> Iterator[None]:
    """Keep the package's lines below a level from all who listen now, while its logger lets more through for
    a file of its own.
    """

    def is_wanted(record: logging.LogRecord) -> bool:
        return record.levelno >= level or record.name.partition(".")[0] != "learngene"

    listeners = [*logging.getLogger("learngene").handlers, *logging.getLogger().handlers]
    for listener in listeners:
        listener.addFilter(is_wanted)
    try:
        yield
    finally:
        for listener in listeners:
            listener.removeFilter(is_wanted)
