"""learngene benchmark"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learngene.errors import LearngeneError
from learngene.plan import StagePlan
from learngene.recipe import DataOptions, Recipe, divide

if TYPE_CHECKING:
    from learngene.bench import Experiment, Images, StartSpec, Trial
    from learngene.bench.prepare import Prepared
    from learngene.training import RunDirectory
    from learngene.vit import Architecture

log = logging.getLogger("learngene")


def benchmark(
    data: str,
    *,
    out: str | Path,
    gene: str | Path | None = None,
    distill: Mapping[str, Any] | None = None,
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    depths: Sequence[int] = (6, 9, 12),
    starts: Sequence[str | Mapping[str, Any]] = ("learngene", "random"),
    prepare: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    scratch_epochs: Sequence[int] = (),
    tflops: Sequence[float] = (),
    datasets: Mapping[str, Any] | None = None,
    recipes: Mapping[str, Any] | None = None,
    test: bool = True,
    shard: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Compare ways to begin a family of ViTs over depths, budgets and seeds: OUT/results.jsonl, report.md, report.html, plots.

    Args:
        data: labelled images (see distill); accuracy is on the test split, used once per trial, if there is one.
        out: directory to write.
        gene: learngene file, for the start learngene.
        distill: instead, arguments of distill to make one first, e.g. {ancestor: DIR, plan: "2,2,2", epochs: 5};
            its data is the benchmark's unless given.
        arch: timm architecture of the family; by default that of the learngene.
        arch_args: its arguments as JSON.
        depths: numbers of layers.
        starts: names in learngene.starts, or mappings such as {name: selected, start: weight-selection, ancestor: DIR,
            layers: even, epochs: [8], recipe: {lr: 0.004}, arch_args: {pre_norm: true}, depths: [6]}.
        prepare: training before the trials, by name, e.g. {tall: {finetune: {depth: 15, epochs: 9}}, gene: {distill: {...}},
            direct: {finetune: {ancestor: DIR, kl: 1, ce: 0}, each: [depth], cost_of: gene}}. A start's gene, ancestor or
            source may be such a name. Its cost is counted.
        seeds: each trial is run with each.
        scratch_epochs: longer budgets for the start random, to see where training from scratch catches up.
        tflops: further budgets of all starts, in 1e12 floating point operations of training.
        datasets: several data sets to train and test on, by name: {pets: {data: DIR}, cars: {data: DIR2, val_split: valid}}.
        recipes: several recipes by name, as changes, e.g. {weak: {}, strong: {mixup: 0.8, epochs: 4}}.
        test: off, compare on validation images and leave the test images for later.
        shard: i/n, from 1: run only the i-th of n parts of the trials, so that n machines with one OUT share the work.
        resume: go on with an interrupted benchmark; finished trials are not run again. A shard always does.
        overwrite: delete an earlier benchmark in OUT first.
        **options: any field of `Recipe` and `DataOptions`, for all trials; epochs is the budget.

    Returns:
        ``rows`` (a trial each), ``table`` (mean and spread per start, depth and budget) and ``report``.

    Raises:
        LearngeneError: bad input, before anything is trained.
    """
    arguments = {k: v for k, v in locals().items() if k not in ("options", "resume", "overwrite", "out", "shard")}
    recipe, loading = divide(options, Recipe, DataOptions)
    part = _parse_shard(shard)
    if overwrite and shard is not None:
        raise LearngeneError(
            "--overwrite would delete what other shards have done; delete the directory first, then start the shards"
        )
    if recipe.steps is not None or recipe.devices not in ("auto", 1, "1"):
        raise LearngeneError(
            "a benchmark's budgets are epochs and tflops, and each trial runs on one device; drop steps and devices"
        )

    from learngene.jobs import train_config
    from learngene.training import RunDirectory
    from learngene.training.fit import check_devices

    specs = tuple(_spec(entry, gene, distill, recipe.epochs, scratch_epochs, tflops) for entry in starts)
    experiment = _experiment(specs, depths, seeds, recipe, tflops, prepare, distill, datasets, recipes)
    _check_stages(experiment, distill, gene)
    check_devices(recipe)
    run = RunDirectory(out, train_config(arguments, recipe, loading), resume=resume or part != (0, 1), overwrite=overwrite)
    if run.finished:
        log.info("%s is finished; nothing to do", out)
        return run.results
    family = _family(arch, arch_args, gene, experiment)
    images = _all_images(data, loading, experiment, _image_mode(family), test=test)
    trials = experiment.trials()
    mine = trials[part[0] :: part[1]]
    _check_starts(experiment, mine, family, images, recipe)
    run.begin()
    out = Path(out)
    try:
        sources = _sources(experiment, mine, family, arch is not None or gene is not None, data, recipe, loading, out)
    except LearngeneError:
        run.cancel()
        raise
    _run_all(experiment, mine, family, images, recipe, sources, out)
    return _conclude(trials, run, out)


