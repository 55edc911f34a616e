"""Tensors by name: shapes that fit or do not, loading that is always strict, digests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.models import get_model_args
from torch import Tensor, nn

from learngene.errors import LearngeneError, first_line
from learngene.families.anatomy import anatomy, find_blocks
from learngene.families.architecture import Architecture
from learngene.families.building import create
from learngene.families.records import architecture_name
from learngene.mix import State


def misfit(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str | None:
    """What of some weights does not fit a model: the first tensor, with both shapes; none if all fit."""
    for prefix in ("model.", "module.", "_orig_mod.", "backbone.", "encoder."):
        if (
            found
            and all(name.startswith(prefix) for name in found)
            and expected.keys() & {n.removeprefix(prefix) for n in found}
        ):
            first = next(iter(found))
            return (
                f"all names begin with '{prefix}' ('{first}' {_shape(found[first])}), which the model's "
                "do not; take that off"
            )
    for name, shape in expected.items():
        if found.get(name, shape) != shape:
            return f"'{name}' has the shape {_shape(found[name])}, the model's has {_shape(shape)}"
    missing = next((f"'{n}' {_shape(s)} is missing" for n, s in expected.items() if n not in found), None)
    further = next(
        (f"'{n}' {_shape(s)} is none of the model's" for n, s in found.items() if n not in expected), None
    )
    return " and ".join(filter(None, (missing, further))) or None


def _shape(shape: Sequence[int]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def shapes_of(state: State) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor, by name."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def digest_of(state: State) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all tensors, in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = _plain(state[name])
        if not isinstance(tensor, Tensor):  # quantised modules keep other things there too
            total.update(f"{name} {tensor!r}".encode())
            continue
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return total.hexdigest()


def _plain(value: Any) -> Any:
    """A tensor as numbers in the host's memory, quantised ones too; whatever else as it is."""
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    return (value.dequantize() if value.is_quantized else value).contiguous()


def adapt_state(
    architecture: Architecture, state: State, model: nn.Module, input_size: Sequence[int]
) -> State:
    """Fit position embeddings and patch embedding of ``state`` to another image size or number of channels.

    timm's own checkpoint filters do the work: the state is passed through ``create_model`` as pretrained
    weights. The classifier keeps the state's size here.
    """
    blocks = find_blocks(model)
    depth = len(model.get_submodule(blocks))  # type: ignore[arg-type]
    args = {**get_model_args(model), "num_classes": architecture.args.get("num_classes", 1000)}
    overlay = {
        "state_dict": {k: v.clone() for k, v in state.items()},
        "input_size": tuple(input_size),
        "num_classes": args["num_classes"],
        "custom_load": False,
        "label_offset": None,
    }
    own_depth = anatomy(architecture.name).depth_argument
    if own_depth is None:
        raise LearngeneError(
            f"{architecture.name} cannot change its image size or channels, because timm fixes its depth; "
            "keep img_size and in_chans"
        )
    args[own_depth] = depth
    source = {**architecture.args, own_depth: depth}
    loader = create(
        architecture.name,
        pretrained=True,
        pretrained_cfg_overlay=overlay,
        pretrained_model_args=source,
        **args,
    )
    return loader.state_dict()


def build_filled(architecture: Architecture, depth: int, state: State, **overrides: Any) -> nn.Module:
    """A model with copies of the weights in ``state``, which must be all of them.

    Drawing weights that are then replaced takes most of a build's time, so no random numbers are drawn where
    that can be: the model is built without memory (on the meta device), and then given its weights.
    """
    # Why the short way is a proof. `_is_all_state` says of the model without memory that every tensor in it
    # is in its state dict, each once, and that none is held elsewhere. So a tensor without numbers can only
    # be one of ``places``; ``state`` has exactly these (`misfit`), and `load_strict` puts each where it
    # belongs: when the state is filled, so is the model. Anything else is built with memory: a table that is
    # computed at the start and not stored would stay empty, and a parameter that is used in two places would
    # become two.
    with torch.device("meta"):
        model = architecture.build(depth, **overrides)
    if not _is_all_state(model):
        model = architecture.build(depth, **overrides)
        load_strict(model, state, set())
        return model
    device = torch.get_default_device()
    places = model.state_dict()
    reason = misfit(shapes_of(places), shapes_of(state))
    if reason:
        raise LearngeneError(f"the weights do not fit {architecture.name} with {overrides}: {reason}")
    copies = {k: torch.empty_like(places[k], device=device).copy_(t) for k, t in state.items()}
    load_strict(model, copies, set(), assign=True)
    return model


def _is_all_state(model: nn.Module) -> bool:
    """Whether a state dict holds every tensor of a model, and each once."""
    # Tensors are looked for in all places where modules keep them: parameters, buffers (stored or not), and
    # attributes that torch does not know of, lists and mappings of them too.
    stored = model.state_dict().keys()
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    once = len({id(tensor) for _, tensor in tensors}) == len(tensors)
    registered = ("_parameters", "_buffers", "_modules")
    loose = any(_holds_tensor(v) for m in model.modules() for k, v in vars(m).items() if k not in registered)
    return once and not loose and all(name in stored for name, _ in tensors)


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_tensor, value.values()))
    return isinstance(value, Tensor) or (
        isinstance(value, (list, tuple, set)) and any(map(_holds_tensor, value))
    )


def load_strict(model: nn.Module, state: State, fresh: set[str], *, assign: bool = False) -> None:
    """Load a state: exactly the model's keys but for ``fresh``, its shapes; ``assign`` instead of copying."""
    try:
        result = model.load_state_dict(state, strict=False, assign=assign)
    except RuntimeError as error:
        reason = _misfit_but(model, state, fresh) or first_line(error)
        raise LearngeneError(f"the weights do not fit {architecture_name(model)}: {reason}") from None
    if set(result.missing_keys) - fresh or result.unexpected_keys:
        raise LearngeneError(
            f"the weights do not fit {architecture_name(model)}: {_misfit_but(model, state, fresh)}"
        )


def _misfit_but(model: nn.Module, state: State, fresh: set[str]) -> str | None:
    expected = {k: v for k, v in shapes_of(model.state_dict()).items() if k in state or k not in fresh}
    return misfit(expected, shapes_of(state))
