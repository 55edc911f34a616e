"""Doubt about models from files: no argument may open others, and nothing is built that is larger than its
file promises.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from learngene.errors import LearngeneError
from learngene.trust.limits import (
    MAX_LAYERS,
    MAX_MODULES,
    MODEL_FREE,
    MODEL_PER_FILE,
    check_values,
    read_json,
)
from learngene.trust.records import check_class_names, check_data_config

DEPTH_ARGUMENTS = ("depth", "num_blocks")  # by which timm's architectures take their number of layers
# Arguments that steer how timm loads and wraps instead of what it builds: in a file from others they would
# name files to open.
LOADING_ARGUMENTS = {
    *inspect.signature(timm.create_model).parameters, *inspect.signature(build_model_with_cfg).parameters,
    "features_only", "out_indices", "feature_cls", "pruned", "device", "dtype",
} - {"pretrained", "kwargs"}  # fmt: skip


def check_loading(args: Mapping[str, Any]) -> None:
    """Raise for arguments that would make timm open files or the network."""
    found = sorted(LOADING_ARGUMENTS & set(args))
    if found:
        raise LearngeneError(
            f"architecture argument '{found[0]}' is not allowed: it says how timm loads a model, not what "
            "the model is; remove it"
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


def check_timm_directory(directory: Path) -> str:
    """The architecture that a timm directory names, after its config.json was checked; no weights are read.

    Raises:
        LearngeneError: it is no timm directory, or its config asks for what no model has, or for files to be
            opened.
    """
    if not directory.is_dir():
        raise LearngeneError(
            f"there is no directory '{directory}'; give a timm directory (config.json and model.safetensors)"
        )
    config = directory / "config.json"
    if not config.is_file():
        raise LearngeneError(
            f"'{directory}' has no config.json, so it is not a timm directory; spawn or finetune writes one"
        )
    said = read_json(config)
    architecture = said.get("architecture") if isinstance(said, dict) else None
    if not isinstance(architecture, str):
        raise LearngeneError(f"'{config}' names no architecture, so it is not timm's; write the model again")
    args, record = said.get("model_args") or {}, said.get("pretrained_cfg", said)
    if not isinstance(args, dict):
        raise LearngeneError(f"'{config}' has model_args that are no mapping; write the model again")
    try:
        check_loading(args)
        check_values(args, "architecture argument")
        deep = next(
            (k for k in DEPTH_ARGUMENTS if isinstance(args.get(k), (int, float)) and args[k] > MAX_LAYERS),
            None,
        )
        if deep is not None:
            raise LearngeneError(
                f"architecture argument '{deep}' is {args[deep]}, and models have at most {MAX_LAYERS} layers"
            )
        check_data_config(record, "its pretrained_cfg")
        check_class_names(said.get("label_names") or record.get("label_names"), "its label_names")
    except LearngeneError as error:
        raise LearngeneError(f"'{config}' cannot be used: {error}") from None
    return architecture


def rehearse(name: str, kwargs: Mapping[str, Any], most: float) -> None:
    """Build a model without memory first, so that a forged config.json is found out before anything is
    allocated.
    """
    try:
        with torch.device("meta"), bounded(most):
            timm.create_model(name, **kwargs)
    except RuntimeError:  # a few of timm's models cannot be built there
        return
