"""The tables of docs/scaling.md: what distilling and fine-tuning cost at the size of ImageNet, by computing.

python tools/scaling.py            print the tables
python tools/scaling.py --write    put them into docs/scaling.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from learngene.costs import count_flops
from learngene.families.anatomy import count_parameters
from learngene.families.architecture import Architecture
from learngene.families.building import create
from learngene.plan import StagePlan
from learngene.sharing import build_auxnet

# H100 or H200: bf16, dense, FLOP/s; the share of it that training is assumed to use
GPUS, PEAK, MFU = 8, 989e12, 0.45
PLAN = StagePlan((3, 3, 4, 3, 3))
DEPTHS = range(6, 16)  # ten descendants
TUNE = 10  # epochs of fine-tuning, as published
TOKENS, PATCH, CLASSES = 196, 16, 1000
PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"
BEGIN, END = "<!-- tools/scaling.py -->\n", "<!-- end -->\n"


@dataclass(frozen=True)
class Data:
    """Images in training, the bytes of their JPEGs (about), and epochs, if not the pair's own."""

    name: str
    images: int
    size: float
    epochs: int | None = None


@dataclass(frozen=True)
class Pair:
    """An auxiliary net and its ancestor."""

    name: str
    arch: str
    width: int
    ancestor: str
    epochs: int

    @property
    def architecture(self) -> Architecture:
        return Architecture(self.arch, {"class_token": False, "global_pool": "avg", "num_classes": CLASSES})


SETS = (Data("ImageNet-1K", 1_281_167, 147.9e9), Data("ImageNet-21K", 14_197_122, 1.3e12, epochs=90))
PAIRS = (
    Pair("ViT-S/16 from LeViT-384", "deit_small_patch16_224", 384, "levit_384", 150),
    Pair("ViT-B/16 from RegNetY-160", "deit_base_patch16_224", 768, "regnety_160", 100),
)


def layer_flops(width: int, tokens: int = TOKENS) -> int:
    """Forward FLOPs of one layer for one image: 8 N D^2 projections, 16 N D^2 MLP, 4 N^2 D attention."""
    return 24 * tokens * width**2 + 4 * tokens**2 * width


def model_flops(width: int, depth: int, tokens: int = TOKENS) -> int:
    """Forward FLOPs of one image: layers, patch embedding and head."""
    return depth * layer_flops(width, tokens) + 2 * tokens * width * 3 * PATCH**2 + 2 * width * CLASSES


def model_parameters(width: int, layers: int, tokens: int = TOKENS) -> int:
    """12 D^2 + 13 D per layer; patch and position embedding, norm, head."""
    return (
        layers * (12 * width**2 + 13 * width)
        + width * (3 * PATCH**2 + 1 + tokens + 2)
        + CLASSES * (width + 1)
    )


def ancestor_flops(name: str) -> int:
    """Counted by torch, 224 pixels."""
    with torch.device("meta"):
        return count_flops(create(name), (3, 224, 224))


def hours(flops: float) -> float:
    return flops / (GPUS * PEAK * MFU) / 3600


def reduced_bytes(parameters: int, ranks: int) -> float:
    """What each GPU sends in a step: a ring all-reduce in fp32, or all-gather and reduce-scatter."""
    return 2 * (ranks - 1) / ranks * 4 * parameters


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cost_rows() -> Iterable[list[str]]:
    for data in SETS:
        for pair in PAIRS:
            per_image = 3 * model_flops(pair.width, PLAN.depth) + ancestor_flops(pair.ancestor)
            epochs = data.epochs or pair.epochs
            distil = hours(data.images * epochs * per_image)
            once = hours(data.images * sum(3 * model_flops(pair.width, depth) for depth in DEPTHS))
            tune, scratch = TUNE * once, epochs * once
            even = distil / (scratch - tune) * len(DEPTHS)
            ratio = scratch / (distil + tune)
            yield [
                f"{data.name}, {pair.name}", str(epochs),
                f"{distil:,.1f}", f"{tune:,.1f}", f"{scratch:,.1f}", f"{ratio:.1f}", f"{even:.1f}",
            ]  # fmt: skip


def reading_rows() -> Iterable[list[str]]:
    for data in SETS:
        for pair in PAIRS:
            per_image = 3 * model_flops(pair.width, PLAN.depth) + ancestor_flops(pair.ancestor)
            speed = GPUS * PEAK * MFU / per_image
            epochs = data.epochs or pair.epochs
            views = data.images * epochs
            yield [
                f"{data.name}, {pair.name}", f"{data.size * epochs / 1e12:,.0f}",
                f"{speed:,.0f}", f"{speed * data.size / data.images / 1e9:.1f}",
                f"{views * 2 * CLASSES / 1e12:,.1f}", f"{views * 44 / 1e9:,.0f}",
            ]  # fmt: skip


def size_rows() -> Iterable[list[str]]:
    for pair in PAIRS:
        for what, layers in (
            ("auxiliary net, 16 layers in 5 stages", PLAN.stages),
            ("descendant of 12 layers", 12),
        ):
            count = model_parameters(pair.width, layers)
            depth = PLAN.depth if layers == PLAN.stages else layers
            yield [
                f"{pair.name.split()[0]}: {what}", f"{model_flops(pair.width, depth) / 1e9:.1f}",
                f"{count / 1e6:.2f}", *(f"{n * count / 1e6:.0f}" for n in (4, 12, 16)),
                *(f"{reduced_bytes(count, ranks) / 1e6:.0f}" for ranks in (2, 8, 64)),
            ]  # fmt: skip


def tables() -> str:
    cost = [
        "images, pair",
        "epochs",
        "distil once, h",
        f"tune ten, {TUNE} epochs each, h",
        "ten from scratch, h",
        "ratio",
        "even at",
    ]
    reading = ["images, pair", "read, TB", "images/s", "GB/s", "all logits, TB", "top 10, GB"]
    size = [
        "model", "GFLOPs", "parameters, M", "weights, MB", "checkpoint, MB", "training state, MB",
        "sent on 2 GPUs, MB", "on 8", "on 64",
    ]  # fmt: skip
    return (
        f"Hours on {GPUS} GPUs at {MFU:.0%} of {PEAK / 1e12:.0f} TFLOP/s, "
        f"depths {DEPTHS[0]} to {DEPTHS[-1]}; from scratch for as many epochs as the distillation:\n\n"
        f"{table(cost, cost_rows())}\n"
        f"Data, for the distillation:\n\n{table(reading, reading_rows())}\n"
        f"Size, and what each GPU sends in a step:\n\n{table(size, size_rows())}"
    )


def check() -> None:
    """The formulas against torch's own counting."""
    for pair in PAIRS:
        for depth in (12, 16):
            with torch.device("meta"):
                model = pair.architecture.build(depth)
            assert count_flops(model) == model_flops(pair.width, depth)
            assert count_parameters(model) == model_parameters(pair.width, depth)
        with torch.device("meta"):
            assert count_parameters(build_auxnet(pair.architecture, PLAN)) == model_parameters(
                pair.width, PLAN.stages
            )


if __name__ == "__main__":
    check()
    if "--write" in sys.argv:
        text = PAGE.read_text()
        start, stop = text.index(BEGIN) + len(BEGIN), text.index(END)
        PAGE.write_text(f"{text[:start]}\n{tables()}\n{text[stop:]}")
    else:
        print(tables())
