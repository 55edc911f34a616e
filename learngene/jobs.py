"""Distilling and fine-tuning as jobs: open the models and the images, check that they fit, train, write."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from learngene import vit
from learngene.ancestors import AncestorImages, open_ancestor, own_data
from learngene.auxnet import tie
from learngene.data import ImageData, Source, fingerprint, open_training
from learngene.errors import LearngeneError
from learngene.formats import describe_as_trained, save_timm_directory
from learngene.gene import Learngene
from learngene.limits import check_names
from learngene.logits import LogitCache
from learngene.objectives import Ancestor, Distillation, Supervised, match_layers
from learngene.plan import StagePlan
from learngene.provenance import versions
from learngene.recipe import DataOptions, DistillOptions, Recipe
from learngene.starts import begin, is_post_norm
from learngene.starts import parse as parse_start
from learngene.training import RunDirectory, TrainingModule, fit
from learngene.training.devices import check_devices
from learngene.training.module import epochs_of
from learngene.vit import Architecture, check_storable
from learngene.vit import check_device as check_device

log = logging.getLogger("learngene")


IGNORE_LABELS = "use matching data, finetune the ancestor on it first, or pass --unlabeled to distil the ancestor's own classes"


def train_config(arguments: Mapping[str, Any], *options: Any) -> dict[str, Any]:
    """The resolved arguments of a command as plain values, in the order of its help."""
    plain = {k: str(v) if isinstance(v, (Path, StagePlan)) else v for k, v in arguments.items()}
    plain = {k: type(v).__name__ if isinstance(v, nn.Module) else v for k, v in plain.items()}
    for group in options:
        plain |= asdict(group)
    return plain


def model_name(model: Any) -> str:
    """A model in words: what it was named by, or the architecture of a module."""
    return vit.architecture_name(model) if isinstance(model, nn.Module) else str(model)


def image_mode(model: nn.Module) -> Any:
    """PIL mode of the images a model takes: grey for 1 channel, RGB for 3."""
    channels = vit.data_config(model)["input_size"][0]
    if channels not in (1, 3):
        raise LearngeneError(f"{vit.architecture_name(model)} takes {channels} channels; images have 1 (grey) or 3 (RGB)")
    return "L" if channels == 1 else "RGB"


def matched(model: nn.Module, name: str, way_out: str, *sources: Source) -> tuple[Source, ...]:
    """The images with labels in the order of a trained model's own classes, where the names are known on both sides.

    The data may lack some of the model's classes. Where names are not known, the number has to be the same, and so, it is assumed, is the order.

    Args:
        name: of the model, for messages.
        way_out: what to do if its classes are others.

    Raises:
        LearngeneError: the data has a class that the model does not have, or another number of classes.
    """
    theirs, ours = vit.label_names(model), sources[0].classes
    count = getattr(model, "num_classes", None)
    if theirs and len(theirs) != count:
        raise LearngeneError(f"{name} has {len(theirs)} class names for a head of {count}; mend label_names in its pretrained_cfg")
    if not (theirs and ours):
        if sources[0].num_classes != count:
            counted = not ours and (sources[0].num_classes or 0) < (count or 0)  # from its labels, of which some may not occur
            more = f", or say --num-classes {count} if it just has no images of some of them" if counted else ""
            raise LearngeneError(
                f"{name} has a head of {count} classes, the data {sources[0].name} has {sources[0].num_classes}; {way_out}{more}"
            )
        log.info("the classes of %s have no names; their order is taken to be the same", sources[0].name if theirs else name)
        return sources
    strange = next((c for c in ours if c not in theirs), None)
    if strange is not None:
        raise LearngeneError(
            f"the data {sources[0].name} has a class '{strange}' that is not among the {count} of {name}; {way_out}"
        )
    if len(ours) < len(theirs):
        log.info("%s has %d of the %d classes of %s", sources[0].name, len(ours), len(theirs), name)
    if [c for c in theirs if c in set(ours)] != list(ours):
        log.info("labels are put into the order of the classes of %s", name)
    return tuple(source.arranged(theirs) for source in sources)


def forward_flops(model: nn.Module, size: Sequence[int]) -> int:
    """FLOPs of one image, counted on a copy on the meta device; where that cannot be, on the model itself; 0, with a warning, if neither can."""
    try:
        return vit.flops(copy.deepcopy(model).requires_grad_(False).to("meta"), size)
    except Exception as error:  # of anybody's code: some models cannot be copied, others have no shapes without numbers
        log.debug("FLOPs are counted where the model lies: %s", error)
    try:
        return vit.flops(model, size)
    except Exception as error:
        log.warning("the FLOPs of %s cannot be counted (%s); costs leave them out", vit.architecture_name(model), error)
        return 0


def evaluation_config(config: Mapping[str, Any], loading: DataOptions) -> dict[str, Any]:
    """A model's data config with what the data options change in it."""
    return dict(config) | ({} if loading.crop_pct is None else {"crop_pct": loading.crop_pct})


