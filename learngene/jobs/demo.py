"""learngene demo"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learngene.job import UNRECORDED, Job
from learngene.jobs.benchmark import Benchmark

COMMON: dict[str, Any] = {
    "batch_size": 64,
    "lr": 8e-3,
    "warmup_epochs": 0.25,
    "hflip": 0.0,
    "crop_scale": 0.8,
    "crop_pct": 1.0,
}
DISTILL: dict[str, Any] = {"plan": "2,2,2,2,2", "epochs": 2, **COMMON}
FINETUNE: dict[str, Any] = {"epochs": 1, **COMMON}
DEPTHS = (5, 7, 9)
STARTS: tuple[dict[str, Any], ...] = (
    {"start": "learngene", "gene": "distill", "epochs": [0, 1]},
    {"start": "random", "epochs": [1]},
    {"name": "random-longer", "start": "random", "epochs": [4], "depths": [DEPTHS[0]]},
)


@dataclass(frozen=True, kw_only=True)
class Demo(Job):
    """The whole pipeline on real images inside the package, in minutes on two cores.

    Distils a learngene from the packaged ancestor (a ViT trained on Fashion-MNIST) on the embedded images,
    spawns descendants of three depths, tests them untuned, fine-tunes each briefly, trains the same depths
    from scratch with the same budget (and the shallowest with four times as much), and tests all on 2,000
    held-out images.
    Every number in the table is measured in this run.
    """

    COMMAND, ORDER = "demo", 140
    SUMMARY = "the whole pipeline on the embedded images, in minutes"

    out: str | Path = field(default="learngene-demo", metadata=UNRECORDED)
    """directory to write."""
    resume: bool = field(default=False, metadata=UNRECORDED)
    """go on with an interrupted demo; a finished one is left as it is."""
    overwrite: bool = field(default=False, metadata=UNRECORDED)
    """delete an earlier demo in OUT first."""
    seed: int = 0
    """of everything."""

    def run(self) -> dict[str, Any]:
        """Do it.

        Returns:
            As benchmark: rows, table and report.

        Raises:
            LearngeneError: the output directory is in use.
        """
        from learngene.assets import ancestor_directory

        return Benchmark(
            data="fashion-mnist",
            out=self.out,
            distill={"ancestor": str(ancestor_directory()), "seed": self.seed, **DISTILL},
            depths=DEPTHS,
            starts=STARTS,
            seeds=(self.seed,),
            resume=self.resume,
            overwrite=self.overwrite,
            **FINETUNE,
        ).run()

    show = Benchmark.show
