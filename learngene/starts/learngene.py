"""Begin from a learngene (SWS, arXiv 2404.16897), in order or, to see what the order is worth, at random."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from learngene.errors import LearngeneError
from learngene.families.anatomy import find_blocks, get_blocks
from learngene.gene import Learngene
from learngene.mix import mix, one_hot
from learngene.starts.loading import load_weights

Order = Literal["stages", "shuffled", "random"]


def learngene(
    model: nn.Module,
    *,
    gene: str | Path | Learngene,
    order: Order = "stages",
    plan: str | Sequence[int] | None = None,
    step: float | str | Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
) -> nn.Module:
    """Repeat each stage's layer over the model's layers; with ``order`` stages this is `Learngene.spawn`.

    Args:
        gene: learngene, or its file.
        order: ``stages`` in order; ``shuffled``: the same repeats, whole stages in random order; ``random``:
            the same repeats, every layer anywhere (the paper's random-assigned expansion). Drawn from torch's
            generator.
        plan: layers per stage; by default what the learngene says for the model's depth.
        step: exponent of the layers' step size, see `Learngene.expansion_for`; a stage keeps its own in any
            order.
        class_names: the classes to be learned, where known.

    Raises:
        LearngeneError: another family, fewer layers than stages, or an unknown order.
    """
    learned = gene if isinstance(gene, Learngene) else Learngene.load(gene)
    blocks = find_blocks(model)
    way = learned.expansion_for(len(get_blocks(model)), plan, step)
    sizes = dict(zip(way.plan.stage_of_layer, way.steps(learned.plan), strict=True))
    stages = arrange(way.plan.stage_of_layer, order)
    rows = one_hot(stages, learned.plan.stages)
    state = mix(learned.state, rows, blocks, steps=[sizes[stage] for stage in stages], ends=learned.ends)
    return load_weights(
        model, state, data_config=learned.data_config, names=learned.class_names, class_names=class_names
    )


def arrange(stages: Sequence[int], order: Order) -> list[int]:
    """The stage of each layer in another order.

    >>> arrange((0, 0, 1), "stages")
    [0, 0, 1]
    """
    if order == "stages":
        return list(stages)
    if order == "shuffled":
        rank = torch.randperm(max(stages) + 1).tolist()
        return sorted(stages, key=lambda stage: rank[stage])
    if order == "random":
        return [stages[i] for i in torch.randperm(len(stages)).tolist()]
    raise LearngeneError(f"order '{order}': use stages, shuffled or random")
