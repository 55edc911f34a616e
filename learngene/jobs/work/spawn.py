"""Spawning: plans within the budget, checks, and a timm directory for each."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from learngene.costs import MAX_DEPTH, Sizes
from learngene.devices import check_device
from learngene.expansion import Expansion
from learngene.families.architecture import check_storable
from learngene.files import check_free
from learngene.formats.timm_directory import FILES, save_timm_directory
from learngene.gene import Learngene
from learngene.plan import parse_depths

if TYPE_CHECKING:
    from learngene.jobs.spawn import Spawn

log = logging.getLogger("learngene")


def write_descendants(job: Spawn) -> list[Path]:
    """See `learngene.spawn`."""
    # 1. which plans
    check_device(job.device)
    gene = Learngene.load(job.gene)
    asked = {"num_classes": job.num_classes, "img_size": job.img_size, "in_chans": job.in_chans}
    changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    ways = _ways(job, gene, changes)
    # 2. nothing is written unless all can be
    targets = [Path(job.out) / f"depth-{way.plan.depth:02d}" for way in ways]
    for way, directory in zip(ways, targets, strict=True):
        check_storable(gene.architecture, way.plan.depth)
        check_free(directory, overwrite=job.overwrite, own=FILES, reads=(job.gene,))
    # 3. write
    for way, directory in zip(ways, targets, strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.seed)
            model = gene.spawn(plan=way.plan, step=way.exponents, **changes)
        names = gene.class_names if gene.has_classes(model.num_classes) else None  # type: ignore[arg-type]
        save_timm_directory(model, directory, class_names=names, overwrite=job.overwrite)
        log.info("wrote %s", directory)
    return targets


def _ways(job: Spawn, gene: Learngene, changes: dict[str, Any]) -> list[Expansion]:
    """Those that are named, or the deepest within the budgets."""
    if job.plan is not None:
        return [gene.expansion_for(plan=job.plan, step=job.step)]
    if job.depth is not None:
        return [gene.expansion_for(depth, step=job.step) for depth in parse_depths(job.depth)]
    depth = Sizes(gene.architecture, tuple(changes.items())).deepest(
        gene.plan.stages, device=job.device, **job.budgets
    )
    if depth == MAX_DEPTH:
        log.warning("%d layers, the most that are tried, are still within the budget", MAX_DEPTH)
    log.info(
        "the deepest within %s: %d layers", ", ".join(f"{k} {v:g}" for k, v in job.budgets.items()), depth
    )
    return [gene.expansion_for(depth, step=job.step)]
