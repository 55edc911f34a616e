"""learngene plan"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from learngene.job import Job
from learngene.plan import StagePlan, parse_depths


@dataclass(frozen=True, kw_only=True)
class Plan(Job):
    """What a learngene of this plan would cost, and each depth spawned from it, before anything is
    trained.
    """

    COMMAND, ORDER = "plan", 110
    SUMMARY = "what a learngene and its depths would cost, before any training"
    FUNCTION = "plan_costs"
    BY_PLACE = ("arch",)
    POSITIONAL = "arch"
    JSON = True

    arch: str
    """timm architecture of the auxiliary net and its descendants ('learngene archs' lists them)."""
    plan: int | str | Sequence[int] | StagePlan = "3,3,4,3,3"
    """layers per stage of the auxiliary net."""
    arch_args: Mapping[str, Any] | None = None
    """arguments of the architecture as JSON, e.g. '{"img_size": 28, "num_classes": 10}'."""
    depth: int | str | Sequence[int | str] | None = None
    """depths for the table, e.g. 6 9 or 5-20; by default 6 to 15 (those that have a layer for each stage)."""
    latency: bool = False
    """also measure milliseconds per image, all depths in turn."""
    device: str = "cpu"
    """where to measure."""

    def __post_init__(self) -> None:
        super().__post_init__()
        StagePlan.parse(self.plan).first_layers  # noqa: B018  refuses a plan with an empty stage

    def run(self) -> dict[str, Any]:
        """Do it.

        Returns:
            Plain values: ``parameters`` and ``bytes`` that the learngene would store; ``any_depth``, off
            where timm fixes the depth, so that only its own can be stored as a timm directory; ``auxnet``,
            the row of the auxiliary net (its layers share weights, so it has the learngene's parameters and
            the FLOPs of all its layers); a row per depth under ``depths``, as `learngene.info` has them; and
            how many times smaller the learngene is than ten models of depth 6 to 15.

        Raises:
            LearngeneError: an architecture that is not supported, arguments that timm refuses, a plan or a
                depth that does not fit.
        """
        from learngene.costs import Sizes, usual_depths
        from learngene.devices import check_device
        from learngene.families.anatomy import anatomy
        from learngene.families.architecture import Architecture
        from learngene.latency import conditions

        plan = StagePlan.parse(self.plan)
        depths = None if self.depth is None else parse_depths(self.depth)
        check_device(self.device)
        known = anatomy(self.arch)
        architecture = Architecture(self.arch, self.arch_args or {})
        sizes = Sizes(architecture)
        plans = [plan.at_depth(depth) for depth in depths or usual_depths(plan)]
        auxnet, *rows = sizes.costs([plan, *plans], latency=self.latency, device=self.device)
        stored, ten = sizes.stored(plan), sizes.ten_models()
        return {
            "kind": "plan",
            "architecture": architecture.name,
            "arguments": dict(architecture.args),
            "any_depth": known.depth_argument is not None,
            "classes": sizes.classes,
            "plan": str(plan),
            "parameters": stored,
            "bytes": 4 * stored,
            "auxnet": auxnet | {"parameters": stored, "bytes": 4 * stored},
            "ten_models_parameters": ten,
            "times_smaller_than_ten_models": ten / stored,
            "depths": rows,
            **({"latency": conditions(self.device)} if self.latency else {}),
        }

    @staticmethod
    def show(result: Any) -> None:
        """The learngene and the auxiliary net in lines, then a row per depth."""
        from learngene.terminal import latency_words, print_costs, print_lines, say, stored_lines

        head = f"learngene of {result['architecture']} by the plan {result['plan']}"
        say(f"{head}  {result['bytes'] / 1e6:.2f} MB", style="bold")
        net = result["auxnet"]
        shape = f"{net['depth']} layers of {result['parameters']:,} parameters"
        speed = f", {latency_words(net)} ms" if "latency_ms" in net else ""
        costs = f"{shape}, {net['gflops']:.4g} GFLOPs an image{speed}"
        print_lines({"classes": result["classes"], **stored_lines(result), "auxiliary net": costs})
        print_costs(result["depths"], result.get("latency"))
