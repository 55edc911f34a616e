"""The package's log is seen by default, without ``logging.basicConfig``, and keeps out of the way of who configures logging."""

from __future__ import annotations

import logging
import sys


class Fallback(logging.Handler):
    """Writes to stderr as long as the root logger has no handlers: one who adds some gets the lines there, and here no more."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            print(self.format(record), file=sys.stderr)


def be_seen() -> None:
    """Let the log of a script or notebook be seen from INFO on, unless a level or a handler of this package's logger is set."""
    logger = logging.getLogger("learngene")
    if logger.handlers or logger.level != logging.NOTSET:
        return
    handler = Fallback(logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
