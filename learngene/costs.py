"""What each depth costs: parameters, bytes, FLOPs; and the deepest descendant within a budget.

All layers of a family cost the same, so parameters and FLOPs of any depth follow exactly from two depths.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from timm.models import get_model_input_config
from torch import nn

from learngene.devices import chosen_device, device_of
from learngene.errors import LearngeneError
from learngene.families.anatomy import anatomy, count_parameters
from learngene.families.architecture import Architecture
from learngene.families.modes import evaluating
from learngene.families.records import architecture_name
from learngene.families.weights import load_strict
from learngene.latency import Latency, latencies
from learngene.mix import pick
from learngene.plan import StagePlan

log = logging.getLogger("learngene")


def forward_flops(model: nn.Module, size: Sequence[int]) -> int:
    """FLOPs of one image, counted on a copy on the meta device, or where that cannot be on the model itself.

    Where neither can be: 0, with a warning.
    """
    try:
        return count_flops(copy.deepcopy(model).requires_grad_(False).to("meta"), size)
    except (
        Exception
    ) as error:  # of anybody's code: some models cannot be copied, others have no shapes without numbers
        log.debug("FLOPs are counted where the model lies: %s", error)
    try:
        return count_flops(model, size)
    except Exception as error:
        log.warning(
            "the FLOPs of %s cannot be counted (%s); costs leave them out", architecture_name(model), error
        )
        return 0


def val_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """What `learngene.training.fit` measured on the validation images at the end."""
    return {k: v for k, v in result.items() if k.startswith("val_")}


def training_cost(result: Mapping[str, Any], flops_per_image: int) -> dict[str, Any]:
    """Images, steps, seconds, joules and FLOPs of a training, by what `learngene.training.fit` gave."""
    images = result.get("images", 0)
    return {
        "images": images,
        "steps": result.get("step", 0),
        "seconds": result.get("seconds", 0.0),
        "joules": result.get("joules"),
        "flops": images * flops_per_image,
    }


TEN_DEPTHS = range(6, 16)  # the ten models that SWS counts its storage against
MAX_DEPTH = 200


def usual_depths(plan: StagePlan) -> list[int]:
    """Depths of a table where none are named: 6 to 15 as far as each stage has a layer, else the plan's."""
    return [depth for depth in TEN_DEPTHS if depth >= plan.stages] or [plan.depth]


