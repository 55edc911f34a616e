"""Begin each stage with a layer of an ancestor of the same width: the net that is distilled, for one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from learngene.families.anatomy import get_blocks
from learngene.families.records import data_config_of, label_names_of
from learngene.families.timm import open_model
from learngene.mix import pick
from learngene.plan import StagePlan
from learngene.starts.loading import Trained, load_weights
from learngene.starts.selection import same_family, stage_sources


def from_ancestor(
    model: nn.Module,
    *,
    ancestor: Trained,
    stage_plan: str | Sequence[int] | StagePlan | None = None,
    class_names: Sequence[str] | None = None,
) -> nn.Module:
    """A stage begins as one of the ancestor's layers, evenly spaced with both ends kept; the rest as it is.

    The stepwise choice was the best for strict tying in Relaxed Recursive Transformers (arXiv 2410.20672).

    Args:
        ancestor: a timm model, as `learngene.distill` takes it; that of the distillation unless another is
            named.
        stage_plan: layers per stage; that of the distillation, else each layer is a stage of its own.
        class_names: the classes to be learned, where known.

    Raises:
        LearngeneError: another family or width, or a plan of another depth.
    """
    trained = open_model(ancestor)
    blocks, depth = same_family(model, trained, "from-ancestor"), len(get_blocks(model))
    plan = StagePlan((1,) * depth) if stage_plan is None else StagePlan.parse(stage_plan)
    plan.check_depth(depth, "stage_plan")
    plan.first_layers  # noqa: B018  refuses an empty stage
    chosen = stage_sources(len(get_blocks(trained)), plan)
    state = pick(trained.state_dict(), chosen, blocks)
    return load_weights(
        model,
        state,
        data_config=data_config_of(trained),
        names=label_names_of(trained),
        class_names=class_names,
    )
