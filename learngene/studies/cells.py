"""What re-learning asks of a model: which layers are reset, with how much of the data, and the controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from learngene.errors import LearngeneError

Mode = Literal["frozen", "free"]
CONTROLS = ("none", "lr-x5", "norms-kept", "block-K", "inverse-K")


@dataclass(frozen=True)
class Cell:
    """One question: these layers reset, that much data.

    Attributes:
        model: its name.
        layers: those reset, counted from 1.
        mode: ``frozen``: only the reset layers are trained; ``free``: everything is.
        share: of the training images.
        control: ``""``, ``none`` (nothing is reset), ``lr-x5``, ``norms-kept``, ``block-K`` or ``inverse-K``.
        seed: of the fresh weights and of the order of the images.
    """

    model: str
    layers: tuple[int, ...]
    mode: Mode
    share: float
    control: str = ""
    seed: int = 0

    @property
    def key(self) -> str:
        """The cell's folder."""
        layers = "l" + spans(self.layers).replace(", ", "_") if self.layers else ""
        return "-".join(
            filter(
                None, (self.model, self.control, layers, self.mode, f"p{100 * self.share:g}", f"s{self.seed}")
            )
        )


def cells(
    model: str,
    depth: int,
    layers: Sequence[int],
    shares: Sequence[float],
    modes: Sequence[Mode],
    controls: Sequence[str],
    seeds: Sequence[int],
) -> list[Cell]:
    """Every layer, share and mode; controls with the largest share only, and ``none`` with nothing frozen.

    ``block-K`` resets K layers in a row instead of one, ``inverse-K`` all but those (Tamkin et al. 2020,
    arXiv 2004.14975).

    Raises:
        LearngeneError: a layer or block that the model does not have, or an unknown control.
    """
    outside = [layer for layer in layers if not 1 <= layer <= depth]
    if outside:
        raise LearngeneError(f"layer {outside[0]}: {model} has layers 1 to {depth}")
    found = [
        Cell(model, (layer,), mode, share, "", seed)
        for seed in seeds
        for layer in layers
        for mode in modes
        for share in shares
    ]
    for control in controls:
        for seed in seeds:
            for reset in _reset(control, depth, layers):
                allowed: Sequence[Mode] = ("free",) if control == "none" else modes
                found += [Cell(model, reset, mode, max(shares), control, seed) for mode in allowed]
    return found


def _reset(control: str, depth: int, layers: Sequence[int]) -> list[tuple[int, ...]]:
    if control == "none":
        return [()]
    if control in ("lr-x5", "norms-kept"):
        return [(layer,) for layer in layers]
    kind, _, size = control.partition("-")
    if kind not in ("block", "inverse") or not size.isdigit() or int(size) < 1:
        raise LearngeneError(f"control '{control}': use {', '.join(CONTROLS)} with K layers")
    if int(size) >= depth:
        raise LearngeneError(f"control '{control}': the model has only {depth} layers; use a smaller block")
    blocks = [tuple(range(first, first + int(size))) for first in range(1, depth - int(size) + 2)]
    every = range(1, depth + 1)
    return (
        blocks
        if kind == "block"
        else [tuple(layer for layer in every if layer not in block) for block in blocks]
    )


def spans(layers: Sequence[int]) -> str:
    """``1-3`` or ``1-2, 6-8``."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
