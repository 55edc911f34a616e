"""The knobs of training and of data, with their usual names. Standard library only: the CLI reads them first.

A field's annotation, default and the text under it are all there is to know of an option: the command line,
YAML, ``run.json`` and the Python functions read them here. What a field does to the views that training shows
is part of it too, see `knob`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from learngene.arguments import Checked
from learngene.errors import LearngeneError
from learngene.trust.records import check_class_names, check_data_config

DATA, TRAINING, AUGMENTATION, LEARNING = "Data", "Training", "Augmentation", "Learning from the ancestor"
MACHINE, LOG = "Machine and speed", "Log and checkpoints"
GROUPS = (DATA, TRAINING, AUGMENTATION, LEARNING, MACHINE, LOG)  # in the order of --help


def knob(default: Any, *, view: bool, group: str | None = None) -> Any:
    """A field of a dataclass of options.

    Args:
        view: whether it changes what an image looks like, or which images an epoch shows in which order:
            cached logits belong to views, so a cache is refused where such a field differs. There is no
            default, so that nobody forgets to think of it.
        group: title in ``--help``; by default that of the class.
    """
    return field(default=default, metadata={"view": view, "group": group})


def view_fields(*kinds: type[Any]) -> list[str]:
    """Names of the fields that change views."""
    return [option.name for kind in kinds for option in fields(kind) if option.metadata["view"]]


@dataclass(frozen=True, kw_only=True)
class Recipe(Checked):
    """How to train."""

    GROUP: ClassVar[str] = TRAINING

    epochs: int = knob(10, view=False)
    """passes over the training images."""
    steps: int | None = knob(None, view=False)
    """optimizer steps instead of epochs."""
    batch_size: int = knob(128, view=True)
    """images per device and step."""
    lr: float = knob(1e-3, view=False)
    """learning rate for 512 images; the one used is lr x batch x devices x accumulate / 512."""
    min_lr: float = knob(1e-5, view=False)
    """where the cosine ends, scaled like lr."""
    warmup_epochs: float = knob(0.0, view=False)
    """epochs of linear warm-up from 0."""
    opt: str = knob("adamw", view=False)
    """any optimizer of timm's."""
    weight_decay: float = knob(0.05, view=False)
    """none on norms, biases and position embeddings."""
    clip_grad: float | None = knob(1.0, view=False)
    """largest gradient norm, or none."""
    accumulate: int = knob(1, view=False)
    """batches per optimizer step."""
    layer_decay: float | None = knob(None, view=False)
    """learning rate factor from each layer to the one below it, e.g. 0.75; for untied models."""
    freeze: int = knob(0, view=False)
    """number of first layers kept as they are, embeddings included; -1 trains the head alone."""
    ema: float = knob(0.0, view=False)
    """decay of the averaged weights that are validated and kept; 0 switches it off."""
    rifle: int = knob(0, view=False)
    """cycles of RIFLE (Li et al. 2020, arXiv 2007.03349): each begins with a fresh head and a full
    learning rate, the first one apart; 0 is off."""
    drop_path: float = knob(0.0, view=False)
    """largest rate of stochastic depth, rising linearly with the layer."""
    mixup: float = knob(0.0, view=True, group=AUGMENTATION)
    """alpha of mixup; 0 is off."""
    cutmix: float = knob(0.0, view=True, group=AUGMENTATION)
    """alpha of CutMix; 0 is off."""
    label_smoothing: float = knob(0.0, view=False, group=AUGMENTATION)
    """share of the target spread over all classes."""
    auto_augment: str | None = knob(None, view=True, group=AUGMENTATION)
    """timm's policy string, e.g. rand-m9-mstd0.5-inc1 (RandAugment), or none."""
    random_erasing: float = knob(0.0, view=True, group=AUGMENTATION)
    """probability of erasing a rectangle."""
    hflip: float = knob(0.5, view=True, group=AUGMENTATION)
    """probability of a horizontal flip."""
    crop_scale: float = knob(0.35, view=True, group=AUGMENTATION)
    """smallest share of the image that a random crop keeps."""
    color_jitter: float = knob(0.0, view=True, group=AUGMENTATION)
    """strength; ignored where auto_augment is set and for grey images."""
    repeats: int = knob(1, view=True, group=AUGMENTATION)
    """views of each image within a batch (repeated augmentation, Hoffer et al. 2020)."""
    precision: str = knob("auto", view=False, group=MACHINE)
    """Lightning's names, or auto (bf16-mixed where the hardware has it, else 32-true)."""
    compile: bool | Literal["auto"] = knob("auto", view=False, group=MACHINE)
    """compile one layer with torch.compile and use it for all; auto is on CUDA. Takes a while at first."""
    grad_checkpointing: bool = knob(False, view=False, group=MACHINE)
    """keep no activations inside layers and compute them twice: less memory, a sixth to a third slower."""
    skip_nonfinite: bool = knob(False, view=False)
    """leave out steps whose loss or gradients are not finite, instead of stopping at the first."""
    checkpoint_minutes: float = knob(10.0, view=False, group=LOG)
    """time between checkpoints within an epoch; one is written at the end of every epoch anyway."""
    seed: int = knob(0, view=True)
    """of everything random."""
    devices: int | str = knob("auto", view=False, group=MACHINE)
    """how many, or auto."""
    accelerator: str = knob("auto", view=False, group=MACHINE)
    """cpu, gpu, ... or auto."""
    strategy: str = knob("auto", view=False, group=MACHINE)
    """Lightning's, e.g. ddp; fsdp shards weights, gradients and optimizer state (FSDP2)."""
    num_nodes: int = knob(1, view=False, group=MACHINE)
    """machines; each starts its processes with torchrun or srun."""
    log_every: int = knob(50, view=False, group=LOG)
    """steps between progress lines."""
    track: Literal["none", "tensorboard", "wandb"] = knob("none", view=False, group=LOG)
    """also log to tensorboard or wandb (extra 'track')."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "batch_size", "accumulate", "repeats", "num_nodes", "log_every"):
            _at_least(self, name, 1)
        for name in ("min_lr", "warmup_epochs", "weight_decay", "mixup", "cutmix", "color_jitter"):
            _at_least(self, name, 0)
        check_between(self, "seed", 0, 2**32, below=True)
        for name in ("label_smoothing", "drop_path", "ema"):
            check_between(self, name, 0, 1, below=True)
        for name in ("random_erasing", "hflip"):
            check_between(self, name, 0, 1)
        _above(self, "lr", 0)
        _above(self, "crop_scale", 0)
        _at_least(self, "checkpoint_minutes", 0)
        check_between(self, "crop_scale", 0, 1)
        _at_least(self, "freeze", -1)
        _at_least(self, "rifle", 0)
        if self.steps is not None:
            _at_least(self, "steps", 1)
        if self.clip_grad is not None:
            _above(self, "clip_grad", 0)
        if self.layer_decay is not None:
            _above(self, "layer_decay", 0)
            check_between(self, "layer_decay", 0, 1)
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise LearngeneError(
                f"batch_size {self.batch_size}: mixup and cutmix pair images, so it must be even; use "
                f"{self.batch_size + 1}"
            )
        if self.steps is None and self.warmup_epochs > self.epochs:
            raise LearngeneError(
                f"warmup_epochs {self.warmup_epochs} is longer than the {self.epochs} epochs; lower it or "
                "train longer"
            )

    def epochs_of(self, batches: int) -> int:
        """How many epochs of so many batches are begun.

        The last, incomplete accumulation of an epoch is a step as well.
        """
        if self.steps is None:
            return self.epochs
        return math.ceil(self.steps / math.ceil(batches / self.accumulate))


@dataclass(frozen=True, kw_only=True)
class DataOptions(Checked):
    """Which images, and how they are read."""

    GROUP: ClassVar[str] = DATA

    data_root: str | None = knob(None, view=False)
    """folder of a named data set (torch/..., hfds/..., wds/...)."""
    download: bool = knob(False, view=False)
    """let a named data set download itself."""
    train_split: str = knob("train", view=False)
    """name of the training split."""
    val_split: str | None = knob(None, view=False)
    """name of the validation split; by default one that is there, else cut from train."""
    test_split: str | None = knob(None, view=False)
    """name of the test split; by default one that is there, else the validation split."""
    val_fraction: float = knob(0.1, view=False)
    """share of train to hold out when there is no validation split (seeded, stratified)."""
    train_fraction: float = knob(1.0, view=False)
    """share of the training images to use, the same of every class (by split_seed); validation is cut off
    before."""
    split_seed: int = knob(0, view=False)
    """of that cut; the same for all runs that are to be compared."""
    unlabeled: bool = knob(False, view=False)
    """ignore the labels, for distilling on any images."""
    in_memory: bool = knob(False, view=False, group=MACHINE)
    """decode all images once and keep them."""
    on_device: bool | Literal["auto"] = knob("auto", view=True, group=MACHINE)
    """keep the training images on the device as uint8, and crop, flip and normalise whole batches there;
    for images of one size, no larger than the model's. auto does so on CUDA for images in memory."""
    num_classes: int | None = knob(None, view=False)
    """classes of a data set that does not name them itself (streams, columns of numbers)."""
    num_samples: int | None = knob(None, view=False)
    """images in the training split of a streamed data set that does not say so itself."""
    image_column: str | None = knob(None, view=False)
    """column of the images in hfds/..., hfids/..., tfds/...; by default image or img, else the only one of
    images. For wds/..., the suffix of the image files."""
    label_column: str | None = knob(None, view=False)
    """column of the labels there; by default label, labels or fine_label, else the only one of class
    labels. For wds/..., a field of the .json files."""
    workers: int | Literal["auto"] = knob("auto", view=False, group=MACHINE)
    """processes that read images; auto is 0 for small images in memory, else one per core, shared by the
    devices of a machine, at most 16."""
    crop_pct: float | None = knob(None, view=False)
    """share of the resized image that evaluation keeps; by default what the model says."""
    max_bad_images: int | None = knob(None, view=False)
    """stop when more images than this cannot be read; by default 1 percent, at least 10."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _above(self, "val_fraction", 0)
        check_between(self, "val_fraction", 0, 1, below=True)
        _above(self, "train_fraction", 0)
        check_between(self, "train_fraction", 0, 1)
        if self.num_classes is not None:
            _at_least(self, "num_classes", 1)
        if self.crop_pct is not None:
            _above(self, "crop_pct", 0)
            check_between(self, "crop_pct", 0, 1)
        if self.workers != "auto":
            _at_least(self, "workers", 0)

    def evaluated(self, data_config: Mapping[str, Any]) -> dict[str, Any]:
        """A model's data config with what these options change in it."""
        return dict(data_config) | ({} if self.crop_pct is None else {"crop_pct": self.crop_pct})


