"""What a benchmark's YAML says: starts, what must be trained for them first, and the grid of trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from learngene.errors import LearngeneError
from learngene.plan import StagePlan
from learngene.recipe import DataOptions, DistillOptions, Recipe, divide
from learngene.starts import SOURCES, parse

EACH = ("depth", "seed")
PLAN = "3,3,4,3,3"  # of distill, unless given


@dataclass(frozen=True)
class StartSpec:
    """One way to begin, under a name of its own.

    Attributes:
        name: in tables and folders.
        start: names in `learngene.starts.STARTS`, joined by ``+``.
        options: of the start; ``gene``, ``ancestor`` and ``source`` may name a `Preparation`.
        arch_args: architecture arguments that differ from the family's, e.g. ``{"pre_norm": true}``.
        recipe: fields of `Recipe` that differ from the benchmark's, e.g. ``{"lr": 0.004}``.
        epochs, tflops: budgets of this start, instead of the benchmark's.
        depths: only these, if given.
    """

    name: str
    start: str
    options: Mapping[str, Any] = field(default_factory=dict)
    arch_args: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    epochs: tuple[int, ...] = ()
    tflops: tuple[float, ...] = ()
    depths: tuple[int, ...] = ()

    @classmethod
    def parse(cls, entry: str | Mapping[str, Any]) -> StartSpec:
        """From a start's name, or a mapping; what is not a field of its own is an option of the start.

        Raises:
            LearngeneError: an unknown start, option or recipe field.
        """
        if not isinstance(entry, (str, Mapping)):
            raise LearngeneError(f"the start {entry!r:.60} must be a name, or a mapping with start: NAME")
        given: dict[str, Any] = {"start": entry} if isinstance(entry, str) else dict(entry)
        start = given.pop("start", given.get("name"))
        if not isinstance(start, str):
            raise LearngeneError(f"the start {dict(entry)} does not say which; add start: NAME")  # type: ignore[arg-type]
        own = {f.name for f in fields(cls)} - {"start", "options"}
        kept: dict[str, Any] = {k: given.pop(k) for k in list(given) if k in own}
        parse(start, list(given))
        if not isinstance(kept.get("arch_args", {}), Mapping):
            raise LearngeneError(f"start {start}: arch_args {kept['arch_args']!r:.60} must be a mapping")
        lists: dict[str, Any] = {k: _several(kept.pop(k)) for k in ("epochs", "tflops", "depths") if k in kept}
        spec = cls(str(kept.pop("name", start)), start, given, **kept, **lists)
        check_name(spec.name)
        if any(isinstance(count, float) for count in (*spec.epochs, *spec.depths)):
            raise LearngeneError(f"start {spec.name}: epochs and depths are whole numbers")
        check_changes(f"start {spec.name}", spec.recipe)
        return spec

    def sources(self, depth: int, seed: int) -> dict[str, str]:
        """What the start takes trained weights from, by option: files, directories, or names of preparations.

        ``{depth}`` and ``{seed}`` in a path are filled in, so that each depth can have a model of its own:
        ``runs/pretrained-d{depth:02d}/model``.

        Raises:
            LearngeneError: other words in braces.
        """
        named = {key: str(self.options[key]) for key in SOURCES if key in self.options}
        try:
            return {key: value.format(depth=depth, seed=seed) for key, value in named.items()}
        except (KeyError, IndexError, ValueError) as error:
            raise LearngeneError(
                f"start {self.name}: {named} may hold {{depth}} and {{seed}} in braces, nothing else ({error})"
            ) from None


def check_name(name: str) -> None:
    """Raise unless a name can be part of a folder's."""
    if (
        not isinstance(name, str)
        or not name
        or len(name) > 100
        or not all(c.isalnum() or c in "-_+." for c in name)
        or name.startswith(".")
    ):
        raise LearngeneError(f"the name '{name}' is part of a folder's; use at most 100 letters, digits, '-', '_', '+' and '.'")


def check_changes(where: str, changes: Mapping[str, Any]) -> None:
    """Raise unless these are fields of `Recipe` that a trial may change."""
    if not isinstance(changes, Mapping):
        raise LearngeneError(f"{where}: its recipe {changes!r:.60} must be a mapping such as {{lr: 0.004}}")
    fixed = sorted({"seed", "devices", "steps", "epochs"} & set(changes))
    if fixed:
        raise LearngeneError(
            f"{where}: the recipe cannot set {fixed[0]}; seeds, epochs and tflops belong to the benchmark or the start"
        )
    divide(changes, Recipe)


