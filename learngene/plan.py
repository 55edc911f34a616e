"""Stage arithmetic: which layer belongs to which stage. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from learngene.errors import LearngeneError
from learngene.limits import MAX_LAYERS


@dataclass(frozen=True)
class StagePlan:
    """How often each stage's layer is repeated, in order.

    ``StagePlan((3, 3, 4, 3, 3))`` is the auxiliary net of SWS (arXiv 2404.16897, section 3): 16 layers in 5 stages.
    A repeat of 0 is allowed (a descendant may leave a stage out); a plan without any layer is not.

    Raises:
        LearngeneError: the plan is empty, negative, not made of whole numbers, has no layer at all, or too many.
    """

    repeats: tuple[int, ...]

    def __post_init__(self) -> None:
        repeats = self.repeats
        if not isinstance(repeats, (tuple, list)) or any(isinstance(r, bool) or not isinstance(r, int) for r in repeats):
            raise LearngeneError(f"plan {repeats!r}: a stage plan is one whole number of layers per stage, e.g. 3,3,4,3,3")
        if max(sum(map(abs, repeats)), len(repeats)) > MAX_LAYERS:
            raise LearngeneError(f"a plan of more than {MAX_LAYERS} layers or stages is refused; no ViT is as deep, so use fewer")
        object.__setattr__(self, "repeats", tuple(repeats))
        if any(r < 0 for r in repeats):
            raise LearngeneError(f"plan {self}: a stage cannot have a negative number of layers; use 0 or more")
        if sum(repeats) == 0:
            raise LearngeneError(f"plan '{self}' has no layer; give at least one stage a 1")

    @classmethod
    def parse(cls, plan: StagePlan | str | int | Sequence[int]) -> StagePlan:
        """A plan from ``"3,3,4,3,3"``, a sequence of whole numbers, or a plan; one number is one stage."""
        if isinstance(plan, StagePlan):
            return plan
        if isinstance(plan, int):
            return cls((plan,))
        if not isinstance(plan, str):
            return cls(tuple(plan))
        try:
            return cls(tuple(int(part) for part in plan.split(",")))
        except ValueError as error:
            if isinstance(error, LearngeneError):
                raise
            raise LearngeneError(
                f"plan '{plan}' is not a list of whole numbers; write one per stage with commas, e.g. 3,3,4,3,3"
            ) from None

    @classmethod
    def balanced(cls, depth: int, stages: int) -> StagePlan:
        """Spread ``depth`` layers evenly over ``stages``, extras to the earliest stages.

        This is the rule behind the published 12-layer map 0,0,0,1,1,1,2,2,3,3,4,4 (SWS, released code).

        Raises:
            LearngeneError: fewer layers than stages, so that some stage would silently be dropped.
        """
        if not 1 <= stages <= MAX_LAYERS:
            raise LearngeneError(f"{stages} stages: a plan needs at least 1 and at most {MAX_LAYERS}")
        if depth < stages:
            raise LearngeneError(
                f"depth {depth} is less than the {stages} stages, so a stage would be left out; "
                f"use a depth of at least {stages}, or name the stages to keep with a plan such as "
                f"{','.join(['1'] * max(depth, 1) + ['0'] * (stages - max(depth, 1)))}"
            )
        each, extra = divmod(depth, stages)
        return cls(tuple(each + (stage < extra) for stage in range(stages)))

    @property
    def depth(self) -> int:
        """Number of layers."""
        return sum(self.repeats)

    @property
    def stages(self) -> int:
        """Number of stages, those with no layer counted in."""
        return len(self.repeats)

    @property
    def stage_of_layer(self) -> tuple[int, ...]:
        """The stage of each layer, ``(0, 0, 0, 1, ...)``: the map that expands a learngene to this plan."""
        return tuple(stage for stage, repeats in enumerate(self.repeats) for _ in range(repeats))

    @property
    def first_layers(self) -> tuple[int, ...]:
        """The first layer of each stage, ``(0, 3, 6, 10, 13)``: the map that extracts a learngene.

        Raises:
            LearngeneError: a stage has no layer, so there is nothing to extract for it.
        """
        if 0 in self.repeats:
            raise LearngeneError(
                f"plan {self}: stage {self.repeats.index(0)} has no layer; an auxiliary net needs at least 1 in each"
            )
        return (0, *accumulate(self.repeats))[:-1]

    @property
    def last_layers(self) -> tuple[int, ...]:
        """The last layer of each stage, ``(2, 5, 9, 12, 15)``: where stage features are compared."""
        return tuple(first + repeats - 1 for first, repeats in zip(self.first_layers, self.repeats, strict=True))

    def __str__(self) -> str:
        return ",".join(map(str, self.repeats))
