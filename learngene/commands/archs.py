"""learngene archs"""

from __future__ import annotations

from typing import Any

from learngene.arguments import typed
from learngene.errors import LearngeneError
from learngene.families.anatomy import anatomy, why_unsupported
from learngene.families.building import match_names

USUAL = "*patch16_224"  # a few seconds' worth, with most families in it; all of timm takes minutes


@typed
def archs(pattern: str | None = None) -> dict[str, Any]:
    """Which of timm's architectures can be an auxiliary net, and what is against the others.

    Args:
        pattern: names to look at, with * and ? as in timm.list_models, e.g. 'deit3*'; by default *patch16_224. '*' is all of
            timm, which takes minutes.

    Returns:
        ``supported``: a row each with ``name``, ``depth`` (its own), ``width``, ``parameters`` (at that depth, with timm's head) and
        ``any_depth`` (off where timm fixes the depth, so that only its own can be stored as a timm directory);
        ``unsupported``: ``name`` and ``reason`` of the others that match; ``pattern`` and the version of ``timm``.

    Raises:
        LearngeneError: no architecture of timm's matches, or the pattern is empty.
    """
    import logging

    import timm

    log = logging.getLogger("learngene")
    pattern = USUAL if pattern is None else pattern
    if not pattern.strip():  # which is all of timm for timm.list_models
        raise LearngeneError("the pattern is empty; give one such as 'deit3*', '*' for all of timm, or leave it out")
    if "[" in pattern and not timm.list_models(pattern):  # a bracket between stars is no pattern to try
        raise LearngeneError(f"no architecture of timm {timm.__version__} matches '{pattern[:80]}'; try one such as 'deit3*'")
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
