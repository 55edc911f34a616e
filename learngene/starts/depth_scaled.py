"""DS-Init: the deeper the layer, the smaller its random weights (Zhang, Titov and Sennrich 2019, arXiv 1908.11365)."""

from __future__ import annotations

from typing import Literal

from torch import nn

from learngene.errors import LearngeneError
from learngene.starts.parts import layers, matrices, zero_biases
from learngene.starts.random import xavier


def ds_init(model: nn.Module, *, alpha: float = 1.0, variant: Literal["paper", "code"] = "paper") -> nn.Module:
    """U(-b, b) in layer l (from 1), with g = sqrt(6 / (inputs + outputs)); Xavier outside the layers; biases 0.

    Two variants, because the paper and its released code differ:

    - ``paper`` (equation 6): b = alpha g / sqrt(l).
    - ``code``: ``variance_scaling(alpha l ** -0.5, fan_avg, uniform)``, which scales the *variance*: b = sqrt(alpha) g / l^(1/4).

    Made for post-norm translation models; a ViT is pre-norm and keeps its gradients without it.

    Args:
        alpha: in [0, 1].
        variant: paper or code.

    Raises:
        LearngeneError: alpha outside [0, 1], or another variant.
    """
    if not 0 <= alpha <= 1:
        raise LearngeneError(f"alpha {alpha}: DS-Init takes a value from 0 to 1")
    if variant not in ("paper", "code"):
        raise LearngeneError(f"variant '{variant}': use paper or code")
    xavier(model)
    for number, layer in enumerate(layers(model), start=1):
        for matrix in matrices(layer):
            scale = alpha * number**-0.5
            nn.init.xavier_uniform_(matrix, gain=scale if variant == "paper" else scale**0.5)
    return zero_biases(model)


def ds_init_code(model: nn.Module, *, alpha: float = 1.0) -> nn.Module:
    """`ds_init` as its released code has it."""
    return ds_init(model, alpha=alpha, variant="code")
