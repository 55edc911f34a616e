"""Stage arithmetic: which layer belongs to which stage. Standard library only."""

from __future__ import annotations

import numbers
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from learngene.arguments import take
from learngene.errors import LearngeneError
from learngene.trust.limits import MAX_LAYERS


@dataclass(frozen=True)
class StagePlan:
    """How often each stage's layer is repeated, in order.

    ``StagePlan((3, 3, 4, 3, 3))`` is the auxiliary net of SWS (arXiv 2404.16897, section 3): 16 layers in 5
    stages. A repeat of 0 is allowed (a descendant may leave a stage out); a plan without any layer is not.

    Raises:
        LearngeneError: the plan is empty, negative, not made of whole numbers, has no layer at all, or too
            many.
    """

    repeats: tuple[int, ...]

    def __post_init__(self) -> None:
        repeats = self.repeats
        if not isinstance(repeats, (tuple, list)) or any(
            isinstance(r, bool) or not isinstance(r, int) for r in repeats
        ):
            raise LearngeneError(
                f"plan {repeats!r}: a stage plan is one whole number of layers per stage, e.g. 3,3,4,3,3"
            )
        if max(sum(map(abs, repeats)), len(repeats)) > MAX_LAYERS:
            raise LearngeneError(
                f"a plan of more than {MAX_LAYERS} layers or stages is refused; no ViT is as deep, so use "
                "fewer"
            )
        object.__setattr__(self, "repeats", tuple(repeats))
        if any(r < 0 for r in repeats):
            raise LearngeneError(
                f"plan {self}: a stage cannot have a negative number of layers; use 0 or more"
            )
        if sum(repeats) == 0:
            raise LearngeneError(f"plan '{self}' has no layer; give at least one stage a 1")

    def check_depth(self, depth: int, name: str = "plan") -> None:
        """Raise unless the plan has as many layers as a model."""
        if self.depth != depth:
            raise LearngeneError(
                f"{name} {self} has {self.depth} layers, but the model has {depth}; make the two agree"
            )

    @classmethod
    def parse(cls, plan: StagePlan | str | int | Sequence[int]) -> StagePlan:
        """A plan from ``"3,3,4,3,3"``, a sequence of whole numbers, or a plan; one number is one stage."""
        if isinstance(plan, StagePlan):
            return plan
        said: Any = take("plan", plan, str | int | Sequence[int])
        if isinstance(said, int):
            return cls((said,))
        if not isinstance(said, str):
            return cls(tuple(said))
        try:
            return cls(tuple(int(part) for part in said.split(",")))
        except ValueError as error:
            if isinstance(error, LearngeneError):
                raise
            raise LearngeneError(
                f"plan '{plan}' is not a list of whole numbers; write one per stage with commas, e.g. "
                "3,3,4,3,3"
            ) from None

    def at_depth(self, depth: int) -> StagePlan:
        """Itself if it is as deep, else `balanced` over as many stages.

        >>> [str(StagePlan((2, 1, 2)).at_depth(depth)) for depth in (4, 5)]
        ['2,1,1', '2,1,2']
        """
        return self if depth == self.depth else StagePlan.balanced(depth, self.stages)

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
                f"plan {self}: stage {self.repeats.index(0)} has no layer; an auxiliary net needs at least 1 "
                "in each"
            )
        return (0, *accumulate(self.repeats))[:-1]

    @property
    def last_layers(self) -> tuple[int, ...]:
        """The last layer of each stage, ``(2, 5, 9, 12, 15)``: where stage features are compared."""
        return tuple(
            first + repeats - 1 for first, repeats in zip(self.first_layers, self.repeats, strict=True)
        )

    @property
    def middle_layers(self) -> tuple[int, ...]:
        """The layer in the middle of each stage, ``(1, 4, 7, 11, 14)``: where a stage begins that is taken
        from an ancestor.
        """
        ends = zip(self.first_layers, self.last_layers, strict=True)
        return tuple((first + last) // 2 for first, last in ends)

    def __str__(self) -> str:
        return ",".join(map(str, self.repeats))


def match_layers(layers: Sequence[int], student_depth: int, ancestor_depth: int) -> list[int]:
    """The ancestor layer at the same relative depth as each student layer: stage ends map onto layer ends.

    >>> match_layers([2, 5, 9, 12, 15], 16, 12)
    [1, 3, 7, 9, 11]
    """
    return [max(0, round((layer + 1) * ancestor_depth / student_depth) - 1) for layer in layers]


def parse_depths(depths: int | str | Sequence[int | str]) -> list[int]:
    """Numbers of layers, shallowest first and each once, from whole numbers and ranges: ``6``, ``"4-12"``,
    ``[4, "6-9"]``, ``"4 6-9"``.

    Raises:
        LearngeneError: none at all, neither a whole number nor a range, a range that runs backwards, below 1,
            or deeper than any ViT.
    """
    items: list[int | str] = []
    if depths is None or not isinstance(depths, (numbers.Integral, str, Sequence)):
        raise LearngeneError(f"depth {depths!r:.60}: name one or more, e.g. 6 9 12, or a range such as 4-12")
    for item in [depths] if isinstance(depths, (numbers.Integral, str)) else depths:
        items += re.split(r"[\s,]+", item.strip(" \t\n,")) if isinstance(item, str) else [item]
    found = {depth for item in items if item != "" for depth in _depth_range(item)}
    if not found:
        raise LearngeneError("no depth was given; name one or more, e.g. 6 9 12, or a range such as 4-12")
    return sorted(found)


def _depth_range(item: int | str) -> range:
    """The depths of one word: a whole number, or a range that has both its ends in it."""
    match = (
        None if isinstance(item, bool) else re.fullmatch(r"([+-]?[0-9]{1,9})(?:-([0-9]{1,9}))?", str(item))
    )
    if match is None:
        raise LearngeneError(
            f"depth '{str(item)[:40]}' is neither a whole number of layers nor a range of them; write e.g. "
            "6, or 4-12"
        )
    first, last = int(match[1]), int(match[2] or match[1])
    if first < 1:
        raise LearngeneError(f"depth {item}: a model has at least 1 layer")
    if last > MAX_LAYERS:
        raise LearngeneError(
            f"a depth above {MAX_LAYERS} is refused; no ViT is as deep, so use fewer layers than {item}"
        )
    if last < first:
        raise LearngeneError(f"the depths '{item}' run backwards; write {last}-{first}")
    return range(first, last + 1)