@isolate_rng()  # the process has its own random numbers
def run_distillation(
    ancestor: Any,
    data: str,
    arch: str | None,
    arch_args: Mapping[str, Any] | None,
    plan: StagePlan,
    from_ancestor: bool,
    start: str | None,
    start_args: Mapping[str, Any] | None,
    share_norms: bool,
    cache: str | Path | None,
    said: AncestorImages,
    recipe: Recipe,
    loading: DataOptions,
    terms: DistillOptions,
    run: RunDirectory,
) -> Learngene:
    """See `learngene.distill`."""
    plan.first_layers  # noqa: B018  refuses an empty stage
    check_devices(recipe)
    if recipe.layer_decay is not None or recipe.freeze:
        raise LearngeneError("layer_decay and freeze go by layer, but here layers share weights; use them in 'learngene finetune'")
    if run.finished:
        log.info("%s is finished; nothing to do", run.path)
        return Learngene.load(run.path / "learngene.safetensors")
    check_start(start, start_args, from_ancestor)
    if arch is not None:
        vit.anatomy(arch)
    cached = None if cache is None else open_cache(cache, terms)
    teacher = open_ancestor(ancestor, said, arch, arch_args or {})
    name = model_name(ancestor)
    record = _ancestor_record(teacher, name)
    run.check_settled("ancestor", ancestor_digest(teacher, record["digest"]))
    begin_with = (start or "random", dict(start_args or {}))
    auxnet, architecture = _build_student(teacher, arch, arch_args or {}, plan, begin_with, share_norms, recipe, terms)
    model_data = student_images(teacher, arch, auxnet, loading)
    if from_ancestor:
        _begin_from(teacher, auxnet, architecture, plan)
    train, val = open_training(data, loading, image_mode(auxnet))
    run.check_images(train=train, val=val)
    if not loading.unlabeled:
        check_names(train.classes, train.name)
        train, val = matched(teacher, name, IGNORE_LABELS, train, val)
    elif terms.ce:
        raise LearngeneError(f"ce {terms.ce} needs labels, but the data is unlabeled; drop --unlabeled or set ce to 0")
    guide = Ancestor(teacher, model_data)
    objective = Distillation(
        guide, **asdict(terms), label_smoothing=recipe.label_smoothing, student=auxnet, layers=plan.last_layers
    )
    names = vit.label_names(teacher) or (None if loading.unlabeled else train.classes)
    if names is not None and len(names) != auxnet.num_classes:
        names = None  # a head that was taken off leaves its names behind
    flops = 3 * forward_flops(auxnet, model_data["input_size"])
    if cached is None:
        flops += teacher_flops(guide, model_data)
    else:
        if loading.on_device == "auto":
            loading = replace(loading, on_device=bool(cached.key.get("views", {}).get("on_device")))
        cached.check(cache_key(guide, model_data, train, recipe, on_device=loading.on_device is True))
    images = ImageData(train, val, model_data, recipe, loading)
    if cached is not None:
        cached.check_epochs(epochs_of(recipe, images.train_batches))
    classes: Any = auxnet.num_classes
    module = TrainingModule(auxnet, objective, recipe, num_classes=classes, labelled=not loading.unlabeled, cache=cached)
    log.info(
        "distilling %s (%.1f M parameters) into %s, plan %s: %d layers, %.2f M parameters stored; %d images, %d held out",
        name, vit.parameters(teacher) / 1e6, architecture.name, plan, plan.depth, vit.parameters(auxnet) / 1e6, len(train), len(val),
    )  # fmt: skip
    with run.held():
        result = fit(module, images, run)
        cost = training_cost(result, flops) | ({} if cached is None else {f"cache_{k}": v for k, v in cached.cost.items()})
        gene = Learngene.extract(
            auxnet.cpu(),
            plan,
            class_names=tuple(names) if names else None,
            data_config=model_data,
            ancestor=record,
            metrics={**val_metrics(result), "cost": cost},
            versions=versions(),
        )
        path = gene.save(run.path / "learngene.safetensors")
        run.finish(**val_metrics(result), **cost, learngene=path.name, stored_parameters=gene.parameters)
    log.info("wrote %s (%.2f MB, digest of the ancestor %s)", path, path.stat().st_size / 1e6, gene.ancestor["digest"][:12])
    return gene


