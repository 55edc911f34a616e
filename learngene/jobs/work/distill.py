"""Distilling: open the models and the images, check that they fit, train, write."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from learngene.calibration import LEAST, affordable, calibrate, depths_of, flops_of_a_view
from learngene.costs import forward_flops, training_cost, val_metrics
from learngene.data import ImageData, Source, open_training
from learngene.data.classes import IGNORE_LABELS, matched
from learngene.data.teacher import LogitCache
from learngene.elastic_nets import ElasticNets
from learngene.errors import LearngeneError
from learngene.families.anatomy import anatomy, count_parameters, get_blocks
from learngene.families.ancestors import (
    ancestor_digest,
    ancestor_record,
    build_student,
    open_ancestor,
    student_architecture,
)
from learngene.families.architecture import Architecture
from learngene.families.branches import ends_of
from learngene.families.modes import left_as_it_was
from learngene.families.records import data_config_of, image_mode, label_names_of, model_name
from learngene.gene import Learngene
from learngene.jobs.work.cache import cache_key, open_cache
from learngene.objectives import Ancestor, Distillation
from learngene.provenance import versions
from learngene.recipe import DataOptions, DistillOptions, Recipe
from learngene.runs import RunDirectory
from learngene.sharing import tie
from learngene.starts import begin, check_start
from learngene.training import TrainingModule, fit
from learngene.training.devices import check_devices, training_device
from learngene.training.progress import watched
from learngene.trust.records import check_class_names

if TYPE_CHECKING:
    from learngene.jobs.distill import Distill

log = logging.getLogger("learngene")


@dataclass(frozen=True)
class Nets:
    """What is distilled, and what it is distilled into.

    Attributes:
        ancestor: as it was opened.
        record: what the learngene will tell of it.
        auxnet: tied, as it begins.
        data_config: how the auxiliary net gets its images.
    """

    ancestor: nn.Module
    record: dict[str, Any]
    auxnet: nn.Module
    architecture: Architecture
    data_config: dict[str, Any]


@isolate_rng()  # the process has its own random numbers
def distil(job: Distill) -> Learngene:
    """See `learngene.distill`."""
    how: dict[str, Any] = {"resume": job.resume, "overwrite": job.overwrite, "upgraded": job.recorded}
    run = RunDirectory(job.out, job.record(), **how)
    with left_as_it_was(job.ancestor):
        # 1. what can be said without opening anything
        _check(job)
        if run.finished:
            log.info("%s is finished; nothing to do", run.path)
            return Learngene.load(run.path / "learngene.safetensors")
        cache = None if job.cache is None else open_cache(job.cache, job)
        # 2. open the models and the images, and check that they fit
        nets = _open_nets(job, run)
        train, val = _open_images(job, nets, run)
        # 3. put together what is trained, and on what
        ancestor = Ancestor(nets.ancestor, nets.data_config)
        images = _batches(job, nets, ancestor, train, val, cache)
        objective = Distillation(
            ancestor, **asdict(job.part(DistillOptions)), label_smoothing=job.label_smoothing,
            student=nets.auxnet, layers=job.stage_plan.last_layers,
        )  # fmt: skip
        classes: Any = nets.auxnet.num_classes
        elastic = _elastic_nets(job, nets)
        module = TrainingModule(
            nets.auxnet,
            objective,
            job.part(Recipe),
            num_classes=classes,
            elastic=elastic,
            labelled=not job.unlabeled,
        )
        _say(job, nets, train, val)
        # 4. train, and write
        with run.held():
            result = fit(module, images, run)
            cost = 3 * _student_flops(nets, elastic, result["step"])
            cost += 0 if cache is not None else ancestor.flops()
            total = training_cost(result, cost)
            total |= {} if cache is None else {f"cache_{k}": v for k, v in cache.cost.items()}
            gene = _extract(job, nets, train, val_metrics(result) | {"cost": total})
            path = gene.save(run.path / "learngene.safetensors")  # what follows may run out of memory
            gene = _calibrated(job, gene, images, total)
            gene.save(path)
            run.finish(**val_metrics(result), **total, learngene=path.name, stored_parameters=gene.parameters)
    _say_written(path, gene)
    return gene


def _batches(
    job: Distill, nets: Nets, ancestor: Ancestor, train: Source, val: Source, cache: LogitCache | None
) -> ImageData:
    """Batches of both, with the kept logits of these very views where there is a cache."""
    loading, recipe = job.part(DataOptions), job.part(Recipe)
    if cache is None:
        return ImageData(train, val, nets.data_config, recipe, loading)
    if loading.on_device == "auto":
        loading = replace(loading, on_device=bool(cache.key.get("views", {}).get("on_device")))
    cache.check(cache_key(ancestor, nets.data_config, train, job, on_device=loading.on_device is True))
    images = ImageData(train, val, nets.data_config, recipe, loading, teacher=cache)
    cache.check_epochs(recipe.epochs_of(images.train_batches))
    return images


def _elastic_nets(job: Distill, nets: Nets) -> ElasticNets | None:
    """The auxiliary net at the depths that are to be drawn."""
    if job.depths_drawn is None:
        return None
    if not ends_of(get_blocks(nets.auxnet)[0]) and job.elastic_step:
        log.info("the steps of %s cannot be scaled: layers are repeated as they are", nets.architecture.name)
    rate = job.drop_path or None
    return ElasticNets(
        nets.auxnet, nets.architecture, job.stage_plan, job.depths_drawn, job.seed, drop_path_rate=rate
    )


def _student_flops(nets: Nets, elastic: ElasticNets | None, steps: int) -> int:
    """Of a forward pass of an image on average, by the depths that so many steps have run."""
    size = nets.data_config["input_size"]
    if elastic is None:
        return forward_flops(nets.auxnet, size)
    each = {depth: forward_flops(net, size) for depth, net in elastic.nets.items()}
    return round(elastic.average(each, steps))


def _check(job: Distill) -> None:
    """Raise for what no ancestor and no image can change."""
    job.stage_plan.first_layers  # noqa: B018  refuses an empty stage
    check_devices(job)
    if job.layer_decay is not None or job.freeze:
        raise LearngeneError(
            "layer_decay and freeze go by layer, but here layers share weights; use them in 'learngene "
            "finetune'"
        )
    check_start(job.start, job.start_args, given=("ancestor", "stage_plan"))
    if job.arch is not None:
        anatomy(job.arch)


def _open_nets(job: Distill, run: RunDirectory) -> Nets:
    """The ancestor, which must be that of a run that goes on, and the auxiliary net as it begins."""
    args = job.arch_args or {}
    ancestor = open_ancestor(job.ancestor, job, job.arch, args)
    record = ancestor_record(ancestor, model_name(job.ancestor))
    run.check_settled("ancestor", ancestor_digest(ancestor, record["digest"]))
    torch.manual_seed(job.seed)
    if not getattr(ancestor, "num_classes", None) and (job.kl or job.hard):
        raise LearngeneError(
            "the ancestor has no classes (num_classes), so its logits cannot be learned; finetune it first "
            "to give it a head, "
            "or learn from its layers alone: --kl 0 --feature 1, with num_classes in --arch-args"
        )
    if not getattr(ancestor, "num_classes", None) and job.calibration not in ("auto", 0):
        raise LearngeneError(
            f"calibration {job.calibration} compares class probabilities, and the ancestor has none; drop it"
        )
    architecture = student_architecture(ancestor, job.arch, args)
    depth, rate = job.stage_plan.depth, job.drop_path or None
    untied = build_student(ancestor, architecture, depth, drop_path_rate=rate)
    given = {"ancestor": ancestor, "stage_plan": job.stage_plan}
    names, options = label_names_of(ancestor), dict(job.start_args or {})
    begun = begin(untied, job.start, class_names=names, given=given, **options)
    auxnet = tie(begun, job.stage_plan, share_norms=job.share_norms)
    return Nets(ancestor, record, auxnet, architecture, job.evaluated(data_config_of(auxnet)))


def _open_images(job: Distill, nets: Nets, run: RunDirectory) -> tuple[Source, ...]:
    """Training and validation images, with labels in the ancestor's order; those of a run that goes on."""
    train, val = open_training(job.data, job, image_mode(nets.auxnet))
    run.check_images(train=train, val=val)
    if not job.unlabeled:
        check_class_names(train.classes, train.name)
        return matched(nets.ancestor, nets.record["name"], IGNORE_LABELS, train, val)
    if job.ce:
        raise LearngeneError(
            f"ce {job.ce} needs labels, but the data is unlabeled; drop --unlabeled or set ce to 0"
        )
    return train, val


