"""Begin as well as the ancestor allows: its own layers, else rows and columns of them, else at random."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import nn

from learngene.errors import LearngeneError
from learngene.families.anatomy import attention_heads, get_blocks
from learngene.families.heads import head_keys
from learngene.families.records import data_config_of
from learngene.families.timm import open_model
from learngene.mix import pick
from learngene.plan import StagePlan
from learngene.starts.from_ancestor import from_ancestor
from learngene.starts.loading import Trained
from learngene.starts.selection import same_family, weight_selection

log = logging.getLogger("learngene")


def auto(
    model: nn.Module,
    *,
    ancestor: Trained,
    stage_plan: str | Sequence[int] | StagePlan | None = None,
    class_names: Sequence[str] | None = None,
) -> nn.Module:
    """`from_ancestor` where the shapes fit, `weight_selection` where the ancestor is only wider; else the
    weights stay as they were drawn. The log says which.

    Args:
        ancestor: a timm model, or any module, of which an unlike one gives nothing.
        stage_plan: layers per stage; that of the distillation, else each layer is a stage of its own.
        class_names: the classes to be learned, where known.
    """
    trained = open_model(ancestor)
    plan = StagePlan((1,) * len(get_blocks(model))) if stage_plan is None else StagePlan.parse(stage_plan)
    match _fit(model, trained):
        case "layers":
            log.info("the weights begin as the ancestor's own layers (start from-ancestor)")
            return from_ancestor(model, ancestor=trained, stage_plan=plan, class_names=class_names)
        case "wider":
            log.info(
                "the weights begin as rows and columns of the ancestor's layers (start weight-selection)"
            )
            return weight_selection(model, ancestor=trained, stage_plan=plan)
        case reason:
            log.info("the weights begin at random (start random): %s", reason)
            return model


def _fit(model: nn.Module, trained: nn.Module) -> str:
    """``layers``, ``wider``, or why neither; by the shapes of one layer and of what is around the layers."""
    try:
        blocks = same_family(model, trained, "auto")
    except LearngeneError as error:
        return str(error).partition(";")[0]
    own, theirs = (pick(net.state_dict(), [0], blocks) for net in (model, trained))
    head = head_keys(model) | head_keys(trained)
    shapes = {name: tuple(t.shape) for name, t in own.items() if name not in head}
    known = {name: tuple(t.shape) for name, t in theirs.items() if name not in head}
    heads, others = attention_heads(model), attention_heads(trained)
    if shapes == known:
        return "layers" if heads == others else f"its layers have {heads} heads, the ancestor's {others}"
    size, other = (tuple(data_config_of(net)["input_size"][1:]) for net in (model, trained))
    if size != other:
        return f"its images are of {size} pixels, the ancestor's of {other}"
    if shapes.keys() != known.keys():
        return f"only one of the two has '{sorted(shapes.keys() ^ known.keys())[0]}'"
    for name, shape in shapes.items():
        tokens = slice(1, -1) if name == "pos_embed" else slice(2, None)  # positions, pixels of a kernel
        if len(shape) != len(known[name]) or shape[tokens] != known[name][tokens]:
            return f"'{name}' is {shape}, the ancestor's {known[name]}"
        if any(t < s for s, t in zip(shape, known[name], strict=True)):
            return f"'{name}' is {shape}, the ancestor's {known[name]} is smaller"
    return "wider"
