"""How quickly does a layer re-learn? Reset layers of a trained ViT, train on, and see when its accuracy is back."""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from learngene import vit
from learngene.auxnet import is_norm
from learngene.bench.plots import relearning
from learngene.data import ImageData, Source
from learngene.data.sources import training_share
from learngene.errors import LearngeneError
from learngene.files import write_text
from learngene.jobs import evaluation_config
from learngene.objectives import Supervised
from learngene.recipe import DataOptions, Recipe
from learngene.training import RunDirectory, TrainingModule, evaluate_model, fit

Mode = Literal["frozen", "free"]
Row = Mapping[str, Any]
CONTROLS = ("none", "lr-x5", "norms-kept", "block-K", "inverse-K")


@dataclass(frozen=True)
class Cell:
    """One question: these layers reset, that much data.

    Attributes:
        model: its name.
        layers: those reset, counted from 1.
        mode: ``frozen``: only the reset layers are trained; ``free``: everything is.
        share: of the training images.
        control: ``""``, ``none`` (nothing is reset), ``lr-x5``, ``norms-kept``, ``block-K`` or ``inverse-K``.
        seed: of the fresh weights and of the order of the images.
    """

    model: str
    layers: tuple[int, ...]
    mode: Mode
    share: float
    control: str = ""
    seed: int = 0

    @property
    def key(self) -> str:
        """The cell's folder."""
        layers = "l" + spans(self.layers).replace(", ", "_") if self.layers else ""
        return "-".join(filter(None, (self.model, self.control, layers, self.mode, f"p{100 * self.share:g}", f"s{self.seed}")))


def cells(
    model: str,
    depth: int,
    layers: Sequence[int],
    shares: Sequence[float],
    modes: Sequence[Mode],
    controls: Sequence[str],
    seeds: Sequence[int],
) -> list[Cell]:
    """Every layer, share and mode; controls with the largest share only, and ``none`` with nothing frozen.

    ``block-K`` resets K layers in a row instead of one, ``inverse-K`` all but those (Tamkin et al. 2020, arXiv 2004.14975).

    Raises:
        LearngeneError: a layer or block that the model does not have, or an unknown control.
    """
    outside = [layer for layer in layers if not 1 <= layer <= depth]
    if outside:
        raise LearngeneError(f"layer {outside[0]}: {model} has layers 1 to {depth}")
    found = [
        Cell(model, (layer,), mode, share, "", seed) for seed in seeds for layer in layers for mode in modes for share in shares
    ]
    for control in controls:
        for seed in seeds:
            for reset in _reset(control, depth, layers):
                allowed: Sequence[Mode] = ("free",) if control == "none" else modes
                found += [Cell(model, reset, mode, max(shares), control, seed) for mode in allowed]
    return found


def _reset(control: str, depth: int, layers: Sequence[int]) -> list[tuple[int, ...]]:
    if control == "none":
        return [()]
    if control in ("lr-x5", "norms-kept"):
        return [(layer,) for layer in layers]
    kind, _, size = control.partition("-")
    if kind not in ("block", "inverse") or not size.isdigit() or int(size) < 1:
        raise LearngeneError(f"control '{control}': use {', '.join(CONTROLS)} with K layers")
    if int(size) >= depth:
        raise LearngeneError(f"control '{control}': the model has only {depth} layers; use a smaller block")
    blocks = [tuple(range(first, first + int(size))) for first in range(1, depth - int(size) + 2)]
    every = range(1, depth + 1)
    return blocks if kind == "block" else [tuple(layer for layer in every if layer not in block) for block in blocks]


