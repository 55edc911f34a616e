"""Load a trained model's weights into another of the same shapes; its head only for the same classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from learngene.families.heads import head_keys, same_classes
from learngene.families.records import inherit_images
from learngene.families.weights import load_strict
from learngene.mix import State

log = logging.getLogger("learngene")
Trained = str | Path | nn.Module


def load_weights(
    model: nn.Module,
    state: State,
    *,
    data_config: Mapping[str, Any],
    names: Sequence[str] | None,
    class_names: Sequence[str] | None,
) -> nn.Module:
    """Fill ``model``; its head too, if it has the same classes. It will want its images as they were.

    Args:
        data_config: of the trained model.
        names: the trained head's classes, where known.
        class_names: the classes to be learned, where known; unknown ones count as the same if there are as
            many.

    Raises:
        LearngeneError: shapes that do not fit.
    """
    head = head_keys(model)
    shapes = model.state_dict()
    fits = all(key in state and state[key].shape == shapes[key].shape for key in head)
    fresh = set() if fits and same_classes(0, names, 0, class_names) else head
    if fresh and head & state.keys():
        log.warning("the trained head is dropped, as its classes are others; a fresh one is trained")
    load_strict(model, {k: v for k, v in state.items() if k not in fresh}, fresh)
    inherit_images(model, data_config)
    return model
