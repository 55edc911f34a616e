"""Fine-tuning as a job: open the model and the images, check that they fit, train, write."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from learngene.costs import ancestor_flops, forward_flops, training_cost, val_metrics
from learngene.data import ImageData, Source, open_training
from learngene.data.classes import matched
from learngene.errors import LearngeneError
from learngene.export.timm_directory import save_timm_directory
from learngene.families.anatomy import anatomy, count_parameters, get_blocks
from learngene.families.ancestors import AncestorImages, ancestor_digest, open_ancestor
from learngene.families.architecture import Architecture, architecture_of, check_storable
from learngene.families.heads import same_classes
from learngene.families.records import (
    architecture_name,
    data_config_of,
    describe_as_trained,
    image_mode,
    label_names_of,
    model_name,
    pretrained_cfg_of,
)
from learngene.families.timm import open_model
from learngene.families.weights import digest_of
from learngene.gene import Learngene
from learngene.objectives import Ancestor, Distillation, Supervised
from learngene.plan import StagePlan
from learngene.recipe import DataOptions, DistillOptions, Recipe, evaluation_config
from learngene.starts import begin, check_start, is_post_norm
from learngene.training import RunDirectory, TrainingModule, fit
from learngene.training.devices import check_devices
from learngene.trust.records import check_class_names

log = logging.getLogger("learngene")


@isolate_rng()  # the process has its own random numbers
def run_finetuning(
    model: str | Path,
    data: str,
    depth: int | None,
    plan: StagePlan | None,
    arch_args: Mapping[str, Any] | None,
    ancestor: Any,
    said: AncestorImages,
    license: str | None,
    start: str | None,
    start_args: Mapping[str, Any] | None,
    recipe: Recipe,
    loading: DataOptions,
    terms: DistillOptions,
    run: RunDirectory,
) -> dict[str, Any]:
    """See `learngene.finetune`."""
    check_devices(recipe)
    if loading.unlabeled:
        raise LearngeneError("fine-tuning needs labels; drop --unlabeled, or use 'learngene distill'")
    if run.finished:
        log.info("%s is finished; nothing to do", run.path)
        return run.results
    changes = {**(arch_args or {}), "drop_path_rate": recipe.drop_path or None}
    _check_changes(changes)
    check_start(start, start_args)
    opener = _opener(model, depth, plan, {k: v for k, v in changes.items() if v is not None})
    train, val = open_training(data, loading, image_mode(opener.skeleton))
    run.check_images(train=train, val=val)
    check_class_names(train.classes, train.name)
    train, val = opener.matched(train, val)
    teacher = None if ancestor is None else open_ancestor(ancestor, said, *opener.architecture)
    if teacher is not None:
        run.check_settled("ancestor", ancestor_digest(teacher, digest_of(teacher.state_dict())))
        train, val = _matched_to_both(teacher, model_name(ancestor), opener, train, val)
    torch.manual_seed(recipe.seed)
    student = opener.build(train)
    if start is not None:
        if not opener.fresh:
            raise LearngeneError(f"--start {start} begins an architecture from its name, and '{model}' brings weights; drop one")
        student = begin(student, start, class_names=train.classes, **dict(start_args or {}))
        if is_post_norm(student):
            raise LearngeneError("a post-norm model cannot be stored as a timm directory; compare it in 'learngene benchmark'")
    model_data = evaluation_config(data_config_of(student), loading)
    objective: Supervised = Supervised(recipe.label_smoothing)
    flops = 3 * forward_flops(student, model_data["input_size"])
    if teacher is not None:
        guide = Ancestor(teacher, model_data)
        flops += ancestor_flops(guide, model_data)
        count = len(get_blocks(student))
        layers = StagePlan.balanced(count, min(5, count)).last_layers
        objective = Distillation(guide, **asdict(terms), label_smoothing=recipe.label_smoothing, student=student, layers=layers)
    images = ImageData(train, val, model_data, recipe, loading)
    module = TrainingModule(student, objective, recipe, num_classes=train.num_classes or 0)
    log.info("training %s, %d layers, %.2f M parameters; %d images, %d held out", architecture_name(student),
             len(get_blocks(student)), count_parameters(student) / 1e6, len(train), len(val))  # fmt: skip
    with run.held():
        result = fit(module, images, run)
        describe_as_trained(student, model_data, license=license or opener.license)
        save_timm_directory(student.cpu(), run.path / "model", class_names=train.classes, overwrite=True)
        rows = [
            {k: row[k] for k in row if k in ("epoch", "images", "seconds") or k.startswith("val_")}
            for row in result["epochs_by_row"]
        ]
        results = run.finish(
            **val_metrics(result), **training_cost(result, flops), parameters=count_parameters(student), model="model", epochs=rows
        )
    log.info("wrote %s", run.path / "model")
    return results


def _check_changes(changes: Mapping[str, Any]) -> None:
    """Raise for architecture arguments that have an option of their own, or that the data decides."""
    ways = {
        "num_classes": "the data decides it",
        "depth": "use --depth",
        "num_blocks": "use --depth",
        "pretrained": "name a directory",
    }
    for name, way in ways.items():
        if name in changes:
            raise LearngeneError(f"'{name}' in --arch-args: {way}; drop it there")


def _matched_to_both(teacher: nn.Module, name: str, opener: _Opener, train: Source, val: Source) -> tuple[Source, ...]:
    """The images in the order of the ancestor's classes, which has to be that of a head that is kept."""
    found = matched(teacher, name, "use an ancestor with these classes, or none", train, val)
    if opener.keeps_head and found[0].classes != train.classes:
        raise LearngeneError(
            f"the classes of {name} and of {opener.name} differ in number or order; use an ancestor with the same, or none"
        )
    return found


