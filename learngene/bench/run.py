"""Run a benchmark's trials: what they share, whose turn it is, and the end."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from learngene.arguments import make
from learngene.bench.experiment import Experiment
from learngene.bench.prepare import Prepared
from learngene.bench.report import rerun, write_report
from learngene.bench.rows import FILE, gather_rows
from learngene.bench.specs import Trial
from learngene.bench.summary import summarize
from learngene.bench.trials import Images, build, run_trial, trial_recipe
from learngene.data.loaders import noise
from learngene.errors import LearngeneError
from learngene.families.anatomy import anatomy
from learngene.families.architecture import Architecture, architecture_of
from learngene.families.records import data_config_of, image_mode
from learngene.families.timm import open_model
from learngene.files import locked, write_text
from learngene.gene import Learngene
from learngene.objectives import Supervised
from learngene.recipe import DataOptions, Recipe
from learngene.runs import check_same_images, is_finished, read_record
from learngene.training import RunDirectory, TrainingModule
from learngene.training.precision import Step

log = logging.getLogger("learngene")


def parse_shard(shard: str | None) -> slice:
    """Which of all trials are to be run: every n-th from the i-th on for ``i/n``."""
    first, slash, count = (shard or "1/1").partition("/")
    if not (slash and first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise LearngeneError(f"shard '{shard}': write i/n with i from 1 to n, e.g. 2/8")
    return slice(int(first) - 1, None, int(count))


def find_family(
    arch: str | None, arch_args: Mapping[str, Any] | None, gene: str | Path | None, experiment: Experiment
) -> Architecture:
    """The architecture that is given, that of the learngene, or what the first distillation will make."""
    if arch is not None:
        anatomy(arch)
        return Architecture(arch, arch_args or {})
    if arch_args:
        raise LearngeneError("arch_args are those of an architecture; name it with arch")
    if gene is not None:
        return Learngene.load(gene).architecture
    first = next((p.arguments for p in experiment.prepare.values() if p.kind == "distill"), None)
    if first is None:
        raise LearngeneError("name the family's architecture with arch, or a learngene to take it from")
    own = (
        Architecture(first["arch"], {})
        if first.get("arch")
        else architecture_of(open_model(first["ancestor"]))
    )
    anatomy(own.name)
    return Architecture(own.name, {**own.args, **(first.get("arch_args") or {})})


def open_data_sets(
    data: str, loading: DataOptions, experiment: Experiment, family: Architecture, *, test: bool
) -> dict[str, Images]:
    """Images of each data set, by its name, grey or RGB as the family takes them."""
    with torch.device("meta"):
        mode = image_mode(family.build(2))
    found = {}
    for name, changes in experiment.datasets.items():
        given = {**dataclasses.asdict(loading), **changes}
        place = given.pop("data", data)
        options = make(DataOptions, given)
        found[name] = Images.open(place, options, mode, test=test)
    return found


def step_of(family: Architecture, depths: Sequence[int], recipe: Recipe) -> Step:
    """A training step of the family's middle depth, for `choose_precision`: all trials have one precision."""
    model = family.build(sorted(depths)[len(depths) // 2])
    module = TrainingModule(model, Supervised(), recipe, num_classes=getattr(model, "num_classes", 0))
    return module.step_on_noise(partial(noise, input_size=data_config_of(model)["input_size"]))


@dataclass(frozen=True)
class Bench:
    """What all trials of a benchmark share.

    Attributes:
        family: the architecture.
        images: by name of the data set.
        recipe: before what a trial's recipe and start change in it.
    """

    experiment: Experiment
    family: Architecture
    images: Mapping[str, Images]
    recipe: Recipe

    def recipe_of(self, trial: Trial) -> Recipe:
        """The benchmark's recipe with the changes of the trial's."""
        return dataclasses.replace(self.recipe, **self.experiment.recipes[trial.recipe])

    def check(self, trials: Sequence[Trial], sources: Mapping[str, Prepared], out: Path) -> None:
        """Build every start whose sources are there once at each depth, to refuse now what does not fit.

        Raises:
            LearngeneError: a start that does not fit; a trial that is finished already, on other images than
                those of today.
        """
        for trial in filter(lambda trial: is_finished(out / trial.key), self.experiment.trials()):
            folder = out / trial.key
            check_same_images(
                folder, (read_record(folder) or {}).get("images"), self.images[trial.data].fingerprints
            )
        seen = set()
        for trial in trials:
            trial_recipe(trial, self.experiment.spec(trial.start), self.recipe_of(trial))
            named = self.experiment.sources(trial)
            case = (trial.start, trial.depth, *named.values())
            if case not in seen and all(key in sources for key in named.values()):
                seen.add(case)
                self._check_build(trial, {option: sources[key] for option, key in named.items()})

    def _check_build(self, trial: Trial, sources: Mapping[str, Prepared]) -> None:
        spec = self.experiment.spec(trial.start)
        try:
            build(spec, self.family, trial.depth, self.images[trial.data], self.recipe, sources)
        except LearngeneError as error:
            raise LearngeneError(f"start {spec.name}, depth {trial.depth}: {error}") from None

    def run(self, trials: Sequence[Trial], sources: Mapping[str, Prepared], out: Path) -> None:
        """Run the trials in order; one that another process is running is left to it."""
        for number, trial in enumerate(trials, start=1):
            folder = out / trial.key
            if is_finished(folder):
                continue
            log.info("trial %d/%d: %s", number, len(trials), trial.key)
            with locked(out / f"{trial.key}.lock", wait=False) as mine:
                if mine:
                    self._run(trial, sources, folder)
                else:
                    log.info("another process is running %s; left to it", trial.key)

    def _run(self, trial: Trial, sources: Mapping[str, Prepared], folder: Path) -> None:
        spec = self.experiment.spec(trial.start)
        own = {option: sources[key] for option, key in self.experiment.sources(trial).items()}
        run_trial(trial, spec, self.family, self.images[trial.data], self.recipe_of(trial), own, folder)


def conclude(run: RunDirectory, trials: int) -> dict[str, Any]:
    """Gather the rows into results.jsonl and write the report; finished is what has all of its trials."""
    with locked(run.path / "report.lock"):  # other shards may be at their end too
        rows = gather_rows(run.path)
        write_text(run.path / FILE, "".join(json.dumps(row) + "\n" for row in rows))
        report = write_report(rows, run.path, command=rerun(run.path))
        results = {
            "rows": rows,
            "table": [summary.plain() for summary in summarize(rows)],
            "report": str(report),
        }
        if len(rows) >= trials:
            return run.finish(**results)
    log.info("%d of %d trials are finished; the report is of these", len(rows), trials)
    return results
