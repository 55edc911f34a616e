"""Evaluating a model, or the depths of a learngene."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from learngene.data import ImageData, open_split
from learngene.data.classes import matched
from learngene.devices import check_device
from learngene.errors import LearngeneError
from learngene.families.anatomy import count_parameters
from learngene.families.ancestors import check_dtype
from learngene.families.modes import left_as_it_was
from learngene.families.records import data_config_of, image_mode, label_names_of, model_name
from learngene.families.timm import open_model
from learngene.files import check_free
from learngene.gene import Learngene
from learngene.provenance import hardware, versions
from learngene.recipe import DataOptions, Recipe
from learngene.studies.depths import FILES, choose_ways, evaluate_depths, write_depths
from learngene.training import evaluate_model

if TYPE_CHECKING:
    from learngene.jobs.evaluate import Evaluate


def evaluate_single(job: Evaluate) -> dict[str, Any]:
    """A model that is trained; see `learngene.evaluate`."""
    name = model_name(job.model)
    given = {"depth": job.depth, "plan": job.plan, "step": job.step, "out": job.out}
    if extra := next((option for option, value in given.items() if value is not None), None):
        raise LearngeneError(
            f"--{extra} is for the depths of a learngene file, and '{name}' is none; drop it, or name a "
            "learngene"
        )
    check_device(job.device)
    trained = open_model(job.model)
    check_dtype(trained)
    source = open_split(job.data, job, job.split, image_mode(trained), label_names_of(trained))
    (source,) = matched(
        trained, name, "finetune the model on this data first, or use data with its classes", source
    )
    recipe, loading = Recipe(batch_size=job.batch_size), job.part(DataOptions)
    images = ImageData(None, source, job.evaluated(data_config_of(trained)), recipe, loading)
    with left_as_it_was(job.model):
        result = evaluate_model(trained, images, device=job.device)
    about = {"parameters": count_parameters(trained), "hardware": hardware(), "versions": versions()}
    return {"model": name, "split": source.name, **result, **about}


def evaluate_gene(job: Evaluate) -> dict[str, Any]:
    """The depths of a learngene, untuned; see `learngene.evaluate`."""
    check_device(job.device)
    path = Path(str(job.model))
    gene = Learngene.load(path)
    ways = choose_ways(gene, job.depth, job.plan, job.step)
    if job.out is not None:
        check_free(job.out, overwrite=job.overwrite, own=FILES, reads=(path, job.data, job.data_root))
    result = evaluate_depths(
        gene,
        str(path),
        ways,
        job.data,
        job.split,
        job.part(DataOptions),
        batch_size=job.batch_size,
        device=job.device,
    )
    if job.out is not None:
        write_depths(result, Path(job.out), overwrite=job.overwrite)
        result["out"] = str(job.out)
    return result
