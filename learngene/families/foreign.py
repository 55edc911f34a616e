"""Modules of other libraries as ancestors: they must say how they want their images, and give logits."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from learngene.devices import device_of
from learngene.errors import LearngeneError
from learngene.families.modes import evaluating
from learngene.families.records import data_config_of, per_channel, pretrained_cfg_of

log = logging.getLogger("learngene")


IMAGES = ("mean", "std", "input_size")


class Foreign(nn.Module):
    """A module of another library as an ancestor: logits (B, K) from images (B, C, H, W).

    Its record is like a timm model's.

    Args:
        module: its outputs may be a tensor, a tuple that begins with one, or a mapping or object with
            ``logits``.
        said: what the user, or its own ``pretrained_cfg``, tells of it, as entries of one.
        assumed: ``mean``, ``std`` and ``input_size`` for what was left open.

    Raises:
        LearngeneError: it cannot take such images, or gives no logits.
    """

    def __init__(self, module: nn.Module, said: Mapping[str, Any], assumed: Mapping[str, Any]) -> None:
        super().__init__()
        self.module = module
        channels = (
            len(said["mean"]) if "mean" in said else assumed["input_size"][0]
        )  # as many as there are means
        assumed = {**assumed, "input_size": [channels, *assumed["input_size"][1:]]}
        self.pretrained_cfg = {
            **{k: assumed[k] for k in IMAGES},
            **said,
            "architecture": type(module).__name__,
        }
        channels = self.pretrained_cfg["input_size"][0]
        if "mean" in said and len(said["mean"]) != channels:
            raise LearngeneError(
                f"{len(said['mean'])} values of mean for {channels} channels of {self._name}; give one per "
                "channel"
            )
        self.pretrained_cfg |= {
            k: list(per_channel(self.pretrained_cfg[k], channels)) for k in ("mean", "std")
        }
        self.num_classes = count_outputs(self, self.pretrained_cfg["input_size"], self._name)
        self._warn(said)

    def _warn(self, known: Mapping[str, Any]) -> None:
        said = {"mean": "ancestor_mean and ancestor_std", "input_size": "ancestor_input_size"}
        open_ = {name: f"{key} {self.pretrained_cfg[key]}" for key, name in said.items() if key not in known}
        if open_:
            log.warning(
                "%s does not say how it wants its images: %s assumed, as in the auxiliary net; wrong values "
                "cost accuracy, so give %s",
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
            way = (
                "mend the module"
                if hasattr(self, "num_classes")
                else "give ancestor_input_size=(C, H, W), or mend the module"
            )
            raise LearngeneError(
                f"{self._name} fails on images of shape {list(images.shape)} ({type(error).__name__}: "
                f"{reason}); {way}"
            ) from error
        logits = logits_of(output)
        if logits is None:
            raise LearngeneError(
                f"{self._name} gives {type(output).__name__}, not logits: return a tensor (B, K), or an "
                "object with 'logits'"
            )
        return logits


def logits_of(output: Any) -> Tensor | None:
    """The logits in what a model returns: a tensor, a tuple or list that begins with one, or ``logits``."""
    if isinstance(output, Mapping):
        output = output.get("logits")
    elif isinstance(getattr(output, "logits", None), Tensor):
        output = output.logits
    elif isinstance(output, (tuple, list)) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def count_outputs(model: nn.Module, size: Sequence[int], name: str) -> int:
    """K of the logits (B, K), by a dry run on two black images.

    Raises:
        LearngeneError: it cannot take such images (C, H, W), or gives something else.
    """
    with torch.no_grad(), evaluating(model):
        try:
            logits = logits_of(model(torch.zeros(2, *size, device=device_of(model))))
        except LearngeneError:
            raise
        except Exception as error:  # anybody's code
            reason = (str(error).strip().splitlines() or ["no message"])[0]
            raise LearngeneError(
                f"{name} fails on images of shape {[2, *size]} ({type(error).__name__}: {reason}); mend it"
            ) from error
    shape = None if logits is None else list(logits.shape)
    if shape is None or len(shape) != 2 or shape[0] != 2:
        raise LearngeneError(
            f"{name} gives a tensor of shape {shape} for 2 images; an ancestor gives logits [2, K]"
        )
    if not logits.is_floating_point():  # type: ignore[union-attr]
        raise LearngeneError(f"{name} gives {logits.dtype}, and logits are floating-point numbers")  # type: ignore[union-attr]
    return shape[1]


def own_data_config(ancestor: nn.Module) -> dict[str, Any] | None:
    """How an ancestor wants its images: ``input_size`` (C, H, W), ``mean``, ``std``, ...; none if unsaid."""
    if isinstance(ancestor, Foreign):
        return dict(ancestor.pretrained_cfg)
    return data_config_of(ancestor) if pretrained_cfg_of(ancestor) else None
