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
from learngene.families.building import check_known, quiet_timm
from learngene.families.variants import check_no_variant
from learngene.families.weights import misfit, shapes_of
from learngene.files import local_path
from learngene.trust.models import bounded, check_timm_directory, most_bytes, rehearse
from learngene.trust.tensors import what_file


def open_model(source: str | Path | nn.Module, **kwargs: Any) -> nn.Module:
    """A trained timm model: by name, ``hf-hub:ID``, ``local-dir:DIR``, a timm directory; a module as it is.

    Raises:
        LearngeneError: nothing there, unreadable, unknown, or its weights cannot be had (the reason and way
            out named).
    """
    if isinstance(source, nn.Module):
        return getattr(source, "_orig_mod", source)  # of torch.compile
    name = str(source)
    check_no_variant(kwargs, f"'{name}'")
    directory = local_path(name)
    if name.startswith("local-dir:") or directory.is_dir():
        check_known(check_timm_directory(directory))
        name = f"local-dir:{directory}"
    elif not name.startswith(("hf-hub:", "hf_hub:")):
        if directory.is_file():
            raise LearngeneError(f"{what_file(directory)}; {_WAYS}")
        if "/" in name or directory.suffix in (".safetensors", ".pth", ".pt", ".bin"):
            raise LearngeneError(
                f"there is no model directory at '{name}'; give a directory with config.json and "
                "model.safetensors, a timm name such as vit_small_patch16_224, or hf-hub:OWNER/NAME"
            )
        check_known(name)
    with quiet_timm():
        try:
            most = float("inf")
            if name.startswith("local-dir:"):
                most = most_bytes(directory)
                rehearse(name, kwargs, most)
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
                    f"the weights in '{directory}' {what}: {reason}; write the model again "
                    "(timm.models.save_for_hf)"
                ) from error
            raise LearngeneError(
                f"the weights of '{name}' cannot be loaded ({type(error).__name__}: {first_line(error)}); "
                f"check the name and the connection, or give a timm directory that is already on this machine"
            ) from error


_WAYS = (
    "build the model in Python and pass the module, or write it as a timm directory (timm.models.save_for_hf)"
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
