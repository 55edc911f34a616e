"""The parts of a transformer that starts write to: matrices, embeddings, attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from learngene.errors import LearngeneError
from learngene.families.records import architecture_name

EMBEDDINGS = ("pos_embed", "cls_token", "reg_token", "dist_token")


def matrices(module: nn.Module) -> Iterator[Tensor]:
    """Weights (outputs, inputs, ...) of all linear maps and patch embeddings; a fused ``qkv`` as three.

    The tensors are views without gradient: writing to them changes the model.
    """
    for name, child in module.named_modules():
        if isinstance(child, (nn.Linear, nn.Conv2d)):
            parts = (
                child.weight.detach().chunk(3)
                if name.rpartition(".")[2] == "qkv"
                else (child.weight.detach(),)
            )
            yield from parts


def embeddings(model: nn.Module) -> Iterator[Tensor]:
    """Position embeddings, special tokens and embedding tables, without gradient."""
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in EMBEDDINGS:
            yield parameter.detach()
    for child in model.modules():
        if isinstance(child, nn.Embedding):
            yield child.weight.detach()


def zero_biases(model: nn.Module) -> nn.Module:
    """Set the biases of linear maps and patch embeddings to 0."""
    for child in model.modules():
        if isinstance(child, (nn.Linear, nn.Conv2d)) and child.bias is not None:
            nn.init.zeros_(child.bias)
    return model


def attention(layer: nn.Module, model: nn.Module, start: str) -> Any:
    """A layer's attention: fused ``qkv`` (3D, D) and ``proj`` (D, D), as timm's ViTs have it.

    Raises:
        LearngeneError: there is none, or its shape is not that, with the reason.
    """
    attn = getattr(layer, "attn", None)
    qkv, proj = getattr(attn, "qkv", None), getattr(attn, "proj", None)
    name = architecture_name(model)
    if not isinstance(qkv, nn.Linear) or not isinstance(proj, nn.Linear):
        raise LearngeneError(
            f"the start '{start}' needs attention with one qkv matrix and proj, and {name} has none; use "
            "another"
        )
    width, inner = qkv.in_features, proj.in_features
    if qkv.out_features != 3 * width or inner != width:
        raise LearngeneError(
            f"the start '{start}' needs a qkv of width 3 x {width}, and {name} has {qkv.out_features} "
            f"({inner} into proj); use another"
        )
    if any(
        isinstance(getattr(attn, norm, None), nn.Module) and _has_state(getattr(attn, norm))
        for norm in ("q_norm", "k_norm")
    ):
        raise LearngeneError(
            f"the start '{start}' sets the product of query and key, which {name} normalises afterwards "
            "(qk_norm); use another"
        )
    assert attn is not None
    return attn


def _has_state(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
