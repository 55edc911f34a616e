"""What a learngene or a timm directory holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from learngene.costs import Sizes, forward_flops, usual_depths
from learngene.families.anatomy import count_parameters, get_blocks, is_supported
from learngene.families.records import architecture_name, data_config_of, label_names_of
from learngene.families.timm import open_model
from learngene.gene import Learngene
from learngene.latency import conditions, latencies
from learngene.plan import parse_depths


def of_gene(
    path: Path, depth: int | str | Sequence[int | str] | None, *, latency: bool, device: str
) -> dict[str, Any]:
    """A learngene's header, and what each depth costs."""
    gene = Learngene.load(path)
    sizes = Sizes(gene.architecture)
    depths = usual_depths(gene.plan) if depth is None else parse_depths(depth)
    ways = [gene.expansion_for(layers) for layers in depths]
    rows = sizes.costs([way.plan for way in ways], latency=latency, device=device)
    for row, way in zip(rows, ways, strict=True):
        row |= {"step": way.words, "kl": way.kl}
    ten = sizes.ten_models()
    return {
        "kind": "learngene",
        "file": str(path),
        "bytes": path.stat().st_size,
        "parameters": gene.parameters,
        "architecture": gene.architecture.name,
        "arguments": dict(gene.architecture.args),
        "plan": str(gene.plan),
        "elastic": None if gene.elastic is None else asdict(gene.elastic),
        "scalable": gene.scalable,
        "classes": gene.num_classes,
        "class_names": list(gene.class_names) if gene.class_names else None,
        "ancestor": dict(gene.ancestor),
        "data_config": dict(gene.data_config),
        "metrics": dict(gene.metrics),
        "versions": dict(gene.versions),
        "ten_models_parameters": ten,
        "times_smaller_than_ten_models": ten / gene.parameters,
        "depths": rows,
        **({"latency": conditions(device)} if latency else {}),
    }


def of_directory(path: Path, *, latency: bool, device: str) -> dict[str, Any]:
    """A timm directory's record, and what the model costs."""
    model = open_model(path)
    layers = len(get_blocks(model)) if is_supported(architecture_name(model)) else None
    row: dict[str, Any] = {
        "depth": layers,
        "parameters": count_parameters(model),
        "bytes": 4 * count_parameters(model),
    }
    config = data_config_of(model)
    row["gflops"] = forward_flops(model, config["input_size"]) / 1e9
    if latency:
        row |= latencies({0: model}, device)[0].plain()
    return {
        "kind": "timm directory",
        "file": str(path),
        "bytes": sum(f.stat().st_size for f in path.iterdir() if f.is_file()),
        "architecture": architecture_name(model),
        "classes": model.num_classes,
        "class_names": label_names_of(model),
        "data_config": config,
        "depths": [row],
        **({"latency": conditions(device)} if latency else {}),
    }
