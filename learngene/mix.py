"""Layers of a new ViT as weighted sums of stored layers: extracting a learngene, spawning from it and
choosing layers are all this.

Stored layers are those of a state, in order; ``rows`` has a row for each layer of the new ViT, and in it a
weight for each stored layer. Stages repeated as they are have one-hot rows, which index and stay bit exact.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from learngene.errors import LearngeneError

State = Mapping[str, Tensor]
Rows = Sequence[Sequence[float]]


def mix(
    state: State, rows: Rows, blocks: str, *, steps: Sequence[float] = (), ends: Collection[str] = ()
) -> dict[str, Tensor]:
    """Layer ``i`` of the new ViT is the sum over ``j`` of ``rows[i][j]`` times stored layer ``j``.

    All around the layers stays. A step size is a factor on what a layer adds to the residual stream: it is
    folded into the tensors that end its branches.

    Args:
        state: of a ViT with the stored layers. Tensors that do not change are referenced, not copied.
        rows: L x stored.
        blocks: name of the list of layers, e.g. ``"blocks"``.
        steps: a step size for each new layer; by default all are 1.
        ends: names, within a layer, of the tensors that end a branch (its output weights and biases).

    Raises:
        LearngeneError: a row does not name each stored layer, there is not a step for each row, or layers
            of different parts would be summed.
    """
    around, layers = split_layers(state, blocks)
    if any(len(row) != len(layers) for row in rows):
        lengths = sorted({len(row) for row in rows})
        raise LearngeneError(
            f"rows of {lengths} weights for {len(layers)} stored layers; give each a weight for each layer"
        )
    if steps and len(steps) != len(rows):
        raise LearngeneError(f"{len(steps)} step sizes for {len(rows)} layers; give one each")
    if not all(map(any, rows)):
        raise LearngeneError("a row without any weight makes no layer; give it one")
    new = dict(around)
    for place, row in enumerate(rows):
        weights = {layer: weight for layer, weight in enumerate(row) if weight}
        step = steps[place] if steps else 1.0
        if len({frozenset(layers[layer]) for layer in weights}) > 1:
            raise LearngeneError(f"layers {sorted(weights)} have different parts, so they have no sum")
        for name in layers[next(iter(weights))]:
            value = _sum([(weight, layers[layer][name]) for layer, weight in weights.items()])
            new[f"{blocks}.{place}.{name}"] = value * step if step != 1 and name in ends else value
    return new


def _sum(parts: Sequence[tuple[float, Tensor]]) -> Tensor:
    """A weighted sum; of numbers that are no floats (indices, counters) those of the greatest weight."""
    first = max(parts, key=lambda part: abs(part[0]))
    if len(parts) == 1 and first[0] == 1:
        return first[1]
    if not first[1].is_floating_point():
        return first[1]
    return torch.stack([weight * tensor for weight, tensor in parts]).sum(0)


def split_layers(state: State, blocks: str) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """What is around the layers, and the tensors of each layer by their names within it."""
    around: dict[str, Tensor] = {}
    layers: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        if key.startswith(f"{blocks}."):
            layer, _, name = key.removeprefix(f"{blocks}.").partition(".")
            layers.setdefault(int(layer), {})[name] = value
        else:
            around[key] = value
    return around, [layers[layer] for layer in sorted(layers)]


def one_hot(layers: Sequence[int], stored: int) -> list[list[float]]:
    """Rows that take one stored layer each.

    Raises:
        LearngeneError: there is no such layer.

    >>> one_hot([0, 0, 1], 2)
    [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    """
    for layer in layers:
        if not 0 <= layer < stored:
            raise LearngeneError(
                f"layer {layer} was asked for, but there are only {stored} layers (0 to {stored - 1})"
            )
    return [[float(layer == place) for place in range(stored)] for layer in layers]


def pick(state: State, layers: Sequence[int], blocks: str) -> dict[str, Tensor]:
    """`mix` with one-hot rows: layer ``i`` of the new ViT is stored layer ``layers[i]``, the very tensors."""
    stored = len(split_layers(state, blocks)[1])
    return mix(state, one_hot(layers, stored), blocks)