def open_cache(path: str | Path, terms: DistillOptions) -> LogitCache:
    """A cache of the ancestor's logits, for these terms of the loss."""
    if terms.feature:
        raise LearngeneError(f"feature {terms.feature} needs the ancestor's layers, and a cache has only its logits; drop one")
    if not (terms.kl or terms.hard):
        raise LearngeneError("kl and hard are both 0, so nothing of the cache would be used; drop --cache")
    return LogitCache(path)


VIEW_FIELDS = (
    "seed",
    "batch_size",
    "repeats",
    "hflip",
    "crop_scale",
    "color_jitter",
    "auto_augment",
    "random_erasing",
    "mixup",
    "cutmix",
)


def cache_key(guide: Ancestor, model_data: Mapping[str, Any], train: Source, recipe: Recipe, *, on_device: bool) -> dict[str, Any]:
    """What cached logits belong to. Equal keys mean equal views and an equal ancestor."""
    if train.stream is not None:
        raise LearngeneError(f"{train.name} is streamed, so its views have no fixed order; a cache needs images by index")
    own = guide.own_data
    views = {name: getattr(recipe, name) for name in VIEW_FIELDS} | {"on_device": on_device}
    shown = ("input_size", "mean", "std", "interpolation")
    return {
        "ancestor": vit.digest(guide.model.state_dict()),
        "ancestor's normalisation": {k: own.get(k) for k in shown},
        "classes": getattr(guide.model, "num_classes", None),
        "data": fingerprint(train),
        "views": views,
        "images": {k: model_data.get(k) for k in shown},
    }


def check_start(start: str | None, start_args: Mapping[str, Any] | None, from_ancestor: bool = False) -> None:
    """Raise for an unknown start, its options without it, or two ways to begin at once."""
    if start is None:
        if start_args:
            raise LearngeneError("start_args are the options of a start; name it with --start")
        return
    if from_ancestor:
        raise LearngeneError(f"--start {start} and --from-ancestor are two ways to begin; drop one")
    parse_start(start, list(start_args or {}))


