"""Ancestors of any kind: timm models by name, directory or module, and modules of other libraries, which must say how they want images."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from learngene import vit
from learngene.arguments import take
from learngene.errors import LearngeneError
from learngene.limits import check_images, check_names

log = logging.getLogger("learngene")
IMAGES = ("mean", "std", "input_size")


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
        check_images(self.record(), "ancestor")
        check_names(self.classes, "ancestor_classes")

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


class Foreign(nn.Module):
    """A module of another library as an ancestor: logits (B, K) from images (B, C, H, W), and a record like a timm model's.

    Args:
        module: its outputs may be a tensor, a tuple that begins with one, or a mapping or object with ``logits``.
        said: what the user, or its own ``pretrained_cfg``, tells of it, as entries of one.
        assumed: ``mean``, ``std`` and ``input_size`` for what was left open.

    Raises:
        LearngeneError: it cannot take such images, or gives no logits.
    """

    def __init__(self, module: nn.Module, said: Mapping[str, Any], assumed: Mapping[str, Any]) -> None:
        super().__init__()
        self.module = module
        channels = len(said["mean"]) if "mean" in said else assumed["input_size"][0]  # as many as there are means
        assumed = {**assumed, "input_size": [channels, *assumed["input_size"][1:]]}
        self.pretrained_cfg = {**{k: assumed[k] for k in IMAGES}, **said, "architecture": type(module).__name__}
        channels = self.pretrained_cfg["input_size"][0]
        if "mean" in said and len(said["mean"]) != channels:
            raise LearngeneError(
                f"{len(said['mean'])} values of mean for {channels} channels of {self._name}; give one per channel"
            )
        self.pretrained_cfg |= {k: list(vit.per_channel(self.pretrained_cfg[k], channels)) for k in ("mean", "std")}
        self.num_classes = count_outputs(self, self.pretrained_cfg["input_size"], self._name)
        self._warn(said)

    def _warn(self, known: Mapping[str, Any]) -> None:
        said = {"mean": "ancestor_mean and ancestor_std", "input_size": "ancestor_input_size"}
        open_ = {name: f"{key} {self.pretrained_cfg[key]}" for key, name in said.items() if key not in known}
        if open_:
            log.warning(
                "%s does not say how it wants its images: %s assumed, as in the auxiliary net; wrong values cost accuracy, so give %s",
                self._name, " and ".join(open_.values()), " and ".join(open_),
            )  # fmt: skip

    @property
    def _name(self) -> str:
        return f"the ancestor {type(self.module).__name__}"

    def forward(self, images: Tensor) -> Tensor:
        try:
            output = self.module(images)
        except (torch.OutOfMemoryError, MemoryError, LearngeneError):
            raise
        except Exception as error:  # anybody's code
            reason = (str(error).strip().splitlines() or ["no message"])[0]
            way = "mend the module" if hasattr(self, "num_classes") else "give ancestor_input_size=(C, H, W), or mend the module"
            raise LearngeneError(
                f"{self._name} fails on images of shape {list(images.shape)} ({type(error).__name__}: {reason}); {way}"
            ) from error
        logits = logits_of(output)
        if logits is None:
            raise LearngeneError(
                f"{self._name} gives {type(output).__name__}, not logits: return a tensor (B, K), or an object with 'logits'"
            )
        return logits


def logits_of(output: Any) -> Tensor | None:
    """The logits in what a model returns: a tensor, a tuple or list that begins with one, or something with ``logits``."""
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif isinstance(getattr(output, "logits", None), Tensor):
        output = output.logits
    elif isinstance(output, (tuple, list)) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def open_ancestor(
    source: str | Path | nn.Module, said: AncestorImages, arch: str | None, arch_args: Mapping[str, Any]
) -> nn.Module:
    """An ancestor that says how it wants its images (``pretrained_cfg``) and how many classes it has.

    Args:
        source: as `vit.open_model`; a module that is not timm's is wrapped (see `Foreign`).
        said: what the user told of it; goes before what a timm model tells of itself.
        arch: of the student, whose images are assumed for a module that tells nothing.
        arch_args: of the student.

    Raises:
        LearngeneError: it cannot be opened, its weights are not of 32 bits, it cannot take such images, or gives no logits.
    """
    model = vit.open_model(source)
    check_dtype(model)
    record = vit.pretrained_cfg(model)
    if isinstance(source, nn.Module):
        check_images({k: list(v) if isinstance(v, tuple) else v for k, v in record.items()}, "pretrained_cfg of the ancestor")
    changes = said.record()
    if isinstance(source, nn.Module) and not all(record.get(key) for key in IMAGES):
        if arch is None:
            raise LearngeneError(
                f"the ancestor {type(model).__name__} is not a timm model; name the architecture of the auxiliary net with arch"
            )
        vit.anatomy(arch)
        with torch.device("meta"):
            assumed = vit.data_config(vit.Architecture(arch, arch_args).build(1))
        told = {k: record[k] for k in (*IMAGES, "label_names", "license") if record.get(k)}
        model = Foreign(model, {**told, **changes}, assumed)
    elif changes or not isinstance(model.pretrained_cfg, Mapping):
        model = copy.copy(model)  # the user's own module keeps its record; tensors are shared
        vit.set_pretrained_cfg(model, changes)
    _check_said(model, said, dry_run=isinstance(source, nn.Module) and not isinstance(model, Foreign))
    return model


def _check_said(model: nn.Module, said: AncestorImages, *, dry_run: bool) -> None:
    """Raise unless a model can do what is said of it, and its outputs are as many as it says itself."""
    name = f"the ancestor {vit.architecture_name(model)}"
    size = own_data(model)["input_size"]  # type: ignore[index]
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
    names = vit.label_names(model)
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


def count_outputs(model: nn.Module, size: Sequence[int], name: str) -> int:
    """K of the logits (B, K), by a dry run on two black images.

    Raises:
        LearngeneError: it cannot take such images (C, H, W), or gives something else.
    """
    with torch.no_grad(), vit.evaluating(model):
        try:
            logits = logits_of(model(torch.zeros(2, *size, device=vit.device_of(model))))
        except LearngeneError:
            raise
        except Exception as error:  # anybody's code
            reason = (str(error).strip().splitlines() or ["no message"])[0]
            raise LearngeneError(
                f"{name} fails on images of shape {[2, *size]} ({type(error).__name__}: {reason}); mend it"
            ) from error
    shape = None if logits is None else list(logits.shape)
    if shape is None or len(shape) != 2 or shape[0] != 2:
        raise LearngeneError(f"{name} gives a tensor of shape {shape} for 2 images; an ancestor gives logits [2, K]")
    if not logits.is_floating_point():  # type: ignore[union-attr]
        raise LearngeneError(f"{name} gives {logits.dtype}, and logits are floating-point numbers")  # type: ignore[union-attr]
    return shape[1]


@contextlib.contextmanager
def left_as_it_was(source: Any) -> Iterator[None]:
    """Give the user's own module back in its modes, on its device, and with gradients for what had them, whatever the block did."""
    if not isinstance(source, nn.Module):
        yield
        return
    wanted = [(parameter, parameter.requires_grad) for parameter in source.parameters()]
    device = vit.device_of(source)
    try:
        with vit.modes_kept(source):
            yield
    finally:
        if vit.device_of(source) != device:
            source.to(device)
        for parameter, had in wanted:
            if parameter.requires_grad != had:
                parameter.requires_grad_(had)


def own_data(ancestor: nn.Module) -> dict[str, Any] | None:
    """How an ancestor wants its images: ``input_size`` (C, H, W), ``mean``, ``std`` and more; none if it does not say."""
    if isinstance(ancestor, Foreign):
        return dict(ancestor.pretrained_cfg)
    return vit.data_config(ancestor) if vit.pretrained_cfg(ancestor) else None
