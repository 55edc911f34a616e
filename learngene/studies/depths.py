"""A learngene's depths against each other, untuned: accuracy on the same images, and what each costs."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from learngene.bench import plots
from learngene.costs import Sizes
from learngene.data import ImageData, open_split
from learngene.data.classes import matched
from learngene.errors import LearngeneError
from learngene.expansion import Expansion
from learngene.families.records import data_config_of, image_mode
from learngene.files import atomic_directory, write_text
from learngene.gene import Learngene
from learngene.latency import condition_words, conditions
from learngene.plan import parse_depths
from learngene.provenance import hardware, versions
from learngene.recipe import DataOptions, Recipe
from learngene.tables import Table, numbers, page
from learngene.training import evaluate_model

log = logging.getLogger("learngene")


PICTURE = "accuracy-by-size.png"
FILES = ("evaluation.json", "evaluation.md", PICTURE)


def choose_ways(
    gene: Learngene, depth: int | str | Sequence[int | str] | None, plan: Any, step: Any = None
) -> list[Expansion]:
    """The ways to the depths that are named, shallowest first; the learngene's own plan where none is.

    Raises:
        LearngeneError: a depth or plan that does not fit, or both.
    """
    if depth is not None and plan is not None:
        raise LearngeneError("say what to evaluate in one way: --depth 6 9 12, or --plan 2,1,2,1,1")
    if depth is not None:
        return [gene.expansion_for(layers, step=step) for layers in parse_depths(depth)]
    if plan is None:
        log.info(
            "no depth was given: the learngene's own plan %s is evaluated; others with e.g. --depth 6 9 12",
            gene.plan,
        )
    return [gene.expansion_for(plan=gene.plan if plan is None else plan, step=step)]


def evaluate_depths(
    gene: Learngene,
    name: str,
    ways: Sequence[Expansion],
    data: str,
    split: str,
    loading: DataOptions,
    *,
    batch_size: int,
    device: str,
) -> dict[str, Any]:
    """Spawn each and evaluate it as it is, all on the same images; see `learngene.evaluate`."""
    # 1. the images, in the learngene's own order of classes, and whether the stored head is for them
    shallow = gene.spawn(plan=ways[0].plan, step=ways[0].exponents)
    source = open_split(data, loading, split, image_mode(shallow), classes=gene.class_names)
    way_out = "finetune a descendant on this data first, or use data with the learngene's classes"
    (source,) = matched(shallow, name, way_out, source)
    if gene.class_names is None:
        log.info(
            "the learngene has no class names; its outputs are taken to be in the order of the data's classes"
        )
    images = ImageData(
        None, source, loading.evaluated(data_config_of(shallow)), Recipe(batch_size=batch_size), loading
    )
    # 2. what each depth costs, and how well it does
    rows = Sizes(gene.architecture).costs([way.plan for way in ways], latency=True, device=device)
    for row, way in zip(rows, ways, strict=True):
        model = shallow if way is ways[0] else gene.spawn(plan=way.plan, step=way.exponents)
        row |= {"step": way.words, **evaluate_model(model, images, device=device)}
        log.info("%d layers: top-1 %.2f %%, loss %.4f", way.plan.depth, 100 * row["top1"], row["loss"])
    return {
        "kind": "learngene",
        "model": name,
        "split": source.name,
        "rows": rows,
        "latency": conditions(device),
        "hardware": hardware(),
        "versions": versions(),
    }


def write_depths(result: Mapping[str, Any], out: Path, *, overwrite: bool) -> None:
    """Write ``evaluation.json``, ``evaluation.md`` and ``accuracy-by-size.png`` into a directory.

    Raises:
        LearngeneError: the directory is not empty, and not an earlier evaluation that ``overwrite`` lets go.
    """
    with atomic_directory(out, overwrite=overwrite, own=FILES) as scratch:
        write_text(scratch / "evaluation.json", json.dumps(result, indent=2, default=str) + "\n")
        draw_depths(result, scratch / PICTURE)
        write_text(scratch / "evaluation.md", describe_depths(result))


def describe_depths(result: Mapping[str, Any]) -> str:
    """The table and what it was measured by, as a page of Markdown."""
    measures = ("parameters", "GFLOPs", "ms (quartiles)", "top-1 %", "top-5 %", "loss", "images")
    columns = numbers("depth", "plan", "step", *measures)
    return page(
        "studies/evaluation.md.jinja",
        model=result["model"],
        split=result["split"],
        depths=Table(columns, [_cells(row) for row in result["rows"]]),
        conditions=condition_words(result["latency"]),
        versions=", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        picture=PICTURE,
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    low, high = row["latency_quartiles_ms"]
    return [
        str(row["depth"]),
        str(row["plan"]),
        str(row["step"]),
        f"{row['parameters']:,}",
        f"{row['gflops']:.4g}",
        f"{row['latency_ms']:.3g} ({low:.3g} to {high:.3g})",
        f"{100 * row['top1']:.2f}",
        f"{100 * row['top5']:.2f}",
        f"{row['loss']:.4f}",
        f"{row['images']:,}",
    ]


def draw_depths(result: Mapping[str, Any], path: Path) -> Path:
    """Top-1 against parameters, and beside it against milliseconds with quartiles; each point is a depth."""
    rows = sorted(result["rows"], key=lambda row: row["depth"])
    top1 = [100 * row["top1"] for row in rows]
    times = [row["latency_ms"] for row in rows]
    reach = [[abs(row["latency_ms"] - row["latency_quartiles_ms"][side]) for row in rows] for side in (0, 1)]
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    sizes, speeds = figure.subplots(1, 2, sharey=True)
    sizes.plot([row["parameters"] / 1e6 for row in rows], top1, marker="o", color=plots.COLORS[0])
    speeds.errorbar(times, top1, xerr=reach, marker="o", capsize=3, color=plots.COLORS[0])
    sizes.set(xlabel="parameters (millions)", ylabel="top-1 accuracy (%)")
    speeds.set(xlabel=f"ms an image, median and quartiles ({result['latency']['device']})")
    for axes, places in ((sizes, [row["parameters"] / 1e6 for row in rows]), (speeds, times)):
        axes.grid(alpha=0.25)
        for row, x, y in zip(rows, places, top1, strict=True):
            axes.annotate(
                str(row["depth"]), (x, y), xytext=(4, 5), textcoords="offset points", fontsize="small"
            )
    figure.suptitle(
        f"{Path(result['model']).name} on {result['split']}, untuned; numbers are layers", fontsize="medium"
    )
    return plots.save(figure, path)
