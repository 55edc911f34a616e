"""Stage-wise sharing: tie an auxiliary net, extract what its stages store, expand that to any plan.

The auxiliary net is a plain timm model whose stage-mates share their submodules (SWS, arXiv 2404.16897,
section 3.1).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from learngene.families.anatomy import get_blocks
from learngene.families.architecture import Architecture
from learngene.mix import State, mix, one_hot, pick, split_layers
from learngene.plan import StagePlan

STAGES = "stages"  # the name of this way of sharing, in a learngene's file


def build_auxnet(architecture: Architecture, plan: StagePlan, **overrides: Any) -> nn.Module:
    """A timm model of ``plan.depth`` layers, random weights, tied by `tie`."""
    return tie(architecture.build(plan.depth, **overrides), plan)


def tie(model: nn.Module, plan: StagePlan, *, share_norms: bool = True) -> nn.Module:
    """Let all layers of a stage use the weights of its first layer. Changes ``model`` and returns it.

    One block object per layer stays (drop path is a layer's own, and gradient checkpointing counts layers);
    its submodules become references to those of the stage's first layer. Sharing bare parameters instead
    would be undone silently by ``load_state_dict(assign=True)`` and ``to_empty``.

    Args:
        model: a timm model with one uniform list of layers.
        plan: layers per stage.
        share_norms: off: each layer keeps normalisation of its own (the paper shares it).

    Raises:
        LearngeneError: the plan has not as many layers as the model, or a stage without any.
    """
    plan = StagePlan.parse(plan)
    blocks = get_blocks(model)
    plan.check_depth(len(blocks))
    first_layers = plan.first_layers
    for layer, stage in enumerate(plan.stage_of_layer):
        if layer != first_layers[stage]:
            use_weights(blocks[first_layers[stage]], blocks[layer], share_norms=share_norms)
    return model


def use_weights(first: nn.Module, mate: nn.Module, *, share_norms: bool = True) -> None:
    """Give ``mate`` the submodules and own tensors of ``first``; parts that drop paths stay its own."""
    for name, parameter in first.named_parameters(recurse=False):
        setattr(mate, name, parameter)
    for name, buffer in first.named_buffers(recurse=False):
        setattr(mate, name, buffer)
    for name, child in children_of(first):
        if not share_norms and is_norm(child):
            continue
        if any(isinstance(m, DropPath) for m in [*child.modules(), *mate.get_submodule(name).modules()]):
            use_weights(child, mate.get_submodule(name), share_norms=share_norms)
        elif any(True for _ in child.state_dict()) or any(True for _ in child.buffers()):
            setattr(mate, name, child)


def children_of(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Its submodules by name, one that has several names under each of them."""
    every = module.named_modules(remove_duplicate=False)
    return [(name, child) for name, child in every if name and "." not in name]


def extract(state: State, plan: StagePlan, blocks: str) -> dict[str, Tensor]:
    """One layer per stage of an auxiliary net's state, and all around the layers: copies on the CPU.

    What the layers of a stage do not share (norms, with ``share_norms`` off) is averaged over the stage.
    """
    stored = pick(state, plan.first_layers, blocks)
    new = {name: tensor.detach().cpu().clone() for name, tensor in stored.items()}
    _, layers = split_layers(state, blocks)
    for stage, (first, repeats) in enumerate(zip(plan.first_layers, plan.repeats, strict=True)):
        for name, tensor in layers[first].items():
            mates = [layers[layer][name] for layer in range(first, first + repeats)]
            if tensor.is_floating_point() and not all(torch.equal(tensor, mate) for mate in mates):
                new[f"{blocks}.{stage}.{name}"].copy_(torch.stack(mates).mean(0))
    return new


def expand(
    state: State, plan: StagePlan, blocks: str, *, steps: Sequence[float] = (), ends: Collection[str] = ()
) -> dict[str, Tensor]:
    """The state of a ViT with as many layers as the plan, each that of its stage: the very tensors, but for
    steps that are not 1.

    Args:
        steps: a step size for each layer (`Expansion.steps`).
        ends: names of the tensors that end a branch of a layer (`learngene.families.branches`).
    """
    return mix(state, one_hot(plan.stage_of_layer, plan.stages), blocks, steps=steps, ends=ends)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer (LayerNorm, RMSNorm, ...), by its name."""
    return "norm" in type(module).__name__.lower()
