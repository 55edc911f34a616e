"""learngene evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from learngene.recipe import DataOptions, Recipe, divide, takes


@takes(DataOptions)
def evaluate(
    model: str | Path,
    data: str,
    *,
    split: str = "auto",
    batch_size: int = 256,
    device: str = "auto",
    **options: Any,
) -> dict[str, Any]:
    """Top-1, top-5, loss and throughput of a timm directory or timm model on labelled images.

    Args:
        model: a timm directory, or anything distill takes as an ancestor.
        data: images (see distill).
        split: auto (test if there is one, else val), train, val or test.
        batch_size: images per batch.
        device: cpu, cuda, ... or auto.
        **options: any field of `DataOptions`.

    Returns:
        ``top1`` and ``top5`` (shares), ``loss``, ``images``, ``images_per_second`` (reading included), ``split`` and
        where it ran.

    Raises:
        LearngeneError: the model or data cannot be opened, or the head is not for these classes.
    """
    (loading,) = divide(options, DataOptions)
    from learngene import vit
    from learngene.data import ImageData, open_split
    from learngene.errors import LearngeneError
    from learngene.jobs import check_device, evaluation_config, image_mode, matched, model_name
    from learngene.provenance import hardware, versions
    from learngene.training import evaluate_model

    if loading.unlabeled:
        raise LearngeneError("evaluating needs labels; drop --unlabeled")
    check_device(device)
    trained = vit.open_model(model)
    source = open_split(data, loading, split, image_mode(trained), vit.label_names(trained))
    way_out = "finetune the model on this data first, or use data with its classes"
    (source,) = matched(trained, model_name(model), way_out, source)
    config = evaluation_config(vit.data_config(trained), loading)
    images = ImageData(None, source, config, Recipe(batch_size=batch_size), loading)
    result = evaluate_model(trained, images, device=device)
    return {
        "model": model_name(model),
        "split": source.name,
        **result,
        "parameters": vit.parameters(trained),
        "hardware": hardware(),
        "versions": versions(),
    }
