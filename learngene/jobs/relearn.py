"""learngene relearn"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learngene.errors import LearngeneError
from learngene.job import UNRECORDED, Job
from learngene.recipe import DataOptions, Recipe


@dataclass(frozen=True, kw_only=True)
class Relearn(Recipe, DataOptions, Job):
    """Reset one layer of a trained ViT, train on, and see how soon its accuracy is back: OUT/relearn.md,
    plot, results.jsonl.
    """

    COMMAND, ORDER = "relearn", 80
    SUMMARY = "reset one layer of a trained model and see how soon it is back"
    BY_PLACE = ("models", "data")
    POSITIONAL = "models"
    MAIN = ("models", "data", "out", "layers", "shares", "modes", "seeds", "lr", "batch_size", "resume")
    JSON = True

    models: Sequence[str]
    """timm directories of trained models; several show whether depth and width matter."""
    data: str
    """the images they were trained on (see distill); the accuracy is that on the validation split."""
    out: str | Path = field(metadata=UNRECORDED)
    """directory to write."""
    layers: Sequence[int] | None = None
    """which to reset, counted from 1; by default each in turn."""
    shares: Sequence[float] = (0.01, 0.03, 0.1, 0.3, 1.0)
    """of the training images to train on again."""
    modes: Sequence[str] = ("frozen", "free")
    """frozen (only the reset layer is trained), free (everything is), or both."""
    controls: Sequence[str] = ()
    """with the largest share, also none (nothing reset, nothing frozen), lr-x5 (five times the learning
    rate), norms-kept, block-K (K layers in a row reset) and inverse-K (all but these)."""
    seeds: Sequence[int] = (0,)
    """each question is asked with each."""
    tolerance: float = 0.005
    """how far below the original accuracy counts as back; 0.005 is half a point."""
    max_images: int = 100000
    """views to give up after."""
    original_images: Sequence[int] = ()
    """views that each model was trained on; by default read from the run.json beside it, if there is one."""
    resume: bool = field(default=False, metadata=UNRECORDED)
    """go on with an interrupted run; finished cells are not run again."""
    overwrite: bool = field(default=False, metadata=UNRECORDED)
    """delete an earlier run in OUT first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.tolerance < 1:
            raise LearngeneError(f"tolerance {self.tolerance}: it must be from 0 to below 1")
        modes = set(self.modes)
        if not self.models or not self.shares or not self.seeds or not modes or modes - {"frozen", "free"}:
            raise LearngeneError(
                "relearn needs a model, a share, a seed, and modes among frozen and free, not "
                f"{list(self.modes)}"
            )
        if not all(0 < share <= 1 for share in self.shares):
            raise LearngeneError(f"shares {list(self.shares)} must be above 0 and at most 1")
        if self.original_images and len(self.original_images) != len(self.models):
            raise LearngeneError(
                f"{len(self.original_images)} original_images for {len(self.models)} models; give one "
                "number each, or none"
            )

    def run(self) -> dict[str, Any]:
        """Do it.

        Returns:
            ``rows`` (one per cell) and ``report``.

        Raises:
            LearngeneError: bad input, before anything is trained.
        """
        from learngene.jobs.work.relearn import run_relearning

        return run_relearning(self)

    @staticmethod
    def show(result: Any) -> None:
        """The report itself: table and words are in it."""
        from learngene.terminal import print_markdown, say

        text = Path(result["report"]).read_text(encoding="utf-8")
        print_markdown(text[text.index("## In words") : text.index("![")])
        say(result["report"])