def _extract(job: Distill, nets: Nets, train: Source, metrics: dict[str, Any]) -> Learngene:
    """The learngene of the trained net, and all that is known of it."""
    names = label_names_of(nets.ancestor) or (None if job.unlabeled else train.classes)
    if names is not None and len(names) != nets.auxnet.num_classes:
        names = None  # a head that was taken off leaves its names behind
    return Learngene.extract(
        nets.auxnet.cpu(),
        job.stage_plan,
        class_names=tuple(names) if names else None,
        data_config=nets.data_config,
        ancestor=nets.record,
        elastic=job.depths_drawn,
        metrics=metrics,
        versions=versions(),
    )


def _calibrated(job: Distill, gene: Learngene, images: ImageData, total: dict[str, Any]) -> Learngene:
    """With the plan and the steps of each depth, as far as a tenth of the training's FLOPs goes.

    Args:
        total: what was spent; what this costs is added.
    """
    if not gene.num_classes or job.calibration == 0:
        return gene
    auto = job.calibration == "auto"
    wanted, plans = affordable(gene, 0.1 * total["flops"]) if auto else (int(job.calibration), True)
    views = images.sample(wanted) if wanted else torch.empty(0)
    if len(views) < (LEAST if auto else 1):
        log.info(
            "the run was too short to measure descendants of other depths: their plans and steps are %s",
            "by rule ('learngene calibrate' chooses them)" if gene.elastic is None else "those of training",
        )
        return gene
    began = time.perf_counter()
    depths = watched(depths_of(gene.plan), "choosing plans and steps", unit="depths")
    device = training_device(job)
    gene = calibrate(gene, views, depths, plans=plans, batch=job.batch_size, device=device)
    seconds = round(time.perf_counter() - began, 3)
    total |= {
        "calibration_seconds": seconds,
        "calibration_flops": len(views) * flops_of_a_view(gene, plans=plans),
    }
    how = "chose plan and steps" if gene.elastic is None else "measured the divergence"
    log.info("%s of %d depths on %d views in %.1f s", how, len(gene.expansions), len(views), seconds)
    return replace(gene, metrics={**gene.metrics, "cost": total})


def _say(job: Distill, nets: Nets, train: Source, val: Source) -> None:
    elastic = job.depths_drawn
    drawn = "" if elastic is None else f", in each step one of {elastic.shallowest} to {elastic.deepest}"
    if job.elastic == "auto" and elastic is None and max(job.stage_plan.repeats) > 1:
        log.info(
            "the plan is trained alone: other depths go neither with norms of each layer's own nor with FSDP"
        )
    log.info(
        "distilling %s (%.1f M parameters) into %s, plan %s: %d layers%s; %.2f M parameters stored; %d "
        "images, %d held out",
        nets.record["name"], count_parameters(nets.ancestor) / 1e6, nets.architecture.name, job.stage_plan,
        job.stage_plan.depth, drawn, count_parameters(nets.auxnet) / 1e6, len(train), len(val),
    )  # fmt: skip


def _say_written(path: Path, gene: Learngene) -> None:
    size, digest = path.stat().st_size / 1e6, gene.ancestor["digest"][:12]
    log.info("wrote %s (%.2f MB, digest of the ancestor %s)", path, size, digest)
