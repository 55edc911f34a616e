"""Elastic distillation: which depth the auxiliary net has at each optimizer step.

One depth a step, as in MatFormer (arXiv 2310.07707) for widths; drawn by (seed, step) alone, so that all
ranks and a resumed run draw the same. Standard library only.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Literal, get_args

from learngene.errors import LearngeneError
from learngene.expansion import MAX_EXPONENT, Expansion
from learngene.plan import StagePlan
from learngene.trust.limits import MAX_LAYERS

Draw = Literal["uniform", "ends", "split"]


@dataclass(frozen=True)
class Elastic:
    """Depths that are drawn in distilling, and how.

    Args:
        shallowest: number of layers.
        deepest: number of layers.
        step: exponent of the layers' step size (`learngene.expansion`) in training; what is spawned keeps it.
        draw: ``uniform``: one depth a step, each as often; ``ends``: the shallowest and the deepest each in a
            quarter of the steps, beside what is drawn; ``split``: half of each batch at the full plan, half
            at a drawn depth.

    Raises:
        LearngeneError: the shallowest is deeper than the deepest, or below 1.
    """

    shallowest: int
    deepest: int
    step: float = 1.0
    draw: Draw = "uniform"

    def __post_init__(self) -> None:
        if self.draw not in get_args(Draw) or not 0 <= self.step <= MAX_EXPONENT:
            raise LearngeneError(
                f"elastic draw '{self.draw}', step {self.step}: use {', '.join(get_args(Draw))}, and a step "
                f"from 0 to {MAX_EXPONENT:g}"
            )
        if not 1 <= self.shallowest <= self.deepest:
            raise LearngeneError(
                f"elastic {self}: write the least and the greatest depth, at least 1, e.g. 5:15"
            )

    @classmethod
    def parse(cls, text: str, *, step: float = 1.0, draw: Draw = "uniform") -> Elastic:
        """From ``"5:15"``."""
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*:\s*([0-9]{1,9})\s*", text)
        if match is None:
            raise LearngeneError(
                f"elastic '{text[:40]}' is no range; write the least and the greatest depth, e.g. 5:15, or "
                "auto, or none"
            )
        return cls(int(match[1]), int(match[2]), step, draw)

    @classmethod
    def usual(cls, trained: StagePlan, *, step: float = 1.0, draw: Draw = "uniform") -> Elastic:
        """From a layer a stage to half as deep again as a plan: on average about as deep as the plan.

        >>> str(Elastic.usual(StagePlan((3, 3, 4, 3, 3))))
        '5:24'
        """
        return cls(trained.stages, min(trained.depth * 3 // 2, MAX_LAYERS), step, draw)

    def __str__(self) -> str:
        return f"{self.shallowest}:{self.deepest}"

    def check(self, trained: StagePlan) -> None:
        """Raise unless each depth has a layer for each stage, and is one that a ViT may have."""
        if self.shallowest < trained.stages:
            raise LearngeneError(
                f"elastic {self}: {self.shallowest} layers are fewer than the {trained.stages} stages of the "
                f"plan, and each is trained in each step; begin at {trained.stages}"
            )
        if self.draw != "split" and not self.shallowest <= trained.depth <= self.deepest:
            wide = f"{min(self.shallowest, trained.depth)}:{max(self.deepest, trained.depth)}"
            raise LearngeneError(
                f"elastic {self} leaves out the plan's own {trained.depth} layers, which are validated; "
                f"write {wide}"
            )
        StagePlan.balanced(self.deepest, trained.stages)

    def expansion(self, depth: int, trained: StagePlan) -> Expansion:
        """The net of a depth: balanced, but for the full plan itself."""
        return Expansion(trained.at_depth(depth), (self.step,) * trained.stages)

    def depths(self, trained: StagePlan) -> list[int]:
        """All that may be drawn."""
        every = set(range(self.shallowest, self.deepest + 1))
        return sorted(every | ({trained.depth} if self.draw == "split" else set()))

    def drawn(self, trained: StagePlan, seed: int, step: int) -> tuple[int, ...]:
        """The depths of an optimizer step; a batch is shared out among them evenly.

        >>> Elastic(5, 15).drawn(StagePlan((2, 2, 2, 2, 2)), 0, 0)
        (15,)
        """
        chance = random.Random(f"learngene {seed} {step}")  # a text is hashed alike everywhere, by SHA-512
        where, which = chance.random(), chance.random()
        depth = self.shallowest + int(which * (self.deepest - self.shallowest + 1))
        if self.draw == "ends" and where < 0.5:
            depth = self.shallowest if where < 0.25 else self.deepest
        return (trained.depth, depth) if self.draw == "split" else (depth,)
