"""learngene distill"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from learngene.arguments import ModelSource
from learngene.elastic import Elastic
from learngene.errors import LearngeneError
from learngene.expansion import MAX_EXPONENT
from learngene.job import UNRECORDED, Job
from learngene.plan import StagePlan
from learngene.recipe import AncestorOptions, DataOptions, DistillOptions, Recipe, check_between

if TYPE_CHECKING:
    from learngene.gene import Learngene


@dataclass(frozen=True, kw_only=True)
class Distill(Recipe, DataOptions, DistillOptions, AncestorOptions, Job):
    """Distil an ancestor once into a learngene: OUT/learngene.safetensors."""

    COMMAND, ORDER = "distill", 10
    SUMMARY = "distil an ancestor once into a learngene"
    BY_PLACE = ("ancestor", "data")
    MAIN = ("ancestor", "data", "out", "arch", "plan", "elastic", "epochs", "batch_size", "lr", "resume")

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
    elastic: str | None = "auto"
    """train nets of all depths from MIN:MAX, another at each step, so that descendants of these depths are
    good untuned; all are the auxiliary net's weights. auto: from a layer a stage to half as deep again as
    the plan, where a stage has several; none: the plan alone (the paper's way)."""
    elastic_step: float = 1.0
    """exponent of the step size that repeated layers make in elastic training (see spawn --step)."""
    elastic_draw: Literal["uniform", "ends", "split"] = "uniform"
    """which depths: uniform, one a step; ends, MIN and MAX more often; split, half of each batch at the full
    depth."""
    calibration: int | Literal["auto"] = "auto"
    """training views on which plan and step size of each depth are chosen at the end (see calibrate); 0 is
    off, auto at most 256, in at most a tenth of the training's FLOPs."""
    start: str = "auto"
    """how the auxiliary net's weights begin: auto (the ancestor's layers where shapes fit, rows and columns
    of them where it is wider, else at random), random (the paper's way), mimetic, ... (learngene.starts)."""
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
        if self.elastic == "none":
            object.__setattr__(self, "elastic", None)
        check_between(self, "elastic_step", 0, MAX_EXPONENT)
        if self.calibration != "auto":
            check_between(self, "calibration", 0, 10_000)
        if self.depths_drawn is not None:
            self._check_elastic(self.depths_drawn)
        elif (self.elastic_step, self.elastic_draw) != (1.0, "uniform"):
            raise LearngeneError(
                f"elastic_step {self.elastic_step:g}, elastic_draw {self.elastic_draw}: these are of elastic "
                "training, and the plan is trained alone here; drop them"
            )

    def _check_elastic(self, elastic: Elastic) -> None:
        """Raise for what elastic training cannot be combined with."""
        elastic.check(self.stage_plan)
        if not self.share_norms:
            raise LearngeneError(
                "elastic trains nets of other depths, which have no norms of their own; share norms"
            )
        if elastic.draw == "split" and self.batch_size < 2:
            raise LearngeneError("elastic_draw split halves batches; use a batch_size of 2 or more")
        if self.strategy.startswith("fsdp"):
            raise LearngeneError(
                f"strategy {self.strategy} shards one net, and elastic trains several on its weights; use ddp"
            )

    @classmethod
    def upgraded(cls, said: Mapping[str, Any]) -> dict[str, Any]:
        """The flag ``from_ancestor`` has become a start, and no start at all was a random one."""
        rest = {name: value for name, value in said.items() if name != "from_ancestor"}
        if said.get("from_ancestor") is True:
            return rest | {"start": "from-ancestor"}
        old = said.get("from_ancestor") is False or "start" in said
        return rest | ({"start": "random"} if old and said.get("start") is None else {})

    @classmethod
    def recorded(cls, said: Mapping[str, Any]) -> dict[str, Any]:
        """What a run's record says, with what was so before there was a choice."""
        before = {"elastic": None, "elastic_step": 1.0, "elastic_draw": "uniform", "calibration": "auto"}
        return before | cls.upgraded(said)

    @property
    def stage_plan(self) -> StagePlan:
        """The plan as it is read."""
        return StagePlan.parse(self.plan)

    @property
    def depths_drawn(self) -> Elastic | None:
        """Of elastic training."""
        how: dict[str, Any] = {"step": self.elastic_step, "draw": self.elastic_draw}
        if self.elastic == "auto":
            return Elastic.usual(self.stage_plan, **how) if self._may_be_elastic else None
        return None if self.elastic is None else Elastic.parse(self.elastic, **how)

    @property
    def _may_be_elastic(self) -> bool:
        """Whether a stage is repeated, and nothing is asked that elastic training cannot be combined with."""
        apart = not self.share_norms or self.strategy.startswith("fsdp")
        return max(self.stage_plan.repeats) > 1 and not apart

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
