"""Train what starts need before the trials: learngenes and pre-trained models, each once. Costs are kept."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from learngene.bench.experiment import Experiment
from learngene.bench.preparation import EACH, Need
from learngene.bench.specs import Trial
from learngene.costs import forward_flops
from learngene.errors import LearngeneError
from learngene.families.anatomy import count_parameters
from learngene.families.ancestors import open_ancestor
from learngene.families.architecture import Architecture
from learngene.families.records import data_config_of
from learngene.families.timm import open_model
from learngene.files import local_path, locked
from learngene.gene import Learngene
from learngene.objectives import Ancestor
from learngene.recipe import DataOptions, Recipe
from learngene.runs import read_record
from learngene.starts import SOURCES

log = logging.getLogger("learngene")
# options that hold for other images than the benchmark's too
GENERAL = ("data_root", "download", "in_memory", "workers", "devices", "accelerator", "precision")


@dataclass(frozen=True)
class Prepared:
    """What a preparation made.

    Attributes:
        path: the learngene file, or the timm directory.
        cost: images, steps, seconds, flops, joules.
        stored: parameters to be kept for it.
        name: of the preparation, or the path it was named by.
        each: whether there is one for each ``depth``, each ``seed``, both, or one for all.
        below: what had to be prepared for it, by key.
    """

    path: Path
    cost: Mapping[str, Any]
    stored: int
    name: str
    each: tuple[str, ...] = ()
    below: Mapping[str, Prepared] = field(default_factory=dict)

    def record(self, *, kept: bool) -> dict[str, Any]:
        """For a row: costs, whose they are, and parameters stored (none for what was needed on the way)."""
        return {
            **self.cost,
            "stored_parameters": self.stored if kept else 0,
            "name": self.name,
            "each": list(self.each),
        }


def prepare(
    experiment: Experiment,
    needed: Sequence[Need],
    defaults: Mapping[str, Any],
    family: Architecture,
    given: bool,
    out: Path,
) -> dict[str, Prepared]:
    """Train all that are needed, by key; finished ones are read back. Several processes share the work.

    Args:
        defaults: arguments they get unless they say otherwise (the benchmark's data).
        family: the architecture of the trials; models to train without one of their own get it.
        given: whether it was given, so that learngenes get it too; else they have that of their ancestor.
        out: a folder of run directories.
    """
    made: dict[str, Prepared] = {}
    while waiting := [need for need in needed if need.key not in made]:
        before = len(made)
        ready = [
            need
            for need in waiting
            if all(key in made for key in _below(need.preparation.before(), experiment, need))
        ]
        for need in ready:
            with locked(out / f"{need.key}.lock", wait=False) as mine:
                if not mine:  # another process is at it: see to the others first
                    continue
                log.info("preparing %s (%d of %d done)", need.key, len(made), len(needed))
                arguments = _arguments(need, experiment, made, defaults, family, given)
                kind: Any = need.preparation.job
                job = kind(**arguments, out=out / need.key, resume=True)
                if need.preparation.cost_of is not None:
                    (key,) = _below([need.preparation.cost_of], experiment, need)
                    job = replace(job, steps=steps_for(made[key].cost["flops"], job, need.depth))
                job.run()
            below = {key: made[key] for key in _below(need.preparation.builds_on(), experiment, need)}
            made[need.key] = replace(_read(need, out / need.key), below=below)
        if len(made) == before:
            log.info("waiting for another process to prepare %s", ready[0].key)
            with locked(out / f"{ready[0].key}.lock"):
                pass
    return made


def defaults(data: str, loading: DataOptions, recipe: Recipe) -> dict[str, Any]:
    """The benchmark's data and device, for preparations that name no others; they train on all of it."""
    own = {k: v for k, v in asdict(loading).items() if k != "train_fraction"}
    return {
        "data": data,
        **own,
        "devices": 1,
        "accelerator": recipe.accelerator,
        "precision": recipe.precision,
    }


def _arguments(
    need: Need,
    experiment: Experiment,
    made: Mapping[str, Prepared],
    defaults: Mapping[str, Any],
    family: Architecture,
    given: bool,
) -> dict[str, Any]:
    """All arguments of the command but ``out``."""
    preparation = need.preparation
    general = GENERAL if "data" in preparation.arguments else tuple(defaults)
    arguments = {k: defaults[k] for k in general if k not in preparation.arguments}
    arguments |= _resolve(need, experiment, made)
    if preparation.kind == "finetune":
        arguments = _for_depth(arguments, family, need)
    elif given and "arch" not in arguments:
        own = arguments.get("arch_args") or {}
        arguments |= {"arch": family.name, "arch_args": {**family.args, **own}}
    if "seed" in preparation.each:
        arguments["seed"] = need.seed
    return arguments


def _below(names: Sequence[str], experiment: Experiment, need: Need) -> list[str]:
    """Keys of those names that are preparations, for the same depth and seed."""
    return experiment.keys(names, need.depth, need.seed)


def _resolve(need: Need, experiment: Experiment, made: Mapping[str, Prepared]) -> dict[str, Any]:
    """The preparation's arguments with the names of others replaced by what these made."""

    def path(value: Any) -> Any:
        keys = _below([str(value)], experiment, need)
        return str(made[keys[0]].path) if keys else value

    resolved = {k: path(v) if k in (*SOURCES, "model") else v for k, v in need.preparation.arguments.items()}
    if resolved.get("start_args"):
        resolved["start_args"] = {k: path(v) for k, v in resolved["start_args"].items()}
    return resolved


def _for_depth(arguments: dict[str, Any], family: Architecture, need: Need) -> dict[str, Any]:
    """A model of the family unless another is named, as deep as the trial (or as the preparation says)."""
    if "depth" in need.preparation.each:
        arguments = {"depth": need.depth, **arguments}
    if "model" in arguments:
        return arguments
    if "depth" not in arguments:
        raise LearngeneError(f"prepare {need.preparation.name}: say how deep with depth, or each: [depth]")
    own = arguments.get("arch_args") or {}
    return {**arguments, "model": family.name, "arch_args": {**family.args, **own}}


def steps_for(budget: float, job: Any, depth: int) -> int:
    """Optimizer steps of ``finetune`` that cost about ``budget`` FLOPs.

    Args:
        job: it trains an architecture, as deep as it says, else of ``depth`` layers.
    """
    args = job.arch_args or {}
    opened = open_ancestor(job.ancestor, job, job.model, args) if job.ancestor else None
    classes = {} if opened is None else {"num_classes": opened.num_classes}
    with torch.device("meta"):
        student = Architecture(job.model, args).build(depth if job.depth is None else job.depth, **classes)
    config = data_config_of(student)
    image = 3 * forward_flops(student, config["input_size"])
    if opened is not None:
        image += Ancestor(opened, config).flops()
    return max(1, round(budget / (image * job.batch_size * job.accumulate)))


def _read(need: Need, directory: Path) -> Prepared:
    preparation = need.preparation
    record = (read_record(directory) or {})["results"]
    distilled = preparation.kind == "distill"
    path = directory / ("learngene.safetensors" if distilled else "model")
    stored = record["stored_parameters" if distilled else "parameters"]
    return Prepared(path, _cost(record), stored, preparation.name, preparation.each)


def outsides(experiment: Experiment, trials: Sequence[Trial]) -> dict[str, Prepared]:
    """The weights that were there before and that trials begin from, by key (see `Experiment.sources`)."""
    found: dict[str, Prepared] = {}
    for trial in trials:
        spec = experiment.spec(trial.start)
        for option, name in spec.sources(trial.depth, trial.seed).items():
            key = experiment.sources(trial)[option]
            if name not in experiment.prepare and key not in found:
                found[key] = outside(name, option, str(spec.options[option]))
    return found


def outside(source: str, option: str, template: str) -> Prepared:
    """Weights that were there before. An ancestor is given; a learngene or model to begin from costs what was
    written down of it.

    Args:
        source: file or directory.
        option: of the start that named it: ``gene``, ``ancestor`` or ``source``.
        template: what it was called before depth and seed were filled in.
    """
    path = local_path(source)
    each = tuple(word for word in EACH if f"{{{word}" in template)
    if path.is_file():
        gene = Learngene.load(path)
        return Prepared(path, _cost(gene.metrics.get("cost") or {}), gene.parameters, template, each)
    record: dict[str, Any] = {}
    if option != "ancestor":
        with contextlib.suppress(LearngeneError):  # of another program
            record = (read_record(path.parent) or {}).get("results", {})
    return Prepared(path, _cost(record), count_parameters(open_model(source)), template, each)


def _cost(record: Mapping[str, Any]) -> dict[str, Any]:
    """What was spent, calibrating and running the ancestor for a cache included: as if for this one alone."""
    cost = {key: record.get(key, 0) for key in ("images", "steps", "seconds", "flops")}
    for beside in ("cache", "calibration"):
        cost |= {key: cost[key] + record.get(f"{beside}_{key}", 0) for key in ("seconds", "flops")}
    return cost | {"joules": record.get("joules")}
