"""Mimetic initialisation (Trockman and Kolter 2023, arXiv 2305.09828): attention that looks trained."""

from __future__ import annotations

import torch
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor, nn

from learngene.errors import LearngeneError
from learngene.families.anatomy import get_blocks
from learngene.families.records import architecture_name
from learngene.starts.parts import attention


@torch.no_grad()
def mimetic(
    model: nn.Module,
    *,
    a1: float = 0.7,
    b1: float = 0.7,
    a2: float = 0.4,
    b2: float = 0.4,
    position: bool = False,
) -> nn.Module:
    """W_Q W_K^T = a1 Z + b1 I for each head, W_V W_proj = a2 Z - b2 I, Z ~ N(0, 1/D), by SVD (section 4).

    With A = U S V^T: W_Q = U sqrt(S) and W_K = V sqrt(S), cut to the head's k columns (the best approximation
    of rank k, with a fresh Z for each head), W_V = U sqrt(S) and W_proj = sqrt(S) V^T in full rank. Torch
    computes x W^T, so a stored weight is the transpose of the paper's matrix. Biases of q, k, v and proj
    become 0; the MLPs stay.

    Args:
        a1, b1: noise and identity in query times key.
        a2, b2: noise and negative identity in value times projection.
        position: also begin the position embedding with 2-D sines and cosines. It carries part of the gain,
            so it has its own switch.

    Raises:
        LearngeneError: attention without a fused qkv of full width, or with normalised queries; no position
            embedding.
    """
    for layer in get_blocks(model):
        attn = attention(layer, model, "mimetic")
        width, count = attn.qkv.in_features, attn.num_heads
        query, key, value = attn.qkv.weight.chunk(3)  # each (D, D), rows of one head together
        for q, k in zip(query.chunk(count), key.chunk(count), strict=True):
            left, right = split(noisy_identity(width, a1, b1), len(q))
            q.copy_(left.T)
            k.copy_(right.T)
        left, right = split(noisy_identity(width, a2, -b2), width)
        value.copy_(left.T)
        attn.proj.weight.copy_(right)  # W_proj = right^T, stored transposed
        for bias in (attn.qkv.bias, attn.proj.bias):
            if bias is not None:
                bias.zero_()
    return sinusoidal_position(model) if position else model


def noisy_identity(width: int, noise: float, diagonal: float) -> Tensor:
    """noise Z + diagonal I, (D, D), with Z ~ N(0, 1/D)."""
    return noise * torch.randn(width, width) / width**0.5 + diagonal * torch.eye(width)


def split(product: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Two (D, rank) factors whose product L R^T is the best approximation of a (D, D) matrix."""
    u, s, vt = torch.linalg.svd(product)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, vt.T[:, :rank] * root


@torch.no_grad()
def sinusoidal_position(model: nn.Module) -> nn.Module:
    """Begin a position embedding (1, tokens, D) with 2-D sines and cosines (timm's), special tokens with 0.

    Raises:
        LearngeneError: no learned position embedding, not a square of patches, or a width that 4 does not
            divide.
    """
    name = architecture_name(model)
    position, patches = getattr(model, "pos_embed", None), getattr(model, "patch_embed", None)
    if position is None or patches is None or position.ndim != 3:
        raise LearngeneError(f"position: {name} has no learned position embedding of patches; leave it off")
    if position.shape[-1] % 4:
        raise LearngeneError(
            f"position: the width {position.shape[-1]} of {name} is no multiple of 4; leave it off"
        )
    table = build_sincos2d_pos_embed(list(patches.grid_size), dim=position.shape[-1])
    position.zero_()
    position[0, -len(table) :] = table
    return model
