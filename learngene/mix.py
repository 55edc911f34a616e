"""Layers of a new ViT from stored layers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from learngene.errors import LearngeneError
from learngene.families.weights import State


def relayer(state: State, layer_map: Sequence[int], blocks: str) -> dict[str, Tensor]:
    """Layer ``i`` of the new ViT is layer ``layer_map[i]`` of the old; everything else stays.

    Extracting a learngene, expanding it and choosing layers of an ancestor are all this function. Tensors are
    referenced, not copied.

    Raises:
        LearngeneError: the map names a layer that the state does not have.
    """
    prefix = f"{blocks}."
    layers: dict[int, dict[str, Tensor]] = {}
    new = {}
    for key, value in state.items():
        if key.startswith(prefix):
            layer, _, rest = key[len(prefix) :].partition(".")
            layers.setdefault(int(layer), {})[rest] = value
        else:
            new[key] = value
    for target, source in enumerate(layer_map):
        if source not in layers:
            raise LearngeneError(f"layer {source} was asked for, but there are only {len(layers)} layers (0 to {len(layers) - 1})")
        new.update({f"{prefix}{target}.{rest}": value for rest, value in layers[source].items()})
    return new
