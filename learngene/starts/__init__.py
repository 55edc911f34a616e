"""Every way to begin a descendant's weights. One function each, all with one signature; add new ones to ``STARTS``.

A start is called as ``start(family, depth, **overrides)`` and returns a plain timm model of that depth, where a
`Family` says what all depths share. ``overrides`` are arguments of the timm model (``drop_path_rate``, ...).
"""

from collections.abc import Callable

from torch import nn

from learngene.starts.family import Family
from learngene.starts.learngene import learngene
from learngene.starts.random import random

Start = Callable[..., nn.Module]
STARTS: dict[str, Start] = {"learngene": learngene, "random": random}

__all__ = ["STARTS", "Family", "Start"]
