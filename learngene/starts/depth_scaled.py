"""DS-Init: the deeper the layer, the smaller its random weights (Zhang et al. 2019, arXiv 1908.11365).

Two variants, because the paper and its released code differ. Both draw from U(-b, b) in layer l (from 1),
with g = sqrt(6 / (inputs + outputs)), and are Xavier outside the layers, with biases 0. Made for post-norm
translation models; a ViT is pre-norm and keeps its gradients without it.
"""

from __future__ import annotations

from torch import nn

from learngene.errors import LearngeneError
from learngene.families.anatomy import get_blocks
from learngene.starts.parts import matrices
from learngene.starts.random import xavier


def ds_init(model: nn.Module, *, alpha: float = 1.0) -> nn.Module:
    """The paper's equation 6: b = alpha g / sqrt(l).

    Args:
        alpha: in [0, 1].

    Raises:
        LearngeneError: alpha outside [0, 1].
    """
    return _scaled(model, alpha, power=1.0)


def ds_init_code(model: nn.Module, *, alpha: float = 1.0) -> nn.Module:
    """The released code's variant: b = sqrt(alpha) g / l^(1/4).

    ``variance_scaling(alpha l ** -0.5, fan_avg, uniform)`` scales the *variance*.

    Args:
        alpha: in [0, 1].

    Raises:
        LearngeneError: alpha outside [0, 1].
    """
    return _scaled(model, alpha, power=0.5)


def _scaled(model: nn.Module, alpha: float, power: float) -> nn.Module:
    if not 0 <= alpha <= 1:
        raise LearngeneError(f"alpha {alpha}: DS-Init takes a value from 0 to 1")
    xavier(model)
    for number, layer in enumerate(get_blocks(model), start=1):
        for matrix in matrices(layer):
            nn.init.xavier_uniform_(matrix, gain=(alpha * number**-0.5) ** power)
    return model
