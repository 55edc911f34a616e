"""What each depth costs: parameters, bytes, FLOPs, latency; and the deepest descendant within a budget.

All layers of a family cost the same, so parameters and FLOPs of any depth follow exactly from two depths.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from learngene import vit
from learngene.errors import LearngeneError
from learngene.vit import Architecture

TEN_DEPTHS = range(6, 16)  # the ten models that SWS counts its storage against
MAX_DEPTH = 200


@dataclass
class Sizes:
    """Costs of an architecture at any depth; built on the meta device, no weights.

    Args:
        architecture: the family.
        overrides: arguments that differ in the descendants, e.g. ``num_classes``.
    """

    architecture: Architecture
    overrides: tuple[tuple[str, Any], ...] = ()

    def _build(self, depth: int) -> nn.Module:
        with torch.device("meta"):
            return self.architecture.build(depth, **dict(self.overrides)).requires_grad_(False)  # FLOPs of some need that

    @cached_property
    def _parameters(self) -> tuple[int, int]:
        return _line(*(vit.parameters(self._build(depth)) for depth in (1, 2)))

    @cached_property
    def _flops(self) -> tuple[int, int]:
        return _line(*(vit.flops(self._build(depth)) for depth in (1, 2)))

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

    def latency_ms(self, depth: int, device: str = "cpu", *, repeats: int = 9) -> float:
        """Median milliseconds of one forward pass of one image, measured here, warm-up excluded."""
        model = self.architecture.build(depth, **dict(self.overrides)).to(device).eval()
        images = torch.zeros(1, *vit.data_config(model)["input_size"], device=device)
        times = []
        with torch.inference_mode():
            for _ in range(repeats + 3):
                start = time.perf_counter()
                model(images)
                if device.startswith("cuda"):
                    torch.cuda.synchronize(device)
                times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times[3:])

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

        def excess(depth: int) -> str | None:
            if max_params is not None and self.parameters(depth) > max_params:
                return f"max_params {max_params:.4g}: {depth} layers have {self.parameters(depth)} parameters"
            if max_gflops is not None and self.gflops(depth) > max_gflops:
                return f"max_gflops {max_gflops:.4g}: {depth} layers take {self.gflops(depth):.4g} GFLOPs"
            if max_latency_ms is not None and (latency := self.latency_ms(depth, device)) > max_latency_ms:
                return f"max_latency_ms {max_latency_ms:.4g}: {depth} layers take {latency:.4g} ms on {device}"
            return None

        too_much = excess(shallowest)
        if too_much:
            raise LearngeneError(f"{too_much}, the shallowest there is; raise the budget, or leave stages out with a plan")
        low, high = shallowest, MAX_DEPTH + 1  # low fits, high does not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if excess(middle) is None else (low, middle)
        return low


def _line(one: int, two: int) -> tuple[int, int]:
    """Value at depth 0 and rise per layer, from depths 1 and 2."""
    return 2 * one - two, two - one