@dataclass
class Sizes:
    """Costs of an architecture at any depth; built on the meta device, no weights.

    Args:
        architecture: the family.
        overrides: arguments that differ in the descendants, e.g. ``num_classes``.

    Raises:
        LearngeneError: a negative number of classes.
    """

    architecture: Architecture
    overrides: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        classes = {**self.architecture.args, **dict(self.overrides)}.get("num_classes", 0)
        if isinstance(classes, (int, float)) and classes < 0:  # timm would build a model without a head
            raise LearngeneError(f"num_classes {classes}: it must be at least 0, which is no head")

    def _build(self, depth: int) -> nn.Module:
        with torch.device("meta"):
            return self.architecture.build(depth, **dict(self.overrides)).requires_grad_(
                False
            )  # FLOPs of some need that

    @property
    def classes(self) -> int:
        """Outputs of the head; 0 without one."""
        return int(self._build(1).num_classes)  # type: ignore[arg-type]

    @cached_property
    def _parameters(self) -> tuple[int, int]:
        return _line(*(count_parameters(self._build(depth)) for depth in (1, 2)))

    @cached_property
    def _flops(self) -> tuple[int, int]:
        return _line(*(self._count(depth) for depth in (1, 2)))

    def _count(self, depth: int) -> int:
        try:
            return count_flops(self._build(depth))
        except RuntimeError:  # torch's, for an operator whose shapes depend on numbers
            return count_flops(self.architecture.build(depth, **dict(self.overrides)).requires_grad_(False))

    def parameters(self, depth: int) -> int:
        """Number of parameters of a descendant, nothing shared."""
        base, layer = self._parameters
        return base + layer * depth

    def bytes(self, depth: int) -> int:
        """Size of its weights in fp32."""
        return 4 * self.parameters(depth)

    def gflops(self, depth: int) -> float:
        """GFLOPs of one forward pass of one image (2 per multiply-add)."""
        base, layer = self._flops
        return (base + layer * depth) / 1e9

    def costs(
        self, plans: Sequence[StagePlan], *, latency: bool = False, device: str = "cpu"
    ) -> list[dict[str, Any]]:
        """A row per plan: ``depth``, ``plan``, ``parameters``, ``bytes``, ``gflops``.

        Where asked for, also ``latency_ms`` (median of one image) and ``latency_quartiles_ms``.
        """
        known = anatomy(self.architecture.name)
        if known.depth_argument is None:
            log.info(
                "timm fixes the depth of %s at %d: other depths in Python only",
                self.architecture.name,
                known.depth,
            )
        measured = self.latencies([plan.depth for plan in plans], device) if latency else {}
        rows = []
        for plan in plans:
            row = {"depth": plan.depth, "plan": str(plan), "parameters": self.parameters(plan.depth)}
            row |= {"bytes": self.bytes(plan.depth), "gflops": self.gflops(plan.depth)}
            rows.append(row | (measured[plan.depth].plain() if latency else {}))
        return rows

    def stored(self, plan: StagePlan) -> int:
        """Values that a learngene of this plan stores: one layer per stage, and all around the layers."""
        return sum(tensor.numel() for tensor in self._build(plan.stages).state_dict().values())

    def ten_models(self) -> int:
        """Parameters of ten models of depth 6 to 15, which is what a family stored one by one takes."""
        return sum(self.parameters(depth) for depth in TEN_DEPTHS)

    def latencies(self, depths: Sequence[int], device: str = "cpu") -> dict[int, Latency]:
        """Latency of each depth with random weights, measured in turns (see `latencies`).

        Warns where a deeper model came out clearly faster.
        """
        measured = latencies(self._models(sorted(set(depths)), device), device)
        ordered = list(measured.items())
        for (shallow, fast), (deep, slow) in pairwise(ordered):
            if slow.median < fast.low:
                log.warning(
                    "latency: %d layers took %.3g ms and %d layers %.3g ms, so something else was running; "
                    "measure again for figures to rely on", shallow, fast.median, deep, slow.median,
                )  # fmt: skip
        return measured

    def _models(self, depths: Sequence[int], device: str) -> dict[int, nn.Module]:
        """A model per depth. All use the weights of the deepest: many take no more memory than one."""
        place = chosen_device(device)
        deepest = self.architecture.build(depths[-1], **dict(self.overrides)).to(place)
        blocks = anatomy(self.architecture.name).blocks
        models = {}
        for depth in depths[:-1]:
            models[depth] = self.architecture.build(depth, **dict(self.overrides)).to(place)
            load_strict(models[depth], pick(deepest.state_dict(), range(depth), blocks), set(), assign=True)
        return models | {depths[-1]: deepest}

    def deepest(
        self,
        shallowest: int,
        *,
        max_params: float | None = None,
        max_gflops: float | None = None,
        max_latency_ms: float | None = None,
        device: str = "cpu",
    ) -> int:
        """The deepest depth within every budget that is given.

        Raises:
            LearngeneError: even ``shallowest`` layers are too many for one of them.
        """
        exact = [
            ("max_params", max_params, self.parameters, "have {} parameters"),
            ("max_gflops", max_gflops, self.gflops, "take {:.4g} GFLOPs"),
        ]
        most = MAX_DEPTH
        for name, budget, cost, words in exact:
            if budget is None:
                continue
            if not cost(shallowest) <= budget:  # also where the budget is not a number
                raise _too_much(name, budget, shallowest, words.format(cost(shallowest)))
            most = max(d for d in range(shallowest, max(most, shallowest) + 1) if cost(d) <= budget)
        return (
            most
            if max_latency_ms is None
            else self._deepest_in_time(shallowest, most, max_latency_ms, device)
        )

    def _deepest_in_time(self, shallowest: int, most: int, budget: float, device: str) -> int:
        """The deepest up to ``most`` within a latency.

        A straight line through two depths says where to look; the depths around are measured in turns, until
        one that fits stands beside one that does not.
        """
        measured = self.latencies([shallowest, 2 * shallowest], device)
        if not measured[shallowest].median <= budget:
            raise _too_much(
                "max_latency_ms",
                budget,
                shallowest,
                f"take {measured[shallowest].median:.4g} ms on {chosen_device(device)}",
            )
        low, high = shallowest, most + 1  # low fits, high does not
        while high - low > 1:
            middle = min(max(_meets(measured, budget), low + 1), high - 1)
            around = [depth for depth in range(middle - 1, middle + 2) if low < depth < high]
            measured = self.latencies([shallowest, *around], device)
            tried = sorted(d for d in measured if low < d < high)
            high = next((d for d in tried if measured[d].median > budget), high)
            low = max((d for d in tried if d < high), default=low)
        return low


def _meets(measured: Mapping[int, Latency], budget: float) -> int:
    """Where a straight line through the shallowest and deepest depths that were measured meets a budget."""
    (near, fast), (far, slow) = ((depth, measured[depth].median) for depth in (min(measured), max(measured)))
    rise = (slow - fast) / (far - near)
    return near + int(min((budget - fast) / rise, MAX_DEPTH)) if rise > 0 else far + 1


def _too_much(name: str, budget: float, depth: int, words: str) -> LearngeneError:
    return LearngeneError(
        f"{name} {budget:.4g}: {depth} layers {words}, the shallowest there is; raise the budget, or leave "
        "stages out with a plan"
    )


def _line(one: int, two: int) -> tuple[int, int]:
    """Value at depth 0 and rise per layer, from depths 1 and 2."""
    return 2 * one - two, two - one


def count_flops(model: nn.Module, input_size: Sequence[int] | None = None) -> int:
    """Floating point operations (2 per multiply-add) of one forward pass of one image, counted by torch.

    Counts matrix products, convolutions and attention. Runs the model on zeros where it lies; put it on the
    meta device to count without computing (fused attention is missed on CPU, see torch.utils.flop_counter).
    """
    from torch.utils.flop_counter import FlopCounterMode

    size = tuple(input_size or get_model_input_config(model)["input_size"])
    counter = FlopCounterMode(display=False)
    with (
        _COUNTING,
        evaluating(model),
        torch.no_grad(),
        contextlib.redirect_stdout(io.StringIO()),
        counter,
    ):  # some models print
        model(torch.zeros(1, *size, device=device_of(model)))
    return counter.get_total_flops()


_COUNTING = threading.Lock()  # stdout is one for all threads
