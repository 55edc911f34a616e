"""A model is not built before it is known to be no larger than its file promises."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
from timm.models import build_model_with_cfg
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from learngene.errors import LearngeneError
from learngene.trust.limits import MAX_MODULES, MODEL_FREE, MODEL_PER_FILE

# Arguments that steer how timm loads and wraps instead of what it builds: in a file from others they would name files to open.
LOADING_ARGUMENTS = {
    *inspect.signature(timm.create_model).parameters, *inspect.signature(build_model_with_cfg).parameters,
    "features_only", "out_indices", "feature_cls", "pruned", "device", "dtype",
} - {"pretrained", "kwargs"}  # fmt: skip


def check_loading(args: Mapping[str, Any]) -> None:
    """Raise for arguments that would make timm open files or the network."""
    found = sorted(LOADING_ARGUMENTS & set(args))
    if found:
        raise LearngeneError(
            f"architecture argument '{found[0]}' is not allowed: it says how timm loads a model, not what the model is; remove it"
        )


@contextlib.contextmanager
def bounded(most: float) -> Iterator[None]:
    """Stop building a model as soon as it has more modules than any, or more than ``most`` bytes."""
    modules = size = 0

    def count(*_: Any) -> None:
        nonlocal modules
        modules += 1
        if modules > MAX_MODULES:
            raise LearngeneError(
                f"the model has more than {MAX_MODULES} modules, the most that are built; use fewer layers"
            )

    def weigh(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal size
        size += 0 if tensor is None else tensor.nbytes
        if size > most:
            raise LearngeneError(
                f"the model would take more than {most / 1e6:,.0f} MB, far more than its weights file holds"
            )

    handles = [
        register_module_module_registration_hook(count),
        register_module_parameter_registration_hook(weigh),
        register_module_buffer_registration_hook(weigh),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def most_bytes(directory: Path) -> int:
    """The most memory a model in a directory may take, by the size of the files beside it."""
    return MODEL_FREE + MODEL_PER_FILE * sum(
        file.stat().st_size for file in directory.iterdir() if file.is_file()
    )
