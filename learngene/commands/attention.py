"""learngene attention"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learngene.errors import LearngeneError
from learngene.recipe import DataOptions, divide


def attention(
    models: Sequence[str],
    data: str,
    *,
    out: str | Path,
    layers: Sequence[int] = (1, 4, 11),
    images: int = 64,
    split: str = "val",
    seed: int = 0,
    **options: Any,
) -> Path:
    """Draw attention maps of models side by side, averaged over heads and a batch (Trockman and Kolter 2023, Figure 2).

    Args:
        models: timm directories or models; or names of starts such as random or mimetic, shown untrained in the
            architecture of the first trained model.
        data: images (see distill).
        out: PNG to write.
        layers: which, counted from 1; those a model lacks are its last.
        images: size of the batch.
        split: where the images come from: train, val or test.
        seed: of untrained models.
        **options: any field of `DataOptions`.

    Returns:
        The file.

    Raises:
        LearngeneError: a model cannot be opened or shows no attention, no trained model to take the architecture from,
            or a layer below 1.
    """
    (loading,) = divide(options, DataOptions)
    import torch

    from learngene import vit
    from learngene.bench.attention import attention_maps, draw
    from learngene.data import open_split
    from learngene.data.module import Views, eval_transform
    from learngene.jobs import evaluation_config, image_mode
    from learngene.starts import begin, parse

    if not models or min(layers, default=0) < 1 or images < 1:
        raise LearngeneError("attention needs at least one model, layers counted from 1, and at least one image")
    starts = [name for name in models if not Path(name).exists() and _is_start(name, parse)]
    trained = {name: vit.open_model(name) for name in models if name not in starts}
    if starts and not trained:
        raise LearngeneError(f"'{starts[0]}' has no architecture of its own; name a trained model beside it")
    opened = []
    for name in models:
        if name in trained:
            opened.append(("/".join(Path(name).parts[-2:]), trained[name]))
            continue
        first = next(iter(trained.values()))
        torch.manual_seed(seed)
        twin = vit.architecture_of(first).build(len(vit.get_blocks(first)))
        vit.set_pretrained_cfg(twin, vit.pretrained_cfg(first))
        opened.append((f"{name}, untrained", begin(twin, name)))
    columns = []
    for name, model in opened:
        source = open_split(data, loading, split, image_mode(model))
        if source.stream is not None:
            raise LearngeneError(f"{data} is streamed; give a folder of images")
        views = Views(source, eval_transform(evaluation_config(vit.data_config(model), loading)))
        good = [view["image"] for view in (views[i] for i in range(min(images, len(source)))) if "image" in view]
        columns.append((name, attention_maps(model, torch.stack(good), layers)))
    return draw(columns, Path(out))


def _is_start(name: str, parse: Any) -> bool:
    try:
        parse(name)
    except LearngeneError:
        return False
    return True
