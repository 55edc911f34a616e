"""Calibrating: open the learngene and the images, choose, write."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from learngene.calibration import calibrate, depths_of
from learngene.data import ImageData, open_training
from learngene.devices import check_device, chosen_device
from learngene.errors import LearngeneError
from learngene.families.architecture import check_storable
from learngene.families.records import data_config_of, image_mode
from learngene.files import check_writable
from learngene.gene import Learngene
from learngene.plan import parse_depths
from learngene.recipe import DataOptions, Recipe
from learngene.training.progress import watched

if TYPE_CHECKING:
    from learngene.jobs.calibrate import Calibrate

log = logging.getLogger("learngene")


@isolate_rng()  # the process has its own random numbers
def calibrate_file(job: Calibrate) -> Learngene:
    """See `learngene.calibrate`."""
    # 1. open, and check that they fit
    check_device(job.device)
    gene = Learngene.load(job.gene)
    if not gene.num_classes:
        raise LearngeneError("calibrating compares class probabilities, and this learngene has no head")
    target = Path(job.gene if job.out is None else job.out).resolve()  # a link stays one
    check_writable(target)
    named = [] if job.depth is None else parse_depths(job.depth)
    for depth in named:
        gene.plan_for(depth)
        check_storable(gene.architecture, depth)
    depths = named or list(depths_of(gene.plan))
    with torch.device("meta"):
        skeleton = gene.architecture.build(gene.plan.stages)
    config = job.evaluated({**data_config_of(skeleton), **gene.data_config})
    train, val = open_training(job.data, dataclasses.replace(job, unlabeled=True), image_mode(skeleton))
    # 2. the views
    recipe = Recipe(batch_size=min(64, job.views), hflip=0.0, crop_scale=0.9, seed=job.seed)
    loading = dataclasses.replace(job.part(DataOptions), unlabeled=True)
    views = ImageData(train, val, config, recipe, loading).sample(job.views)
    # 3. choose, and write
    watching = watched(depths, "choosing plans and steps", unit="depths")
    found = calibrate(gene, views, watching, device=chosen_device(job.device))
    path = found.save(target)
    log.info("wrote %s: plan and steps of %d depths, by %d views", path, len(found.expansions), len(views))
    return found
