"""learngene cache"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from learngene.arguments import ModelSource
from learngene.job import UNRECORDED, Job
from learngene.recipe import AncestorOptions, DataOptions, Recipe


@dataclass(frozen=True, kw_only=True)
class Cache(Recipe, DataOptions, AncestorOptions, Job):
    """Write down what the ancestor says of every view, for distilling without running it.

    Give it the same ancestor, data, architecture, data options and recipe as the distillation that will use
    it ('learngene distill --cache OUT'): a view is cropped and mixed for one recipe, and another recipe,
    ancestor or data set is refused.
    """

    COMMAND, ORDER = "cache", 20
    SUMMARY = "write down the ancestor's outputs for every view, once for many distillations"
    BY_PLACE = ("ancestor", "data")
    MAIN = ("ancestor", "data", "out", "arch", "top_k", "epochs", "batch_size", "resume")
    JSON = True

    ancestor: ModelSource
    """as in 'learngene distill'."""
    data: str
    """as in 'learngene distill'."""
    out: str | Path = field(metadata=UNRECORDED)
    """directory to write."""
    arch: str | None = None
    """as in 'learngene distill'; it decides the size of the images."""
    arch_args: Mapping[str, Any] | None = None
    """as in 'learngene distill'."""
    top_k: int = 10
    """largest log-probabilities to keep of each view (all, if there are fewer classes); the others share
    what is left."""
    dtype: Literal["float16", "float32"] = "float16"
    """of what is kept."""
    resume: bool = field(default=False, metadata=UNRECORDED)
    """go on with an interrupted cache, or with one of fewer epochs."""
    overwrite: bool = field(default=False, metadata=UNRECORDED)
    """delete an earlier cache in OUT first."""

    def run(self) -> dict[str, Any]:
        """Do it.

        Returns:
            Views, bytes, seconds and FLOPs.

        Raises:
            LearngeneError: bad input, before the ancestor runs.
        """
        from learngene.jobs.work.cache import write_cache

        return write_cache(self)

    @staticmethod
    def show(result: Any) -> None:
        """One line."""
        from learngene.terminal import say

        views = result["epochs"] * result["views"]
        say(
            f"{result['cache']}: {result['epochs']} epochs of {result['views']:,} views, "
            f"{result['bytes'] / 1e6:.2f} MB ({result['bytes'] / max(1, views):.1f} bytes a view), "
            f"{result['seconds']:.0f} s, {result['flops'] / 1e12:.2f} TFLOPs"
        )