def _parse_shard(shard: str | None) -> tuple[int, int]:
    """(index from 0, count)."""
    first, slash, count = (shard or "1/1").partition("/")
    if not (slash and first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise LearngeneError(f"shard '{shard}': write i/n with i from 1 to n, e.g. 2/8")
    return int(first) - 1, int(count)


def _spec(entry: Any, gene: Any, distill: Any, epochs: int, scratch_epochs: Sequence[int], tflops: Sequence[float]) -> StartSpec:
    """A start's spec; the plain names ``learngene`` and ``random`` get the benchmark's learngene and scratch_epochs."""
    from learngene.bench import StartSpec

    if entry == "learngene":
        if (gene is None) == (distill is None):
            raise LearngeneError("the start learngene: name its file with gene, or say how to make one with distill (not both)")
        entry = {"start": "learngene", "gene": str(gene or "distill")}
    if entry == "random":
        entry = {"start": "random", "epochs": list(dict.fromkeys([epochs, *scratch_epochs])), "tflops": list(tflops)}
    return StartSpec.parse(entry)


def _experiment(
    specs: Any,
    depths: Sequence[int],
    seeds: Sequence[int],
    recipe: Recipe,
    tflops: Sequence[float],
    prepare: Mapping[str, Any] | None,
    distill: Mapping[str, Any] | None,
    datasets: Mapping[str, Any] | None,
    recipes: Mapping[str, Any] | None,
) -> Experiment:
    from learngene.bench import Experiment, Preparation

    entries = {**({"distill": {"distill": distill}} if distill is not None else {}), **(prepare or {})}
    return Experiment(
        specs,
        tuple(depths),
        tuple(seeds),
        (recipe.epochs,),
        tuple(tflops),
        {name: Preparation.parse(name, entry) for name, entry in entries.items()},
        {name: changes or {} for name, changes in (datasets or {"": {}}).items()},
        {name: changes or {} for name, changes in (recipes or {"": {}}).items()},
    )


def _check_stages(experiment: Experiment, distill: Mapping[str, Any] | None, gene: str | Path | None) -> None:
    """Raise for a depth with fewer layers than the learngene of a start has stages."""
    from learngene.gene import Learngene

    for spec in experiment.starts:
        named = spec.sources(experiment.depths[0], experiment.seeds[0]).get("gene")
        if named is None or "plan" in spec.options:
            continue
        preparation = experiment.prepare.get(str(named))
        if preparation is not None:
            plan = StagePlan.parse(preparation.arguments.get("plan", "3,3,4,3,3"))
        else:
            plan = Learngene.load(named).plan
        for depth in spec.depths or experiment.depths:
            StagePlan.balanced(depth, plan.stages)


def _family(arch: str | None, arch_args: Mapping[str, Any] | None, gene: str | Path | None, experiment: Experiment) -> Architecture:
    """The architecture that is given, that of the learngene, or what the first distillation will make."""
    from learngene.gene import Learngene
    from learngene.vit import Architecture, anatomy, architecture_of, open_model

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
    own = Architecture(first["arch"], {}) if first.get("arch") else architecture_of(open_model(first["ancestor"]))
    anatomy(own.name)
    return Architecture(own.name, {**own.args, **(first.get("arch_args") or {})})


def _image_mode(family: Architecture) -> Any:
    """Grey or RGB, as the family takes it."""
    import torch

    from learngene.jobs import image_mode

    with torch.device("meta"):
        return image_mode(family.build(2))


def _all_images(data: str, loading: DataOptions, experiment: Experiment, mode: Any, *, test: bool) -> dict[str, Images]:
    """Images of each data set, by name; trials without test images are compared on validation images."""
    from learngene.bench import Images
    from learngene.data import has_test_split, open_split, open_training

    found = {}
    for name, changes in experiment.datasets.items():
        own = dict(changes)
        place = own.pop("data", data)
        (options,) = divide({**dataclasses.asdict(loading), **own}, DataOptions)
        train, val = open_training(place, options, mode)
        tested = open_split(place, options, "test", mode, train.classes) if test and has_test_split(place, options) else None
        if options.in_memory:
            train, val, tested = train.in_memory(), val.in_memory(), tested and tested.in_memory()
        found[name] = Images(train, val, tested, options)
    return found


def _check_starts(
    experiment: Experiment, trials: Sequence[Trial], family: Architecture, images: Mapping[str, Images], recipe: Recipe
) -> None:
    """Build every start that needs no preparation once at each depth, so that what does not fit is refused now."""
    from learngene.bench import build
    from learngene.bench.prepare import outside
    from learngene.bench.trials import trial_recipe

    opened: dict[str, Prepared] = {}
    seen = set()
    for trial in trials:
        spec = experiment.spec(trial.start)
        trial_recipe(trial, spec, dataclasses.replace(recipe, **experiment.recipes[trial.recipe]))
        named = spec.sources(trial.depth, trial.seed)
        case = (trial.start, trial.depth, *named.values())
        if case in seen or any(name in experiment.prepare for name in named.values()):
            continue
        seen.add(case)
        for option, name in named.items():
            if name not in opened:
                opened[name] = outside(name, option, str(spec.options[option]))
        try:
            build(spec, family, trial.depth, images[trial.data], recipe, {key: opened[name] for key, name in named.items()})
        except LearngeneError as error:
            raise LearngeneError(f"start {spec.name}, depth {trial.depth}: {error}") from None


def _sources(
    experiment: Experiment,
    trials: Sequence[Trial],
    family: Architecture,
    given: bool,
    data: str,
    recipe: Recipe,
    loading: DataOptions,
    out: Path,
) -> dict[str, Prepared]:
    """What starts take weights from: preparations by key, files by their path and the option that names them."""
    from learngene.bench.prepare import outside, prepare
    from learngene.commands.distill import distill
    from learngene.commands.finetune import finetune

    defaults = {"data": data, **{k: v for k, v in dataclasses.asdict(loading).items() if k != "train_fraction"}}
    defaults |= {"devices": 1, "accelerator": recipe.accelerator, "precision": recipe.precision}
    commands: dict[str, Callable[..., Any]] = {"distill": distill, "finetune": finetune}
    sources = prepare(experiment, experiment.needed(trials), commands, defaults, family, given, out / "prepared")
    for trial in trials:
        spec = experiment.spec(trial.start)
        for option, name in spec.sources(trial.depth, trial.seed).items():
            if name not in experiment.prepare and f"{option} {name}" not in sources:
                sources[f"{option} {name}"] = outside(name, option, str(spec.options[option]))
    return sources


def _run_all(
    experiment: Experiment,
    trials: Sequence[Trial],
    family: Architecture,
    images: Mapping[str, Images],
    recipe: Recipe,
    sources: Mapping[str, Prepared],
    out: Path,
) -> None:
    """Run the trials in order; one that another process is running is left to it."""
    from learngene.bench import run_trial
    from learngene.files import locked

    for number, trial in enumerate(trials, start=1):
        spec = experiment.spec(trial.start)
        changed = dataclasses.replace(recipe, **experiment.recipes[trial.recipe])
        own = {
            key: sources[experiment.prepare[name].key(trial.depth, trial.seed) if name in experiment.prepare else f"{key} {name}"]
            for key, name in spec.sources(trial.depth, trial.seed).items()
        }
        if _is_finished(out / "trials" / trial.key):
            continue
        log.info("trial %d/%d: %s", number, len(trials), trial.key)
        with locked(out / "trials" / f"{trial.key}.lock", wait=False) as mine:
            if mine:
                run_trial(trial, spec, family, images[trial.data], changed, own, out / "trials" / trial.key)
            else:
                log.info("another process is running %s; left to it", trial.key)
        _write_rows(out)


def _is_finished(trial: Path) -> bool:
    try:
        return json.loads((trial / "run.json").read_text())["status"] == "finished"
    except OSError:
        return False


def _write_rows(out: Path) -> list[dict[str, Any]]:
    """Gather the rows of all finished trials, whoever ran them, into results.jsonl."""
    from learngene.files import write_text

    records = [json.loads(path.read_text()) for path in sorted((out / "trials").glob("*/run.json"))]
    rows = [record["results"] for record in records if record["status"] == "finished"]
    write_text(out / "results.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def _conclude(trials: Sequence[Trial], run: RunDirectory, out: Path) -> dict[str, Any]:
    """Write the report; the benchmark is finished when all of its trials are."""
    from learngene.bench import summarize, write_report
    from learngene.files import locked

    with locked(out / "report.lock"):  # other shards may be at their end too
        rows = _write_rows(out)
        report = write_report(rows, out, command=f"learngene benchmark --config {out / 'config.yaml'} --out NEW")
        kept = [{k: v for k, v in dataclasses.asdict(s).items() if k != "prepared"} for s in summarize(rows)]
        table = [row | {"mean": s.mean, "spread": s.spread} for row, s in zip(kept, summarize(rows), strict=True)]
        results = {"rows": rows, "table": table, "report": str(report)}
        if len(rows) < len(trials):
            log.info("%d of %d trials are finished; the report is of these", len(rows), len(trials))
            return results
        return run.finish(**results)
