"""Ancestors of any kind, what a user says of them, and the student that is built after one."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from learngene.errors import LearngeneError
from learngene.families.anatomy import anatomy, count_parameters
from learngene.families.architecture import Architecture, architecture_of, check_storable
from learngene.families.foreign import IMAGES, Foreign, count_outputs, own_data_config
from learngene.families.records import (
    architecture_name,
    data_config_of,
    inherit_images,
    label_names_of,
    pretrained_cfg_of,
    set_pretrained_cfg,
)
from learngene.families.timm import open_model
from learngene.families.weights import digest_of
from learngene.recipe import AncestorOptions
from learngene.trust.records import check_data_config


def open_ancestor(
    source: str | Path | nn.Module, said: AncestorOptions, arch: str | None, arch_args: Mapping[str, Any]
) -> nn.Module:
    """An ancestor that says how it wants its images (``pretrained_cfg``) and how many classes it has.

    Args:
        source: as `open_model`; a module that is not timm's is wrapped (see `Foreign`).
        said: what the user told of it; goes before what a timm model tells of itself.
        arch: of the student, whose images are assumed for a module that tells nothing.
        arch_args: of the student.

    Raises:
        LearngeneError: it cannot be opened, its weights are not of 32 bits, it cannot take such images, or
            gives no logits.
    """
    model = open_model(source)
    check_dtype(model)
    record = pretrained_cfg_of(model)
    if isinstance(source, nn.Module):
        check_data_config(
            {k: list(v) if isinstance(v, tuple) else v for k, v in record.items()},
            "pretrained_cfg of the ancestor",
        )
    changes = said.said()
    if isinstance(source, nn.Module) and not all(record.get(key) for key in IMAGES):
        if arch is None:
            raise LearngeneError(
                f"the ancestor {type(model).__name__} is not a timm model; name the architecture of the "
                "auxiliary net with arch"
            )
        anatomy(arch)
        with torch.device("meta"):
            assumed = data_config_of(Architecture(arch, arch_args).build(1))
        told = {k: record[k] for k in (*IMAGES, "label_names", "license") if record.get(k)}
        model = Foreign(model, {**told, **changes}, assumed)
    elif changes or not isinstance(model.pretrained_cfg, Mapping):
        model = copy.copy(model)  # the user's own module keeps its record; tensors are shared
        set_pretrained_cfg(model, changes)
    _check_said(model, said, dry_run=isinstance(source, nn.Module) and not isinstance(model, Foreign))
    return model


def _check_said(model: nn.Module, said: AncestorOptions, *, dry_run: bool) -> None:
    """Raise unless a model can do what is said of it, and its outputs are as many as it says itself."""
    name = f"the ancestor {architecture_name(model)}"
    size = own_data_config(model)["input_size"]  # type: ignore[index]
    if said.ancestor_size is not None and tuple(size) != said.ancestor_size:
        raise LearngeneError(
            f"ancestor_input_size {list(said.ancestor_size)}, but {name} is built for {list(size)}; drop it"
        )
    if said.ancestor_mean is not None and len(said.ancestor_mean) != size[0]:
        raise LearngeneError(
            f"ancestor_mean has {len(said.ancestor_mean)} values, and {name} takes {size[0]} channels; give "
            "one per channel"
        )
    classes: Any = getattr(model, "num_classes", 0)
    if dry_run and classes:
        found = count_outputs(model, size, name)
        if found != classes:
            raise LearngeneError(
                f"{name} says num_classes {classes} and gives {found} outputs; use reset_classifier, or set "
                "num_classes"
            )
    names = label_names_of(model)
    if names and classes and len(names) != classes:
        where = "label_names in its pretrained_cfg" if said.ancestor_classes is None else "ancestor_classes"
        raise LearngeneError(
            f"{len(names)} {where}, but {name} has {classes} outputs; name each once with ancestor_classes"
        )


def check_dtype(model: nn.Module) -> None:
    """Raise unless a model computes in 32 bits.

    Raises:
        LearngeneError: its first parameter is of another width.
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    if dtype != torch.float32:
        raise LearngeneError(
            f"{type(model).__name__} has weights in {str(dtype).removeprefix('torch.')}; pass it as "
            "model.float()"
        )


def student_architecture(ancestor: nn.Module, arch: str | None, arch_args: Mapping[str, Any]) -> Architecture:
    """The named architecture, or the ancestor's own, with a head for the ancestor's classes.

    Raises:
        LearngeneError: it cannot be an auxiliary net, or not be stored; or it has another number of classes.
    """
    classes = getattr(ancestor, "num_classes", None) or arch_args.get("num_classes", 0)
    if arch is None:
        own = architecture_of(ancestor)
        try:
            anatomy(own.name)
        except LearngeneError as error:
            raise LearngeneError(
                f"the ancestor's own architecture cannot be an auxiliary net ({error}); name one with --arch"
            ) from None
        architecture = Architecture(own.name, {**own.args, **arch_args})
    else:
        anatomy(arch)
        architecture = Architecture(arch, arch_args)
    given = architecture.args.get("num_classes", classes)
    if given != classes:
        raise LearngeneError(
            f"num_classes {given} in --arch-args, but the ancestor's head has {classes}; drop it"
        )
    check_storable(architecture)
    return Architecture(architecture.name, {**architecture.args, "num_classes": classes})


def build_student(ancestor: nn.Module, architecture: Architecture, depth: int, **overrides: Any) -> nn.Module:
    """A net that is shown images as the ancestor is, until a start brings weights that are used to others."""
    student = architecture.build(depth, **overrides)
    inherit_images(student, own_data_config(ancestor) or {})
    return student


def ancestor_record(ancestor: nn.Module, name: str) -> dict[str, Any]:
    """What a learngene tells of its ancestor: name, architecture, weights' digest, licence, parameters."""
    return {
        "name": name,
        "architecture": architecture_name(ancestor),
        "digest": digest_of(ancestor.state_dict()),
        "license": pretrained_cfg_of(ancestor).get("license"),
        "parameters": count_parameters(ancestor),
    }


def ancestor_digest(ancestor: nn.Module, weights: str) -> str:
    """Of its weights (their digest), of how it wants its images, and of its classes."""
    said = {"images": own_data_config(ancestor), "classes": label_names_of(ancestor), "weights": weights}
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()
