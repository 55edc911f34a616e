"""Distilling as a job: open the models and the images, check that they fit, train, write."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from learngene.costs import ancestor_flops, forward_flops, training_cost, val_metrics
from learngene.data import ImageData, open_training
from learngene.data.classes import IGNORE_LABELS, matched
from learngene.errors import LearngeneError
from learngene.families.anatomy import anatomy, count_parameters, find_blocks, get_blocks
from learngene.families.ancestors import (
    AncestorImages,
    ancestor_digest,
    ancestor_record,
    open_ancestor,
    student_architecture,
    student_data_config,
)
from learngene.families.architecture import Architecture
from learngene.families.records import image_mode, label_names_of, model_name
from learngene.families.weights import load_strict
from learngene.gene import Learngene
from learngene.jobs.work.cache import cache_key, open_cache
from learngene.mix import relayer
from learngene.objectives import Ancestor, Distillation, match_layers
from learngene.plan import StagePlan
from learngene.provenance import versions
from learngene.recipe import DataOptions, DistillOptions, Recipe, epochs_of
from learngene.sharing import tie
from learngene.starts import begin, check_start, is_post_norm
from learngene.training import RunDirectory, TrainingModule, fit
from learngene.training.devices import check_devices
from learngene.trust.records import check_class_names

log = logging.getLogger("learngene")


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
        anatomy(arch)
    cached = None if cache is None else open_cache(cache, terms)
    teacher = open_ancestor(ancestor, said, arch, arch_args or {})
    name = model_name(ancestor)
    record = ancestor_record(teacher, name)
    run.check_settled("ancestor", ancestor_digest(teacher, record["digest"]))
    begin_with = (start or "random", dict(start_args or {}))
    auxnet, architecture = _build_student(teacher, arch, arch_args or {}, plan, begin_with, share_norms, recipe, terms)
    model_data = student_data_config(teacher, arch, auxnet, loading)
    if from_ancestor:
        _begin_from(teacher, auxnet, architecture, plan)
    train, val = open_training(data, loading, image_mode(auxnet))
    run.check_images(train=train, val=val)
    if not loading.unlabeled:
        check_class_names(train.classes, train.name)
        train, val = matched(teacher, name, IGNORE_LABELS, train, val)
    elif terms.ce:
        raise LearngeneError(f"ce {terms.ce} needs labels, but the data is unlabeled; drop --unlabeled or set ce to 0")
    guide = Ancestor(teacher, model_data)
    objective = Distillation(
        guide, **asdict(terms), label_smoothing=recipe.label_smoothing, student=auxnet, layers=plan.last_layers
    )
    names = label_names_of(teacher) or (None if loading.unlabeled else train.classes)
    if names is not None and len(names) != auxnet.num_classes:
        names = None  # a head that was taken off leaves its names behind
    flops = 3 * forward_flops(auxnet, model_data["input_size"])
    if cached is None:
        flops += ancestor_flops(guide, model_data)
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
        name, count_parameters(teacher) / 1e6, architecture.name, plan, plan.depth, count_parameters(auxnet) / 1e6, len(train), len(val),
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
    auxnet = tie(begin(untied, name, class_names=label_names_of(teacher), **options), plan, share_norms=share_norms)
    if is_post_norm(auxnet):
        raise LearngeneError("a post-norm auxiliary net cannot be stored as a learngene; drop post-norm from --start")
    return auxnet, architecture


def _begin_from(teacher: nn.Module, auxnet: nn.Module, architecture: Architecture, plan: StagePlan) -> None:
    """Load the ancestor's layer at the middle of each stage, and all that surrounds the layers."""
    blocks = find_blocks(auxnet)
    if find_blocks(teacher) != blocks:
        raise LearngeneError("from_ancestor: the ancestor and the auxiliary net are of different families; drop --from-ancestor")
    middles = [(first + last) // 2 for first, last in zip(plan.first_layers, plan.last_layers, strict=True)]
    sources = match_layers(middles, plan.depth, len(get_blocks(teacher)))
    layer_map = [sources[stage] for stage in plan.stage_of_layer]
    try:
        load_strict(auxnet, relayer(teacher.state_dict(), layer_map, blocks), set())
    except LearngeneError as error:
        raise LearngeneError(f"from_ancestor: {error}; use the ancestor's own architecture, or drop --from-ancestor") from None
