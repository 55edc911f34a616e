"""learngene evaluate"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learngene.arguments import ModelSource
from learngene.errors import LearngeneError
from learngene.job import UNRECORDED, Job
from learngene.plan import StagePlan
from learngene.recipe import DataOptions


@dataclass(frozen=True, kw_only=True)
class Evaluate(DataOptions, Job):
    """Top-1, top-5, loss and throughput of a timm model, or of each depth of a learngene, on labelled
    images.
    """

    COMMAND, ORDER = "evaluate", 50
    SUMMARY = "top-1, top-5, loss and throughput of a model, or of a learngene's depths"
    BY_PLACE = ("model", "data")
    POSITIONAL = "model"
    JSON = True

    model: ModelSource
    """a timm directory, or anything distill takes as an ancestor; or a learngene file, whose depths are
    then spawned and evaluated untuned, on the same images."""
    data: str
    """images (see distill)."""
    depth: int | str | Sequence[int | str] | None = None
    """numbers of layers of a learngene's descendants, e.g. 6 9 12 or 5-12; by default its own plan is
    evaluated."""
    plan: str | Sequence[int] | StagePlan | None = None
    """layers per stage, instead of a depth."""
    step: float | str | Sequence[float] | None = None
    """exponent of the step size, (trained / spawned repeats) ** step on what each layer adds; one, or one per
    stage. By default what the learngene says; 0, with a balanced plan, is the paper's plain repetition."""
    out: str | Path | None = None
    """directory to keep the rows of a learngene's depths in: evaluation.json, evaluation.md and
    accuracy-by-size.png."""
    overwrite: bool = field(default=False, metadata=UNRECORDED)
    """replace an earlier evaluation in OUT; anything else there is left alone."""
    split: str = "auto"
    """auto (test if there is one, else val), train, val or test."""
    batch_size: int = 256
    """images per batch."""
    device: str = "auto"
    """cpu, cuda, ... or auto."""

    def run(self) -> dict[str, Any]:
        """Do it.

        Returns:
            ``top1`` and ``top5`` (shares), ``loss``, ``images``, ``images_per_second`` (reading included),
            ``split`` and where it ran. For a learngene ``rows`` instead, one per depth: also ``plan``,
            ``parameters``, ``bytes``, ``gflops``, ``latency_ms`` (median) and ``latency_quartiles_ms``; and
            under ``latency`` how that was measured.

        Raises:
            LearngeneError: the model or data cannot be opened, the head is not for these classes, or a depth
                or plan does not fit.
        """
        from learngene.jobs.work.evaluate import evaluate_gene, evaluate_single

        if self.unlabeled:
            raise LearngeneError("evaluating needs labels; drop --unlabeled")
        if isinstance(self.model, (str, Path)) and Path(self.model).is_file():
            return evaluate_gene(self)
        return evaluate_single(self)

    @staticmethod
    def show(result: Any) -> None:
        """One line; for a learngene a row per depth."""
        from learngene.terminal import print_costs, say

        if "rows" not in result:
            say(
                f"{result['split']}: top-1 {100 * result['top1']:.2f} %, top-5 {100 * result['top5']:.2f} %, "
                f"loss {result['loss']:.4f}, {result['images']} images, "
                f"{result['images_per_second']:.0f} images/s"
            )
            return
        say(f"{result['model']} on {result['split']}, untuned", style="bold")
        print_costs(result["rows"], result["latency"])
        if "out" in result:
            say(f"{result['out']}/accuracy-by-size.png, evaluation.md, evaluation.json")
