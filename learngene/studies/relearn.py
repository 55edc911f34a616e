"""How quickly does a layer re-learn? Reset layers of a trained ViT, train on, and see when its accuracy is back."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from learngene.bench.summary import Row
from learngene.data import ImageData, Source, open_training
from learngene.data.classes import matched
from learngene.data.splits import training_share
from learngene.errors import LearngeneError
from learngene.families.anatomy import get_blocks
from learngene.families.architecture import architecture_of
from learngene.families.records import data_config_of, image_mode
from learngene.families.timm import open_model
from learngene.files import write_text
from learngene.objectives import Supervised
from learngene.provenance import commit, hardware, versions
from learngene.recipe import DataOptions, Recipe
from learngene.sharing import is_norm
from learngene.studies.relearn_report import spans, write_relearn_report
from learngene.training import RunDirectory, TrainingModule, evaluate_model, fit
from learngene.trust.limits import read_json

log = logging.getLogger("learngene")


Mode = Literal["frozen", "free"]
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
        return "-".join(
            filter(
                None, (self.model, self.control, layers, self.mode, f"p{100 * self.share:g}", f"s{self.seed}")
            )
        )


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
        Cell(model, (layer,), mode, share, "", seed)
        for seed in seeds
        for layer in layers
        for mode in modes
        for share in shares
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
    return (
        blocks
        if kind == "block"
        else [tuple(layer for layer in every if layer not in block) for block in blocks]
    )


def reset_layers(
    model: nn.Module, layers: Sequence[int], *, keep_norms: bool = False, seed: int = 0
) -> nn.Module:
    """Give layers (counted from 1) the weights that timm would begin them with: all of them, or all but the norms."""
    torch.manual_seed(seed)
    blocks = get_blocks(model)
    fresh = get_blocks(architecture_of(model).build(len(blocks)))
    for layer in layers:
        old, new = blocks[layer - 1], fresh[layer - 1]
        kept = {f"{name}." for name, part in old.named_modules() if is_norm(part)} if keep_norms else set()
        state = {
            k: v for k, v in new.state_dict().items() if not any(k.startswith(prefix) for prefix in kept)
        }
        old.load_state_dict(state, strict=not kept)
    return model


def freeze_all_but(model: nn.Module, layers: Sequence[int]) -> list[nn.Module]:
    """Switch off the gradients of all but some layers (counted from 1); the other layers, to be kept in eval mode."""
    blocks = get_blocks(model)
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
        self.points.append((step, self.evaluate()))
        self.next = min(self.last, step + max(1, step // 2))
        trainer.should_stop = self.points[-1][1] >= self.target


@isolate_rng()
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
    run.check_images(train=train, val=val)
    if run.finished:
        return run.results
    model = reset_layers(
        copy.deepcopy(trained), cell.layers, keep_norms=cell.control == "norms-kept", seed=cell.seed
    )
    module = TrainingModule(
        model, Supervised(recipe.label_smoothing), recipe, num_classes=train.num_classes or 0
    )
    if cell.mode == "frozen":
        module.frozen = freeze_all_but(model, cell.layers)
    config = loading.evaluated(data_config_of(model))
    data = ImageData(
        training_share(train, dataclasses.replace(loading, train_fraction=cell.share)),
        val,
        config,
        recipe,
        loading,
    )
    damaged = accuracy(model, data)
    target = original - tolerance
    lost = damaged < target
    watch = RecoveryWatch(
        lambda: accuracy(model, data), math.inf if cell.control == "none" else target, steps
    )
    if lost or cell.control == "none":
        fit(module, data, run, callbacks=[watch], validate=False)
    else:
        run.begin()
    reached = next((step for step, top1 in watch.points if top1 >= target), None)
    back = None if cell.control == "none" else reached if lost else 0
    row = {
        **dataclasses.asdict(cell),
        "depth": len(get_blocks(model)),
        "width": getattr(model, "embed_dim", None),
    }
    row |= {"train_images": len(data.train or ()), "original": original, "damaged": damaged}
    row |= {
        "best": max([damaged, *(top1 for _, top1 in watch.points)]),
        "steps": back,
        "points": watch.points,
    }
    batch = recipe.batch_size * recipe.accumulate
    return run.finish(**row, images=None if back is None else back * batch, gave_up_after=steps * batch)


def accuracy(model: nn.Module, data: ImageData) -> float:
    """Validation top-1 (a share), in the precision of training."""
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=data.recipe.precision.startswith("bf16")):
        return evaluate_model(model, data, device=str(device))["top1"]


def open_models(paths: Sequence[str]) -> dict[str, nn.Module]:
    """Trained models by name: the folder's, or enough of its path to tell them apart."""
    if len(set(paths)) < len(paths):
        raise LearngeneError("a model is named twice; name each once")
    return {_name(path, paths): open_model(path) for path in paths}


