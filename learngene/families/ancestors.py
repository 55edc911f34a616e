"""Ancestors of any kind, what a user says of them, and the student that is built after one."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from learngene.arguments import take
from learngene.errors import LearngeneError
from learngene.families.anatomy import anatomy, count_parameters
from learngene.families.architecture import Architecture, architecture_of
from learngene.families.foreign import IMAGES, Foreign, count_outputs, own_data_config
from learngene.families.records import architecture_name, data_config_of, label_names_of, pretrained_cfg_of, set_pretrained_cfg
from learngene.families.timm import open_model
from learngene.families.weights import digest_of
from learngene.recipe import DataOptions, evaluation_config
from learngene.trust.records import check_class_names, check_data_config


@dataclass(frozen=True, kw_only=True)
class AncestorImages:
    """What somebody said about an ancestor; each may be left open.

    Attributes:
        mean, std: of its images, a value per channel, pixels from 0 to 1.
        input_size: (C, H, W), (H, W), or one number of pixels for both.
        classes: names of its outputs, in order.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    input_size: int | Sequence[int] | None = None
    classes: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise LearngeneError("ancestor_mean and ancestor_std belong together; give both, or none")
        for name in ("mean", "std"):
            object.__setattr__(self, name, take(f"ancestor_{name}", getattr(self, name), Sequence[float] | None))
        object.__setattr__(self, "input_size", take("ancestor_input_size", self.input_size, int | Sequence[int] | None))
        object.__setattr__(self, "classes", take("ancestor_classes", self.classes, Sequence[str] | None))
        if self.mean is not None and self.std is not None:
            if len(self.mean) != len(self.std) or not self.mean:
                raise LearngeneError(
                    f"ancestor_mean has {len(self.mean)} values and ancestor_std {len(self.std)}; give one per channel"
                )
            if not all(0 <= value <= 1 for value in self.mean):
                raise LearngeneError(f"ancestor_mean {list(self.mean)}: pixels go from 0 to 1, so divide values up to 255 by 255")
            if not all(1e-3 <= value <= 1 for value in self.std):
                raise LearngeneError(
                    f"ancestor_std {list(self.std)}: pixels go from 0 to 1, so it is from 0.001 to 1; divide values up to 255 by 255"
                )
        check_data_config(self.record(), "ancestor")
        check_class_names(self.classes, "ancestor_classes")

    @property
    def size(self) -> tuple[int, int, int] | None:
        """(C, H, W), with as many channels as there are means, else 3."""
        if self.input_size is None:
            return None
        size = (self.input_size,) * 2 if isinstance(self.input_size, int) else tuple(self.input_size)
        if len(size) == 2:
            size = (3 if self.mean is None else len(self.mean), *size)
        if len(size) != 3 or (self.mean is not None and len(self.mean) != size[0]):
            raise LearngeneError(
                f"ancestor_input_size {list(size)} must be (C, H, W) with one ancestor_mean per channel, (H, W), or a number of pixels"
            )
        return size

    def record(self) -> dict[str, Any]:
        """What was said, as entries of a timm model's ``pretrained_cfg``."""
        said = {"mean": self.mean, "std": self.std, "input_size": self.size, "label_names": self.classes}
        return {k: list(v) for k, v in said.items() if v is not None}


def open_ancestor(
    source: str | Path | nn.Module, said: AncestorImages, arch: str | None, arch_args: Mapping[str, Any]
) -> nn.Module:
    """An ancestor that says how it wants its images (``pretrained_cfg``) and how many classes it has.

    Args:
        source: as `open_model`; a module that is not timm's is wrapped (see `Foreign`).
        said: what the user told of it; goes before what a timm model tells of itself.
        arch: of the student, whose images are assumed for a module that tells nothing.
        arch_args: of the student.

    Raises:
        LearngeneError: it cannot be opened, its weights are not of 32 bits, it cannot take such images, or gives no logits.
    """
    model = open_model(source)
    check_dtype(model)
    record = pretrained_cfg_of(model)
    if isinstance(source, nn.Module):
        check_data_config({k: list(v) if isinstance(v, tuple) else v for k, v in record.items()}, "pretrained_cfg of the ancestor")
    changes = said.record()
    if isinstance(source, nn.Module) and not all(record.get(key) for key in IMAGES):
        if arch is None:
            raise LearngeneError(
                f"the ancestor {type(model).__name__} is not a timm model; name the architecture of the auxiliary net with arch"
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


def _check_said(model: nn.Module, said: AncestorImages, *, dry_run: bool) -> None:
    """Raise unless a model can do what is said of it, and its outputs are as many as it says itself."""
    name = f"the ancestor {architecture_name(model)}"
    size = own_data_config(model)["input_size"]  # type: ignore[index]
    if said.size is not None and tuple(size) != said.size:
        raise LearngeneError(f"ancestor_input_size {list(said.size)}, but {name} is built for {list(size)}; drop it")
    if said.mean is not None and len(said.mean) != size[0]:
        raise LearngeneError(
            f"ancestor_mean has {len(said.mean)} values, and {name} takes {size[0]} channels; give one per channel"
        )
    classes: Any = getattr(model, "num_classes", 0)
    if dry_run and classes:
        found = count_outputs(model, size, name)
        if found != classes:
            raise LearngeneError(
                f"{name} says num_classes {classes} and gives {found} outputs; use reset_classifier, or set num_classes"
            )
    names = label_names_of(model)
    if names and classes and len(names) != classes:
        where = "label_names in its pretrained_cfg" if said.classes is None else "ancestor_classes"
        raise LearngeneError(f"{len(names)} {where}, but {name} has {classes} outputs; name each once with ancestor_classes")


def check_dtype(model: nn.Module) -> None:
    """Raise unless a model computes in 32 bits.

    Raises:
        LearngeneError: its first parameter is of another width.
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    if dtype != torch.float32:
        raise LearngeneError(f"{type(model).__name__} has weights in {str(dtype).removeprefix('torch.')}; pass it as model.float()")


def student_architecture(teacher: nn.Module, arch: str | None, arch_args: Mapping[str, Any]) -> Architecture:
    """The named architecture, or the ancestor's own, with a head for the ancestor's classes."""
    classes = getattr(teacher, "num_classes", None) or arch_args.get("num_classes", 0)
    if arch is None:
        own = architecture_of(teacher)
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
        raise LearngeneError(f"num_classes {given} in --arch-args, but the ancestor's head has {classes}; drop it")
    return Architecture(architecture.name, {**architecture.args, "num_classes": classes})


def student_data_config(teacher: nn.Module, arch: str | None, student: nn.Module, loading: DataOptions) -> dict[str, Any]:
    """How a student gets its images: as the ancestor does where the architecture is the ancestor's own."""
    config = data_config_of(student)
    record = data_config_of(teacher) if arch is None else {}
    config |= {k: v for k, v in record.items() if k != "input_size" and len(record["mean"]) == config["input_size"][0]}
    return evaluation_config(config, loading)


def ancestor_record(teacher: nn.Module, name: str) -> dict[str, Any]:
    cfg = pretrained_cfg_of(teacher)
    return {
        "name": name,
        "architecture": architecture_name(teacher),
        "digest": digest_of(teacher.state_dict()),
        "license": cfg.get("license"),
        "parameters": count_parameters(teacher),
    }


def ancestor_digest(teacher: nn.Module, weights: str) -> str:
    """Of its weights (their digest), of how it wants its images, and of its classes."""
    said = {"images": own_data_config(teacher), "classes": label_names_of(teacher), "weights": weights}
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()
