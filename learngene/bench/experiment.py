"""What a benchmark's YAML says: starts, what must be trained for them first, and the grid of trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learngene.bench.preparation import Need, Preparation
from learngene.bench.specs import StartSpec, Trial, check_changes, check_name
from learngene.errors import LearngeneError
from learngene.job import Job
from learngene.plan import StagePlan


@dataclass(frozen=True)
class Experiment:
    """All of a benchmark but the images and the files.

    Attributes:
        starts: what is compared.
        prepare: by name.
        depths, seeds: of the trials.
        epochs, tflops: budgets of all starts.
        datasets: data options by name of the data set; one with no name is the usual case.
        recipes: changed fields of `Recipe` by name; one with no name is the usual case.
    """

    starts: tuple[StartSpec, ...]
    depths: tuple[int, ...]
    seeds: tuple[int, ...]
    epochs: tuple[int, ...]
    tflops: tuple[float, ...] = ()
    prepare: Mapping[str, Preparation] = field(default_factory=dict)
    datasets: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})

    @classmethod
    def parse(
        cls,
        starts: Sequence[str | Mapping[str, Any]],
        *,
        depths: Sequence[int],
        seeds: Sequence[int],
        epochs: int,
        scratch_epochs: Sequence[int] = (),
        tflops: Sequence[float] = (),
        gene: str | Path | None = None,
        distill: Mapping[str, Any] | None = None,
        prepare: Mapping[str, Any] | None = None,
        datasets: Mapping[str, Any] | None = None,
        recipes: Mapping[str, Any] | None = None,
        jobs: Mapping[str, type[Job]],
    ) -> Experiment:
        """From the arguments of ``learngene benchmark``, and the jobs that may prepare something.

        The plain name ``learngene`` stands for ``gene`` or what ``distill`` makes; ``random`` has
        ``scratch_epochs`` too.

        Raises:
            LearngeneError: what does not go together.
        """
        if "learngene" in starts and (gene is None) == (distill is None):
            raise LearngeneError(
                "the start learngene: name its file with gene, or say how to make one with distill (not both)"
            )
        random = {"epochs": list(dict.fromkeys([epochs, *scratch_epochs])), "tflops": list(tflops)}
        plain: dict[Any, Mapping[str, Any]] = {
            "learngene": {"start": "learngene", "gene": str(gene or "distill")},
            "random": {"start": "random", **random},
        }
        specs = [plain.get(entry, entry) if isinstance(entry, str) else entry for entry in starts]
        made_first = {} if distill is None else {"distill": {"distill": distill}}
        made_first |= prepare or {}
        return cls(
            tuple(map(StartSpec.parse, specs)),
            tuple(depths),
            tuple(seeds),
            (epochs,),
            tuple(tflops),
            {name: Preparation.parse(name, entry, jobs) for name, entry in made_first.items()},
            _changes(datasets),
            _changes(recipes),
        )

    def __post_init__(self) -> None:
        if not (self.starts and self.depths and self.seeds and (self.epochs or self.tflops)):
            raise LearngeneError("a benchmark needs at least one start, one depth, one seed and one budget")
        names = [spec.name for spec in self.starts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise LearngeneError(f"two starts are called '{twice[0]}'; give each a name of its own")
        if min(self.depths) < 1:
            raise LearngeneError(f"depth {min(self.depths)}: a model has at least 1 layer")
        for preparation in self.prepare.values():
            if preparation.cost_of is not None and preparation.cost_of not in self.prepare:
                raise LearngeneError(
                    f"prepare {preparation.name}: there is no preparation '{preparation.cost_of}' "
                    "to take the cost of"
                )
            self._check_circle(preparation, ())
        for spec in self.starts:
            odd = sorted(set(spec.depths) - set(self.depths))
            if odd:
                raise LearngeneError(
                    f"start {spec.name}: depth {odd[0]} is not among the benchmark's {list(self.depths)}; "
                    "add it there"
                )
            self._check_kinds(spec)
            self._check_stages(spec)
        for name, changes in self.recipes.items():
            check_changes(f"recipe {name}", changes)
        for name in (*self.datasets, *self.recipes):
            if name:
                check_name(name)

    def _check_circle(self, preparation: Preparation, above: tuple[str, ...]) -> None:
        """Raise if a preparation needs itself."""
        if preparation.name in above:
            circle = " -> ".join((*above, preparation.name))
            raise LearngeneError(f"prepare {preparation.name}: it needs itself ({circle}); break the circle")
        for name in preparation.before():
            if name in self.prepare:
                self._check_circle(self.prepare[name], (*above, preparation.name))

    def _check_kinds(self, spec: StartSpec) -> None:
        """Raise if a start takes a model for a learngene, or a learngene for a model."""
        for option, name in spec.sources(self.depths[0], self.seeds[0]).items():
            made = self.prepare.get(name)
            wanted = "distill" if option == "gene" else "finetune"
            if made is not None and made.kind != wanted:
                raise LearngeneError(
                    f"start {spec.name}: {option} needs a preparation by {wanted}, '{name}' is by {made.kind}"
                )

    def _check_stages(self, spec: StartSpec) -> None:
        """Raise for a depth of fewer layers than the learngene that is to be distilled for it has stages."""
        made = self.prepare.get(spec.sources(self.depths[0], self.seeds[0]).get("gene", ""))
        if made is not None and "plan" not in spec.options:
            for depth in spec.depths or self.depths:
                StagePlan.balanced(depth, made.stages)

    def spec(self, name: str) -> StartSpec:
        """The start of a trial."""
        return next(spec for spec in self.starts if spec.name == name)

    def trials(self) -> list[Trial]:
        """The grid, each trial once; seeds outermost, so that all grow alike."""
        grid = [
            Trial(spec.name, depth, seed, epochs, tflops, data, recipe)
            for seed in self.seeds
            for data in self.datasets
            for recipe in self.recipes
            for depth in self.depths
            for spec in self.starts
            if not spec.depths or depth in spec.depths
            for epochs, tflops in self._budgets(spec)
        ]
        return list(dict.fromkeys(grid))

    def _budgets(self, spec: StartSpec) -> list[tuple[int | None, float | None]]:
        epochs, tflops = (
            (spec.epochs, spec.tflops) if spec.epochs or spec.tflops else (self.epochs, self.tflops)
        )
        return [(count, None) for count in epochs] + [(None, float(count)) for count in tflops]

    def sources(self, trial: Trial) -> dict[str, str]:
        """By option, what a trial's start takes weights from: a preparation's key, or option and file."""
        named = self.spec(trial.start).sources(trial.depth, trial.seed)
        return {
            option: next(iter(self.keys([name], trial.depth, trial.seed)), f"{option} {name}")
            for option, name in named.items()
        }

    def keys(self, names: Sequence[str], depth: int, seed: int) -> list[str]:
        """Keys of those names that are preparations."""
        return [Need(self.prepare[name], depth, seed).key for name in names if name in self.prepare]

    def needed(self, trials: Sequence[Trial]) -> list[Need]:
        """Which preparations these trials need; what others build on comes first."""
        found: dict[str, Need] = {}

        def add(name: str, depth: int, seed: int) -> None:
            if name not in self.prepare or (need := Need(self.prepare[name], depth, seed)).key in found:
                return
            for below in need.preparation.before():
                add(below, depth, seed)
            found[need.key] = need

        for trial in trials:
            for name in self.spec(trial.start).sources(trial.depth, trial.seed).values():
                add(name, trial.depth, trial.seed)
        return list(found.values())


def _changes(named: Mapping[str, Any] | None) -> dict[str, Any]:
    """What data sets or recipes change, by name; where none is given, one nameless that changes nothing."""
    return {name: changes or {} for name, changes in (named or {"": {}}).items()}
