"""The knobs of training and of data, with the field's usual names. Standard library only: the CLI reads these first."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from torch import nn

from learngene.arguments import take
from learngene.errors import LearngeneError
from learngene.plan import StagePlan


def train_config(arguments: Mapping[str, Any], *options: Any) -> dict[str, Any]:
    """The resolved arguments of a command as plain values, in the order of its help."""
    plain = {k: str(v) if isinstance(v, (Path, StagePlan)) else v for k, v in arguments.items()}
    plain = {k: type(v).__name__ if isinstance(v, nn.Module) else v for k, v in plain.items()}
    for group in options:
        plain |= asdict(group)
    return plain


def evaluation_config(config: Mapping[str, Any], loading: DataOptions) -> dict[str, Any]:
    """A model's data config with what the data options change in it."""
    return dict(config) | ({} if loading.crop_pct is None else {"crop_pct": loading.crop_pct})


Command = TypeVar("Command", bound=Callable[..., Any])

# Where --help shows the options: each in the group that names it, else in that of its class.
GROUPS: dict[str, tuple[str, ...]] = {
    "Data": ("DataOptions",),
    "Training": ("Recipe",),
    "Augmentation": (
        "mixup", "cutmix", "label_smoothing", "auto_augment", "random_erasing", "hflip", "crop_scale", "color_jitter", "repeats",
    ),
    "Learning from the ancestor": ("DistillOptions",),
    "Machine and speed": (
        "in_memory", "on_device", "workers", "precision", "compile", "grad_checkpointing", "devices", "accelerator", "strategy",
        "num_nodes",
    ),
    "Log and checkpoints": ("checkpoint_minutes", "log_every", "track"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Args:
        epochs: passes over the training images.
        steps: optimizer steps instead of epochs.
        batch_size: images per device and step.
        lr: learning rate for 512 images; the one used is lr x batch x devices x accumulate / 512.
        min_lr: where the cosine ends, scaled like lr.
        warmup_epochs: epochs of linear warm-up from 0.
        opt: any optimizer of timm's.
        weight_decay: none on norms, biases and position embeddings.
        clip_grad: largest gradient norm, or none.
        accumulate: batches per optimizer step.
        layer_decay: learning rate factor from each layer to the one below it, e.g. 0.75; for untied models.
        freeze: number of first layers kept as they are, embeddings included; -1 trains the head alone.
        ema: decay of the averaged weights that are validated and kept; 0 switches it off.
        rifle: cycles of RIFLE (Li et al. 2020, arXiv 2007.03349): each begins with a fresh head and a full learning rate,
            the first one apart; 0 is off.
        drop_path: largest rate of stochastic depth, rising linearly with the layer.
        mixup: alpha of mixup; 0 is off.
        cutmix: alpha of CutMix; 0 is off.
        label_smoothing: share of the target spread over all classes.
        auto_augment: timm's policy string, e.g. rand-m9-mstd0.5-inc1 (RandAugment), or none.
        random_erasing: probability of erasing a rectangle.
        hflip: probability of a horizontal flip.
        crop_scale: smallest share of the image that a random crop keeps.
        color_jitter: strength; ignored where auto_augment is set and for grey images.
        repeats: views of each image within a batch (repeated augmentation, Hoffer et al. 2020).
        precision: Lightning's names, or auto (bf16-mixed where the hardware has it, else 32-true).
        compile: compile one layer with torch.compile and use it for all; auto is on CUDA. Takes a while at first.
        grad_checkpointing: keep no activations inside layers and compute them twice: less memory, a sixth to a third slower.
        skip_nonfinite: leave out steps whose loss or gradients are not finite, instead of stopping at the first.
        checkpoint_minutes: time between checkpoints within an epoch; one is written at the end of every epoch anyway.
        seed: of everything random.
        devices: how many, or auto.
        accelerator: cpu, gpu, ... or auto.
        strategy: Lightning's, e.g. ddp; fsdp shards weights, gradients and optimizer state (FSDP2).
        num_nodes: machines; each starts its processes with torchrun or srun.
        log_every: steps between progress lines.
        track: also log to tensorboard or wandb (extra 'track').
    """

    epochs: int = 10
    steps: int | None = None
    batch_size: int = 128
    lr: float = 1e-3
    min_lr: float = 1e-5
    warmup_epochs: float = 0.0
    opt: str = "adamw"
    weight_decay: float = 0.05
    clip_grad: float | None = 1.0
    accumulate: int = 1
    layer_decay: float | None = None
    freeze: int = 0
    ema: float = 0.0
    rifle: int = 0
    drop_path: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    auto_augment: str | None = None
    random_erasing: float = 0.0
    hflip: float = 0.5
    crop_scale: float = 0.35
    color_jitter: float = 0.0
    repeats: int = 1
    precision: str = "auto"
    compile: bool | Literal["auto"] = "auto"
    grad_checkpointing: bool = False
    skip_nonfinite: bool = False
    checkpoint_minutes: float = 10.0
    seed: int = 0
    devices: int | str = "auto"
    accelerator: str = "auto"
    strategy: str = "auto"
    num_nodes: int = 1
    log_every: int = 50
    track: Literal["none", "tensorboard", "wandb"] = "none"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "repeats", "num_nodes", "log_every"):
            _at_least(self, name, 1)
        for name in ("min_lr", "warmup_epochs", "weight_decay", "mixup", "cutmix", "color_jitter", "seed"):
            _at_least(self, name, 0)
        _between(self, "seed", 0, 2**32, below=True)
        for name in ("label_smoothing", "drop_path", "ema"):
            _between(self, name, 0, 1, below=True)
        for name in ("random_erasing", "hflip"):
            _between(self, name, 0, 1)
        _above(self, "lr", 0)
        _above(self, "crop_scale", 0)
        _at_least(self, "checkpoint_minutes", 0)
        _between(self, "crop_scale", 0, 1)
        _at_least(self, "freeze", -1)
        _at_least(self, "rifle", 0)
        if self.steps is not None:
            _at_least(self, "steps", 1)
        if self.clip_grad is not None:
            _above(self, "clip_grad", 0)
        if self.layer_decay is not None:
            _above(self, "layer_decay", 0)
            _between(self, "layer_decay", 0, 1)
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise LearngeneError(
                f"batch_size {self.batch_size}: mixup and cutmix pair images, so it must be even; use {self.batch_size + 1}"
            )
        if self.steps is None and self.warmup_epochs > self.epochs:
            raise LearngeneError(
                f"warmup_epochs {self.warmup_epochs} is longer than the {self.epochs} epochs; lower it or train longer"
            )


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which images, and how they are read.

    Args:
        data_root: folder of a named data set (torch/..., hfds/..., wds/...).
        download: let a named data set download itself.
        train_split: name of the training split.
        val_split: name of the validation split; by default one that is there, else cut from train.
        test_split: name of the test split; by default one that is there, else the validation split.
        val_fraction: share of train to hold out when there is no validation split (seeded, stratified).
        train_fraction: share of the training images to use, the same of every class (by split_seed); validation is cut off before.
        split_seed: of that cut; the same for all runs that are to be compared.
        unlabeled: ignore the labels, for distilling on any images.
        in_memory: decode all images once and keep them.
        on_device: keep the training images on the device as uint8, and crop, flip and normalise whole batches there; for images
            of one size, no larger than the model's. auto does so on CUDA for images in memory.
        num_classes: classes of a data set that does not name them itself (streams, columns of numbers).
        num_samples: images in the training split of a streamed data set that does not say so itself.
        image_column: column of the images in hfds/..., hfids/..., tfds/...; by default image or img, else the only one of images.
            For wds/..., the suffix of the image files.
        label_column: column of the labels there; by default label, labels or fine_label, else the only one of class labels.
            For wds/..., a field of the .json files.
        workers: processes that read images; auto is 0 for small images in memory, else one per core, shared by the
            devices of a machine, at most 16.
        crop_pct: share of the resized image that evaluation keeps; by default what the model says.
        max_bad_images: stop when more images than this cannot be read; by default 1 percent, at least 10.
    """

    data_root: str | None = None
    download: bool = False
    train_split: str = "train"
    val_split: str | None = None
    test_split: str | None = None
    val_fraction: float = 0.1
    train_fraction: float = 1.0
    split_seed: int = 0
    unlabeled: bool = False
    in_memory: bool = False
    on_device: bool | Literal["auto"] = "auto"
    num_classes: int | None = None
    num_samples: int | None = None
    image_column: str | None = None
    label_column: str | None = None
    workers: int | Literal["auto"] = "auto"
    crop_pct: float | None = None
    max_bad_images: int | None = None

    def __post_init__(self) -> None:
        _above(self, "val_fraction", 0)
        _between(self, "val_fraction", 0, 1, below=True)
        _above(self, "train_fraction", 0)
        _between(self, "train_fraction", 0, 1)
        if self.num_classes is not None:
            _at_least(self, "num_classes", 1)
        if self.crop_pct is not None:
            _above(self, "crop_pct", 0)
            _between(self, "crop_pct", 0, 1)
        if self.workers != "auto":
            _at_least(self, "workers", 0)


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """What to learn from the ancestor.

    Args:
        kl: weight of the KL divergence from the ancestor's class probabilities.
        hard: weight of cross-entropy with the ancestor's top class.
        ce: weight of cross-entropy with the labels; 0 needs no labels.
        feature: weight of the distance between stage ends and the matching ancestor layers.
        feature_loss: mse or cosine.
        temperature: of the KL divergence (which is multiplied by its square).
    """

    kl: float = 1.0
    hard: float = 0.0
    ce: float = 0.0
    feature: float = 0.0
    feature_loss: Literal["mse", "cosine"] = "mse"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("kl", "hard", "ce", "feature"):
            _at_least(self, name, 0)
        if not (self.kl or self.hard or self.ce or self.feature):
            raise LearngeneError("kl, hard, ce and feature are all 0, so there is nothing to learn; give one a weight, e.g. kl=1")
        _above(self, "temperature", 0)


def takes(*kinds: type[Any], **defaults: Any) -> Callable[[Command], Command]:
    """Say which options a command's ``**options`` takes: in its ``help()``, its signature, and the command line, which reads them here.

    Args:
        *kinds: the dataclasses whose fields they are.
        **defaults: of this command, where they differ from the dataclass's.
    """

    def describe(function: Command) -> Command:
        own = list(inspect.signature(function).parameters.values())
        further = [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(field.name, field.default), annotation=field.type
            )
            for kind in kinds
            for field in fields(kind)
        ]
        described: Any = function
        described.kinds, described.defaults = kinds, defaults
        described.__signature__ = inspect.signature(function).replace(parameters=[*own[:-1], *further])
        if function.__doc__:  # there is none under python -OO
            function.__doc__ = _with_options(function.__doc__, further, kinds)
        return function

    return describe


def own_parameters(command: Callable[..., Any]) -> list[inspect.Parameter]:
    """A command's parameters without the options that it `takes`."""
    options = {field.name for kind in getattr(command, "kinds", ()) for field in fields(kind)}
    return [parameter for parameter in inspect.signature(command).parameters.values() if parameter.name not in options]


def group_of(kind: type[Any], option: str) -> str:
    """The title in `GROUPS` under which ``--help`` shows a field of a dataclass."""
    named = [title for title, names in GROUPS.items() if option in names]
    return (named or [title for title, names in GROUPS.items() if kind.__name__ in names])[0]


def _with_options(text: str, options: Sequence[inspect.Parameter], kinds: Sequence[type[Any]]) -> str:
    """A command's docstring with what the dataclasses say of each option, and its default, below ``**options``."""
    defaults = {option.name: option.default for option in options}
    described = "\n".join(inspect.cleandoc(kind.__doc__ or "").partition("Args:\n")[2].rstrip() for kind in kinds)
    described = re.sub(r"^    (\w+):", lambda line: f"    {line[1]} (default {defaults[line[1]]!r}):", described, flags=re.M)
    before, mark, after = text.partition("        **options:")
    entry, blank, rest = after.partition("\n\n")
    return before + mark + entry + "\n" + re.sub(r"^", " " * 8, described, flags=re.M) + blank + rest


def divide(options: Mapping[str, Any], *kinds: type[Any]) -> list[Any]:
    """Build each dataclass from the options that are its fields.

    Raises:
        LearngeneError: an option belongs to none of them (its nearest neighbour is named), or has a bad value.
    """
    known = {field.name: kind for kind in kinds for field in fields(kind)}
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; the options are {', '.join(sorted(known))}"
            raise LearngeneError(f"unknown option '{name}'{hint}")
    hints = {name: hint for kind in kinds for name, hint in get_type_hints(kind).items()}
    taken = {name: take(name, value, hints[name]) for name, value in options.items()}
    return [kind(**{k: v for k, v in taken.items() if known[k] is kind}) for kind in kinds]


def _at_least(options: object, name: str, limit: float) -> None:
    if not getattr(options, name) >= limit:
        raise LearngeneError(f"{name} {getattr(options, name)}: it must be at least {limit}")


def _above(options: object, name: str, limit: float) -> None:
    if not getattr(options, name) > limit:
        raise LearngeneError(f"{name} {getattr(options, name)}: it must be above {limit}")


def _between(options: object, name: str, low: float, high: float, *, below: bool = False) -> None:
    value = getattr(options, name)
    if not (low <= value < high if below else low <= value <= high):
        raise LearngeneError(f"{name} {value}: it must be from {low} to {'below ' if below else ''}{high}")


def epochs_of(recipe: Recipe, batches: int) -> int:
    """How many epochs of so many batches a recipe begins; the last, incomplete accumulation of an epoch is a step as well."""
    return recipe.epochs if recipe.steps is None else math.ceil(recipe.steps / math.ceil(batches / recipe.accumulate))
