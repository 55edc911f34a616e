"""The auxiliary net at other depths: nets that hold its very modules, repeated and scaled by another plan."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from learngene.elastic import Elastic
from learngene.expansion import Expansion
from learngene.families.anatomy import find_blocks, get_blocks
from learngene.families.architecture import Architecture
from learngene.families.branches import branches_of
from learngene.plan import StagePlan
from learngene.sharing import children_of, use_weights


class Step(nn.Module):
    """Multiply what a branch adds by a number. It is a tensor, so that graphs are compiled once for all."""

    size: Tensor

    def __init__(self, size: float) -> None:
        super().__init__()
        self.register_buffer("size", torch.tensor(size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.size.to(x.dtype)


class ElasticNets:
    """A net for each depth that may be drawn, all of them the auxiliary net's weights.

    No `nn.Module`: nothing of it is in a checkpoint, an average or an optimizer. The state of a net never
    changes within a step, so that activations can be computed again by gradient checkpointing.

    Args:
        auxnet: tied, with shared norms.
        architecture: to build the others.
        plan: of ``auxnet``.
        elastic: which depths, and the exponent of their steps.
        seed: of the draws.
        **overrides: of the architecture, e.g. ``drop_path_rate``.
    """

    def __init__(
        self,
        auxnet: nn.Module,
        architecture: Architecture,
        plan: StagePlan,
        elastic: Elastic,
        seed: int,
        **overrides: Any,
    ) -> None:
        self.auxnet, self.plan, self.elastic, self.seed = auxnet, plan, elastic, seed
        self.ways = {depth: elastic.expansion(depth, plan) for depth in elastic.depths(plan)}
        with torch.device("meta"):  # their own weights would be replaced at once
            nets = {depth: architecture.build(depth, **overrides) for depth in self.ways}
        self.nets = {depth: _scaled(net, self.ways[depth], plan) for depth, net in nets.items()}
        self.share()

    def share(self) -> None:
        """Give all nets the auxiliary net's modules, parameters and buffers; again when it was moved."""
        blocks, device = find_blocks(self.auxnet), next(self.auxnet.parameters()).device
        firsts = [get_blocks(self.auxnet)[layer] for layer in self.plan.first_layers]
        for depth, net in self.nets.items():
            _share_around(self.auxnet, net, blocks)
            stages = self.ways[depth].plan.stage_of_layer
            for stage, layer in zip(stages, get_blocks(net), strict=True):
                use_weights(firsts[stage], layer)
            net.to(device)  # the steps; all else is there
            net.train()

    def drawn(self, step: int) -> list[tuple[nn.Module, tuple[int, ...]]]:
        """The nets of an optimizer step, each with the last layer of its stages."""
        depths = self.elastic.drawn(self.plan, self.seed, step)
        return [(self.nets[depth], self.ways[depth].plan.last_layers) for depth in depths]

    def average(self, cost: Mapping[int, float], steps: int) -> float:
        """Of a cost by depth, over the depths of the first so many steps."""
        drawn = [self.elastic.drawn(self.plan, self.seed, step) for step in range(steps)]
        return sum(cost[depth] / len(depths) for depths in drawn for depth in depths) / max(1, steps)


def parts_of(batch: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """A batch in so many parts of equal size; what is left over goes to the last."""
    if count == 1:
        return [dict(batch)]
    images = len(batch["image"])
    ends = [images * part // count for part in range(count + 1)]
    return [
        {
            name: value[low:high] if isinstance(value, Tensor) and len(value) == images else value
            for name, value in batch.items()
        }
        for low, high in pairwise(ends)
    ]


def _scaled(net: nn.Module, way: Expansion, trained: StagePlan) -> nn.Module:
    """Put a step behind each branch, where a family's layers drop paths."""
    for layer, size in zip(get_blocks(net), way.steps(trained), strict=True):
        if not branches_of(layer):
            continue  # layers are repeated as they are
        for name, child in list(layer.named_children()):
            if name.startswith("drop_path"):
                setattr(layer, name, nn.Sequential(child, Step(size)))
    return net


def _share_around(source: nn.Module, net: nn.Module, blocks: str) -> None:
    """Give a net all modules and tensors of another, but for its list of layers."""
    head, _, rest = blocks.partition(".")
    for name, tensor in (*source.named_parameters(recurse=False), *source.named_buffers(recurse=False)):
        setattr(net, name, tensor)
    for name, child in children_of(source):
        if name != head:
            setattr(net, name, child)
        elif rest:
            _share_around(child, net.get_submodule(name), rest)
