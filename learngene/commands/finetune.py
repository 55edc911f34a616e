"""learngene finetune"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learngene.arguments import typed
from learngene.errors import LearngeneError
from learngene.plan import StagePlan
from learngene.recipe import DataOptions, DistillOptions, Recipe, divide, takes

# the labels count, unless one says that only the ancestor's word does
DEFAULTS = {"ce": 1.0}

if TYPE_CHECKING:
    from torch import nn


@takes(Recipe, DataOptions, DistillOptions, **DEFAULTS)
@typed
def finetune(
    model: str | Path,
    data: str,
    *,
    out: str | Path,
    depth: int | None = None,
    plan: str | Sequence[int] | StagePlan | None = None,
    arch_args: Mapping[str, Any] | None = None,
    ancestor: str | Path | nn.Module | None = None,
    ancestor_mean: Sequence[float] | None = None,
    ancestor_std: Sequence[float] | None = None,
    ancestor_input_size: int | Sequence[int] | None = None,
    ancestor_classes: Sequence[str] | None = None,
    license: str | None = None,
    start: str | None = None,
    start_args: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Train a descendant, or an architecture from random weights, with no sharing: OUT/model (a timm directory).

    Args:
        model: a timm directory, a learngene file (with a depth or plan), or a timm architecture name for random weights.
        data: training images (see distill).
        out: run directory to write.
        depth: number of layers, for a learngene or an architecture name.
        plan: layers per stage, for a learngene; by default the depth spread evenly.
        arch_args: arguments of the architecture as JSON; for a directory or learngene, changes such as '{"img_size": 384}'.
        ancestor: also learn from this model (kl, hard, ce and feature weigh the terms; ce is 1 unless set).
        ancestor_mean: of the ancestor's images, as in 'learngene distill', like the next three.
        ancestor_std: likewise.
        ancestor_input_size: (C, H, W), or pixels, that the ancestor wants; likewise.
        ancestor_classes: names of the ancestor's outputs, in order; likewise.
        license: licence to state in the model's config, e.g. mit; by default that of the model it begins from.
        start: how an architecture's weights begin: random, trunc-normal, xavier, ds-init, mimetic, small-embedding,
            weight-selection, ... (learngene.starts), or several, applied in turn: xavier+mimetic.
        start_args: options of the start as JSON, e.g. '{"ancestor": "my-vit", "layers": "even"}'.
        resume: go on with an interrupted run; a finished one is left as it is.
        overwrite: delete an earlier run in OUT first.
        **options: any field of `Recipe`, `DataOptions` and (with an ancestor) `DistillOptions`.

    Returns:
        Validation metrics, images seen, seconds and FLOPs.

    Raises:
        LearngeneError: bad input, before training starts; a loss that is not finite, or too many broken images.
    """
    arguments = {k: v for k, v in locals().items() if k not in ("options", "resume", "overwrite", "out")}
    recipe, loading, terms = divide({**DEFAULTS, **options}, Recipe, DataOptions, DistillOptions)
    if ancestor is None:
        _check_no_terms(terms, ancestor_mean, ancestor_std, ancestor_input_size, ancestor_classes)
    stage_plan = None if plan is None else StagePlan.parse(plan)
    from learngene.families.ancestors import AncestorImages
    from learngene.families.modes import left_as_it_was
    from learngene.jobs.work.finetune import run_finetuning
    from learngene.recipe import train_config
    from learngene.training import RunDirectory

    said = AncestorImages(mean=ancestor_mean, std=ancestor_std, input_size=ancestor_input_size, classes=ancestor_classes)
    config = train_config(arguments | {"plan": stage_plan}, recipe, loading, terms)
    run = RunDirectory(out, config, resume=resume, overwrite=overwrite)
    with left_as_it_was(ancestor):
        return run_finetuning(
            model, data, depth, stage_plan, arch_args, ancestor, said, license, start, start_args, recipe, loading, terms, run
        )


def _check_no_terms(terms: DistillOptions, *said: Any) -> None:
    """Raise for what is asked of an ancestor, when there is none."""
    usual = DistillOptions(ce=DEFAULTS["ce"])
    asked = [
        f"{field.name} {getattr(terms, field.name)}"
        for field in fields(terms)
        if getattr(terms, field.name) != getattr(usual, field.name)
    ]
    asked += ["ancestor_mean, ancestor_std, ancestor_input_size or ancestor_classes"] * any(value is not None for value in said)
    if asked:
        raise LearngeneError(f"{asked[0]} needs an ancestor to learn from; name one with ancestor, or drop it")
