"""Which plan and which step sizes a descendant of each depth gets: without labels and without training.

Ways to a depth (`learngene.expansion.candidates`) are scored by the KL divergence of the descendant from the
auxiliary net on a few hundred training views. All are scored on an eighth of the views, and the best eighth
of them on all views.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from learngene.costs import Sizes
from learngene.errors import LearngeneError
from learngene.expansion import EXPONENTS, Expansion, candidates
from learngene.families.anatomy import anatomy
from learngene.families.weights import load_strict
from learngene.gene import Learngene
from learngene.objectives import soft_kl
from learngene.plan import StagePlan
from learngene.trust.limits import MAX_LAYERS

VIEWS, LEAST = 256, 32  # that are scored on where the cost allows it; and fewer say too little
DEEPEST = 20
PART = 8  # of the views, on which all ways are scored; and of the ways, which are scored on all views


def depths_of(plan: StagePlan) -> range:
    """The depths that are looked at: a layer for each stage, to 20 or twice the auxiliary net's depth."""
    return range(plan.stages, min(max(DEEPEST, 2 * plan.depth), MAX_LAYERS) + 1)


def ways_of(gene: Learngene, depth: int, *, plans: bool = True) -> list[Expansion]:
    """What is scored for a depth. Where nets of several depths were trained it is the way they were: plans
    that are nearer to the auxiliary net are no better then (docs/step_size.md).

    Args:
        plans: off, the balanced plan alone.
    """
    if gene.elastic is not None:
        way = gene.elastic.expansion(depth, gene.plan)
        return [way if gene.scalable else Expansion(way.plan, (0.0,) * way.plan.stages)]
    ways = candidates(depth, gene.plan, exponents=EXPONENTS if gene.scalable else (0.0,))
    return ways if plans else [way for way in ways if way.plan == ways[0].plan]


def affordable(gene: Learngene, budget: float) -> tuple[int, bool]:
    """How many views may be scored for so many FLOPs, and whether by all plans; 0 where too few may.

    Args:
        budget: FLOPs.
    """
    for plans in (True, False):
        views = int(min(VIEWS, budget / max(flops_of_a_view(gene, plans=plans), 1.0)))
        if views >= LEAST:
            return views, plans
    return 0, False


def flops_of_a_view(gene: Learngene, *, plans: bool = True) -> float:
    """What one more view costs, over all depths; see `calibrate`."""
    sizes, flops = Sizes(gene.architecture), 0.0
    for depth in depths_of(gene.plan):
        ways = len(ways_of(gene, depth, plans=plans))
        flops += 1e9 * sizes.gflops(depth) * (ways / PART + _kept(ways))
    return flops


def _kept(ways: int) -> int:
    """How many are scored on all views."""
    return -(-ways // PART)


@torch.no_grad()
def calibrate(
    gene: Learngene,
    views: Tensor,
    depths: Iterable[int] | None = None,
    *,
    plans: bool = True,
    batch: int = 256,
    device: torch.device | str = "cpu",
) -> Learngene:
    """The learngene with the best way to each depth written into it (`Learngene.expansions`).

    The auxiliary net's own depth keeps its plan: there the descendant is the very same function.

    Args:
        views: images (N, C, H, W) as in training.
        depths: by default `depths_of` its plan; those that timm fixes otherwise are left out.
        plans: off, only the balanced plan is looked at.
        batch: views in one forward pass.

    Raises:
        LearngeneError: the learngene has no head, so that there is nothing to compare.
    """
    if not gene.num_classes:
        raise LearngeneError("calibrating compares class probabilities, and this learngene has no head")
    views = views.to(device)
    reference = _logits(gene.auxnet().eval().to(device), views, batch)
    found: dict[int, Expansion] = {}
    for depth in depths_of(gene.plan) if depths is None else depths:
        if depth == gene.plan.depth:
            found[depth] = replace(gene.expansion_for(depth, gene.plan), kl=0.0)
        elif _can_have(gene, depth):
            found[depth] = _best(gene, ways_of(gene, depth, plans=plans), views, reference, batch)
    return replace(gene, expansions={**gene.expansions, **found})


def _can_have(gene: Learngene, depth: int) -> bool:
    known = anatomy(gene.architecture.name)
    return known.depth_argument is not None or depth == known.depth


def _best(
    gene: Learngene, ways: Sequence[Expansion], views: Tensor, reference: Tensor, batch: int
) -> Expansion:
    """Of several ways to a depth that with the least divergence; the first of equal ones."""
    model = gene.architecture.build(ways[0].plan.depth).eval().to(views.device)

    def score(way: Expansion, count: int) -> float:
        load_strict(model, gene.expanded(way), set())
        value = float(soft_kl(_logits(model, views[:count], batch), reference[:count]))
        return value if value == value else float("inf")  # not a number: steps that blow up

    first = {way: score(way, max(1, len(views) // PART)) for way in ways}
    kept = sorted(ways, key=lambda way: first[way])[: _kept(len(ways))]
    scores = {way: score(way, len(views)) for way in kept}
    best = min(kept, key=lambda way: scores[way])
    return replace(best, kl=round(scores[best], 6))


def _logits(model: nn.Module, views: Tensor, batch: int) -> Tensor:
    """Logits (N, K)."""
    return torch.cat([model(part).float() for part in views.split(batch)])
