"""learngene evaluate"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learngene.arguments import typed
from learngene.errors import LearngeneError
from learngene.families.anatomy import count_parameters
from learngene.families.records import data_config_of, label_names_of
from learngene.families.timm import open_model
from learngene.plan import StagePlan
from learngene.recipe import DataOptions, Recipe, divide, takes

if TYPE_CHECKING:
    from torch import nn


@takes(DataOptions)
@typed
def evaluate(
    model: str | Path | nn.Module,
    data: str,
    *,
    depth: int | str | Sequence[int | str] | None = None,
    plan: str | Sequence[int] | StagePlan | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    split: str = "auto",
    batch_size: int = 256,
    device: str = "auto",
    **options: Any,
) -> dict[str, Any]:
    """Top-1, top-5, loss and throughput of a timm model, or of each depth of a learngene, on labelled images.

    Args:
        model: a timm directory, or anything distill takes as an ancestor; or a learngene file, whose depths are then spawned and
            evaluated untuned, on the same images.
        data: images (see distill).
        depth: numbers of layers of a learngene's descendants, e.g. 6 9 12 or 5-12; by default its own plan is evaluated.
        plan: layers per stage, instead of a depth.
        out: directory to keep the rows of a learngene's depths in: evaluation.json, evaluation.md and accuracy-by-size.png.
        overwrite: replace an earlier evaluation in OUT; anything else there is left alone.
        split: auto (test if there is one, else val), train, val or test.
        batch_size: images per batch.
        device: cpu, cuda, ... or auto.
        **options: any field of `DataOptions`.

    Returns:
        ``top1`` and ``top5`` (shares), ``loss``, ``images``, ``images_per_second`` (reading included), ``split`` and
        where it ran. For a learngene ``rows`` instead, one per depth: also ``plan``, ``parameters``, ``bytes``, ``gflops``,
        ``latency_ms`` (median) and ``latency_quartiles_ms``; and under ``latency`` how that was measured.

    Raises:
        LearngeneError: the model or data cannot be opened, the head is not for these classes, or a depth or plan does not fit.
    """
    (loading,) = divide(options, DataOptions)
    if loading.unlabeled:
        raise LearngeneError("evaluating needs labels; drop --unlabeled")
    if isinstance(model, (str, Path)) and Path(model).is_file():
        return _evaluate_gene(Path(model), data, depth, plan, out, overwrite, split, batch_size, device, loading)
    from learngene.data import ImageData, open_split
    from learngene.data.classes import matched
    from learngene.devices import check_device
    from learngene.families.ancestors import check_dtype
    from learngene.families.modes import left_as_it_was
    from learngene.families.records import image_mode, model_name
    from learngene.jobs import check_device
    from learngene.provenance import hardware, versions
    from learngene.recipe import evaluation_config
    from learngene.training import evaluate_model

    given = {"depth": depth, "plan": plan, "out": out}
    if extra := next((name for name, value in given.items() if value is not None), None):
        raise LearngeneError(
            f"--{extra} is for the depths of a learngene file, and '{model_name(model)}' is none; drop it, or name a learngene"
        )
    check_device(device)
    trained = open_model(model)
    check_dtype(trained)
    source = open_split(data, loading, split, image_mode(trained), label_names_of(trained))
    way_out = "finetune the model on this data first, or use data with its classes"
    (source,) = matched(trained, model_name(model), way_out, source)
    config = evaluation_config(data_config_of(trained), loading)
    images = ImageData(None, source, config, Recipe(batch_size=batch_size), loading)
    with left_as_it_was(model):
        result = evaluate_model(trained, images, device=device)
    return {
        "model": model_name(model),
        "split": source.name,
        **result,
        "parameters": count_parameters(trained),
        "hardware": hardware(),
        "versions": versions(),
    }


def _evaluate_gene(
    path: Path,
    data: str,
    depth: Any,
    plan: Any,
    out: str | Path | None,
    overwrite: bool,
    split: str,
    batch_size: int,
    device: str,
    loading: DataOptions,
) -> dict[str, Any]:
    from learngene.devices import check_device
    from learngene.files import check_free
    from learngene.gene import Learngene
    from learngene.studies.depths import FILES, choose_plans, evaluate_depths, write_depths

    check_device(device)
    gene = Learngene.load(path)
    plans = choose_plans(gene, depth, plan)
    if out is not None:
        check_free(out, overwrite=overwrite, own=FILES, reads=(path, data, loading.data_root))
    result = evaluate_depths(gene, str(path), plans, data, split, batch_size, device, loading)
    if out is not None:
        write_depths(result, Path(out), overwrite=overwrite)
        result["out"] = str(out)
    return result
