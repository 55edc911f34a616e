"""Losses and gradients that are not finite: when, and which."""

from __future__ import annotations

import torch
from torch import Tensor


class NotFinite:
    """Remembers, where the values are, at which step each of them was first infinite or not a number."""

    def __init__(self) -> None:
        self._steps: dict[str, Tensor] = {}  # 0-d, -1 while all is well

    def look(self, name: str, value: Tensor, step: int) -> None:
        """``value``: 0-d. Nobody waits for the device."""
        known = self._steps.get(name)
        known = torch.full((), -1, device=value.device) if known is None else known.to(value.device)
        self._steps[name] = torch.where((known < 0) & ~torch.isfinite(value), step, known)

    def first(self) -> tuple[int, list[str]]:
        """The first such step, and what it was that was not finite; no names if all is well."""
        steps = {name: int(step) for name, step in self._steps.items() if step >= 0}
        earliest = min(steps.values(), default=-1)
        return earliest, [name for name, step in steps.items() if step == earliest]

    def names(self) -> str:
        """All that was not finite."""
        return ", ".join(name for name, step in self._steps.items() if step >= 0)

    def forget(self) -> None:
        """Begin again."""
        self._steps = {}
