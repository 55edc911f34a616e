"""timm's own initialisation: truncated normal, standard deviation 0.02, for most ViTs."""

from typing import Any

from torch import nn

from learngene.starts.family import Family


def random(family: Family, depth: int, **overrides: Any) -> nn.Module:
    """A model with random weights; seed torch before."""
    return family.architecture.build(depth, num_classes=family.num_classes, **overrides)