def _build_student(
    teacher: nn.Module,
    arch: str | None,
    arch_args: Mapping[str, Any],
    plan: StagePlan,
    begin_with: tuple[str, dict[str, Any]],
    share_norms: bool,
    recipe: Recipe,
    terms: DistillOptions,
) -> tuple[nn.Module, Architecture]:
    """The auxiliary net as it begins, and its architecture."""
    torch.manual_seed(recipe.seed)
    if not getattr(teacher, "num_classes", None) and (terms.kl or terms.hard):
        raise LearngeneError(
            "the ancestor has no classes (num_classes), so its logits cannot be learned; finetune it first to give it a head, "
            "or learn from its layers alone: --kl 0 --feature 1, with num_classes in --arch-args"
        )
    architecture = student_architecture(teacher, arch, arch_args)
    untied = architecture.build(plan.depth, drop_path_rate=recipe.drop_path or None)
    name, options = begin_with
    auxnet = tie(begin(untied, name, class_names=vit.label_names(teacher), **options), plan, share_norms=share_norms)
    if is_post_norm(auxnet):
        raise LearngeneError("a post-norm auxiliary net cannot be stored as a learngene; drop post-norm from --start")
    return auxnet, architecture


def student_architecture(teacher: nn.Module, arch: str | None, arch_args: Mapping[str, Any]) -> Architecture:
    """The named architecture, or the ancestor's own, with a head for the ancestor's classes."""
    classes = getattr(teacher, "num_classes", None) or arch_args.get("num_classes", 0)
    if arch is None:
        own = vit.architecture_of(teacher)
        try:
            vit.anatomy(own.name)
        except LearngeneError as error:
            raise LearngeneError(
                f"the ancestor's own architecture cannot be an auxiliary net ({error}); name one with --arch"
            ) from None
        architecture = Architecture(own.name, {**own.args, **arch_args})
    else:
        vit.anatomy(arch)
        architecture = Architecture(arch, arch_args)
    given = architecture.args.get("num_classes", classes)
    if given != classes:
        raise LearngeneError(f"num_classes {given} in --arch-args, but the ancestor's head has {classes}; drop it")
    return Architecture(architecture.name, {**architecture.args, "num_classes": classes})


def student_images(teacher: nn.Module, arch: str | None, student: nn.Module, loading: DataOptions) -> dict[str, Any]:
    """How a student gets its images: as the ancestor does where the architecture is the ancestor's own."""
    config = vit.data_config(student)
    record = vit.data_config(teacher) if arch is None else {}
    config |= {k: v for k, v in record.items() if k != "input_size" and len(record["mean"]) == config["input_size"][0]}
    return evaluation_config(config, loading)


