"""learngene distill"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learngene.arguments import ModelSource
from learngene.job import UNRECORDED, Job
from learngene.plan import StagePlan
from learngene.recipe import AncestorOptions, DataOptions, DistillOptions, Recipe

if TYPE_CHECKING:
    from learngene.gene import Learngene


@dataclass(frozen=True, kw_only=True)
class Distill(Recipe, DataOptions, DistillOptions, AncestorOptions, Job):
    """Distil an ancestor once into a learngene: OUT/learngene.safetensors."""

    COMMAND, ORDER = "distill", 10
    SUMMARY = "distil an ancestor once into a learngene"
    BY_PLACE = ("ancestor", "data")
    MAIN = ("ancestor", "data", "out", "arch", "plan", "start", "epochs", "batch_size", "lr", "resume")

    ancestor: ModelSource
    """the big trained model: a timm name, hf-hub:ID, local-dir:DIR, a timm directory, or in Python any
    module (docs/ancestors.md)."""
    data: str
    """training images: a folder of class folders, a .tar of them, fashion-mnist (embedded), or a data set
    by name (torch/..., hfds/..., wds/...)."""
    out: str | Path = field(metadata=UNRECORDED)
    """run directory to write."""
    arch: str | None = None
    """timm architecture of the auxiliary net and its descendants; by default the ancestor's own."""
    arch_args: Mapping[str, Any] | None = None
    """arguments of the architecture as JSON, e.g. '{"img_size": 28, "patch_size": 4}'."""
    plan: int | str | Sequence[int] | StagePlan = "3,3,4,3,3"
    """layers per stage of the auxiliary net."""
    start: str | None = None
    """how the auxiliary net's weights begin: from-ancestor (each stage with the ancestor's layer at its
    middle, where the shapes fit), mimetic, weight-selection, ... (learngene.starts); by default at random."""
    start_args: Mapping[str, Any] | None = None
    """options of that start, e.g. '{"position": true}'; its ancestor is the one that is distilled unless
    another is named."""
    share_norms: bool = True
    """off, each layer of the auxiliary net has norms of its own, averaged over the stage in the learngene."""
    cache: str | Path | None = None
    """directory of 'learngene cache', whose logits are used instead of running the ancestor."""
    resume: bool = field(default=False, metadata=UNRECORDED)
    """go on with an interrupted run; a finished one is left as it is."""
    overwrite: bool = field(default=False, metadata=UNRECORDED)
    """delete an earlier run in OUT first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "plan", StagePlan.parse(self.plan))

    @classmethod
    def upgraded(cls, said: Mapping[str, Any]) -> dict[str, Any]:
        """The flag ``from_ancestor`` has become a start."""
        rest = {name: value for name, value in said.items() if name != "from_ancestor"}
        return rest | ({"start": "from-ancestor"} if said.get("from_ancestor") is True else {})

    @property
    def stage_plan(self) -> StagePlan:
        """The plan as it is read."""
        return StagePlan.parse(self.plan)

    def run(self) -> Learngene:
        """Do it.

        Returns:
            The learngene.

        Raises:
            LearngeneError: bad input, before training starts; a loss that is not finite, or too many broken
                images.
        """
        from learngene.jobs.work.distill import distil

        return distil(self)
