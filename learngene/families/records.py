"""What a timm model says of itself: its name, how it wants its images, the names of its classes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from timm.data import resolve_model_data_config
from timm.models import PretrainedCfg, get_model_input_config
from torch import nn

from learngene.errors import LearngeneError


def describe_as_trained(
    model: nn.Module, data: Mapping[str, Any], *, license: str | None = None
) -> nn.Module:
    """Make a model's ``pretrained_cfg`` say how it was trained here, not what timm's registry says."""
    keep = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    said = {k: data[k] for k in keep if k in data} | {"license": license, "num_classes": model.num_classes}
    set_pretrained_cfg(model, UNTRAINED | said)
    return model


def model_name(model: Any) -> str:
    """A model in words: what it was named by, or the architecture of a module."""
    return architecture_name(model) if isinstance(model, nn.Module) else str(model)


def image_mode(model: nn.Module) -> Any:
    """PIL mode of the images a model takes: grey for 1 channel, RGB for 3."""
    channels = data_config_of(model)["input_size"][0]
    if channels not in (1, 3):
        raise LearngeneError(
            f"{architecture_name(model)} takes {channels} channels; images have 1 (grey) or 3 (RGB)"
        )
    return "L" if channels == 1 else "RGB"


# What timm's registry says of an architecture's published weights and is not true of ours.
_SOURCE = (
    "url",
    "file",
    "hf_hub_id",
    "hf_hub_filename",
    "source",
    "tag",
    "origin_url",
    "paper_name",
    "paper_ids",
)
_WORDS = (
    "notes",
    "description",
    "license",
    "label_names",
    "label_descriptions",
    "test_input_size",
    "test_crop_pct",
)
UNTRAINED = dict.fromkeys((*_SOURCE, *_WORDS)) | {"custom_load": False}
_IMAGE_KEYS = ("mean", "std", "interpolation", "crop_pct", "crop_mode")


def architecture_name(model: nn.Module) -> str:
    """timm's name for a model's architecture, or its class name when timm did not build it."""
    return pretrained_cfg_of(model).get("architecture") or type(model).__name__


def data_config_of(model: nn.Module) -> dict[str, Any]:
    """How a model wants its images: ``input_size`` (C, H, W), ``mean``, ``std``, ``interpolation``, crop.

    Raises:
        LearngeneError: timm did not build the model, so it does not say.
    """
    if not pretrained_cfg_of(model):
        raise LearngeneError(
            f"{type(model).__name__} is not a timm model, so it does not say how it wants its images; pass "
            "one of timm's"
        )
    config = resolve_model_data_config(model)
    config["input_size"] = size = tuple(get_model_input_config(model)["input_size"])
    config |= {key: per_channel(config[key], size[0]) for key in ("mean", "std")}
    return json.loads(json.dumps(config))


def per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """A mean or standard deviation per channel; for another number of channels, the average of all."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def label_names_of(model: nn.Module) -> list[str] | None:
    """The class names written in a timm model's config, in the order of its outputs, if there are any."""
    names = pretrained_cfg_of(model).get("label_names")
    return list(names) if names else None


def image_config(config: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """What of a data config belongs to the weights: how they want their images, for a number of channels."""
    kept = {key: config[key] for key in _IMAGE_KEYS if config.get(key) is not None}
    return kept | {key: per_channel(kept[key], channels) for key in ("mean", "std") if key in kept}


def pretrained_cfg_of(model: nn.Module) -> dict[str, Any]:
    """timm's record of a model's weights; empty for a module that is not timm's."""
    record = getattr(model, "pretrained_cfg", None)
    record = record.to_dict() if isinstance(record, PretrainedCfg) else record
    if record and not isinstance(record, Mapping):
        raise LearngeneError(
            f"the pretrained_cfg of {type(model).__name__} is {type(record).__name__}, and should be a "
            "mapping"
        )
    return dict(record or {})


def set_pretrained_cfg(model: nn.Module, changes: Mapping[str, Any]) -> None:
    """Change a model's record, which timm directories are written from."""
    record: Any = {**pretrained_cfg_of(model), **changes}
    model.pretrained_cfg = model.default_cfg = record


def inherit_images(model: nn.Module, data_config: Mapping[str, Any]) -> None:
    """Write into the model's record how its weights want their images."""
    set_pretrained_cfg(model, image_config(data_config, data_config_of(model)["input_size"][0]))
