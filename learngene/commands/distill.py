"""learngene distill"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learngene.arguments import typed
from learngene.plan import StagePlan
from learngene.recipe import DataOptions, DistillOptions, Recipe, divide, takes

if TYPE_CHECKING:
    from torch import nn

    from learngene.gene import Learngene


@takes(Recipe, DataOptions, DistillOptions)
@typed
def distill(
    ancestor: str | Path | nn.Module,
    data: str,
    *,
    out: str | Path,
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    plan: str | Sequence[int] | StagePlan = "3,3,4,3,3",
    from_ancestor: bool = False,
    start: str | None = None,
    start_args: Mapping[str, Any] | None = None,
    share_norms: bool = True,
    cache: str | Path | None = None,
    ancestor_mean: Sequence[float] | None = None,
    ancestor_std: Sequence[float] | None = None,
    ancestor_input_size: int | Sequence[int] | None = None,
    ancestor_classes: Sequence[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> Learngene:
    """Distil an ancestor once into a learngene: OUT/learngene.safetensors.

    Args:
        ancestor: the big trained model: a timm name, hf-hub:ID, local-dir:DIR, a timm directory, or in Python any module (docs/ancestors.md).
        data: training images: a folder of class folders, a .tar of them, fashion-mnist (embedded), or a data set by
            name (torch/..., hfds/..., wds/...).
        out: run directory to write.
        arch: timm architecture of the auxiliary net and its descendants; by default the ancestor's own.
        arch_args: arguments of the architecture as JSON, e.g. '{"img_size": 28, "patch_size": 4}'.
        plan: layers per stage of the auxiliary net.
        from_ancestor: begin each stage with the ancestor layer at its middle, where the shapes fit.
        start: how the auxiliary net's weights begin, e.g. mimetic or weight-selection (learngene.starts); by default at random.
        start_args: options of that start, e.g. '{"ancestor": "my-vit"}'.
        share_norms: off, each layer of the auxiliary net has norms of its own, averaged over the stage in the learngene.
        cache: directory of 'learngene cache', whose logits are used instead of running the ancestor.
        ancestor_mean: of the ancestor's images, a value per channel (pixels from 0 to 1); for a module that is not timm's, or instead of
            what a timm model says.
        ancestor_std: likewise.
        ancestor_input_size: (C, H, W), or pixels, that the ancestor wants; likewise.
        ancestor_classes: names of the ancestor's outputs, in order; likewise.
        resume: go on with an interrupted run; a finished one is left as it is.
        overwrite: delete an earlier run in OUT first.
        **options: any field of `Recipe`, `DataOptions` and `DistillOptions`.

    Returns:
        The learngene.

    Raises:
        LearngeneError: bad input, before training starts; a loss that is not finite, or too many broken images.
    """
    arguments = {k: v for k, v in locals().items() if k not in ("options", "resume", "overwrite", "out")}
    recipe, loading, terms = divide(options, Recipe, DataOptions, DistillOptions)
    stage_plan = StagePlan.parse(plan)
    from learngene.families.ancestors import AncestorImages
    from learngene.families.modes import left_as_it_was
    from learngene.jobs.work.distill import run_distillation
    from learngene.recipe import train_config
    from learngene.training import RunDirectory

    said = AncestorImages(mean=ancestor_mean, std=ancestor_std, input_size=ancestor_input_size, classes=ancestor_classes)
    config = train_config(arguments | {"plan": stage_plan}, recipe, loading, terms)
    run = RunDirectory(out, config, resume=resume, overwrite=overwrite)
    begin_with = (from_ancestor, start, start_args, share_norms, cache)
    with left_as_it_was(ancestor):
        return run_distillation(ancestor, data, arch, arch_args, stage_plan, *begin_with, said, recipe, loading, terms, run)
