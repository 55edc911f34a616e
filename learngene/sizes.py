"""What each depth costs: parameters, bytes, FLOPs, latency; and the deepest descendant within a budget.

All layers of a family cost the same, so parameters and FLOPs of any depth follow exactly from two depths. Latency is measured,
all depths in turn, so that what else the machine does meets them alike.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from learngene import vit
from learngene.errors import LearngeneError
from learngene.plan import StagePlan
from learngene.provenance import hardware
from learngene.vit import Architecture

TEN_DEPTHS = range(6, 16)  # the ten models that SWS counts its storage against
MAX_DEPTH = 200
# Latency: rounds over all models, forward passes timed in each (one before them is not), and seconds per model after which no
# further round begins.
FEWEST_ROUNDS, MOST_ROUNDS, PASSES, SECONDS = 5, 30, 3, 0.5
log = logging.getLogger(__name__)


def usual_depths(plan: StagePlan) -> list[int]:
    """The depths of a table where none are named: 6 to 15, those that have a layer for each stage; else the plan's own."""
    return [depth for depth in TEN_DEPTHS if depth >= plan.stages] or [plan.depth]


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass of one image: the median of all that were timed, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Latency:
        """From milliseconds of single passes, two or more."""
        low, median, high = statistics.quantiles(times, n=4, method="inclusive")
        return cls(median, low, high)

    def plain(self) -> dict[str, Any]:
        """As fields of a table's row."""
        return {"latency_ms": self.median, "latency_quartiles_ms": [self.low, self.high]}


def latencies(models: Mapping[int, nn.Module], device: str = "cpu") -> dict[int, Latency]:
    """Latency of each model, measured here in turns: a pass to warm up and a few timed ones of each, over and over.

    Args:
        models: by number of layers; they are put on the device and into evaluation mode.
        device: cpu, cuda, ... or auto.
    """
    place = chosen_device(device)
    times: dict[int, list[float]] = {depth: [] for depth in models}
    for model in models.values():
        model.to(place).eval()
    images = {depth: torch.zeros(1, *vit.data_config(model)["input_size"], device=place) for depth, model in models.items()}
    end = time.perf_counter() + SECONDS * len(models)
    with torch.inference_mode():
        for turn in range(MOST_ROUNDS + 1):
            if turn > FEWEST_ROUNDS and time.perf_counter() > end:
                break
            for depth, model in models.items():
                passes = _timed(model, images[depth], PASSES)
                times[depth] += passes if turn else []  # the first round warms up
    return {depth: Latency.of(passes) for depth, passes in times.items()}


def _timed(model: nn.Module, images: torch.Tensor, passes: int) -> list[float]:
    """Milliseconds of each forward pass, after one that brings the weights into the caches."""
    ends = []
    for _ in range(passes + 1):
        model(images)
        if images.device.type != "cpu":
            torch.accelerator.synchronize(images.device)
        ends.append(time.perf_counter())
    return [1e3 * (after - before) for before, after in pairwise(ends)]


