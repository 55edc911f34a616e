"""timm's `create_model`: names that it knows, its chatter, and its errors in one sentence."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import timm
from timm.models import is_model
from torch import nn

from learngene.errors import LearngeneError, first_line


def match_names(pattern: str) -> list[str]:
    """timm's architectures whose names match a pattern with ``*`` and ``?``, or the one that is named.

    Raises:
        LearngeneError: there is none.
    """
    found = timm.list_models(pattern)
    if not found and not set(pattern) & set("*?["):
        check_known(pattern)  # says which names are near
    if not found:
        raise LearngeneError(
            f"no architecture of timm {timm.__version__} matches '{pattern[:80]}'; try "
            f"'*{pattern[:80].strip('*?')}*'"
        )
    return found


def check_known(name: str) -> None:
    """Raise unless timm knows the architecture, naming its nearest neighbours."""
    if not isinstance(name, str) or len(name) > 200 or not all(c.isalnum() or c in "._-" for c in name):
        raise LearngeneError(
            f"{name!r:.80} is not the name of an architecture; give one of timm's, e.g. vit_small_patch16_224"
        )
    base = name.partition(".")[0]
    if not is_model(base):
        from difflib import get_close_matches

        near = get_close_matches(base, timm.list_models(), n=3) or ["vit_small_patch16_224"]
        raise LearngeneError(
            f"'{name}' is not an architecture of timm {timm.__version__}; did you mean {', '.join(near)}? "
            "timm.list_models() lists all"
        )


def create(name: str, **kwargs: Any) -> nn.Module:
    with quiet_timm():
        try:
            return timm.create_model(name, **kwargs)
        except LearngeneError:
            raise
        except Exception as error:  # timm raises anything here: TypeError, AssertionError, KeyError, ...
            shown = {k: v for k, v in kwargs.items() if not k.startswith("pretrained")}
            raise LearngeneError(
                f"timm cannot build {name} with {shown}: {type(error).__name__}: {first_line(error)}"
            ) from error


@contextlib.contextmanager
def quiet_timm() -> Iterator[None]:
    """Keep timm's chatter about skipped heads and unused arguments out of the log: we check them."""
    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
