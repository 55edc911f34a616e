"""learngene demo"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from learngene.arguments import typed

COMMON: dict[str, Any] = {"batch_size": 64, "lr": 8e-3, "warmup_epochs": 0.25, "hflip": 0.0, "crop_scale": 0.8, "crop_pct": 1.0}
DISTILL: dict[str, Any] = {"plan": "2,2,2,2,2", "from_ancestor": True, "epochs": 2, **COMMON}
FINETUNE: dict[str, Any] = {"epochs": 1, **COMMON}
DEPTHS = (5, 7, 9)


@typed
def demo(*, out: str | Path = "learngene-demo", resume: bool = False, overwrite: bool = False, seed: int = 0) -> dict[str, Any]:
    """The whole pipeline on real images inside the package, in minutes on two cores.

    Distils a learngene from the packaged ancestor (a ViT trained on Fashion-MNIST) on the embedded images, spawns
    descendants of three depths, fine-tunes each briefly, trains the same depths from scratch with the same budget,
    and tests all on 2,000 held-out images. Every number in the table is measured in this run.

    Args:
        out: directory to write.
        resume: go on with an interrupted demo; a finished one is left as it is.
        overwrite: delete an earlier demo in OUT first.
        seed: of everything.

    Returns:
        As benchmark: rows, table, distillation, report.

    Raises:
        LearngeneError: the output directory is in use.
    """
    from learngene.assets import ancestor_directory
    from learngene.commands.benchmark import benchmark

    return benchmark(
        "fashion-mnist",
        out=out,
        distill={"ancestor": str(ancestor_directory()), "seed": seed, **DISTILL},
        depths=DEPTHS,
        seeds=(seed,),
        resume=resume,
        overwrite=overwrite,
        **FINETUNE,
    )
