"""Load the weights of a trained model into another of the same shapes, with its head only where the classes are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from learngene import vit

NORMALISATION = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
Trained = str | Path | nn.Module


def load_weights(
    model: nn.Module,
    state: vit.State,
    *,
    data_config: Mapping[str, Any],
    names: Sequence[str] | None,
    class_names: Sequence[str] | None,
) -> nn.Module:
    """Fill ``model``; its head too, if it has the same classes. It will want its images normalised as they were.

    Args:
        data_config: of the trained model.
        names: the trained head's classes, where known.
        class_names: the classes to be learned, where known; unknown ones count as the same if there are as many.

    Raises:
        LearngeneError: shapes that do not fit.
    """
    heads = vit.classifier_names(model)
    own = model.state_dict()
    in_head = {k for k in own if k.rpartition(".")[0] in heads}
    same = all(k in state and state[k].shape == own[k].shape for k in in_head)
    if names and class_names and tuple(names) != tuple(class_names):
        same = False
    if not same:
        state = {k: v for k, v in state.items() if k.rpartition(".")[0] not in heads}
    vit.load_strict(model, state, set() if same else in_head)
    inherit_normalisation(model, data_config)
    return model


def inherit_normalisation(model: nn.Module, data_config: Mapping[str, Any]) -> None:
    """Write into the model's record how its weights want their images."""
    known = {k: data_config[k] for k in NORMALISATION if data_config.get(k) is not None}
    channels = vit.data_config(model)["input_size"][0]
    known |= {k: vit.per_channel(known[k], channels) for k in ("mean", "std") if k in known}
    vit.set_pretrained_cfg(model, known)
