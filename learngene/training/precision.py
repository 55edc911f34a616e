"""Which precision ``auto`` means: on a GPU by what it has, on a CPU by timing a step of each for a moment."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from learngene.processes import is_follower
from learngene.recipe import Recipe
from learngene.runs import RunDirectory
from learngene.training.devices import accelerator

log = logging.getLogger("learngene")
FULL, HALF = "32-true", "bf16-mixed"
MOMENT = 0.2  # seconds that the timed step may take, so that choosing takes a second or two
GAIN = 1.05  # less than this is noise, and 32 bits are the safer choice
Step = Callable[[int], None]  # one step on so many images


def settle_precision(run: RunDirectory, recipe: Recipe, step: Step | None = None) -> str:
    """`choose_precision`, once for a run: a resumed one keeps what it began with (``settled``)."""
    if "precision" not in run.settled or recipe.precision != "auto":
        run.settled["precision"] = choose_precision(recipe, step)
    return run.settled["precision"]


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Of what runs outside Lightning, in a mixed precision by Lightning's name; others change nothing."""
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    return torch.autocast(device.type, half, enabled=half is not None)


def choose_precision(recipe: Recipe, step: Step | None = None) -> str:
    """Lightning's name of the precision to train in.

    Args:
        recipe: one that names a precision gets it.
        step: one step on so many images; without it, and where several processes have to agree, the
            processor's instructions decide alone.
    """
    if recipe.precision != "auto":
        return recipe.precision
    name = accelerator(recipe)
    if name == "cuda":
        return HALF if torch.cuda.is_bf16_supported(including_emulation=False) else FULL
    if name != "cpu" or not _has_half():
        return FULL
    if step is None or is_follower() or TorchElasticEnvironment.detect() or SLURMEnvironment.detect():
        return HALF if _has_half_units() else FULL
    images, seconds = time_steps(step, recipe.batch_size)
    chosen = HALF if seconds[FULL] > GAIN * seconds[HALF] else FULL
    log.info(
        "precision %s: a step on %d images takes %.0f ms in %s and %.0f ms in %s (--precision chooses "
        "another)",
        chosen, images, 1e3 * seconds[FULL], FULL, 1e3 * seconds[HALF], HALF,
    )  # fmt: skip
    return chosen


def time_steps(step: Step, most: int, rounds: int = 3) -> tuple[int, dict[str, float]]:
    """Images of the timed step, and its least seconds in each precision. Draws nothing from torch's
    generator.

    Args:
        most: images; fewer where a step on them takes longer than `MOMENT`.
        rounds: precisions take turns.
    """
    with torch.random.fork_rng(devices=[]):
        images = 1
        _seconds(step, images, FULL)  # the first one makes what later ones have
        while images < most and _seconds(step, images, FULL) < MOMENT / 2:
            images = min(2 * images, most)
        _seconds(step, images, HALF)
        times = [{name: _seconds(step, images, name) for name in (FULL, HALF)} for _ in range(rounds)]
    return images, {name: min(found[name] for found in times) for name in (FULL, HALF)}


def _seconds(step: Step, images: int, precision: str) -> float:
    began = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == HALF):
        step(images)
    return time.perf_counter() - began


def _has_half() -> bool:
    """Whether oneDNN computes in bf16 on this processor at all (x86 with AVX512, ARM with bf16); elsewhere it
    is emulated.
    """
    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(known and known())


def _has_half_units() -> bool:
    """Whether the processor has instructions for products in bf16: AMX or AVX512-BF16 on x86, whatever oneDNN
    accepts on ARM.
    """
    units = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return platform.machine() in ("aarch64", "arm64") or any(
        getattr(torch.cpu, name, bool)() for name in units
    )