def _begin_from(teacher: nn.Module, auxnet: nn.Module, architecture: Architecture, plan: StagePlan) -> None:
    """Load the ancestor's layer at the middle of each stage, and all that surrounds the layers."""
    blocks = vit.find_blocks(auxnet)
    if vit.find_blocks(teacher) != blocks:
        raise LearngeneError("from_ancestor: the ancestor and the auxiliary net are of different families; drop --from-ancestor")
    middles = [(first + last) // 2 for first, last in zip(plan.first_layers, plan.last_layers, strict=True)]
    sources = match_layers(middles, plan.depth, len(vit.get_blocks(teacher)))
    layer_map = [sources[stage] for stage in plan.stage_of_layer]
    try:
        vit.load_strict(auxnet, vit.relayer(teacher.state_dict(), layer_map, blocks), set())
    except LearngeneError as error:
        raise LearngeneError(f"from_ancestor: {error}; use the ancestor's own architecture, or drop --from-ancestor") from None


def _ancestor_record(teacher: nn.Module, name: str) -> dict[str, Any]:
    cfg = vit.pretrained_cfg(teacher)
    return {
        "name": name,
        "architecture": vit.architecture_name(teacher),
        "digest": vit.digest(teacher.state_dict()),
        "license": cfg.get("license"),
        "parameters": vit.parameters(teacher),
    }


def ancestor_digest(teacher: nn.Module, weights: str) -> str:
    """Of its weights (their digest), of how it wants its images, and of its classes."""
    said = {"images": own_data(teacher), "classes": vit.label_names(teacher), "weights": weights}
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def teacher_flops(guide: Ancestor, model_data: Mapping[str, Any]) -> int:
    """FLOPs of the ancestor for one image: a forward pass at its own input size."""
    size = guide.input_size or model_data["input_size"]
    return forward_flops(guide.model, size)


def val_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    return {k: v for k, v in result.items() if k.startswith("val_")}


def training_cost(result: Mapping[str, Any], flops_per_image: int) -> dict[str, Any]:
    images = result.get("images", 0)
    return {
        "images": images,
        "steps": result.get("step", 0),
        "seconds": result.get("seconds", 0.0),
        "joules": result.get("joules"),
        "flops": images * flops_per_image,
    }


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
    check_names(train.classes, train.name)
    train, val = opener.matched(train, val)
    teacher = None if ancestor is None else open_ancestor(ancestor, said, *opener.architecture)
    if teacher is not None:
        run.check_settled("ancestor", ancestor_digest(teacher, vit.digest(teacher.state_dict())))
        train, val = _matched_to_both(teacher, model_name(ancestor), opener, train, val)
    torch.manual_seed(recipe.seed)
    student = opener.build(train)
    if start is not None:
        if not opener.fresh:
            raise LearngeneError(f"--start {start} begins an architecture from its name, and '{model}' brings weights; drop one")
        student = begin(student, start, class_names=train.classes, **dict(start_args or {}))
        if is_post_norm(student):
            raise LearngeneError("a post-norm model cannot be stored as a timm directory; compare it in 'learngene benchmark'")
    model_data = evaluation_config(vit.data_config(student), loading)
    objective: Supervised = Supervised(recipe.label_smoothing)
    flops = 3 * forward_flops(student, model_data["input_size"])
    if teacher is not None:
        guide = Ancestor(teacher, model_data)
        flops += teacher_flops(guide, model_data)
        count = len(vit.get_blocks(student))
        layers = StagePlan.balanced(count, min(5, count)).last_layers
        objective = Distillation(guide, **asdict(terms), label_smoothing=recipe.label_smoothing, student=student, layers=layers)
    images = ImageData(train, val, model_data, recipe, loading)
    module = TrainingModule(student, objective, recipe, num_classes=train.num_classes or 0)
    log.info("training %s, %d layers, %.2f M parameters; %d images, %d held out", vit.architecture_name(student),
             len(vit.get_blocks(student)), vit.parameters(student) / 1e6, len(train), len(val))  # fmt: skip
    with run.held():
        result = fit(module, images, run)
        describe_as_trained(student, model_data, license=license or opener.license)
        save_timm_directory(student.cpu(), run.path / "model", class_names=train.classes, overwrite=True)
        rows = [
            {k: row[k] for k in row if k in ("epoch", "images", "seconds") or k.startswith("val_")}
            for row in result["epochs_by_row"]
        ]
        results = run.finish(
            **val_metrics(result), **training_cost(result, flops), parameters=vit.parameters(student), model="model", epochs=rows
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
        own = vit.architecture_of(self.skeleton)
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
        trained = vit.open_model(model, **changes)
        head = (int(trained.num_classes), vit.label_names(trained))  # type: ignore[arg-type]
        license = vit.pretrained_cfg(trained).get("license")
        return _Opener(str(model), trained, lambda train: _with_head(trained, train), license, head=head)
    if "/" in str(model) or path.suffix:
        raise LearngeneError(
            f"there is no model at '{model}'; give a timm directory, a learngene file, or a timm architecture name"
        )
    name = str(model)
    known = vit.anatomy(name)
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
    same = vit.same_classes(count, vit.label_names(trained), train.num_classes, train.classes)
    log.info("head %s (%s classes)", "inherited" if same else "fresh", train.num_classes)
    if not same:
        trained.reset_classifier(train.num_classes)  # type: ignore[operator]
    return trained
