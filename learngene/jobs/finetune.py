"""learngene finetune"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from learngene.arguments import ModelSource
from learngene.errors import LearngeneError
from learngene.job import UNRECORDED, Job, default_of, ordered_fields
from learngene.plan import StagePlan
from learngene.recipe import AncestorOptions, DataOptions, DistillOptions, Recipe


@dataclass(frozen=True, kw_only=True)
class Finetune(Recipe, DataOptions, DistillOptions, AncestorOptions, Job):
    """Train a descendant, or an architecture from random weights, with no sharing: OUT/model (a timm
    directory).
    """

    COMMAND, ORDER = "finetune", 40
    SUMMARY = "train a descendant, or an architecture from random weights"
    BY_PLACE = ("model", "data")
    POSITIONAL = "model"
    MAIN = ("model", "data", "out", "depth", "plan", "ancestor", "epochs", "batch_size", "lr", "resume")

    model: str | Path
    """a timm directory, a learngene file (with a depth or plan), or a timm architecture name for random
    weights."""
    data: str
    """training images (see distill)."""
    out: str | Path = field(metadata=UNRECORDED)
    """run directory to write."""
    depth: int | None = None
    """number of layers, for a learngene or an architecture name."""
    plan: str | Sequence[int] | StagePlan | None = None
    """layers per stage, for a learngene; by default what it says for the depth."""
    step: float | str | Sequence[float] | None = None
    """exponent of the step size, (trained / spawned repeats) ** step on what each layer adds; one, or one per
    stage. By default what the learngene says; 0, with a balanced plan, is the paper's plain repetition."""
    arch_args: Mapping[str, Any] | None = None
    """arguments of the architecture as JSON; for a directory or learngene, changes such as '{"img_size":
    384}'."""
    ancestor: ModelSource | None = None
    """also learn from this model (kl, hard, ce and feature weigh the terms; ce is 1 unless set)."""
    ce: float = 1.0  # the labels count here, unless one says that only the ancestor's word does
    """weight of cross-entropy with the labels; 0 needs no labels."""
    license: str | None = None
    """licence to state in the model's config, e.g. mit; by default that of the model it begins from."""
    start: str | None = None
    """how an architecture's weights begin: random, trunc-normal, xavier, ds-init, mimetic, small-embedding,
    weight-selection, ... (learngene.starts), or several, applied in turn: xavier+mimetic."""
    start_args: Mapping[str, Any] | None = None
    """options of the start as JSON, e.g. '{"ancestor": "my-vit", "layers": "even"}'."""
    resume: bool = field(default=False, metadata=UNRECORDED)
    """go on with an interrupted run; a finished one is left as it is."""
    overwrite: bool = field(default=False, metadata=UNRECORDED)
    """delete an earlier run in OUT first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.plan is not None:
            object.__setattr__(self, "plan", StagePlan.parse(self.plan))
        if self.ancestor is None:
            self._check_no_terms()

    def _check_no_terms(self) -> None:
        """Raise for what is asked of an ancestor, when there is none."""
        usual = {option.name: default_of(option) for option in ordered_fields(type(self))}
        own = [option.name for option in fields(DistillOptions)]
        asked = [f"{name} {getattr(self, name)}" for name in own if getattr(self, name) != usual[name]]
        asked += ["ancestor_mean, ancestor_std, ancestor_input_size or ancestor_classes"] * bool(self.said())
        if asked:
            raise LearngeneError(
                f"{asked[0]} needs an ancestor to learn from; name one with ancestor, or drop it"
            )

    @property
    def stage_plan(self) -> StagePlan | None:
        """The plan as it is read, if there is one."""
        return None if self.plan is None else StagePlan.parse(self.plan)

    def run(self) -> dict[str, Any]:
        """Do it.

        Returns:
            Validation metrics, images seen, seconds and FLOPs.

        Raises:
            LearngeneError: bad input, before training starts; a loss that is not finite, or too many broken
                images.
        """
        from learngene.jobs.work.finetune import tune

        return tune(self)

    @staticmethod
    def show(result: Any) -> None:
        """Validation metrics and costs."""
        from learngene.terminal import say

        top1 = f"val top-1 {100 * result['val_top1']:.2f} %, " if "val_top1" in result else ""
        costs = f"{result['seconds']:.0f} s, {result['flops'] / 1e12:.1f} TFLOPs"
        say(f"{top1}{result['images']:,} images, {costs}")