def _name(path: str, paths: Sequence[str]) -> str:
    parts = Path(path.removeprefix("local-dir:")).parts
    for count in range(1, len(parts) + 1):
        tail = "-".join(parts[-count:])
        if (
            sum("-".join(Path(m.removeprefix("local-dir:")).parts[-count:]) == tail for m in paths) == 1
            and tail != "model"
        ):
            return tail.replace("/", "")
    return path.replace("/", "-")


def all_cells(
    trained: Mapping[str, nn.Module],
    layers: Sequence[int] | None,
    shares: Sequence[float],
    modes: Sequence[str],
    controls: Sequence[str],
    seeds: Sequence[int],
) -> list[Cell]:
    """The `cells` of all models; each layer in turn unless some are named.

    Raises:
        LearngeneError: shares, modes or seeds that make no sense.
    """
    if not trained or not shares or not seeds or not modes or set(modes) - {"frozen", "free"}:
        raise LearngeneError(
            f"relearn needs a model, a share, a seed, and modes among frozen and free, not {list(modes)}"
        )
    if not all(0 < share <= 1 for share in shares):
        raise LearngeneError(f"shares {list(shares)} must be above 0 and at most 1")
    found = []
    for name, model in trained.items():
        depth = len(get_blocks(model))
        found += cells(name, depth, layers or range(1, depth + 1), shares, modes, controls, seeds)  # type: ignore[arg-type]
    return found


def open_images(trained: Mapping[str, nn.Module], data: str, loading: DataOptions) -> tuple[Source, Source]:
    """Training and validation images that all models take.

    Raises:
        LearngeneError: the models take different ones, or these have other classes.
    """
    modes = {image_mode(model) for model in trained.values()}
    if len(modes) > 1:
        raise LearngeneError("some of the models take grey images and some RGB; ask about them one by one")
    train, val = open_training(data, loading, *modes)
    for name, model in trained.items():
        before, known = train.classes, name != next(iter(trained))
        train, val = matched(model, name, "use the data it was trained on", train, val)
        if known and train.classes != before:
            raise LearngeneError(
                f"the classes of {name} are in another order than those of the models before it; ask about it by itself"
            )
    return (train.in_memory(), val.in_memory()) if loading.in_memory else (train, val)


def run_cells(
    todo: Sequence[Cell],
    trained: Mapping[str, nn.Module],
    train: Source,
    val: Source,
    recipe: Recipe,
    loading: DataOptions,
    *,
    tolerance: float,
    max_images: int,
    out: Path,
) -> list[dict[str, Any]]:
    """Rows of all cells (see `run_cell`), in ``out``/results.jsonl as far as they are; views beyond ``max_images`` are not run."""
    original = {}
    for name, model in trained.items():
        images = ImageData(None, val, loading.evaluated(data_config_of(model)), recipe, loading)
        original[name] = accuracy(model, images)
        log.info(
            "%s: %d layers, validation top-1 %.2f %%", name, len(get_blocks(model)), 100 * original[name]
        )
    steps = max(1, max_images // (recipe.batch_size * recipe.accumulate))
    rows = []
    for number, cell in enumerate(todo, start=1):
        log.info("cell %d/%d: %s", number, len(todo), cell.key)
        model, before, folder = trained[cell.model], original[cell.model], out / "cells" / cell.key
        row = run_cell(
            cell,
            model,
            train,
            val,
            recipe,
            loading,
            original=before,
            tolerance=tolerance,
            steps=steps,
            out=folder,
        )
        rows.append(row)
        write_text(out / "results.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def views_of(path: str) -> int | None:
    """Views that a model was trained on, from the run.json of the run that made it."""
    try:
        images = read_json(Path(path.removeprefix("local-dir:")).parent / "run.json")["results"]["images"]
    except (LearngeneError, KeyError, TypeError):
        return None
    return images if type(images) is int and images > 0 else None


def conclude(
    rows: Sequence[Row],
    train: Source,
    val: Source,
    recipe: Recipe,
    originals: Mapping[str, int | None],
    tolerance: float,
    out: Path,
) -> Path:
    """The report, with what the run was made of at its head."""
    seeds = dict.fromkeys(str(row["seed"]) for row in rows)
    about = {
        "data": f"{train.name}, {len(train):,} images to train on, {len(val):,} to validate on",
        "original training": ", ".join(
            f"{n}: {f'{v:,} views' if v else 'unknown'}" for n, v in originals.items()
        ),
        "recipe": f"{recipe.opt}, constant lr {recipe.lr} per 512, batch {recipe.batch_size}, seeds {', '.join(seeds)}, {recipe.precision}",
        "hardware": hardware(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "commit": commit() or "not a checkout",
    }
    return write_relearn_report(rows, out, tolerance=tolerance, originals=originals, about=about)
