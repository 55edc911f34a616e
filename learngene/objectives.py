"""What a model is trained for: ``objective(model, batch) -> losses by name``. One loop serves all of them.

A batch is a mapping: ``image`` (B, C, H, W); ``target`` (B,) class indices or (B, K) class probabilities; and
where the ancestor's logits were kept, ``teacher`` (B, K), of these very views. Where nets of several depths
are trained, also ``layers``: the last layer of each stage of this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2.functional import InterpolationMode, resize

from learngene.costs import forward_flops
from learngene.errors import LearngeneError
from learngene.families.foreign import logits_of, own_data_config
from learngene.families.modes import evaluating
from learngene.families.records import architecture_name, data_config_of
from learngene.plan import match_layers

FeatureLoss = Literal["mse", "cosine"]
Losses = dict[str, Tensor]
Batch = Mapping[str, Any]


def soft_kl(student: Tensor, ancestor: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(ancestor || student) at a temperature, times T squared, averaged over images (Hinton et al. 2015,
    section 2).

    ``batchmean``: dividing by the number of elements instead, as the released SWS code does, is K times
    smaller.
    """
    log_p = F.log_softmax(student.float() / temperature, dim=-1)
    log_q = F.log_softmax(ancestor.float() / temperature, dim=-1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2


class Supervised(nn.Module):
    """Cross-entropy with the labels."""

    weights: Mapping[str, float] = {"ce": 1.0}

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    @property
    def frozen_nets(self) -> tuple[nn.Module, ...]:
        """Nets beside the model that a step runs, and never changes."""
        return ()

    def forward(self, model: nn.Module, batch: Batch) -> Losses:
        return {"ce": self.cross_entropy(model(batch["image"]), batch["target"])}

    def total(self, losses: Losses) -> Tensor:
        """The weighted sum: what is minimised."""
        return torch.stack([self.weights[name] * value for name, value in losses.items()]).sum()

    def compare(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """What is measured in validation beside accuracy, from the model's logits (B, K)."""
        return {}

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mixed targets (B, K) are smoothed when they are mixed; plain ones (B,) here."""
        smoothing = 0.0 if targets.is_floating_point() else self.label_smoothing
        return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)


class Distillation(Supervised):
    """Learn from a frozen ancestor; each term has a weight and a name, and a weight of 0 costs nothing.

    Args:
        ancestor: the `Ancestor`. Held outside the module registry, so that it is in no checkpoint and no EMA
            copy.
        kl: weight of `soft_kl` against the ancestor's logits.
        hard: weight of cross-entropy against the ancestor's top class (DeiT, arXiv 2012.12877, section 4).
        ce: weight of cross-entropy against the labels; 0 needs no labels.
        feature: weight of the distance between stage ends and the matching ancestor layers.
        temperature: of ``kl``.
        feature_loss: ``mse`` or ``cosine`` (1 - cosine similarity over channels).
        layers: index of the student's last layer in each stage; see `learngene.plan.match_layers` for the
            ancestor's.
    """

    def __init__(
        self,
        ancestor: Ancestor,
        *,
        kl: float = 1.0,
        hard: float = 0.0,
        ce: float = 0.0,
        feature: float = 0.0,
        temperature: float = 1.0,
        feature_loss: FeatureLoss = "mse",
        label_smoothing: float = 0.0,
        student: nn.Module | None = None,
        layers: Sequence[int] = (),
    ) -> None:
        super().__init__(label_smoothing)
        weights = {"kl": kl, "hard": hard, "ce": ce, "feature": feature}
        if any(w < 0 for w in weights.values()) or not any(weights.values()):
            raise LearngeneError(
                f"loss weights {weights}: none may be negative and at least one must be above 0"
            )
        if temperature <= 0:
            raise LearngeneError(f"temperature {temperature}: it must be above 0")
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self.temperature = temperature
        self.feature_loss = feature_loss
        self._held = (ancestor,)
        if feature:
            assert student is not None
            self.layers = list(layers)
            self.ancestor_layers = match_layers(
                self.layers, layer_count(student), layer_count(ancestor.model)
            )
            self.project = _projections(student, ancestor, self.layers, self.ancestor_layers)

    @property
    def compares_logits(self) -> bool:
        """Whether the ancestor's classes are the student's."""
        return bool(self.weights.keys() & {"kl", "hard"})

    @property
    def ancestor(self) -> Ancestor:
        return self._held[0]

    @property
    def frozen_nets(self) -> tuple[nn.Module, ...]:
        return (self.ancestor.model,)

    def forward(self, model: nn.Module, batch: Batch) -> Losses:
        """The ancestor is run only where the batch does not hold what it said of these images."""
        images, teacher, wanted = batch["image"], batch.get("teacher"), self.weights
        losses: Losses = {}
        if "feature" in wanted:
            logits, features = forward_features(model, images, batch.get("layers", self.layers))
            teacher, theirs = self.ancestor.features(images, self.ancestor_layers)
            losses["feature"] = self._feature_distance(features, theirs)
        else:
            logits = model(images)
            if teacher is None:
                teacher = self.ancestor(images) if self.compares_logits else logits
        if "kl" in wanted:
            losses["kl"] = soft_kl(logits, teacher, self.temperature)
        if "hard" in wanted:
            losses["hard"] = F.cross_entropy(logits.float(), teacher.argmax(-1))
        if "ce" in wanted:
            losses["ce"] = self.cross_entropy(logits, batch["target"])
        return losses

    def compare(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """KL divergence from the ancestor, and the share of images of which both say the same."""
        if not self.compares_logits:
            return {}
        teacher = self.ancestor(batch["image"])
        return {
            "kl": soft_kl(logits, teacher),
            "agreement": (logits.argmax(-1) == teacher.argmax(-1)).float().mean(),
        }

    def _feature_distance(self, features: list[Tensor], theirs: list[Tensor]) -> Tensor:
        total = features[0].new_zeros((), dtype=torch.float32)
        for project, feature, wanted in zip(self.project, features, theirs, strict=True):
            feature = project(feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).float()  # (B, D, h, w)
            wanted = F.interpolate(wanted.float(), size=feature.shape[-2:], mode="bilinear", antialias=True)
            if self.feature_loss == "cosine":
                total = total + (1 - F.cosine_similarity(feature, wanted, dim=1)).mean()
            else:  # without the ancestor's scale: layers of one net differ in it by orders of magnitude
                normed = F.layer_norm(wanted.permute(0, 2, 3, 1), wanted.shape[1:2]).permute(0, 3, 1, 2)
                total = total + F.mse_loss(feature, normed)
        return total / len(features)


class Ancestor(nn.Module):
    """A frozen ancestor that sees the student's images in its own way.

    The images were normalised for the student: undo that, fit the channels, resize to the ancestor's input
    size and normalise as the ancestor was trained (augreg ViTs use 0.5/0.5, DeiT and DINO ImageNet's).

    Args:
        model: the ancestor itself; its gradients are switched off and it stays in eval mode.
        student_data_config: ``mean`` and ``std`` of the student's images, one value per channel.
        data_config: the same of the ancestor, and its ``input_size``; by default read from a timm model.
    """

    student_mean: Tensor
    student_std: Tensor
    own_mean: Tensor
    own_std: Tensor

    def __init__(
        self,
        model: nn.Module,
        student_data_config: Mapping[str, Any],
        data_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        own = dict(data_config or own_data_config(model) or student_data_config)
        self.data_config = own
        self.input_size = tuple(own["input_size"]) if "input_size" in own else None
        self.student_size = tuple(student_data_config.get("input_size", ()))
        for name, config in (("student", student_data_config), ("own", own)):
            for key in ("mean", "std"):
                self.register_buffer(
                    f"{name}_{key}", torch.tensor(config[key]).view(1, -1, 1, 1), persistent=False
                )
        self.same_normalisation = all(
            tuple(own[key]) == tuple(student_data_config[key]) for key in ("mean", "std")
        )

    def train(self, mode: bool = True) -> Ancestor:
        """Stays in eval mode."""
        return super().train(False)

    def __deepcopy__(self, memo: Any) -> Ancestor:
        """One frozen ancestor serves all copies of a student (EMA makes one)."""
        return self

    def flops(self) -> int:
        """Of a forward pass of one of the student's images, at the size that the ancestor wants."""
        return forward_flops(self.model, self.input_size or self.student_size)

    def view(self, images: Tensor) -> Tensor:
        """The student's images (B, C, H, W) as the ancestor wants them (B, C', H', W'); it goes to them."""
        if self.own_mean.device != images.device:  # once: to walk over all of its tensors takes long
            self.to(images.device)
        channels = self.own_mean.shape[1]
        if not self.same_normalisation or images.shape[1] != channels:
            images = images * self.student_std + self.student_mean
            if images.shape[1] != channels:
                images = images.mean(1, keepdim=True).expand(-1, channels, -1, -1)
            images = (images - self.own_mean) / self.own_std
        if self.input_size and images.shape[-2:] != self.input_size[-2:]:
            images = resize(images, list(self.input_size[-2:]), InterpolationMode.BICUBIC, antialias=True)
        return images

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        output = self.model(self.view(images))
        logits = logits_of(output)
        if logits is None:
            raise LearngeneError(
                f"the ancestor {architecture_name(self.model)} gives {type(output).__name__}, not logits (B, "
                "K)"
            )
        return logits

    @torch.no_grad()
    def features(self, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, K) and the outputs of some layers, each (B, D, h, w)."""
        return forward_features(self.model, self.view(images), layers)


def forward_features(model: nn.Module, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Logits (B, K) and the outputs of some layers as maps (B, D, h, w), in one pass, by timm's
    ``forward_intermediates``.
    """
    shows: Any = model
    wanted = sorted(set(layers))  # timm shows each layer once
    final, features = shows.forward_intermediates(images, indices=wanted, output_fmt="NCHW")
    return shows.forward_head(final), [features[wanted.index(layer)] for layer in layers]


def layer_count(model: nn.Module) -> int:
    """How many layers a model can show to ``forward_intermediates``.

    Raises:
        LearngeneError: it cannot show any.
    """
    if not hasattr(model, "forward_intermediates") or not getattr(model, "feature_info", None):
        raise LearngeneError(
            f"{architecture_name(model)} cannot show its layers (timm has no forward_intermediates for it); "
            "set the feature weight to 0"
        )
    return len(model.feature_info)  # type: ignore[arg-type]


def _projections(
    student: nn.Module, ancestor: Ancestor, layers: Sequence[int], theirs: Sequence[int]
) -> nn.ModuleList:
    """A linear map per stage where the widths differ, nothing where they agree. Widths are found by one dry
    run.
    """
    size = data_config_of(student)["input_size"]
    images = torch.zeros(1, *size, device=next(student.parameters()).device)
    with evaluating(student), torch.no_grad():
        _, ours = forward_features(student, images, layers)
        _, wanted = ancestor.features(images, theirs)
    widths = [(a.shape[1], b.shape[1]) for a, b in zip(ours, wanted, strict=True)]
    return nn.ModuleList(nn.Identity() if a == b else nn.Linear(a, b) for a, b in widths)
