"""Attention maps, averaged over heads and a batch, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from timm.utils import AttentionExtract
from torch import Tensor, nn

from learngene.bench.plots import save
from learngene.data import open_split
from learngene.data.views import Views, eval_transform
from learngene.errors import LearngeneError
from learngene.families.anatomy import get_blocks
from learngene.families.architecture import architecture_of
from learngene.families.records import (
    architecture_name,
    data_config_of,
    image_mode,
    pretrained_cfg_of,
    set_pretrained_cfg,
)
from learngene.families.timm import open_model
from learngene.recipe import DataOptions
from learngene.starts import begin, parse


def models_by_name(names: Sequence[str], *, seed: int) -> list[tuple[str, nn.Module]]:
    """Models by name: trained ones, and for names of starts untrained ones in the architecture of the first
    trained one.

    Raises:
        LearngeneError: a model cannot be opened, or there is none to take the architecture from.
    """
    trained = {name: open_model(name) for name in names if Path(name).exists() or not _is_start(name)}
    starts = [name for name in names if name not in trained]
    if starts and not trained:
        raise LearngeneError(f"'{starts[0]}' has no architecture of its own; name a trained model beside it")
    first = next(iter(trained.values()))
    return [
        ("/".join(Path(name).parts[-2:]), trained[name])
        if name in trained
        else (f"{name}, untrained", _begun_like(first, name, seed))
        for name in names
    ]


def _is_start(name: str) -> bool:
    try:
        parse(name)
    except LearngeneError:
        return False
    return True


@torch.random.fork_rng(devices=[])
def _begun_like(model: nn.Module, start: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    twin = architecture_of(model).build(len(get_blocks(model)))
    set_pretrained_cfg(twin, pretrained_cfg_of(model))
    return begin(twin, start)


def batch(model: nn.Module, data: str, loading: DataOptions, split: str, images: int) -> Tensor:
    """The first images of a split (B, C, H, W), as the model takes them; broken ones are left out."""
    source = open_split(data, loading, split, image_mode(model))
    if source.stream is not None:
        raise LearngeneError(f"{data} is streamed; give a folder of images")
    views = Views(source, eval_transform(loading.evaluated(data_config_of(model))))
    return torch.stack(
        [view["image"] for view in (views[i] for i in range(min(images, len(source)))) if "image" in view]
    )


def attention_maps(model: nn.Module, images: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
    """Attention (tokens, tokens) by layer, counted from 1, averaged over heads and images.

    timm's extractor does the work. Layers beyond the model's depth are replaced by its last.

    Raises:
        LearngeneError: the model cannot be traced, or shows no attention.
    """
    fused = [m for m in model.modules() if getattr(m, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False  # type: ignore[assignment]
    try:
        extract = AttentionExtract(model.eval(), method="fx")
        with torch.inference_mode():
            found = list(extract(images).values())
    except Exception as error:  # torch.fx raises anything
        raise LearngeneError(
            f"the attention of {architecture_name(model)} cannot be read ({error}); use a plain ViT"
        ) from None
    finally:
        for module in fused:
            module.fused_attn = True  # type: ignore[assignment]
    if not found or found[0].ndim != 4:
        raise LearngeneError(f"{architecture_name(model)} shows no attention; use a plain ViT")
    return {layer: found[min(layer, len(found)) - 1].mean((0, 1)) for layer in layers}


def draw_maps(columns: Sequence[tuple[str, dict[int, Tensor]]], path: Path) -> Path:
    """A column per model, a row per layer; each map has colours of its own, from its least value on."""
    layers = list(columns[0][1])
    figure = Figure(figsize=(2.4 * len(columns) + 0.4, 2.4 * len(layers) + 0.4), layout="constrained")
    grid = figure.subplots(len(layers), len(columns), squeeze=False)
    for column, (name, maps) in enumerate(columns):
        for row, (layer, values) in enumerate(maps.items()):
            axes = grid[row][column]
            axes.imshow(values.numpy(), cmap="viridis")
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(name, fontsize="small", wrap=True)
            if column == 0:
                axes.set_ylabel(f"layer {layer}")
    return save(figure, path)
