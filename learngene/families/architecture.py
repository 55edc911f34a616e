"""An architecture: a timm model name and its arguments. Depth is not part of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from timm.models import get_model_args, is_model
from torch import nn

from learngene.errors import LearngeneError
from learngene.families.anatomy import anatomy
from learngene.families.building import check_known, create
from learngene.families.records import architecture_name
from learngene.families.variants import VARIANTS, apply_variants, check_no_variant, variants_of
from learngene.trust.limits import MAX_LAYERS, check_values
from learngene.trust.models import DEPTH_ARGUMENTS, check_loading


@dataclass(frozen=True)
class Architecture:
    """What a family of models shares: a timm model name and its arguments. Depth is not part of it."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_known(self.name)
        if not isinstance(self.args, Mapping):
            raise LearngeneError(
                f"architecture arguments {self.args!r:.60} must be a mapping such as {{'img_size': 28}}"
            )
        check_loading(self.args)
        clash = sorted(set(self.args) & {*DEPTH_ARGUMENTS, "pretrained"})
        if clash:
            raise LearngeneError(
                f"architecture argument '{clash[0]}' is not allowed: the stage plan (or depth) sets the "
                "number of layers, and weights are never taken from the architecture; remove it"
            )
        try:
            object.__setattr__(self, "args", json.loads(json.dumps(dict(self.args))))
        except TypeError as error:
            raise LearngeneError(
                f"architecture arguments {dict(self.args)!r} are not plain JSON values: {error}"
            ) from None
        check_values(self.args, "architecture argument")

    def build(self, depth: int, **overrides: Any) -> nn.Module:
        """A timm model with ``depth`` layers and random weights; ``overrides`` go on top of the arguments.

        Raises:
            LearngeneError: timm refuses the arguments, or has no way to set this model's depth; an override
                that makes other layers.
        """
        if depth > MAX_LAYERS:
            raise LearngeneError(
                f"a depth above {MAX_LAYERS} is refused; no ViT is as deep, so use fewer layers"
            )
        check_values(overrides, "architecture argument")
        check_no_variant(overrides, self.name)
        args = {**self.args, **overrides}
        theirs = {name: value for name, value in args.items() if name not in VARIANTS}
        return apply_variants(_create_with_depth(self.name, depth, **theirs), args)


def _create_with_depth(name: str, depth: int, **kwargs: Any) -> nn.Module:
    """A timm model of any depth; where timm fixes it, layers are cut off or taken from further models."""
    known = anatomy(name)
    if known.depth_argument:
        return create(name, **{known.depth_argument: depth}, **kwargs)
    model = create(name, **kwargs)
    old = model.get_submodule(known.blocks)
    layers = list(old.children())
    while len(layers) < depth:
        layers += create(name, **kwargs).get_submodule(known.blocks).children()
    new = nn.ModuleList(layers[:depth]) if isinstance(old, nn.ModuleList) else nn.Sequential(*layers[:depth])
    setattr(model, known.blocks, new)
    return model


def check_storable(architecture: Architecture, depth: int | None = None) -> None:
    """Raise unless a timm directory can record this architecture, at a depth if one is given."""
    name = architecture.name
    ours = next((variant for variant in VARIANTS if architecture.args.get(variant)), None)
    if ours is not None:
        raise LearngeneError(
            f"{name} with {ours} is no model of timm's, so it cannot be stored; compare it in 'learngene "
            f"benchmark', or drop {ours}"
        )
    known = anatomy(name)
    if known.depth_argument is None and depth not in (None, known.depth):
        raise LearngeneError(
            f"{name} with {depth} layers cannot be stored as a timm directory, because timm fixes its depth "
            f"at {known.depth}; use depth {known.depth}, or spawn it in Python and keep the state dict"
        )


def architecture_of(model: nn.Module) -> Architecture:
    """The architecture of a timm model, without its depth.

    Raises:
        LearngeneError: timm did not build the model, so it cannot be built again.
    """
    name = architecture_name(model)
    if not is_model(name):
        raise LearngeneError(
            f"{name} was not built by timm.create_model; name an architecture of timm's for the auxiliary net"
        )
    skip = {*DEPTH_ARGUMENTS, "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}
    args = {k: v for k, v in get_model_args(model).items() if k not in skip and v is not None}
    return Architecture(name, args | variants_of(model))
