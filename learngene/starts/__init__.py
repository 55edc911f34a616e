"""Every way to begin a model's weights: ``start(model, **options) -> model`` writes into a timm ViT.

Add a new one to ``STARTS``. Starts compose from left to right:
``begin(model, "trunc-normal+mimetic", std=0.01)``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch import nn

from learngene.errors import LearngeneError
from learngene.starts.auto import auto
from learngene.starts.depth_scaled import ds_init, ds_init_code
from learngene.starts.from_ancestor import from_ancestor
from learngene.starts.learngene import learngene
from learngene.starts.mimetic import mimetic, sinusoidal_position
from learngene.starts.pretrained import pretrained
from learngene.starts.random import branch_variances, random, trunc_normal, xavier
from learngene.starts.selection import depth_selection, weight_selection
from learngene.starts.small_embedding import small_embedding

Start = Callable[..., nn.Module]
STARTS: dict[str, Start] = {
    "random": random,
    "trunc-normal": trunc_normal,
    "xavier": xavier,
    "ds-init": ds_init,
    "ds-init-code": ds_init_code,
    "mimetic": mimetic,
    "sinusoidal-position": sinusoidal_position,
    "small-embedding": small_embedding,
    "weight-selection": weight_selection,
    "depth-selection": depth_selection,
    "from-ancestor": from_ancestor,
    "auto": auto,
    "pretrained": pretrained,
    "learngene": learngene,
}
SOURCES = ("gene", "ancestor", "source")  # options that name trained weights


def parse(start: str, options: Sequence[str] = (), *, given: Collection[str] = ()) -> list[tuple[str, Start]]:
    """The functions of ``name+name``; each option must belong to one of them, and none be missing.

    Args:
        given: options that need not be named, see `begin`.

    Raises:
        LearngeneError: an unknown start or option, or a missing one.
    """
    functions = []
    for name in start.split("+"):
        if name == "post-norm":
            raise LearngeneError(
                "post-norm is an architecture, not a start; ask for it with arch_args {post_norm: true}"
            )
        if name not in STARTS:
            raise LearngeneError(f"there is no start '{name}'; the starts are {', '.join(STARTS)}")
        functions.append((name, STARTS[name]))
    takes = {name: options_of(function) for name, function in functions}
    for option in options:
        if not any(option in known for known in takes.values()):
            known = sorted({key for own in takes.values() for key in own}) or ["none"]
            raise LearngeneError(f"the start '{start}' has no option '{option}'; it has {', '.join(known)}")
    for name, own in takes.items():
        for option, required in own.items():
            if required and option not in (*options, *given):
                raise LearngeneError(f"the start '{name}' needs the option '{option}'")
    return functions


def options_of(function: Start) -> dict[str, bool]:
    """Options of a start, and whether each must be given."""
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name: p.default is p.empty
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.name != "class_names"
    }


def check_start(start: str | None, options: Mapping[str, Any] | None, *, given: Collection[str] = ()) -> None:
    """Raise for an unknown start, options that it does not have, or options without a start."""
    if start is not None:
        parse(start, list(options or {}), given=given)
    elif options:
        raise LearngeneError("start_args are the options of a start; name it with --start")


def begin(
    model: nn.Module,
    start: str,
    *,
    class_names: Sequence[str] | None = None,
    given: Mapping[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """Apply a start, or several joined by ``+``, to a model. Seed torch before.

    Args:
        model: a timm ViT, as built.
        start: names in ``STARTS``.
        class_names: the classes to be learned; starts that bring a trained head keep it only for these.
        given: what options are unless they are named, e.g. the ``ancestor`` of a distillation; who has no
            such option passes it over.
        **options: of the starts.

    Raises:
        LearngeneError: an unknown start or option, or one that does not fit the model, with the reason.
    """
    known = {**(given or {}), **options}
    for name, function in parse(start, list(options), given=list(known)):
        taken = inspect.signature(function).parameters
        chosen = {k: v for k, v in known.items() if k in taken}
        if "class_names" in taken:
            chosen["class_names"] = class_names
        try:
            model = function(model, **chosen)
        except (TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, LearngeneError):
                raise
            shown = {k: v for k, v in chosen.items() if k in options}
            raise LearngeneError(
                f"the start '{name}' cannot be applied with {shown}: {str(error).splitlines()[0]}"
            ) from error
    return model


__all__ = ["SOURCES", "STARTS", "Start", "begin", "branch_variances", "check_start", "parse"]