def chosen_device(device: str) -> torch.device:
    """The device itself; for auto a GPU if there is one."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def conditions(device: str) -> dict[str, Any]:
    """How latency is measured here: where, in which numbers, on how many threads, how many images at once."""
    dtype = str(torch.get_default_dtype()).removeprefix("torch.")
    place = chosen_device(device)
    return {"device": str(place), "hardware": hardware(), "dtype": dtype, "threads": torch.get_num_threads(), "batch": 1}


def condition_words(how: Mapping[str, Any]) -> str:
    """`conditions` in a line."""
    return (
        f"median and quartiles of one forward pass of {how['batch']} image, {how['dtype']}, {_threads(how)}, "
        f"on {how['device']} ({how['hardware']})"
    )


def _threads(how: Mapping[str, Any]) -> str:
    return f"{how['threads']} thread{'' if how['threads'] == 1 else 's'}"


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
            return self.architecture.build(depth, **dict(self.overrides)).requires_grad_(False)  # FLOPs of some need that

    @property
    def classes(self) -> int:
        """Outputs of the head; 0 without one."""
        return int(self._build(1).num_classes)  # type: ignore[arg-type]

    @cached_property
    def _parameters(self) -> tuple[int, int]:
        return _line(*(vit.parameters(self._build(depth)) for depth in (1, 2)))

    @cached_property
    def _flops(self) -> tuple[int, int]:
        return _line(*(self._count(depth) for depth in (1, 2)))

    def _count(self, depth: int) -> int:
        try:
            return vit.flops(self._build(depth))
        except (NotImplementedError, RuntimeError):  # torch's word for an operator that has no shapes without numbers
            return vit.flops(self.architecture.build(depth, **dict(self.overrides)).requires_grad_(False))

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

    def costs(self, plans: Sequence[StagePlan], *, latency: bool = False, device: str = "cpu") -> list[dict[str, Any]]:
        """A row per plan: ``depth``, ``plan``, ``parameters``, ``bytes``, ``gflops``, and where asked for ``latency_ms`` (median
        of one image) and ``latency_quartiles_ms``."""
        known = vit.anatomy(self.architecture.name)
        if known.depth_argument is None:
            log.info("timm fixes the depth of %s at %d: other depths in Python only", self.architecture.name, known.depth)
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
        """Latency of each depth with random weights, measured in turns (see `latencies`); warns where a deeper model came out clearly faster."""
        measured = latencies(self._models(sorted(set(depths)), device), device)
        ordered = list(measured.items())
        for (shallow, fast), (deep, slow) in pairwise(ordered):
            if slow.median < fast.low:
                log.warning(
                    "latency: %d layers took %.3g ms and %d layers %.3g ms, so something else was running; measure again for "
                    "figures to rely on", shallow, fast.median, deep, slow.median,
                )  # fmt: skip
        return measured

    def _models(self, depths: Sequence[int], device: str) -> dict[int, nn.Module]:
        """A model per depth. All use the weights of the deepest, so that many take no more memory than one."""
        place = chosen_device(device)
        deepest = self.architecture.build(depths[-1], **dict(self.overrides)).to(place)
        blocks = vit.anatomy(self.architecture.name).blocks
        models = {}
        for depth in depths[:-1]:
            models[depth] = self.architecture.build(depth, **dict(self.overrides)).to(place)
            vit.load_strict(models[depth], vit.relayer(deepest.state_dict(), range(depth), blocks), set(), assign=True)
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
        return most if max_latency_ms is None else self._deepest_in_time(shallowest, most, max_latency_ms, device)

    def _deepest_in_time(self, shallowest: int, most: int, budget: float, device: str) -> int:
        """The deepest up to ``most`` within a latency.

        A straight line through two depths says where to look; the depths around are measured in turns, until one that
        fits stands beside one that does not.
        """
        measured = self.latencies([shallowest, 2 * shallowest], device)
        if not measured[shallowest].median <= budget:
            raise _too_much(
                "max_latency_ms", budget, shallowest, f"take {measured[shallowest].median:.4g} ms on {chosen_device(device)}"
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
    """The depth at which a straight line through the shallowest and the deepest that were measured meets a budget."""
    (near, fast), (far, slow) = ((depth, measured[depth].median) for depth in (min(measured), max(measured)))
    rise = (slow - fast) / (far - near)
    return near + int(min((budget - fast) / rise, MAX_DEPTH)) if rise > 0 else far + 1


def _too_much(name: str, budget: float, depth: int, words: str) -> LearngeneError:
    return LearngeneError(
        f"{name} {budget:.4g}: {depth} layers {words}, the shallowest there is; raise the budget, or leave stages out with a plan"
    )


def _line(one: int, two: int) -> tuple[int, int]:
    """Value at depth 0 and rise per layer, from depths 1 and 2."""
    return 2 * one - two, two - one
