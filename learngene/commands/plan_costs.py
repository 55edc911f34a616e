"""learngene plan"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from learngene.arguments import typed
from learngene.devices import check_device
from learngene.families.anatomy import anatomy
from learngene.families.architecture import Architecture
from learngene.plan import StagePlan, parse_depths


@typed
def plan_costs(
    arch: str,
    *,
    plan: str | Sequence[int] | StagePlan = "3,3,4,3,3",
    arch_args: Mapping[str, Any] | None = None,
    depth: int | str | Sequence[int | str] | None = None,
    latency: bool = False,
    device: str = "cpu",
) -> dict[str, Any]:
    """What a learngene of this plan would cost, and each depth spawned from it, before anything is trained.

    Args:
        arch: timm architecture of the auxiliary net and its descendants ('learngene archs' lists them).
        plan: layers per stage of the auxiliary net.
        arch_args: arguments of the architecture as JSON, e.g. '{"img_size": 28, "num_classes": 10}'.
        depth: depths for the table, e.g. 6 9 or 5-20; by default 6 to 15 (those that have a layer for each stage).
        latency: also measure milliseconds per image, all depths in turn.
        device: where to measure.

    Returns:
        Plain values: ``parameters`` and ``bytes`` that the learngene would store; ``any_depth``, off where timm fixes the depth, so
        that only its own can be stored as a timm directory; ``auxnet``, the row of the auxiliary net (its
        layers share weights, so it has the learngene's parameters and the FLOPs of all its layers); a row per depth under
        ``depths``, as `learngene.info` has them; and how many times smaller the learngene is than ten models of depth 6 to 15.

    Raises:
        LearngeneError: an architecture that is not supported, arguments that timm refuses, a plan or a depth that does not fit.
    """
    stage_plan = StagePlan.parse(plan)
    stage_plan.first_layers  # noqa: B018  refuses a plan with an empty stage
    depths = None if depth is None else parse_depths(depth)
    from learngene.costs import Sizes, usual_depths
    from learngene.latency import conditions

    check_device(device)
    anatomy(arch)
    architecture = Architecture(arch, arch_args or {})
    sizes = Sizes(architecture)
    plans = [StagePlan.balanced(d, stage_plan.stages) for d in depths or usual_depths(stage_plan)]
    auxnet, *rows = sizes.costs([stage_plan, *plans], latency=latency, device=device)
    stored, ten = sizes.stored(stage_plan), sizes.ten_models()
    return {
        "kind": "plan",
        "architecture": architecture.name,
        "arguments": dict(architecture.args),
        "any_depth": anatomy(arch).depth_argument is not None,
        "classes": sizes.classes,
        "plan": str(stage_plan),
        "parameters": stored,
        "bytes": 4 * stored,
        "auxnet": auxnet | {"parameters": stored, "bytes": 4 * stored},
        "ten_models_parameters": ten,
        "times_smaller_than_ten_models": ten / stored,
        "depths": rows,
        **({"latency": conditions(device)} if latency else {}),
    }