class _Opener:
    """A model to be built once the classes are known.

    Attributes:
        name: for messages.
        skeleton: the model, perhaps on the meta device and with another head; tells its input before it is built.
        build: from the training images.
        head: number and names of the trained head's classes; none for an architecture that begins afresh.
        keeps_head: whether that head is for the classes of the images, after `matched`.
    """

    def __init__(
        self,
        name: str,
        skeleton: nn.Module,
        build: Callable[[Source], nn.Module],
        license: str | None = None,
        *,
        head: tuple[int, Sequence[str] | None] | None = None,
    ) -> None:
        self.name, self.skeleton, self.build, self.license, self.head = name, skeleton, build, license, head
        self.keeps_head = False

    @property
    def fresh(self) -> bool:
        """Whether it begins from an architecture's name, without trained weights."""
        return self.head is None

    @property
    def architecture(self) -> tuple[str, Mapping[str, Any]]:
        """Name and arguments."""
        own = architecture_of(self.skeleton)
        return own.name, own.args

    def matched(self, train: Source, val: Source) -> tuple[Source, Source]:
        """The images with labels in the order of the trained head, if it has all of their classes; else it is dropped with a warning."""
        if self.head is None:
            return train, val
        count, names = self.head
        ours = train.classes
        if names and ours:
            self.keeps_head = set(ours) <= set(names)
        else:
            self.keeps_head = count == train.num_classes
        if not self.keeps_head:
            strange = next((c for c in ours or () if names and c not in names), None)
            why = f"it has no class '{strange}'" if strange is not None else f"the data has {train.num_classes} classes"
            log.warning("the trained head of %s (%d classes) is dropped, because %s; a fresh one is trained", self.name, count, why)
            return train, val
        if not (names and ours):
            log.warning(
                "the head of %s is kept: it has as many classes as the data, and their order is taken to be the same", self.name
            )
            return train, val
        if len(ours) < count:
            log.warning("the head of %s is kept with all of its %d classes, of which the data has %d", self.name, count, len(ours))
        if tuple(ours) != tuple(names):
            log.info("labels are put into the order of the classes of %s", self.name)
        return train.arranged(names), val.arranged(names)


def _opener(model: str | Path, depth: int | None, plan: StagePlan | None, changes: Mapping[str, Any]) -> _Opener:
    """Decide what MODEL is, and check it, before any image is read."""
    path = Path(str(model).removeprefix("local-dir:"))
    if path.is_file():
        return _gene_opener(Learngene.load(path), depth, plan, changes)
    if plan is not None:
        raise LearngeneError(f"plan {plan} is for a learngene file, and '{model}' is none; give --depth, or a learngene")
    if path.is_dir() or ":" in str(model):
        if depth is not None:
            raise LearngeneError(f"'{model}' has its own depth; spawn depth {depth} from the learngene instead, or drop --depth")
        trained = open_model(model, **changes)
        head = (int(trained.num_classes), label_names_of(trained))  # type: ignore[arg-type]
        license = pretrained_cfg_of(trained).get("license")
        return _Opener(str(model), trained, lambda train: _with_head(trained, train), license, head=head)
    if "/" in str(model) or path.suffix:
        raise LearngeneError(
            f"there is no model at '{model}'; give a timm directory, a learngene file, or a timm architecture name"
        )
    name = str(model)
    known = anatomy(name)
    layers = known.depth if depth is None else depth
    if layers < 1:
        raise LearngeneError(f"depth {depth}: a model has at least 1 layer")
    check_storable(name, layers)
    args = dict(changes)
    with torch.device("meta"):
        skeleton = Architecture(name, args).build(layers)
    return _Opener(name, skeleton, lambda train: Architecture(name, args).build(layers, num_classes=train.num_classes))


def _gene_opener(gene: Learngene, depth: int | None, plan: StagePlan | None, changes: Mapping[str, Any]) -> _Opener:
    target = gene.plan_for(depth, plan if plan is not None or depth is not None else gene.plan)
    check_storable(gene.architecture.name, target.depth)
    with torch.device("meta"):
        skeleton = gene.architecture.build(target.depth, **changes)
    license = gene.ancestor.get("license")
    return _Opener(
        "the learngene",
        skeleton,
        lambda train: gene.spawn(plan=target, num_classes=train.num_classes, class_names=train.classes, **changes),
        license,
        head=(gene.num_classes, gene.class_names),
    )


def _with_head(trained: nn.Module, train: Source) -> nn.Module:
    """The trained model if its classes are those of the data, else the same with a fresh head."""
    count: Any = trained.num_classes
    same = same_classes(count, label_names_of(trained), train.num_classes, train.classes)
    log.info("head %s (%s classes)", "inherited" if same else "fresh", train.num_classes)
    if not same:
        trained.reset_classifier(train.num_classes)  # type: ignore[operator]
    return trained
