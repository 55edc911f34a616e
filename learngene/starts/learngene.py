"""Spawn from a learngene (SWS, arXiv 2404.16897): stages in order, spread evenly."""

from typing import Any

from torch import nn

from learngene.errors import LearngeneError
from learngene.starts.family import Family


def learngene(family: Family, depth: int, **overrides: Any) -> nn.Module:
    """A descendant of the family's learngene.

    Raises:
        LearngeneError: the family has no learngene, or fewer layers are asked for than it has stages.
    """
    if family.gene is None:
        raise LearngeneError("the start 'learngene' needs a learngene file; name one with gene")
    return family.gene.spawn(depth, num_classes=family.num_classes, class_names=family.class_names, **overrides)
