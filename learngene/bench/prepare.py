"""Train what starts need before the trials: learngenes and pre-trained models. Each once, and its cost is kept."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from learngene import vit
from learngene.bench.experiment import Experiment, Preparation, builds_on
from learngene.errors import LearngeneError
from learngene.files import locked
from learngene.gene import Learngene
from learngene.jobs import forward_flops, teacher_flops
from learngene.objectives import Ancestor
from learngene.starts import SOURCES
from learngene.vit import Architecture

log = logging.getLogger("learngene")
Command = Callable[..., Any]
GENERAL = ("data_root", "download", "in_memory", "workers")  # data options that hold for other images than the benchmark's too


@dataclass(frozen=True)
class Prepared:
    """What a preparation made.

    Attributes:
        path: the learngene file, or the timm directory.
        cost: images, steps, seconds, flops, joules.
        stored: parameters to be kept for it.
        below: what had to be prepared for it, by key.
    """

    path: Path
    cost: Mapping[str, Any]
    stored: int
    below: Mapping[str, Prepared] = field(default_factory=dict)


def prepare(
    experiment: Experiment,
    needed: list[tuple[Preparation, int, int]],
    commands: Mapping[str, Command],
    defaults: Mapping[str, Any],
    family: Architecture | None,
    out: Path,
) -> dict[str, Prepared]:
    """Train all that are needed, by key; finished ones are read back. Several processes share the work (see `files.locked`).

    Args:
        commands: ``distill`` and ``finetune``.
        defaults: arguments they get unless they say otherwise (the benchmark's data).
        family: the architecture of the trials; preparations without one of their own get it.
        out: a folder of run directories.
    """
    made: dict[str, Prepared] = {}
    while len(made) < len(needed):
        ready = [item for item in needed if item[0].key(*item[1:]) not in made]
        ready = [item for item in ready if all(key in made for key in _before(item[0], experiment, *item[1:]))]
        before = len(made)
        for preparation, depth, seed in ready:
            key = preparation.key(depth, seed)
            with locked(out / f"{key}.lock", wait=False) as mine:
                if not mine:  # another process is at it: see to the others first
                    continue
                log.info("preparing %s (%d of %d done)", key, len(made), len(needed))
                arguments = _arguments(preparation, experiment, made, defaults, family, depth, seed)
                commands[preparation.kind](**arguments, out=out / key, resume=True)
            below = {name: made[name] for name in _below(preparation, experiment, depth, seed)}
            made[key] = replace(_read(preparation, out / key), below=below)
        if len(made) == before:
            preparation, depth, seed = ready[0]
            log.info("waiting for another process to prepare %s", preparation.key(depth, seed))
            with locked(out / f"{preparation.key(depth, seed)}.lock"):
                pass
    return made


def _arguments(
    preparation: Preparation,
    experiment: Experiment,
    made: Mapping[str, Prepared],
    defaults: Mapping[str, Any],
    family: Architecture | None,
    depth: int,
    seed: int,
) -> dict[str, Any]:
    """All arguments of the command but ``out``."""
    general = GENERAL if "data" in preparation.arguments else tuple(defaults)
    arguments = {k: defaults[k] for k in general if k not in preparation.arguments}
    arguments |= _resolve(preparation.arguments, experiment, made, depth, seed)
    if preparation.kind == "finetune":
        arguments = _for_depth(arguments, family, preparation, depth)
    elif family is not None and "arch" not in arguments:
        own = arguments.get("arch_args") or {}
        arguments |= {"arch": family.name, "arch_args": {**family.args, **own}}
    if "seed" in preparation.each:
        arguments["seed"] = seed
    if preparation.cost_of is not None:
        budget = made[experiment.prepare[preparation.cost_of].key(depth, seed)].cost["flops"]
        arguments["steps"] = steps_for(budget, arguments, depth)
    return arguments


def _before(preparation: Preparation, experiment: Experiment, depth: int, seed: int) -> list[str]:
    """Keys of all that must be there first."""
    cost = [experiment.prepare[preparation.cost_of].key(depth, seed)] if preparation.cost_of else []
    return [*_below(preparation, experiment, depth, seed), *cost]


def _below(preparation: Preparation, experiment: Experiment, depth: int, seed: int) -> list[str]:
    """Keys of what a preparation builds on."""
    return [experiment.prepare[n].key(depth, seed) for n in builds_on(preparation.arguments) if n in experiment.prepare]


def _resolve(
    arguments: Mapping[str, Any], experiment: Experiment, made: Mapping[str, Prepared], depth: int, seed: int
) -> dict[str, Any]:
    """Arguments with the names of preparations replaced by what these made."""

    def path(value: Any) -> Any:
        named = experiment.prepare.get(str(value))
        return str(made[named.key(depth, seed)].path) if named else value

    resolved = {k: path(v) if k in (*SOURCES, "model") else v for k, v in arguments.items()}
    if resolved.get("start_args"):
        resolved["start_args"] = {k: path(v) for k, v in resolved["start_args"].items()}
    return resolved


def _for_depth(arguments: dict[str, Any], family: Architecture | None, preparation: Preparation, depth: int) -> dict[str, Any]:
    """A model of the family, as deep as the trial (or as the preparation says)."""
    if "model" in arguments:
        return arguments
    if family is None:
        raise LearngeneError(f"prepare {preparation.name}: name the model to train, or the benchmark's arch")
    if "depth" not in preparation.each and "depth" not in arguments:
        raise LearngeneError(f"prepare {preparation.name}: say how deep with depth, or each: [depth]")
    own = arguments.get("arch_args") or {}
    return {"depth": depth, **arguments, "model": family.name, "arch_args": {**family.args, **own}}


def steps_for(budget: float, arguments: Mapping[str, Any], depth: int) -> int:
    """Optimizer steps of ``finetune`` with these arguments that cost about ``budget`` FLOPs."""
    with torch.device("meta"):
        student = Architecture(arguments["model"], arguments.get("arch_args") or {}).build(arguments.get("depth", depth))
    config = vit.data_config(student)
    image = 3 * forward_flops(student, config["input_size"])
    if arguments.get("ancestor"):
        image += teacher_flops(Ancestor(vit.open_model(arguments["ancestor"]), config), config)
    return max(1, round(budget / (image * arguments.get("batch_size", 128))))


def _read(preparation: Preparation, directory: Path) -> Prepared:
    record = json.loads((directory / "run.json").read_text())["results"]
    if preparation.kind == "distill":
        return Prepared(directory / "learngene.safetensors", _cost(record), record["stored_parameters"])
    return Prepared(directory / "model", _cost(record), record["parameters"])


def outside(source: str) -> Prepared:
    """A learngene or model that was there before. Its cost is what the file, or the run beside it, says; else nothing."""
    path = Path(source.removeprefix("local-dir:"))
    if path.is_file():
        gene = Learngene.load(path)
        return Prepared(path, _cost(gene.metrics.get("cost") or {}), gene.parameters)
    try:
        record = json.loads((path.parent / "run.json").read_text())["results"]
    except (OSError, ValueError, KeyError):
        record = {}
    return Prepared(path, _cost(record), vit.parameters(vit.open_model(source)))


def _cost(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: record.get(key, 0) for key in ("images", "steps", "seconds", "flops")} | {"joules": record.get("joules")}
