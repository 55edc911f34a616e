"""Open timm models: by name, from the hub, from a directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from torch import nn

from learngene.errors import LearngeneError, first_line
from learngene.families.building import DEPTH_ARGUMENTS, check_known, quiet_timm
from learngene.families.weights import misfit, shapes_of
from learngene.trust.limits import MAX_LAYERS, check_values, read_json
from learngene.trust.models import bounded, check_loading, most_bytes
from learngene.trust.records import check_class_names, check_data_config


def open_model(source: str | Path | nn.Module, **kwargs: Any) -> nn.Module:
    """A trained timm model: by name, ``hf-hub:ID``, ``local-dir:DIR``, a timm directory, or a module (returned as it is).

    Raises:
        LearngeneError: nothing there, unreadable, unknown, or its weights cannot be had (the reason and way out named).
    """
    if isinstance(source, nn.Module):
        return getattr(source, "_orig_mod", source)  # of torch.compile
    name = str(source)
    directory = Path(name.removeprefix("local-dir:"))
    if name.startswith("local-dir:") or directory.is_dir():
        _check_timm_directory(directory)
        name = f"local-dir:{directory}"
    elif not name.startswith(("hf-hub:", "hf_hub:")):
        if directory.is_file():
            raise LearngeneError(f"{what_file(directory)}; {_WAYS}")
        if "/" in name or directory.suffix in (".safetensors", ".pth", ".pt", ".bin"):
            raise LearngeneError(
                f"there is no model directory at '{name}'; give a directory with config.json and model.safetensors, "
                f"a timm name such as vit_small_patch16_224, or hf-hub:OWNER/NAME"
            )
        check_known(name)
    with quiet_timm():
        try:
            most = float("inf")
            if name.startswith("local-dir:"):
                most = most_bytes(directory)
                _rehearse(name, kwargs, most)
            with bounded(most):
                return timm.create_model(name, pretrained=True, **kwargs)
        except LearngeneError as error:
            raise LearngeneError(f"'{name}' cannot be used: {error}") from None
        except Exception as error:
            if name.startswith("local-dir:"):
                reason = _stored_misfit(directory, name, kwargs)
                what = "do not fit its config.json" if reason else "cannot be loaded"
                reason = reason or f"{type(error).__name__}: {first_line(error)}"
                raise LearngeneError(
                    f"the weights in '{directory}' {what}: {reason}; write the model again (timm.models.save_for_hf)"
                ) from error
            raise LearngeneError(
                f"the weights of '{name}' cannot be loaded ({type(error).__name__}: {first_line(error)}); "
                f"check the name and the connection, or give a timm directory that is already on this machine"
            ) from error


_WAYS = (
    "build the model in Python and pass the module, or write it as a timm directory (timm.models.save_for_hf)"
)


def what_file(path: Path) -> str:
    """Why a file is no model."""
    kinds = {
        ".safetensors": "holds weights, but does not say of which architecture",
        ".onnx": "is an ONNX graph, which cannot be run as a torch model",
    }
    kinds |= dict.fromkeys(
        (".pth", ".pt", ".bin", ".tar", ".ckpt"),
        "is a torch checkpoint, which does not say of which architecture",
    )
    return (
        f"'{path}' {kinds.get(path.suffix.lower(), 'is a file, and a model is a directory with config.json')}"
    )


def _stored_misfit(directory: Path, name: str, kwargs: Mapping[str, Any]) -> str | None:
    """Which tensor in a timm directory's weights file does not fit; none where that cannot be told."""
    try:
        with torch.device("meta"):
            expected = shapes_of(timm.create_model(name, **kwargs).state_dict())
        file = directory / "model.safetensors"
        if file.is_file():
            with safe_open(file, "pt") as opened:
                found = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
        else:
            found = shapes_of(
                torch.load(directory / "pytorch_model.bin", map_location="meta", weights_only=True)
            )
    except Exception:  # whatever is wrong with them was said already
        return None
    return misfit(expected, found)


def _check_timm_directory(directory: Path) -> None:
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
    check_known(architecture)
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


def _rehearse(name: str, kwargs: Mapping[str, Any], most: float) -> None:
    """Build a model without memory first, so that a forged config.json is found out before anything is allocated."""
    try:
        with torch.device("meta"), bounded(most):
            timm.create_model(name, **kwargs)
    except (RuntimeError, NotImplementedError):  # a few of timm's models cannot be built there
        return
