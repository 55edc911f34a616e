"""Where tensors lie: devices by name, and moving there."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from learngene.errors import LearngeneError


def to_device(values: np.ndarray, device: torch.device | str) -> Tensor:
    """The same numbers there; for a GPU from pinned memory, so that nobody waits. On a CPU no copy."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return (
        tensor.pin_memory().to(device, non_blocking=True)
        if torch.device(device).type == "cuda"
        else tensor.to(device)
    )


def chosen_device(device: str) -> torch.device:
    """The device itself; for auto a GPU if there is one."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_device(device: str) -> None:
    """Raise unless torch can put something on this device."""
    try:
        torch.empty(1, device=None if device == "auto" else device)
    except (RuntimeError, AssertionError) as error:
        raise LearngeneError(
            f"device '{device}' cannot be used ({str(error).splitlines()[0]}); use cpu or auto"
        ) from None


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first tensor lies; cpu if it has none."""
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
