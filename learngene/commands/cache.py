"""learngene cache"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from learngene.arguments import typed
from learngene.recipe import DataOptions, Recipe, divide, takes

if TYPE_CHECKING:
    from torch import nn


@takes(Recipe, DataOptions)
@typed
def cache(
    ancestor: str | Path | nn.Module,
    data: str,
    *,
    out: str | Path,
    arch: str | None = None,
    arch_args: Mapping[str, Any] | None = None,
    top_k: int = 10,
    dtype: Literal["float16", "float32"] = "float16",
    ancestor_mean: Sequence[float] | None = None,
    ancestor_std: Sequence[float] | None = None,
    ancestor_input_size: int | Sequence[int] | None = None,
    ancestor_classes: Sequence[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Write down what the ancestor says of every view, for distilling without running it.

    Give it the same ancestor, data, architecture, data options and recipe as the distillation that will use it ('learngene distill
    --cache OUT'): a view is cropped and mixed for one recipe, and another recipe, ancestor or data set is refused.

    Args:
        ancestor: as in 'learngene distill'.
        data: as in 'learngene distill'.
        out: directory to write.
        arch: as in 'learngene distill'; it decides the size of the images.
        arch_args: as in 'learngene distill'.
        top_k: largest log-probabilities to keep of each view (all, if there are fewer classes); the others share what is left.
        dtype: of what is kept.
        ancestor_mean: as in 'learngene distill', like the next three.
        ancestor_std: as in 'learngene distill'.
        ancestor_input_size: as in 'learngene distill'.
        ancestor_classes: as in 'learngene distill'.
        resume: go on with an interrupted cache, or with one of fewer epochs.
        overwrite: delete an earlier cache in OUT first.
        **options: any field of `Recipe` and `DataOptions`; ``epochs`` says how many epochs are kept.

    Returns:
        Views, bytes, seconds and FLOPs.

    Raises:
        LearngeneError: bad input, before the ancestor runs.
    """
    recipe, loading = divide(options, Recipe, DataOptions)
    from learngene.families.ancestors import AncestorImages
    from learngene.families.modes import left_as_it_was
    from learngene.jobs.work.cache import run_caching

    said = AncestorImages(mean=ancestor_mean, std=ancestor_std, input_size=ancestor_input_size, classes=ancestor_classes)
    with left_as_it_was(ancestor):
        return run_caching(
            ancestor, data, Path(out), arch, arch_args, top_k, dtype, said, recipe, loading, resume=resume, overwrite=overwrite
        )
