"""Classifier heads: their names, and whether two are for the same classes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from learngene.families.records import pretrained_cfg_of


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Names of a timm model's classifier layers (some have two: DeiT distilled)."""
    names = pretrained_cfg_of(model).get("classifier") or "head"
    return (names,) if isinstance(names, str) else tuple(names)


def classifiers(model: nn.Module) -> tuple[nn.Module, ...]:
    """A timm model's classifier layers."""
    head = model.get_classifier()  # type: ignore[operator]
    return head if isinstance(head, tuple) else (head,)


def head_keys(model: nn.Module) -> set[str]:
    """Names of the classifier's tensors in a model's state."""
    heads = classifier_names(model)
    return {key for key in model.state_dict() if key.rpartition(".")[0] in heads}


def same_classes(
    count: int, names: Sequence[str] | None, other_count: int | None, other_names: Sequence[str] | None
) -> bool:
    """Whether two heads are for the same classes: the same names where both are known, else as many."""
    if names and other_names:
        return tuple(names) == tuple(other_names)
    return count == other_count
