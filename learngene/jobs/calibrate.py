"""learngene calibrate"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learngene.errors import LearngeneError
from learngene.job import Job
from learngene.recipe import DataOptions, check_between

if TYPE_CHECKING:
    from learngene.gene import Learngene


@dataclass(frozen=True, kw_only=True)
class Calibrate(DataOptions, Job):
    """Choose the plan and the step sizes of each depth of a learngene, and write them into its file. Without
    labels and without training: ways to a depth are scored by how little the descendant differs from the
    auxiliary net. 'learngene distill' does it at its end.
    """

    COMMAND, ORDER = "calibrate", 25
    SUMMARY = "choose plan and step sizes of each depth of a learngene"
    BY_PLACE = ("gene", "data")
    POSITIONAL = "gene"

    gene: str | Path
    """learngene file."""
    data: str
    """images like those it was distilled on (see distill); labels are not looked at."""
    out: str | Path | None = None
    """file to write; by default the learngene itself, with its tensors as they are."""
    depth: int | str | Sequence[int | str] | None = None
    """numbers of layers, e.g. 6 9 or 5-32; by default from the number of stages to 20, or twice the
    auxiliary net's."""
    views: int = 256
    """training images to compare on, cropped to at least 90 percent."""
    seed: int = 0
    """which images, and how they are cropped."""
    device: str = "auto"
    """cpu, cuda, ... or auto."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between(self, "views", 1, 100_000)
        check_between(self, "seed", 0, 2**32, below=True)
        if self.out is not None and Path(self.out).is_dir():
            raise LearngeneError(f"out '{self.out}' is a directory; name a file, e.g. my.safetensors")

    def run(self) -> Learngene:
        """Do it.

        Returns:
            The learngene as it was written.

        Raises:
            LearngeneError: a damaged learngene, one without a head, a depth that does not fit, or images that
                cannot be read.
        """
        from learngene.jobs.work.calibrate import calibrate_file

        return calibrate_file(self)

    @staticmethod
    def show(result: Any) -> None:
        """A row per depth."""
        from learngene.tables import Table, numbers
        from learngene.terminal import print_table

        ways = sorted(result.expansions.items())
        rows = [
            [str(depth), str(way.plan), way.words, "" if way.kl is None else f"{way.kl:.4f}"]
            for depth, way in ways
        ]
        print_table(None, Table(numbers("depth", "plan", "step", "KL from auxiliary net"), rows), less=())
