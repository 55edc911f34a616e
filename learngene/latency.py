"""Milliseconds an image, measured: all models in turn, so that what else the machine does meets all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from learngene.devices import chosen_device
from learngene.families.records import data_config_of
from learngene.provenance import hardware

# Latency: rounds over all models, forward passes timed in each (one before them is not), and seconds per
# model after which no further round begins.
FEWEST_ROUNDS, MOST_ROUNDS, PASSES, SECONDS = 5, 30, 3, 0.5


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a forward pass of one image: the median of all that were timed, and the quartiles."""

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
    """Latency of each model, measured in turns: one pass to warm up and a few timed ones each, over and over.

    Args:
        models: by number of layers; they are put on the device and into evaluation mode.
        device: cpu, cuda, ... or auto.
    """
    place = chosen_device(device)
    times: dict[int, list[float]] = {depth: [] for depth in models}
    for model in models.values():
        model.to(place).eval()
    images = {
        depth: torch.zeros(1, *data_config_of(model)["input_size"], device=place)
        for depth, model in models.items()
    }
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


def conditions(device: str) -> dict[str, Any]:
    """How latency is measured here: where, in which numbers, on how many threads, how many images at once."""
    dtype = str(torch.get_default_dtype()).removeprefix("torch.")
    place = chosen_device(device)
    return {
        "device": str(place),
        "hardware": hardware(),
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "batch": 1,
    }


def condition_words(how: Mapping[str, Any]) -> str:
    """`conditions` in a line."""
    return (
        f"median and quartiles of one forward pass of {how['batch']} image, {how['dtype']}, {_threads(how)}, "
        f"on {how['device']} ({how['hardware']})"
    )


def _threads(how: Mapping[str, Any]) -> str:
    return f"{how['threads']} thread{'' if how['threads'] == 1 else 's'}"