@dataclass(frozen=True, kw_only=True)
class DistillOptions(Checked):
    """What to learn from the ancestor."""

    GROUP: ClassVar[str] = LEARNING

    kl: float = 1.0
    """weight of the KL divergence from the ancestor's class probabilities."""
    hard: float = 0.0
    """weight of cross-entropy with the ancestor's top class."""
    ce: float = 0.0
    """weight of cross-entropy with the labels; 0 needs no labels."""
    feature: float = 0.0
    """weight of the distance between stage ends and the matching ancestor layers."""
    feature_loss: Literal["mse", "cosine"] = "mse"
    """mse or cosine."""
    temperature: float = 1.0
    """of the KL divergence (which is multiplied by its square)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("kl", "hard", "ce", "feature"):
            _at_least(self, name, 0)
        if not (self.kl or self.hard or self.ce or self.feature):
            raise LearngeneError(
                "kl, hard, ce and feature are all 0, so there is nothing to learn; give one a weight, e.g. "
                "kl=1"
            )
        _above(self, "temperature", 0)


@dataclass(frozen=True, kw_only=True)
class AncestorOptions(Checked):
    """What a user says of an ancestor; each may be left open."""

    ancestor_mean: Sequence[float] | None = None
    """of the ancestor's images, a value per channel (pixels from 0 to 1); for a module that is not timm's, or
    instead of what a timm model says."""
    ancestor_std: Sequence[float] | None = None
    """likewise."""
    ancestor_input_size: int | Sequence[int] | None = None
    """(C, H, W), or pixels, that the ancestor wants; likewise."""
    ancestor_classes: Sequence[str] | None = None
    """names of the ancestor's outputs, in order; likewise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        mean, std = self.ancestor_mean, self.ancestor_std
        if (mean is None) != (std is None):
            raise LearngeneError("ancestor_mean and ancestor_std belong together; give both, or none")
        if mean is not None and std is not None:
            if len(mean) != len(std) or not mean:
                raise LearngeneError(
                    f"ancestor_mean has {len(mean)} values and ancestor_std {len(std)}; give one per channel"
                )
            if not all(0 <= value <= 1 for value in mean):
                raise LearngeneError(
                    f"ancestor_mean {list(mean)}: pixels go from 0 to 1, so divide values up to 255 by 255"
                )
            if not all(1e-3 <= value <= 1 for value in std):
                raise LearngeneError(
                    f"ancestor_std {list(std)}: pixels go from 0 to 1, so it is from 0.001 to 1; divide "
                    "values up to 255 by 255"
                )
        check_data_config(self.said(), "ancestor")
        check_class_names(self.ancestor_classes, "ancestor_classes")

    @property
    def ancestor_size(self) -> tuple[int, int, int] | None:
        """(C, H, W), with as many channels as there are means, else 3."""
        said, mean = self.ancestor_input_size, self.ancestor_mean
        if said is None:
            return None
        size = (said, said) if isinstance(said, int) else tuple(said)
        if len(size) == 2:
            size = (3 if mean is None else len(mean), *size)
        if len(size) != 3 or (mean is not None and len(mean) != size[0]):
            raise LearngeneError(
                f"ancestor_input_size {list(size)} must be (C, H, W) with one ancestor_mean per channel, "
                "(H, W), or a number of pixels"
            )
        return size

    def said(self) -> dict[str, Any]:
        """What was said, as entries of a timm model's ``pretrained_cfg``."""
        known: dict[str, Any] = {"mean": self.ancestor_mean, "std": self.ancestor_std}
        known |= {"input_size": self.ancestor_size, "label_names": self.ancestor_classes}
        return {name: list(value) for name, value in known.items() if value is not None}


def _at_least(options: object, name: str, limit: float) -> None:
    if not getattr(options, name) >= limit:
        raise LearngeneError(f"{name} {getattr(options, name)}: it must be at least {limit}")


def _above(options: object, name: str, limit: float) -> None:
    if not getattr(options, name) > limit:
        raise LearngeneError(f"{name} {getattr(options, name)}: it must be above {limit}")


def check_between(options: object, name: str, low: float, high: float, *, below: bool = False) -> None:
    value = getattr(options, name)
    if not (low <= value < high if below else low <= value <= high):
        raise LearngeneError(f"{name} {value}: it must be from {low} to {'below ' if below else ''}{high}")
