"""learngene spawn"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learngene.errors import LearngeneError
from learngene.job import UNRECORDED, Job
from learngene.plan import StagePlan
from learngene.recipe import check_between


@dataclass(frozen=True, kw_only=True)
class Spawn(Job):
    """Spawn descendants of any depth from a learngene: OUT/depth-06, OUT/depth-09, ... (timm directories)."""

    COMMAND, ORDER = "spawn", 30
    SUMMARY = "spawn descendants of any depth from a learngene"
    BY_PLACE = ("gene",)
    POSITIONAL = "gene"

    gene: str | Path
    """learngene file."""
    out: str | Path
    """directory to write the descendants into."""
    depth: int | str | Sequence[int | str] | None = None
    """numbers of layers, one or more, or ranges such as 4-12; each by the plan that the learngene says."""
    plan: str | Sequence[int] | StagePlan | None = None
    """layers per stage, instead of a depth; a stage may have 0."""
    step: float | str | Sequence[float] | None = None
    """exponent of the step size, (trained / spawned repeats) ** step on what each layer adds; one, or one per
    stage. By default what the learngene says; 0, with a balanced plan, is the paper's plain repetition."""
    num_classes: int | None = None
    """size of the head; the learned head is kept when it is the learngene's own number."""
    img_size: int | None = None
    """input pixels; position embeddings are resampled."""
    in_chans: int | None = None
    """input channels."""
    max_params: float | None = None
    """instead of a depth, the deepest with at most so many parameters."""
    max_gflops: float | None = None
    """the deepest with at most so many GFLOPs an image."""
    max_latency_ms: float | None = None
    """the deepest that takes at most so many milliseconds an image on the device (median, as info
    --latency)."""
    device: str = "cpu"
    """where latency is measured."""
    seed: int = 0
    """of a fresh head."""
    overwrite: bool = field(default=False, metadata=UNRECORDED)
    """replace descendants that are already there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum([self.depth is not None, self.plan is not None, bool(self.budgets)]) != 1:
            raise LearngeneError(
                "say what to spawn in one way: --depth 6 9 12, or --plan 2,1,2,1,1, or a budget such as "
                "--max-params 5e6"
            )
        check_between(self, "seed", 0, 2**32, below=True)

    @property
    def budgets(self) -> dict[str, float]:
        """Those that are given."""
        every = {
            "max_params": self.max_params,
            "max_gflops": self.max_gflops,
            "max_latency_ms": self.max_latency_ms,
        }
        return {name: budget for name, budget in every.items() if budget is not None}

    def run(self) -> list[Path]:
        """Do it.

        Returns:
            The directories, shallowest first.

        Raises:
            LearngeneError: a depth, plan or budget that does not fit; a damaged learngene; a directory in
                use.
        """
        from learngene.jobs.work.spawn import write_descendants

        return write_descendants(self)

    @staticmethod
    def show(result: Any) -> None:
        """One directory per line."""
        for path in result:
            print(path)
