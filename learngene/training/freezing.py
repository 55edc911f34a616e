"""Which parts of a model are kept as they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from learngene.errors import LearngeneError
from learngene.families.anatomy import find_blocks, get_blocks
from learngene.families.heads import classifiers
from learngene.families.modes import evaluating
from learngene.families.records import data_config_of


def freeze(model: nn.Module, layers: int) -> list[nn.Module]:
    """Switch off gradients of the embeddings and the first ``layers`` layers (-1: all but the head); what was
    frozen.

    Raises:
        LearngeneError: more layers than there are.
    """
    if layers == 0:
        return []
    blocks = find_blocks(model)
    count = len(model.get_submodule(blocks))  # type: ignore[arg-type]
    if layers > count:
        raise LearngeneError(
            f"freeze {layers}: the model has {count} layers; use at most that, or -1 for all but the head"
        )
    if layers == -1:
        heads = {parameter for part in classifiers(model) for parameter in part.parameters()}
        kept = [parameter for parameter in model.parameters() if parameter not in heads]
    else:
        first = list(model.get_submodule(blocks).children())[:layers]
        kept = [
            *entering_parameters(model),
            *(parameter for layer in first for parameter in layer.parameters()),
        ]
    for parameter in kept:
        parameter.requires_grad_(False)
    return [
        m
        for m in model.modules()
        if any(True for _ in m.parameters()) and not any(p.requires_grad for p in m.parameters())
    ]


def entering_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that what enters the first layer depends on, found by a backward pass from there.

    Patch and position embeddings, tokens and norms before the layers; not what is used behind them, whatever
    its name is (CaiT's class token and class attention).
    """
    entering: list[Tensor] = []

    def look(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not entering:
            entering.extend(
                value.sum()
                for value in (*args, *kwargs.values())
                if isinstance(value, Tensor) and value.requires_grad
            )

    parameters = list(model.parameters())
    handle = get_blocks(model)[0].register_forward_pre_hook(look, with_kwargs=True)
    try:
        with evaluating(model):
            model(torch.zeros(1, *data_config_of(model)["input_size"], device=parameters[0].device))
    finally:
        handle.remove()
    if not entering:
        return []
    gradients = torch.autograd.grad(torch.stack(entering).sum(), parameters, allow_unused=True)
    return [
        parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None
    ]
