"""Pre-train and fine-tune: begin from a trained model of the very same architecture and depth."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from learngene.errors import LearngeneError
from learngene.families.anatomy import get_blocks
from learngene.families.records import data_config_of, label_names_of
from learngene.families.timm import open_model
from learngene.starts.loading import Trained, load_weights


def pretrained(model: nn.Module, *, source: Trained, class_names: Sequence[str] | None = None) -> nn.Module:
    """All weights of a trained model; its head only if the classes are the same.

    Args:
        source: a timm directory or model.
        class_names: the classes to be learned, where known.

    Raises:
        LearngeneError: another architecture, width or depth.
    """
    trained = open_model(source)
    ours, theirs = (len(get_blocks(m)) for m in (model, trained))
    if ours != theirs:
        raise LearngeneError(
            f"the start 'pretrained' needs {ours} layers, '{source}' has {theirs}; use depth-selection"
        )
    return load_weights(
        model,
        trained.state_dict(),
        data_config=data_config_of(trained),
        names=label_names_of(trained),
        class_names=class_names,
    )
