"""How a learngene becomes so many layers: the repeats of each stage, and how large a step each of them makes.

A stage that was trained with n repeats and gets r would go r/n as far along the residual stream. Its layers'
steps are therefore (n/r) ** exponent: with 1 the depth is the number of steps and no longer the length of the
way, and 0 repeats layers as they are, which is the published way (SWS). For looped pretrained blocks the
division is described in arXiv 2605.23872. Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from learngene.errors import LearngeneError
from learngene.plan import StagePlan

EXPONENTS = (0.0, 0.5, 1.0)  # that are tried
MAX_EXPONENT = 2.0


@dataclass(frozen=True)
class Expansion:
    """A descendant's repeats per stage, and the exponent of each stage's step.

    Args:
        plan: layers per stage; a stage may have 0.
        exponents: one per stage.
        kl: divergence of the descendant from the auxiliary net, where it was measured
            (`learngene.calibration`).

    Raises:
        LearngeneError: not one exponent for each stage, or one that is no number from 0 to 2.
    """

    plan: StagePlan
    exponents: tuple[float, ...]
    kl: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "exponents", parse_exponents(self.exponents, self.plan.stages))

    def steps(self, trained: StagePlan) -> tuple[float, ...]:
        """The step size of each layer.

        >>> Expansion(StagePlan((1, 4)), (0.5, 1)).steps(StagePlan((4, 2)))
        (2.0, 0.5, 0.5, 0.5, 0.5)
        """
        ratios = [n / r if r else 1.0 for n, r in zip(trained.repeats, self.plan.repeats, strict=True)]
        sizes = [ratio**exponent for ratio, exponent in zip(ratios, self.exponents, strict=True)]
        return tuple(sizes[stage] for stage in self.plan.stage_of_layer)

    @property
    def words(self) -> str:
        """The exponents; one for all where they agree."""
        one = len(set(self.exponents)) == 1
        return ",".join(f"{exponent:g}" for exponent in (self.exponents[:1] if one else self.exponents))

    def plain(self) -> dict[str, Any]:
        """For a learngene's header."""
        return {"plan": list(self.plan.repeats), "step": list(self.exponents), "kl": self.kl}

    @classmethod
    def read(cls, header: Any) -> Expansion:
        """From `plain`.

        Raises:
            LearngeneError: it is none.
        """
        if not isinstance(header, dict) or set(header) != {"plan", "step", "kl"}:
            raise LearngeneError(f"an expansion {header!r:.60} lacks plan, step or kl")
        kl, step = header["kl"], header["step"]
        if not isinstance(step, list) or isinstance(kl, bool) or not isinstance(kl, (int, float, type(None))):
            raise LearngeneError(f"an expansion's step {step!r:.40} and kl {kl!r:.40} must be numbers")
        return cls(StagePlan.parse(header["plan"]), parse_exponents(step, len(step)), kl)

    def __str__(self) -> str:
        return f"{self.plan}, step {self.words}"


def read_expansions(header: Any) -> dict[int, Expansion]:
    """By depth, from a learngene's header; none where an earlier version wrote it.

    Raises:
        LearngeneError: they are none.
    """
    if not isinstance(header, dict | None) or not all(depth.isdecimal() for depth in header or ()):
        raise LearngeneError(f"expansions {header!r:.60} must be by depth")
    return {int(depth): Expansion.read(way) for depth, way in (header or {}).items()}


def parse_exponents(step: Any, stages: int) -> tuple[float, ...]:
    """Exponents of the steps: one number is for all stages.

    Raises:
        LearngeneError: not one for each stage, or one that is no number from 0 to 2.
    """
    try:
        said = step.split(",") if isinstance(step, str) else step
        found = tuple(float(value) for value in (said if isinstance(said, Sequence) else [said]))
    except (TypeError, ValueError):
        raise LearngeneError(
            f"step {step!r:.60}: give a number, or one per stage, e.g. 0.5,1,1,1,1"
        ) from None
    if len(found) == 1:
        found *= stages
    if len(found) != stages:
        raise LearngeneError(f"step {step}: {len(found)} numbers for {stages} stages; give one, or one each")
    if not all(0 <= value <= MAX_EXPONENT for value in found):
        raise LearngeneError(
            f"step {step}: it is the exponent of (trained / spawned repeats), from 0 (layers are repeated as "
            f"they are) to {MAX_EXPONENT:g}; 1 makes each stage as long as it was trained"
        )
    return found


def usual_expansion(trained: StagePlan, plan: StagePlan) -> Expansion:
    """The rule where nothing was measured: exponent 1, or 1/2 where the first stage is to be shorter than
    trained, which must not make one double step (docs/step_size.md).
    """
    short = 0 < plan.repeats[0] < trained.repeats[0]
    return Expansion(plan, (0.5 if short else 1.0,) * plan.stages)


def near_balanced(depth: int, trained: StagePlan) -> list[StagePlan]:
    """Plans of one layer or more per stage that spread a depth nearly evenly, each once.

    Extras go to the earliest stages, the latest, or those in the middle; the first and the last stage are
    like the others, or repeated as they were trained.

    >>> [str(plan) for plan in near_balanced(5, StagePlan((2, 2, 2)))]
    ['2,2,1', '1,2,2', '2,1,2']
    """
    found: dict[StagePlan, None] = {}
    stages = trained.stages
    for fixed in ((), (0,), (stages - 1,), (0, stages - 1)):
        others = [stage for stage in range(stages) if stage not in fixed]
        left = depth - sum(trained.repeats[stage] for stage in set(fixed))
        if not others or left < len(others):
            continue
        each, extra = divmod(left, len(others))
        start = (len(others) - extra) // 2
        for first in (0, len(others) - extra, start):
            repeats = list(trained.repeats)
            for place, stage in enumerate(others):
                repeats[stage] = each + (first <= place < first + extra)
            found[StagePlan(tuple(repeats))] = None
    return list(found)


def candidates(depth: int, trained: StagePlan, *, exponents: Sequence[float] = EXPONENTS) -> list[Expansion]:
    """Ways to a depth that differ: plans of `near_balanced`, an exponent for the first stage and one for the
    others.
    """
    found: dict[Any, Expansion] = {}
    for plan in near_balanced(depth, trained):
        for others in sorted(exponents, reverse=True):
            for first in sorted(exponents, reverse=True):
                way = Expansion(plan, (first, *[others] * (plan.stages - 1)))
                found.setdefault((plan, way.steps(trained)), way)
    return list(found.values())
