"""learngene info"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def info(source: str | Path, *, depth: Sequence[int] | None = None, latency: bool = False, device: str = "cpu") -> dict[str, Any]:
    """What a learngene or a timm directory holds, and what descendants of each depth cost.

    Args:
        source: learngene file, or timm directory.
        depth: depths for the table; by default 6 to 15 (those that have a layer for each stage).
        latency: also measure milliseconds per image.
        device: where to measure.

    Returns:
        Plain values: the header, and a row per depth with ``plan``, ``parameters``, ``bytes``, ``gflops`` and
        ``latency_ms``; for a learngene also how many times smaller it is than ten models of depth 6 to 15.

    Raises:
        LearngeneError: the file is missing or damaged, or a depth does not fit.
    """
    from learngene.vit import check_device

    check_device(device)
    path = Path(str(source).removeprefix("local-dir:"))
    return _directory_info(path, latency, device) if path.is_dir() else _gene_info(path, depth, latency, device)


def _gene_info(path: Path, depth: Sequence[int] | None, latency: bool, device: str) -> dict[str, Any]:
    from learngene.gene import Learngene
    from learngene.sizes import TEN_DEPTHS, Sizes

    gene = Learngene.load(path)
    sizes = Sizes(gene.architecture)
    depths = list(depth) if depth else [d for d in TEN_DEPTHS if d >= gene.plan.stages]
    rows = []
    for layers in depths:
        row = {"depth": layers, "plan": str(gene.plan_for(layers)), "parameters": sizes.parameters(layers)}
        row |= {"bytes": sizes.bytes(layers), "gflops": sizes.gflops(layers)}
        rows.append(row | ({"latency_ms": sizes.latency_ms(layers, device)} if latency else {}))
    ten = sum(sizes.parameters(d) for d in TEN_DEPTHS)
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
    }


def _directory_info(path: Path, latency: bool, device: str) -> dict[str, Any]:
    from learngene import vit
    from learngene.jobs import forward_flops
    from learngene.sizes import Sizes

    model = vit.open_model(path)
    layers = len(vit.get_blocks(model)) if vit.is_supported(vit.architecture_name(model)) else None
    row: dict[str, Any] = {"depth": layers, "parameters": vit.parameters(model), "bytes": 4 * vit.parameters(model)}
    config = vit.data_config(model)
    row["gflops"] = forward_flops(model, config["input_size"]) / 1e9
    if latency and layers:
        row["latency_ms"] = Sizes(vit.architecture_of(model)).latency_ms(layers, device)
    return {
        "kind": "timm directory",
        "file": str(path),
        "bytes": sum(f.stat().st_size for f in path.iterdir() if f.is_file()),
        "architecture": vit.architecture_name(model),
        "classes": model.num_classes,
        "class_names": vit.label_names(model),
        "data_config": config,
        "depths": [row],
    }
