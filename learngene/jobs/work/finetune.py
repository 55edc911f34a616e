"""Fine-tuning: open the model and the images, check that they fit, train, write."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from learngene.costs import forward_flops, training_cost, val_metrics
from learngene.data import ImageData, Source, open_training
from learngene.data.classes import matched, matched_to_head
from learngene.errors import LearngeneError
from learngene.families.anatomy import anatomy, count_parameters, get_blocks
from learngene.families.ancestors import ancestor_digest, open_ancestor
from learngene.families.architecture import Architecture, architecture_of, check_storable
from learngene.families.heads import same_classes
from learngene.families.modes import left_as_it_was
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
from learngene.files import local_path
from learngene.formats.timm_directory import save_timm_directory
from learngene.gene import Learngene
from learngene.objectives import Ancestor, Distillation, Supervised
from learngene.plan import StagePlan
from learngene.recipe import DataOptions, DistillOptions, Recipe
from learngene.runs import RunDirectory
from learngene.starts import begin, check_start
from learngene.training import TrainingModule, fit
from learngene.training.devices import check_devices
from learngene.trust.records import check_class_names

if TYPE_CHECKING:
    from learngene.jobs.finetune import Finetune

log = logging.getLogger("learngene")


@isolate_rng()  # the process has its own random numbers
def tune(job: Finetune) -> dict[str, Any]:
    """See `learngene.finetune`."""
    run = RunDirectory(job.out, job.record(), resume=job.resume, overwrite=job.overwrite)
    with left_as_it_was(job.ancestor):
        # 1. what can be said without opening anything
        check_devices(job)
        if job.unlabeled:
            raise LearngeneError("fine-tuning needs labels; drop --unlabeled, or use 'learngene distill'")
        if run.finished:
            log.info("%s is finished; nothing to do", run.path)
            return run.results
        changes = {**(job.arch_args or {}), "drop_path_rate": job.drop_path or None}
        _check_changes(changes)
        check_start(job.start, job.start_args)
        # 2. open the models and the images, and check that they fit
        changes = {name: value for name, value in changes.items() if value is not None}
        beginning = find_beginning(job.model, job.depth, job.stage_plan, changes, job.step)
        train, val = open_training(job.data, job, image_mode(beginning.skeleton))
        run.check_images(train=train, val=val)
        check_class_names(train.classes, train.name)
        train, val = beginning.matched(train, val)
        opened = None if job.ancestor is None else open_ancestor(job.ancestor, job, *beginning.architecture)
        if opened is not None:
            run.check_settled("ancestor", ancestor_digest(opened, digest_of(opened.state_dict())))
            train, val = _matched_to_both(opened, model_name(job.ancestor), beginning, train, val)
        torch.manual_seed(job.seed)
        student = _begun(job, beginning, train)
        # 3. put together what is trained, and on what
        data_config, recipe = job.evaluated(data_config_of(student)), job.part(Recipe)
        cost = 3 * forward_flops(student, data_config["input_size"])
        objective: Supervised = Supervised(job.label_smoothing)
        if opened is not None:
            ancestor = Ancestor(opened, data_config)
            cost += ancestor.flops()
            objective = _distillation(job, ancestor, student)
        images = ImageData(train, val, data_config, recipe, job.part(DataOptions))
        module = TrainingModule(student, objective, recipe, num_classes=train.num_classes or 0)
        log.info(
            "training %s, %d layers, %.2f M parameters; %d images, %d held out",
            architecture_name(student), len(get_blocks(student)), count_parameters(student) / 1e6,
            len(train), len(val),
        )  # fmt: skip
        # 4. train, and write
        with run.held():
            result = fit(module, images, run)
            describe_as_trained(student, data_config, license=job.license or beginning.license)
            save_timm_directory(student.cpu(), run.path / "model", class_names=train.classes, overwrite=True)
            results = run.finish(**_results(result, cost, student))
    log.info("wrote %s", run.path / "model")
    return results


def _begun(job: Finetune, beginning: Beginning, train: Source) -> nn.Module:
    """The model to train; an architecture begins as its start says."""
    student = beginning.build(train)
    if job.start is None:
        return student
    if not beginning.fresh:
        raise LearngeneError(
            f"--start {job.start} begins an architecture from its name, and '{job.model}' brings weights; "
            "drop one"
        )
    return begin(student, job.start, class_names=train.classes, **dict(job.start_args or {}))


def _distillation(job: Finetune, ancestor: Ancestor, student: nn.Module) -> Distillation:
    """Features are compared at the ends of at most five stages of equal length."""
    count = len(get_blocks(student))
    layers = StagePlan.balanced(count, min(5, count)).last_layers
    terms = asdict(job.part(DistillOptions))
    return Distillation(
        ancestor, **terms, label_smoothing=job.label_smoothing, student=student, layers=layers
    )


def _results(result: Mapping[str, Any], cost: int, student: nn.Module) -> dict[str, Any]:
    """What is kept of a run: validation metrics, costs, and the way there."""
    epochs = [
        {key: row[key] for key in row if key in ("epoch", "images", "seconds") or key.startswith("val_")}
        for row in result["epochs_by_row"]
    ]
    made = {"parameters": count_parameters(student), "model": "model", "epochs": epochs}
    return {**val_metrics(result), **training_cost(result, cost), **made}


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


def _matched_to_both(
    ancestor: nn.Module, name: str, beginning: Beginning, train: Source, val: Source
) -> tuple[Source, ...]:
    """The images in the order of the ancestor's classes, which has to be that of a head that is kept."""
    found = matched(ancestor, name, "use an ancestor with these classes, or none", train, val)
    if beginning.keeps_head and found[0].classes != train.classes:
        raise LearngeneError(
            f"the classes of {name} and of {beginning.name} differ in number or order; use an ancestor with "
            "the same, or none"
        )
    return found


