"""Which devices a recipe means, and whether they are there."""

from __future__ import annotations

import torch

from learngene.errors import LearngeneError
from learngene.recipe import Recipe


def check_devices(recipe: Recipe) -> None:
    """Raise unless the accelerator is there, with as many devices as the recipe asks for."""
    from lightning.pytorch.accelerators import AcceleratorRegistry

    name = accelerator(recipe)
    known = AcceleratorRegistry.get(name) if name in AcceleratorRegistry.available_accelerators() else None
    if known is None:
        raise LearngeneError(
            f"accelerator '{name}': use one of auto, "
            f"{', '.join(sorted(AcceleratorRegistry.available_accelerators()))}"
        )
    if not known.is_available():
        raise LearngeneError(
            f"accelerator '{name}' is not available on this machine; use --accelerator cpu or auto"
        )
    try:
        wanted = int(recipe.devices)
    except ValueError:
        if recipe.devices != "auto":
            raise LearngeneError(f"devices '{recipe.devices}': give a number of devices, or auto") from None
        return
    available = known.auto_device_count()
    if wanted != -1 and not 1 <= wanted <= (available if name != "cpu" else 2**16):
        raise LearngeneError(
            f"devices {wanted}: this machine has {available} ({name}); ask for 1 to {available}, or auto"
        )


def accelerator(recipe: Recipe) -> str:
    """Lightning's name of what the recipe means: cuda, mps, cpu, ..."""
    if recipe.accelerator not in ("auto", "gpu"):
        return recipe.accelerator
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cuda" if recipe.accelerator == "gpu" else "cpu"


def training_device(recipe: Recipe) -> torch.device:
    """The first device that the recipe's accelerator means."""
    return torch.device(accelerator(recipe))
