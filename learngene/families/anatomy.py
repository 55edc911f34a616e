"""How an architecture is layered: its list of equal layers, its depth, its width; why others have none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from timm.layers import DropPath
from timm.models import is_model
from torch import Tensor, nn

from learngene.errors import LearngeneError
from learngene.families.building import check_known, create
from learngene.families.records import architecture_name
from learngene.trust.models import DEPTH_ARGUMENTS

_LAYER_LISTS = (nn.ModuleList, nn.Sequential)
_STOCHASTIC = (DropPath, nn.Dropout, nn.Identity)


def _signature(module: nn.Module) -> Any:
    """Everything about a layer that its function depends on, except its weights and its random dropping."""
    if isinstance(module, _STOCHASTIC):
        return "stochastic"
    plain = tuple(
        (name, value)
        for name, value in sorted(vars(module).items())
        if isinstance(value, (bool, int, float, str, tuple))
        and name not in ("training", "drop_path", "drop_path_rate")
    )
    tensors = tuple((name, tuple(t.shape)) for name, t in _own_tensors(module))
    children = tuple((name, _signature(child)) for name, child in module.named_children())
    return type(module).__qualname__, plain, tensors, children


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@dataclass(frozen=True)
class Anatomy:
    """How an architecture is layered.

    Attributes:
        blocks: name of its list of layers.
        depth: its own number of layers.
        depth_argument: the argument that sets that number; none where timm fixes it (Mixers, for one). Other
            depths are then made by hand, and only its own depth can be written as a timm directory.
        width: channels of a token, as timm counts them (what goes into the head).
        parameters: their number at its own depth, with timm's head.
    """

    blocks: str
    depth: int
    depth_argument: str | None
    width: int
    parameters: int


@cache
def anatomy(name: str) -> Anatomy:
    """The anatomy of a timm architecture, found on the meta device at its own depth.

    Raises:
        LearngeneError: it is not one uniform list of layers, with the reason.
    """
    name = name.partition(".")[0]
    check_known(name)
    with torch.device("meta"):
        own = create(name)
        blocks = search_blocks(own)
        depth = len(own.get_submodule(blocks))  # type: ignore[arg-type]
        size = (int(own.num_features), _size(own))  # type: ignore[arg-type]
        for argument in DEPTH_ARGUMENTS:
            try:
                short, long = (create(name, **{argument: layers}) for layers in (2, 3))
            except LearngeneError:
                continue
            if [len(m.get_submodule(blocks)) for m in (short, long)] != [2, 3]:  # type: ignore[arg-type]
                continue
            grown = {k: v.shape for k, v in long.state_dict().items()}
            for key, tensor in short.state_dict().items():
                if grown.get(key) != tensor.shape:
                    raise LearngeneError(
                        _unsupported(name, f"the shape of '{key}' depends on the number of layers")
                    )
            return Anatomy(blocks, depth, argument, *size)
    if "." in blocks:
        raise LearngeneError(
            _unsupported(name, f"'{blocks}' is only one part of a net of several resolutions")
        )
    return Anatomy(blocks, depth, None, *size)


def find_blocks(model: nn.Module) -> str:
    """Name of a model's list of layers, e.g. ``"blocks"``; modules that are not timm's are searched."""
    name = architecture_name(model)
    return anatomy(name).blocks if is_model(name) else search_blocks(model)


def get_blocks(model: nn.Module) -> nn.ModuleList | nn.Sequential:
    """The list of layers itself."""
    return model.get_submodule(find_blocks(model))  # type: ignore[return-value]


def search_blocks(model: nn.Module) -> str:
    """Name of the one list of equal layers that holds most of a model's parameters.

    Raises:
        LearngeneError: there is no such list (the model is not a uniform stack of layers), with the reason.
    """
    total = _size(model)
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, _LAYER_LISTS) and len(m) >= 2]
    large = [(name, m) for name, m in lists if name and 2 * _size(m) > total]
    if not large:
        raise LearngeneError(_unsupported(model, "no single list of layers holds most of its parameters"))
    name, blocks = max(large, key=lambda item: (type(item[1]) in _LAYER_LISTS, len(item[1]), _size(item[1])))
    first, *others = (_signature(block) for block in blocks)
    for layer, other in enumerate(others, start=1):
        if other != first:
            difference = _difference(first, other)
            raise LearngeneError(
                _unsupported(model, f"layer {layer} of '{name}' differs from layer 0 ({difference})")
            )
    return name


def _difference(a: Any, b: Any, path: str = "") -> str:
    """Where two signatures first part ways, in words."""
    if isinstance(a, str) or isinstance(b, str) or a[0] != b[0]:
        kinds = [s if isinstance(s, str) else s[0] for s in (a, b)]
        return f"{path or 'class'}: {kinds[0]} against {kinds[1]}"
    for x, y in [*zip(a[1], b[1], strict=False), *zip(a[2], b[2], strict=False)]:
        if x != y:
            return f"{path}{x[0]}: {x[1]} against {y[1]}"
    for (name, x), (_, y) in zip(a[3], b[3], strict=False):
        if x != y:
            return _difference(x, y, f"{path}{name}.")
    return f"{path or 'layer'}: different parts"


_SUPPORTED = (
    "choose a timm model with one uniform list of layers, e.g. vit_small_patch16_224, "
    "deit3_small_patch16_224 or mixer_b16_224"
)


def _unsupported(model: nn.Module | str, reason: str) -> str:
    name = model if isinstance(model, str) else architecture_name(model)
    return f"{name} is not supported, because {reason}; {_SUPPORTED}"


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, shared ones counted once."""
    return _size(model)


def attention_heads(model: nn.Module) -> list[int]:
    """The numbers of attention heads that occur in a model."""
    counts = {getattr(module, "num_heads", None) for module in model.modules()}
    return sorted(count for count in counts if isinstance(count, int))


def is_supported(name: str) -> bool:
    """Whether an architecture is one uniform list of layers (see `anatomy`)."""
    return why_unsupported(name) is None


@cache
def why_unsupported(name: str) -> str | None:
    """What is against an architecture as an auxiliary net; none for a supported one."""
    try:
        anatomy(name)
    except LearngeneError as error:
        return str(error).removesuffix(f"; {_SUPPORTED}")
    return None
