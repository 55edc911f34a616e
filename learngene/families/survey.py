"""Which of timm's architectures are supported, one by one."""

from __future__ import annotations

import logging
from typing import Any

import timm

from learngene.errors import LearngeneError
from learngene.families.anatomy import anatomy, why_unsupported
from learngene.families.building import match_names

log = logging.getLogger("learngene")


def survey(pattern: str) -> dict[str, Any]:
    """Every architecture whose name matches a pattern: a row, or what is against it; see `learngene.archs`.

    Raises:
        LearngeneError: none matches.
    """
    if "[" in pattern and not timm.list_models(pattern):  # a bracket between stars is no pattern to try
        raise LearngeneError(
            f"no architecture of timm {timm.__version__} matches '{pattern[:80]}'; try one such as 'deit3*'"
        )
    names = match_names(pattern)
    supported: list[dict[str, Any]] = []
    unsupported: list[dict[str, Any]] = []
    for done, name in enumerate(names):
        if done and done % 50 == 0:
            log.info("looked at %d of %d architectures", done, len(names))
        reason = why_unsupported(name)
        if reason is not None:
            unsupported.append({"name": name, "reason": reason})
            continue
        known = anatomy(name)
        row = {"name": name, "depth": known.depth, "width": known.width, "parameters": known.parameters}
        supported.append(row | {"any_depth": known.depth_argument is not None})
    return {"timm": timm.__version__, "pattern": pattern, "supported": supported, "unsupported": unsupported}
