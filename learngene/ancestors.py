"""Ancestors of any kind: timm models by name, directory or module, and modules of other libraries, which must say how they want images."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from learngene import vit
from learngene.errors import LearngeneError
from learngene.limits import check_images, check_names

log = logging.getLogger("learngene")


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
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise LearngeneError(
                f"ancestor_mean has {len(self.mean)} values and ancestor_std {len(self.std)}; give one per channel"
            )
        check_images(self.record(), "ancestor")
        if isinstance(self.classes, str):
            raise LearngeneError(f"ancestor_classes '{self.classes:.40}' must be a list of names, in the order of the outputs")
        check_names(None if self.classes is None else list(self.classes), "ancestor_classes")

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
        return {k: list(v) if isinstance(v, Sequence) else v for k, v in said.items() if v is not None}


class Foreign(nn.Module):
    """A module of another library as an ancestor: logits (B, K) from images (B, C, H, W), and a record like a timm model's.

    Args:
        module: its outputs may be a tensor, a tuple that begins with one, or a mapping or object with ``logits``.
        said: what the user told of it.
        assumed: ``mean``, ``std`` and ``input_size`` for what was left open.

    Raises:
        LearngeneError: it cannot take such images, or gives no logits.
    """

    def __init__(self, module: nn.Module, said: AncestorImages, assumed: Mapping[str, Any]) -> None:
        super().__init__()
        self.module = module
        known = said.record()
        self.pretrained_cfg = {
            **{k: assumed[k] for k in ("mean", "std", "input_size")},
            **known,
            "architecture": type(module).__name__,
        }
        channels = self.pretrained_cfg["input_size"][0]
        self.pretrained_cfg |= {k: list(vit.per_channel(self.pretrained_cfg[k], channels)) for k in ("mean", "std")}
        self.num_classes = self._count_classes(said)
        self._warn(known)

    def _count_classes(self, said: AncestorImages) -> int:
        """By a dry run on two black images."""
        first = next(self.module.parameters(), torch.zeros(0))
        training = self.module.training
        with torch.no_grad():
            logits = self.eval()(torch.zeros(2, *self.pretrained_cfg["input_size"], device=first.device))
        self.module.train(training)
        if logits.ndim != 2 or len(logits) != 2:
            raise LearngeneError(
                f"{self._name} gives a tensor of shape {list(logits.shape)} for 2 images; an ancestor gives logits [2, K]"
            )
        if said.classes is not None and len(said.classes) != logits.shape[1]:
            raise LearngeneError(
                f"{len(said.classes)} ancestor_classes, but {self._name} has {logits.shape[1]} outputs; name each once"
            )
        return logits.shape[1]

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
            raise LearngeneError(
                f"{self._name} fails on images of shape {list(images.shape)} ({type(error).__name__}: {reason}); "
                f"give ancestor_input_size=(C, H, W), or mend the module"
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
    """
    if isinstance(source, nn.Module) and not vit.pretrained_cfg(source):
        if arch is None:
            raise LearngeneError(
                f"the ancestor {type(source).__name__} is not a timm model; name the architecture of the auxiliary net with arch"
            )
        vit.anatomy(arch)
        with torch.device("meta"):
            assumed = vit.data_config(vit.Architecture(arch, arch_args).build(1))
        return Foreign(source, said, assumed)
    model = vit.open_model(source)
    changes = said.record()
    if changes:
        model = copy.copy(model)  # the user's own module keeps its record; tensors are shared
        vit.set_pretrained_cfg(model, changes)
    if said.classes is not None and len(said.classes) != model.num_classes:
        raise LearngeneError(
            f"{len(said.classes)} ancestor_classes, but the ancestor has {model.num_classes} outputs; name each once"
        )
    return model


def own_data(ancestor: nn.Module) -> dict[str, Any] | None:
    """How an ancestor wants its images: ``input_size`` (C, H, W), ``mean``, ``std`` and more; none if it does not say."""
    if isinstance(ancestor, Foreign):
        return dict(ancestor.pretrained_cfg)
    return vit.data_config(ancestor) if vit.pretrained_cfg(ancestor) else None
