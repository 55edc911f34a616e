"""What makes a step fast or small without changing what it computes. `tools/throughput.py` measures what each
of them pays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import torch
from timm.layers import DropPath
from torch import nn

from learngene.errors import LearngeneError
from learngene.families.anatomy import get_blocks
from learngene.families.records import architecture_name
from learngene.recipe import Recipe


@contextlib.contextmanager
def at_speed(
    nets: Sequence[nn.Module], recipe: Recipe, device: torch.device, *, frozen: Sequence[nn.Module] = ()
) -> Iterator[None]:
    """Train some nets fast on this device while the block runs; frozen ones are only run. Afterwards they are
    as they were.

    Args:
        nets: their weights are those of the first.

    Raises:
        LearngeneError: gradient checkpointing is asked for, and the model has none.
    """
    with contextlib.ExitStack() as stack:
        if device.type == "cpu":
            stack.enter_context(plain_attention(nets[0]))
        for net in nets if recipe.grad_checkpointing else ():
            stack.enter_context(_checkpointed(net))
        if compiles(recipe, device):
            torch._dynamo.reset()  # graphs of earlier runs count towards its limit
            for net in (*nets, *frozen):
                stack.enter_context(_compiled(net))
        yield


def compiles(recipe: Recipe, device: torch.device) -> bool:
    """Whether layers are compiled: on request, or by itself on CUDA where Triton is installed."""
    if recipe.compile == "auto":
        return device.type == "cuda" and find_spec("triton") is not None
    return recipe.compile


@contextlib.contextmanager
def plain_attention(model: nn.Module) -> Iterator[None]:
    """Without torch's fused attention, whose bf16 backward is slow on CPU (torch 2.15)."""
    fused = [m for m in model.modules() if getattr(m, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True  # type: ignore[assignment]


@contextlib.contextmanager
def _checkpointed(model: nn.Module) -> Iterator[None]:
    try:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError):
        name = architecture_name(model)
        raise LearngeneError(
            f"grad_checkpointing: timm has none for {name}; use a smaller batch_size and accumulate"
        ) from None
    try:
        yield
    finally:
        model.set_grad_checkpointing(False)  # type: ignore[operator]


@contextlib.contextmanager
def _compiled(model: nn.Module) -> Iterator[None]:
    """Compile layer by layer: all layers of a ViT, tied or not, have one graph, which is compiled once."""
    parts = compiled_parts(model)
    for part in parts:
        part.compile(dynamic=False)
    try:
        yield
    finally:
        for part in parts:
            part._compiled_call_impl = None


def compiled_parts(model: nn.Module) -> list[nn.Module]:
    """What is compiled: each layer; its parts where layers differ in their rates of drop path, which are
    constants of a graph; or all.

    A part that several layers share is there once.
    """
    try:
        layers = list(get_blocks(model))
    except LearngeneError:  # not a uniform stack of layers, as some ancestors
        return [model]
    if not any(isinstance(m, DropPath) and m.drop_prob for layer in layers for m in layer.modules()):
        return layers
    parts = [child for layer in layers for child in layer.children() if not isinstance(child, DropPath)]
    return list({id(part): part for part in parts if any(True for _ in part.parameters())}.values())
