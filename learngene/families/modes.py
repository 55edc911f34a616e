"""A model for a while in another mode, and afterwards as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from learngene.devices import device_of


@contextlib.contextmanager
def left_as_it_was(source: Any) -> Iterator[None]:
    """Give the user's own module back as it was, whatever the block did: modes, device, requires_grad."""
    if not isinstance(source, nn.Module):
        yield
        return
    wanted = [(parameter, parameter.requires_grad) for parameter in source.parameters()]
    device = device_of(source)
    try:
        with modes_kept(source):
            yield
    finally:
        if device_of(source) != device:
            source.to(device)
        for parameter, had in wanted:
            if parameter.requires_grad != had:
                parameter.requires_grad_(had)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode while the block runs; afterwards each of its modules is in the mode that it was in."""
    with modes_kept(model):
        model.eval()
        yield


@contextlib.contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards each of a model's modules is in the mode, training or eval, that it was in before."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, was in modes:
            module.training = was
