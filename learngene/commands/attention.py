"""learngene attention"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learngene.arguments import typed
from learngene.errors import LearngeneError
from learngene.files import check_new_file
from learngene.recipe import DataOptions, divide, takes


@takes(DataOptions)
@typed
def attention(
    models: Sequence[str],
    data: str,
    *,
    out: str | Path,
    layers: Sequence[int] = (1, 4, 11),
    images: int = 64,
    split: str = "val",
    seed: int = 0,
    overwrite: bool = False,
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
        overwrite: replace a file that is already there.
        **options: any field of `DataOptions`.

    Returns:
        The file.

    Raises:
        LearngeneError: a model cannot be opened or shows no attention, no trained model to take the architecture from,
            a layer below 1, or OUT is no PNG or exists.
    """
    (loading,) = divide(options, DataOptions)
    if not models or min(layers, default=0) < 1 or images < 1:
        raise LearngeneError("attention needs at least one model, layers counted from 1, and at least one image")
    if Path(out).suffix.lower() != ".png":
        raise LearngeneError(f"'{out}': attention maps are written as PNG; name a file that ends in .png")
    check_new_file(out, overwrite=overwrite)

    from learngene.studies.attention import attention_maps, batch, draw, open_named

    opened = open_named(models, seed=seed)
    maps = [(name, attention_maps(model, batch(model, data, loading, split, images), layers)) for name, model in opened]
    return draw(maps, Path(out))
