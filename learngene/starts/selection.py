"""Take weights from a larger trained model: some of its layers, or some rows and columns of every tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from learngene.errors import LearngeneError
from learngene.families.anatomy import find_blocks, get_blocks
from learngene.families.heads import head_keys
from learngene.families.records import architecture_name, data_config_of, inherit_images, label_names_of
from learngene.families.timm import open_model
from learngene.families.weights import load_strict
from learngene.mix import pick
from learngene.plan import StagePlan
from learngene.starts.loading import Trained, load_weights

Layers = Literal["first", "last", "even"]


def depth_selection(
    model: nn.Module, *, ancestor: Trained, layers: Layers = "even", class_names: Sequence[str] | None = None
) -> nn.Module:
    """Some layers of an ancestor of the same width; everything else as it is.

    Args:
        ancestor: a timm model, as `learngene.distill` takes it.
        layers: ``first``, ``last``, or ``even``: evenly spaced, both ends included. For a model deeper than
            its ancestor only ``even`` works, and repeats layers.
        class_names: the classes to be learned, where known.

    Raises:
        LearngeneError: another family or width, or too few layers.
    """
    trained = open_model(ancestor)
    blocks = same_family(model, trained, "depth-selection")
    chosen = choose_layers(len(get_blocks(trained)), len(get_blocks(model)), layers)
    state = pick(trained.state_dict(), chosen, blocks)
    return load_weights(
        model,
        state,
        data_config=data_config_of(trained),
        names=label_names_of(trained),
        class_names=class_names,
    )


def weight_selection(
    model: nn.Module,
    *,
    ancestor: Trained,
    layers: Layers | None = None,
    stage_plan: str | Sequence[int] | StagePlan | None = None,
) -> nn.Module:
    """Some rows and columns of every tensor of a larger ancestor (Xu et al. 2024, arXiv 2311.18823).

    The released code's rule: of the layers the first N; of every dimension of t elements, s are taken by
    `selected_indices`; the head is left out. That wants an ancestor at least as deep and wide; ``even`` goes
    beyond the paper and spaces or repeats the ancestor's layers.

    Args:
        ancestor: a timm model, as `learngene.distill` takes it.
        layers: which of the ancestor's; by default ``first``, or with a plan one for each stage.
        stage_plan: layers per stage; that of the distillation, which needs one layer for each stage.

    Raises:
        LearngeneError: another family, or a smaller ancestor.
    """
    trained = open_model(ancestor)
    blocks = same_family(model, trained, "weight-selection")
    available, wanted = len(get_blocks(trained)), len(get_blocks(model))
    if layers is None and stage_plan is not None:
        chosen = stage_sources(available, StagePlan.parse(stage_plan))
    else:
        chosen = choose_layers(available, wanted, layers or "first")
    larger = pick(trained.state_dict(), chosen, blocks)
    own = model.state_dict()
    fresh = head_keys(model)
    lacking = sorted(k for k in own.keys() - fresh if k not in larger)
    if lacking:
        raise LearngeneError(
            f"weight-selection: the ancestor has no '{lacking[0]}'; use an ancestor of the same family"
        )
    state = {k: select(larger[k], own[k].shape, k) for k in own if k not in fresh}
    load_strict(model, state, fresh)
    inherit_images(model, data_config_of(trained))
    return model


def selected_indices(large: int, small: int) -> Tensor:
    """Which of ``large`` elements are taken: every (large/small)-th if that is whole, else evenly spaced.

    >>> selected_indices(6, 3).tolist(), selected_indices(5, 3).tolist()
    ([0, 2, 4], [0, 2, 4])
    """
    if large % small == 0:
        return torch.arange(small) * (large // small)
    return torch.round(torch.linspace(0, large - 1, small)).long()


def select(tensor: Tensor, shape: Sequence[int], name: str) -> Tensor:
    """`selected_indices` in every dimension."""
    if tensor.ndim != len(shape) or any(t < s for t, s in zip(tensor.shape, shape, strict=False)):
        raise LearngeneError(
            f"weight-selection: the ancestor's '{name}' is {tuple(tensor.shape)}, too small for "
            f"{tuple(shape)}; use a larger ancestor"
        )
    for dim, size in enumerate(shape):
        tensor = tensor.index_select(dim, selected_indices(tensor.shape[dim], size))
    return tensor


def choose_layers(available: int, wanted: int, layers: Layers) -> list[int]:
    """Indices of ``wanted`` layers out of ``available``.

    >>> choose_layers(8, 3, "even"), choose_layers(3, 5, "even"), choose_layers(8, 3, "last")
    ([0, 4, 7], [0, 0, 1, 2, 2], [5, 6, 7])
    """
    if layers not in ("first", "last", "even"):
        raise LearngeneError(f"layers '{layers}': use first, last or even")
    if layers == "even":
        if wanted == 1:
            return [0]
        return [round(i * (available - 1) / (wanted - 1)) for i in range(wanted)]
    if wanted > available:
        raise LearngeneError(
            f"layers '{layers}': the model has {wanted} layers, its ancestor only {available}; use a deeper "
            "ancestor, or layers: even"
        )
    return list(range(wanted)) if layers == "first" else list(range(available - wanted, available))


def stage_sources(available: int, plan: StagePlan) -> list[int]:
    """The ancestor's layer that each layer of a plan begins from: one a stage, evenly spaced, both ends kept.

    >>> stage_sources(8, StagePlan((2, 2, 2, 2, 2)))
    [0, 0, 2, 2, 4, 4, 5, 5, 7, 7]
    """
    stages = choose_layers(available, plan.stages, "even")
    return [stages[stage] for stage in plan.stage_of_layer]


def same_family(model: nn.Module, trained: nn.Module, start: str) -> str:
    """Name of the list of layers, if both models call it the same.

    Raises:
        LearngeneError: they do not.
    """
    blocks, theirs = find_blocks(model), find_blocks(trained)
    if blocks != theirs:
        raise LearngeneError(
            f"the start '{start}' needs an ancestor of the same family; {architecture_name(trained)} keeps "
            f"its layers in '{theirs}', {architecture_name(model)} in '{blocks}'"
        )
    return blocks