def reset_layers(model: nn.Module, layers: Sequence[int], *, keep_norms: bool = False, seed: int = 0) -> nn.Module:
    """Give layers (counted from 1) the weights that timm would begin them with: all of them, or all but the norms."""
    torch.manual_seed(seed)
    blocks = vit.get_blocks(model)
    fresh = vit.get_blocks(vit.architecture_of(model).build(len(blocks)))
    for layer in layers:
        old, new = blocks[layer - 1], fresh[layer - 1]
        kept = {f"{name}." for name, part in old.named_modules() if is_norm(part)} if keep_norms else set()
        state = {k: v for k, v in new.state_dict().items() if not any(k.startswith(prefix) for prefix in kept)}
        old.load_state_dict(state, strict=not kept)
    return model


def freeze_all_but(model: nn.Module, layers: Sequence[int]) -> list[nn.Module]:
    """Switch off the gradients of all but some layers (counted from 1); the other layers, to be kept in eval mode."""
    blocks = vit.get_blocks(model)
    model.requires_grad_(False)
    for layer in layers:
        blocks[layer - 1].requires_grad_(True)
    return [block for number, block in enumerate(blocks, start=1) if number not in layers]


class RecoveryWatch(Callback):
    """Validate at steps that grow by a half each time, and at the last; stop training once the accuracy is back.

    Args:
        evaluate: validation top-1 (a share) of the model as it is.
        target: accuracy that counts as back.
        last: the last step there will be.
    """

    def __init__(self, evaluate: Callable[[], float], target: float, last: int) -> None:
        self.evaluate, self.target, self.last = evaluate, target, last
        self.points: list[tuple[int, float]] = []
        self.next = 1

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step < self.next or (self.points and self.points[-1][0] == step):
            return
        modes = {module: module.training for module in pl_module.modules()}
        self.points.append((step, self.evaluate()))
        for module, training in modes.items():
            module.training = training
        self.next = min(self.last, step + max(1, step // 2))
        trainer.should_stop = self.points[-1][1] >= self.target


def run_cell(
    cell: Cell,
    trained: nn.Module,
    train: Source,
    val: Source,
    recipe: Recipe,
    loading: DataOptions,
    *,
    original: float,
    tolerance: float,
    steps: int,
    out: Path,
) -> dict[str, Any]:
    """Reset, train at a constant learning rate, return the cell's row; a finished one is read back.

    Args:
        trained: the model; a copy is changed.
        original: its validation top-1.
        tolerance: how far below that counts as back (0.005 is half a point).
        steps: to give up after.
    """
    changes: dict[str, Any] = {"seed": cell.seed, "steps": steps, "devices": 1}
    if cell.control == "lr-x5":
        changes["lr"] = 5 * recipe.lr
    recipe = dataclasses.replace(recipe, **changes)
    recipe = dataclasses.replace(recipe, min_lr=recipe.lr)
    plain = dataclasses.asdict(cell) | {"original": original, "tolerance": tolerance}
    run = RunDirectory(out, {**dataclasses.asdict(recipe), **plain}, resume=True)
    if run.finished:
        return run.results
    model = reset_layers(copy.deepcopy(trained), cell.layers, keep_norms=cell.control == "norms-kept", seed=cell.seed)
    module = TrainingModule(model, Supervised(recipe.label_smoothing), recipe, num_classes=train.num_classes or 0)
    if cell.mode == "frozen":
        module.frozen = freeze_all_but(model, cell.layers)
    config = evaluation_config(vit.data_config(model), loading)
    data = ImageData(training_share(train, dataclasses.replace(loading, train_fraction=cell.share)), val, config, recipe, loading)
    damaged = accuracy(model, data)
    target = original - tolerance
    lost = damaged < target
    watch = RecoveryWatch(lambda: accuracy(model, data), math.inf if cell.control == "none" else target, steps)
    if lost or cell.control == "none":
        fit(module, data, run, callbacks=[watch], validate=False)
    else:
        run.begin()
    reached = next((step for step, top1 in watch.points if top1 >= target), None)
    back = None if cell.control == "none" else reached if lost else 0
    row = {**dataclasses.asdict(cell), "depth": len(vit.get_blocks(model)), "width": getattr(model, "embed_dim", None)}
    row |= {"train_images": len(data.train or ()), "original": original, "damaged": damaged}
    row |= {"best": max([damaged, *(top1 for _, top1 in watch.points)]), "steps": back, "points": watch.points}
    batch = recipe.batch_size * recipe.accumulate
    return run.finish(**row, images=None if back is None else back * batch, gave_up_after=steps * batch)


def accuracy(model: nn.Module, data: ImageData) -> float:
    """Validation top-1 (a share), in the precision of training."""
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=data.recipe.precision.startswith("bf16")):
        return evaluate_model(model, data, device=str(device))["top1"]


def write_relearn_report(
    rows: Sequence[Row], out: Path, *, tolerance: float, originals: Mapping[str, int | None], about: Mapping[str, str]
) -> Path:
    """relearn.md with table, plot (relearn.png) and the answers in words.

    Args:
        rows: of `run_cell`.
        originals: images that each model was trained on, views counted, where known.
    """
    relearning(rows, out / "relearn.png")
    parts = [
        "# How quickly does one layer re-learn?",
        "\n".join(f"- {name}: {value}" for name, value in about.items()),
        f"A layer counts as back when validation top-1 is within {100 * tolerance:g} points of the original. It is looked at after 1, 2, 3, 4, 6, 9, ... steps.",
        "## In words",
        answers(rows, originals),
        "![images until the accuracy is back](relearn.png)",
        "## All cells",
        cell_table(rows, originals),
    ]
    write_text(out / "relearn.md", "\n\n".join(parts) + "\n")
    return out / "relearn.md"


def cell_table(rows: Sequence[Row], originals: Mapping[str, int | None]) -> str:
    """A row per model, control, reset layers, mode and share; several seeds side by side."""
    head = [
        "| model | control | layers reset | mode | data | original % | after reset % | images until back | share of original training | best % |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["control"], tuple(row["layers"]), row["mode"], row["share"]), []).append(row)
    body = []
    for (model, control, layers, mode, share), group in groups.items():
        back = ", ".join(_back(row) for row in group)
        shares = ", ".join(_share(row, originals) for row in group)
        name = spans(layers) or "none"
        body.append(
            f"| {model} | {control} | {name} | {mode} | {100 * share:g} % | {100 * group[0]['original']:.2f} | "
            f"{100 * statistics.fmean(r['damaged'] for r in group):.1f} | {back} | {shares} | {100 * max(r['best'] for r in group):.2f} |"
        )
    return "\n".join(head + body)


def _back(row: Row) -> str:
    if row["control"] == "none":
        values = [100 * top1 for _, top1 in row["points"]]
        return f"{min(values):.2f} to {max(values):.2f} % on the way"
    if row["images"] is None:
        return f"never in {row['gave_up_after']:,}"
    return f"{row['images']:,}" if row["images"] else "not lost"


def _share(row: Row, originals: Mapping[str, int | None]) -> str:
    total = originals.get(row["model"])
    if total is None or row["images"] is None:
        return "unknown" if total is None else ""
    return f"{100 * row['images'] / total:.3g} %"


def spans(layers: Sequence[int]) -> str:
    """``1-3`` or ``1-2, 6-8``."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def answers(rows: Sequence[Row], originals: Mapping[str, int | None]) -> str:
    """The four questions of the seed, answered from the rows."""
    single = [row for row in rows if not row["control"]]
    sentences = []
    for mode in ("frozen", "free"):
        own = [row for row in single if row["mode"] == mode]
        if own:
            rest = "The rest frozen" if mode == "frozen" else "The rest trained too"
            sentences.append(f"**All data again, or a little? {rest}:** {_by_share(own, originals)}")
            sentences.append(f"**Does the position matter? {rest}:** {_by_position(own)}")
    sentences.append(f"**Do depth N and width D matter?** {_by_model(single)}")
    failed = [row for row in single if row["images"] is None]
    frozen = sum(row["mode"] == "frozen" for row in failed)
    where = f" ({frozen} with the rest frozen, {len(failed) - frozen} with the rest trained)" if failed else ""
    sentences.append(
        f"**Does it fail to train?** {len(failed)} of {len(single)} cells were not back when training was given up{where}."
    )
    sentences += [f"**Control {name}:** {_control(name, rows)}" for name in dict.fromkeys(r["control"] for r in rows) if name]
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _by_share(rows: Sequence[Row], originals: Mapping[str, int | None]) -> str:
    parts = []
    for share in sorted({row["share"] for row in rows}):
        own = [row for row in rows if row["share"] == share]
        back = [row for row in own if row["images"]]
        text = f"with {100 * share:g} % of the images {len(back)} of {len(own)} come back"
        if back:
            text += f", median after {statistics.median(row['images'] for row in back):,.0f} views"
            known = [100 * row["images"] / total for row in back if (total := originals.get(row["model"]))]
            text += f" ({statistics.median(known):.2g} % of the original training)" if known else ""
        kept = sum(row["images"] == 0 for row in own)
        text += f", {kept} had lost nothing" if kept else ""
        parts.append(text)
    return "; ".join(parts) + "."


def _by_position(rows: Sequence[Row]) -> str:
    most = max(row["share"] for row in rows)
    parts = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model and row["share"] == most]
        layers = sorted({row["layers"][0] for row in own})
        if len(layers) > 1:
            each = {layer: [row["images"] for row in own if row["layers"][0] == layer] for layer in layers}
            text = ", ".join(f"{layer}: {_median(values)}" for layer, values in each.items())
            parts.append(f"{model}, views until back by layer: {text}")
    return "; ".join(parts) + "." if parts else "only one layer was reset."


def _median(values: Sequence[int | None]) -> str:
    """The median of those that came back, and whether some did not, or had lost nothing."""
    known = [value for value in values if value]
    words = [f"{statistics.median(known):,.0f}"] if known else []
    words += ["not lost"] if 0 in values else []
    words += ["never"] if None in values else []
    return " or ".join(words)


def _by_model(rows: Sequence[Row]) -> str:
    models = list(dict.fromkeys(row["model"] for row in rows))
    if len(models) < 2:
        return "only one model was tried."
    parts = []
    for model in models:
        own = [
            row for row in rows if row["model"] == model and row["share"] == max(r["share"] for r in rows if r["model"] == model)
        ]
        modes = {m: [r["images"] for r in own if r["mode"] == m] for m in dict.fromkeys(r["mode"] for r in own)}
        text = ", ".join(f"{mode} {_median(values)}" for mode, values in modes.items())
        parts.append(f"{model} (N = {own[0]['depth']}, D = {own[0]['width']}): median views until back {text}")
    return "; ".join(parts) + "."


def _control(name: str, rows: Sequence[Row]) -> str:
    own = [row for row in rows if row["control"] == name]
    if name == "none":
        runs = "; ".join(f"{row['model']}, {100 * row['original']:.2f} % before, {_back(row)}" for row in own)
        return f"without any reset, training on at this learning rate: {runs}."
    parts = []
    for mode in dict.fromkeys(row["mode"] for row in own):
        same = [row for row in own if row["mode"] == mode]
        back = [row["images"] for row in same if row["images"] is not None]
        text = f"{mode}, {len(back)} of {len(same)} are back"
        plain = {_case(row): row["images"] for row in rows if not row["control"]}
        ratios = [row["images"] / plain[_case(row)] for row in same if row["images"] and plain.get(_case(row))]
        if name in ("lr-x5", "norms-kept") and ratios:
            text += f" (where both are, in {statistics.median(ratios):.2g} times the views, median of {len(ratios)})"
        elif back:
            text += f", median after {statistics.median(back):,.0f} views"
        parts.append(text)
    return "; ".join(parts) + "."


def _case(row: Row) -> tuple[Any, ...]:
    return row["model"], tuple(row["layers"]), row["mode"], row["share"], row["seed"]
