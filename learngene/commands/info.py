"""learngene info"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learngene.arguments import typed
from learngene.errors import LearngeneError
from learngene.families.anatomy import count_parameters, get_blocks, is_supported
from learngene.families.records import architecture_name, data_config_of, label_names_of
from learngene.families.timm import open_model


@typed
def info(
    source: str | Path, *, depth: int | str | Sequence[int | str] | None = None, latency: bool = False, device: str = "cpu"
) -> dict[str, Any]:
    """What a learngene or a timm directory holds, and what descendants of each depth cost.

    Args:
        source: learngene file, or timm directory.
        depth: depths for the table, e.g. 6 9 or 4-12; by default 6 to 15 (those that have a layer for each stage).
        latency: also measure milliseconds per image, all depths in turn.
        device: where to measure.

    Returns:
        Plain values: the header, and a row per depth with ``plan``, ``parameters``, ``bytes``, ``gflops`` and, measured,
        ``latency_ms`` (median) and ``latency_quartiles_ms``; how that was measured under ``latency``; for a learngene
        also how many times smaller it is than ten models of depth 6 to 15.

    Raises:
        LearngeneError: the file is missing or damaged, or a depth does not fit, or is given for a timm directory.
    """
    from learngene.devices import check_device

    path = Path(str(source).removeprefix("local-dir:"))
    if depth is not None and path.is_dir():
        raise LearngeneError(f"--depth is for the depths of a learngene file, and '{source}' is none; drop it, or name a learngene")
    check_device(device)
    return _directory_info(path, latency, device) if path.is_dir() else _gene_info(path, depth, latency, device)


def _gene_info(path: Path, depth: int | str | Sequence[int | str] | None, latency: bool, device: str) -> dict[str, Any]:
    from learngene.costs import Sizes, usual_depths
    from learngene.gene import Learngene
    from learngene.latency import conditions
    from learngene.plan import parse_depths

    gene = Learngene.load(path)
    sizes = Sizes(gene.architecture)
    depths = usual_depths(gene.plan) if depth is None else parse_depths(depth)
    rows = sizes.costs([gene.plan_for(layers) for layers in depths], latency=latency, device=device)
    ten = sizes.ten_models()
    return {
        "kind": "learngene",
        "file": str(path),
        "bytes": path.stat().st_size,
        "parameters": gene.parameters,
        "architecture": gene.architecture.name,
        "arguments": dict(gene.architecture.args),
        "plan": str(gene.plan),
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


def _directory_info(path: Path, latency: bool, device: str) -> dict[str, Any]:
    from learngene.costs import forward_flops
    from learngene.latency import conditions, latencies

    model = open_model(path)
    layers = len(get_blocks(model)) if is_supported(architecture_name(model)) else None
    row: dict[str, Any] = {"depth": layers, "parameters": count_parameters(model), "bytes": 4 * count_parameters(model)}
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