class Beginning:
    """A model to be built once the classes are known.

    Attributes:
        name: for messages.
        skeleton: the model, perhaps on the meta device and with another head; tells its input before it is
            built.
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

    def matched(self, train: Source, val: Source) -> tuple[Source, ...]:
        """The images with labels in the order of the trained head, where it is kept."""
        if self.head is not None:
            self.keeps_head, train, val = matched_to_head(*self.head, self.name, train, val)
        return train, val


def find_beginning(
    model: str | Path,
    depth: int | None,
    plan: StagePlan | None,
    changes: Mapping[str, Any],
    step: float | str | Sequence[float] | None = None,
) -> Beginning:
    """Decide what MODEL is, and check it, before any image is read."""
    path = local_path(model)
    if path.is_file():
        return _from_gene(Learngene.load(path), depth, plan, changes, step)
    if plan is not None or step is not None:
        said = f"plan {plan}" if plan is not None else f"step {step}"
        raise LearngeneError(
            f"{said} is for a learngene file, and '{model}' is none; give --depth, or a learngene"
        )
    if path.is_dir() or ":" in str(model):
        if depth is not None:
            raise LearngeneError(
                f"'{model}' has its own depth; spawn depth {depth} from the learngene instead, or drop "
                "--depth"
            )
        trained = open_model(model, **changes)
        head = (int(trained.num_classes), label_names_of(trained))  # type: ignore[arg-type]
        license = pretrained_cfg_of(trained).get("license")
        return Beginning(str(model), trained, lambda train: _with_head(trained, train), license, head=head)
    if "/" in str(model) or path.suffix:
        raise LearngeneError(
            f"there is no model at '{model}'; give a timm directory, a learngene file, or a timm "
            "architecture name"
        )
    name = str(model)
    known = anatomy(name)
    layers = known.depth if depth is None else depth
    if layers < 1:
        raise LearngeneError(f"depth {depth}: a model has at least 1 layer")
    architecture = Architecture(name, changes)
    check_storable(architecture, layers)
    with torch.device("meta"):
        skeleton = architecture.build(layers)
    return Beginning(name, skeleton, lambda train: architecture.build(layers, num_classes=train.num_classes))


def _from_gene(
    gene: Learngene,
    depth: int | None,
    plan: StagePlan | None,
    changes: Mapping[str, Any],
    step: float | str | Sequence[float] | None,
) -> Beginning:
    way = gene.expansion_for(depth, plan if plan is not None or depth is not None else gene.plan, step)
    target = way.plan
    check_storable(gene.architecture, target.depth)
    with torch.device("meta"):
        skeleton = gene.architecture.build(target.depth, **changes)
    license = gene.ancestor.get("license")
    return Beginning(
        "the learngene",
        skeleton,
        lambda train: gene.spawn(
            plan=target,
            step=way.exponents,
            num_classes=train.num_classes,
            class_names=train.classes,
            **changes,
        ),
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
