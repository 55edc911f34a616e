"""Random weights: timm's own, truncated normal, Xavier; and the variance of a layer's output under each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learngene.errors import LearngeneError
from learngene.families.anatomy import get_blocks
from learngene.families.modes import evaluating
from learngene.starts.parts import embeddings, matrices, zero_biases


def random(model: nn.Module) -> nn.Module:
    """Leave the model as timm built it: most ViTs truncated normal, std 0.02. Seed torch before."""
    return model


def trunc_normal(model: nn.Module, *, std: float = 0.02) -> nn.Module:
    """Truncated normal for matrices and embeddings, biases 0 (BERT arXiv 1810.04805, DeiT arXiv 2012.12877).

    Why 0.02, when a product of D inputs keeps its variance at 1/sqrt(D) (0.036 for BERT's 768)? Because the
    matrix is one of a residual branch behind a LayerNorm. Each branch adds its variance to the stream, and
    the derivative of LayerNorm is one over the stream's standard deviation, so that large branches shrink the
    gradient of the layers below them. Zhang et al. 2019 (arXiv 1908.11365, section 5) trace the vanishing
    gradient of deep transformers to this, and name it as the reason why BERT and GPT begin with the much
    smaller 0.02. See `branch_variances`.

    Args:
        std: standard deviation before cutting at two of them (BERT; timm and DeiT cut at 2, which cuts
            nothing).

    Raises:
        LearngeneError: a standard deviation that is not above 0.
    """
    if not std > 0:
        raise LearngeneError(f"std {std}: it must be above 0")
    for matrix in matrices(model):
        nn.init.trunc_normal_(matrix, std=std, a=-2 * std, b=2 * std)
    for embedding in embeddings(model):
        nn.init.trunc_normal_(embedding, std=std, a=-2 * std, b=2 * std)
    return zero_biases(model)


def xavier(model: nn.Module, *, gain: float = 1.0) -> nn.Module:
    """U(-b, b), b = gain sqrt(6 / (inputs + outputs)), for every matrix (Glorot and Bengio 2010); biases 0.

    Query, key and value are three matrices, though torch keeps them in one tensor. Position embeddings and
    tokens stay.
    """
    for matrix in matrices(model):
        nn.init.xavier_uniform_(matrix.flatten(1), gain=gain)
    return zero_biases(model)


@torch.no_grad()
def branch_variances(model: nn.Module, images: Tensor) -> list[tuple[float, float]]:
    """Per layer: variance of what its branches add to the stream, and of the stream after it.

    Args:
        images: (B, C, H, W), normalised as the model wants them.
    """
    found: list[tuple[float, float]] = []

    def watch(block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((float((output - inputs[0]).var()), float(output.var())))

    hooks = [block.register_forward_hook(watch) for block in get_blocks(model)]
    try:
        with evaluating(model):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found