def _several(value: Any) -> tuple[Any, ...]:
    """A list of numbers, or one."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) or v <= 0 for v in values):
        raise LearngeneError(f"{value!r}: epochs, tflops and depths of a start are numbers above 0")
    return values


@dataclass(frozen=True)
class Preparation:
    """Training before the trials: a learngene to distil, or models to train, whose cost counts.

    Attributes:
        name: what starts call it.
        kind: ``distill`` or ``finetune``.
        arguments: of that command, without ``out``.
        each: train one for each ``depth`` and/or each ``seed`` of the trials; else one for all.
        cost_of: another preparation: train for as many FLOPs as that one took.
    """

    name: str
    kind: str
    arguments: Mapping[str, Any]
    each: tuple[str, ...] = ()
    cost_of: str | None = None

    @classmethod
    def parse(cls, name: str, entry: Mapping[str, Any]) -> Preparation:
        """From ``{distill: {...}}`` or ``{finetune: {...}, each: [depth], cost_of: NAME}``."""
        check_name(name)
        if not isinstance(entry, Mapping):
            raise LearngeneError(f"prepare {name}: say how with distill or finetune, e.g. {{finetune: {{epochs: 9}}}}")
        given = dict(entry)
        kinds = [k for k in ("distill", "finetune") if k in given]
        if len(kinds) != 1:
            raise LearngeneError(f"prepare {name}: say how with either distill or finetune and its arguments")
        arguments = given.pop(kinds[0]) or {}
        if not isinstance(arguments, Mapping) or not isinstance(arguments.get("start_args") or {}, Mapping):
            raise LearngeneError(f"prepare {name}: {kinds[0]} takes a mapping of arguments, and so do its start_args")
        each, cost_of = given.pop("each", ()), given.pop("cost_of", None)
        if not isinstance(each, (list, tuple)) or not all(isinstance(word, str) for word in each):
            raise LearngeneError(f"prepare {name}: each {each!r}: give a list of depth and seed")
        each = tuple(each)
        if given:
            raise LearngeneError(f"prepare {name}: unknown key '{next(iter(given))}'; it takes distill, finetune, each, cost_of")
        if set(each) - set(EACH):
            raise LearngeneError(f"prepare {name}: each {list(each)}: use depth and seed")
        if cost_of is not None and kinds[0] == "distill":
            raise LearngeneError(f"prepare {name}: cost_of sets the steps of finetune; give distill its epochs")
        _check_arguments(name, kinds[0], arguments)
        if not isinstance(cost_of, (str, type(None))):
            raise LearngeneError(f"prepare {name}: cost_of {cost_of!r:.60} must be the name of a preparation")
        return cls(name, kinds[0], dict(arguments), each, cost_of)

    def builds_on(self) -> list[str]:
        """The trained weights it begins from or learns from; names of other preparations among them."""
        inner = self.arguments.get("start_args") or {}
        named = [self.arguments.get("ancestor"), self.arguments.get("model"), *(inner.get(key) for key in SOURCES)]
        return [str(name) for name in named if name is not None]

    def before(self) -> list[str]:
        """All that must be there first."""
        return [*self.builds_on(), *([self.cost_of] if self.cost_of else [])]


class Need(NamedTuple):
    """A preparation, with the depth and the seed of a trial that it serves."""

    preparation: Preparation
    depth: int
    seed: int

    @property
    def key(self) -> str:
        """The folder of the one that serves them."""
        made = self.preparation
        depth = f"-d{self.depth:02d}" if "depth" in made.each else ""
        return made.name + depth + (f"-s{self.seed}" if "seed" in made.each else "")


# what the commands take beside recipe, data options and loss terms, and a preparation may set
_ANCESTOR = {"ancestor", "ancestor_mean", "ancestor_std", "ancestor_input_size", "ancestor_classes"}
_OWN = {
    "distill": {"data", "arch", "arch_args", "plan", "from_ancestor", "start", "start_args", "share_norms", "cache"} | _ANCESTOR,
    "finetune": {"model", "data", "depth", "plan", "arch_args", "license", "start", "start_args"} | _ANCESTOR,
}


def _check_arguments(name: str, kind: str, arguments: Mapping[str, Any]) -> None:
    """Raise unless these are arguments of the command that leave the output to the benchmark."""
    if kind == "distill" and "ancestor" not in arguments:
        raise LearngeneError(f"prepare {name}: distill lacks the ancestor: name a timm directory or model")
    rest = {k: v for k, v in arguments.items() if k not in _OWN[kind]}
    divide(rest, Recipe, DataOptions, DistillOptions)


@dataclass(frozen=True)
class Trial:
    """What is trained and tested once: names of a data set, a recipe and a start, a depth, a budget and a seed.

    Either ``epochs`` or ``tflops`` is the budget of fine-tuning.
    """

    start: str
    depth: int
    seed: int
    epochs: int | None = None
    tflops: float | None = None
    data: str = ""
    recipe: str = ""

    @property
    def key(self) -> str:
        """The trial's folder."""
        budget = f"e{self.epochs}" if self.tflops is None else f"t{self.tflops:g}"
        return "-".join(filter(None, (self.data, self.recipe, self.start, f"d{self.depth:02d}", budget, f"s{self.seed}")))


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
    ) -> Experiment:
        """From the arguments of ``learngene benchmark``.

        The plain name ``learngene`` stands for ``gene`` or what ``distill`` makes, ``random`` has ``scratch_epochs`` too.

        Raises:
            LearngeneError: what does not go together.
        """
        plain: dict[str, Mapping[str, Any]] = {
            "learngene": {"start": "learngene", "gene": str(gene or "distill")},
            "random": {"start": "random", "epochs": list(dict.fromkeys([epochs, *scratch_epochs])), "tflops": list(tflops)},
        }
        if "learngene" in starts and (gene is None) == (distill is None):
            raise LearngeneError("the start learngene: name its file with gene, or say how to make one with distill (not both)")
        entries = {**({"distill": {"distill": distill}} if distill is not None else {}), **(prepare or {})}
        return cls(
            tuple(StartSpec.parse(plain.get(entry, entry) if isinstance(entry, str) else entry) for entry in starts),
            tuple(depths),
            tuple(seeds),
            (epochs,),
            tuple(tflops),
            {name: Preparation.parse(name, entry) for name, entry in entries.items()},
            {name: changes or {} for name, changes in (datasets or {"": {}}).items()},
            {name: changes or {} for name, changes in (recipes or {"": {}}).items()},
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
                    f"prepare {preparation.name}: there is no preparation '{preparation.cost_of}' to take the cost of"
                )
            self._check_circle(preparation, ())
        for spec in self.starts:
            odd = sorted(set(spec.depths) - set(self.depths))
            if odd:
                raise LearngeneError(
                    f"start {spec.name}: depth {odd[0]} is not among the benchmark's {list(self.depths)}; add it there"
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
            raise LearngeneError(
                f"prepare {preparation.name}: it needs itself ({' -> '.join((*above, preparation.name))}); break the circle"
            )
        for name in preparation.before():
            if name in self.prepare:
                self._check_circle(self.prepare[name], (*above, preparation.name))

    def _check_kinds(self, spec: StartSpec) -> None:
        """Raise if a start takes a model for a learngene, or a learngene for a model."""
        for option, name in spec.sources(self.depths[0], self.seeds[0]).items():
            made = self.prepare.get(name)
            wanted = "distill" if option == "gene" else "finetune"
            if made is not None and made.kind != wanted:
                raise LearngeneError(f"start {spec.name}: {option} needs a preparation by {wanted}, '{name}' is by {made.kind}")

    def _check_stages(self, spec: StartSpec) -> None:
        """Raise for a depth with fewer layers than the learngene that is to be distilled for it has stages."""
        made = self.prepare.get(spec.sources(self.depths[0], self.seeds[0]).get("gene", ""))
        if made is not None and "plan" not in spec.options:
            stages = StagePlan.parse(made.arguments.get("plan", PLAN)).stages
            for depth in spec.depths or self.depths:
                StagePlan.balanced(depth, stages)

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
        epochs, tflops = (spec.epochs, spec.tflops) if spec.epochs or spec.tflops else (self.epochs, self.tflops)
        return [(count, None) for count in epochs] + [(None, float(count)) for count in tflops]

    def sources(self, trial: Trial) -> dict[str, str]:
        """By option, what a trial's start takes weights from: the key of a preparation, or the option and the file it names."""
        named = self.spec(trial.start).sources(trial.depth, trial.seed)
        return {
            option: next(iter(self.keys([name], trial.depth, trial.seed)), f"{option} {name}") for option, name in named.items()
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
