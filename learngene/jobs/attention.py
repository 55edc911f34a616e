"""learngene attention"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learngene.errors import LearngeneError
from learngene.files import check_new_file
from learngene.job import UNRECORDED, Job
from learngene.recipe import DataOptions, check_between


@dataclass(frozen=True, kw_only=True)
class Attention(DataOptions, Job):
    """Draw attention maps of models side by side, averaged over heads and a batch (Trockman and Kolter 2023,
    Figure 2).
    """

    COMMAND, ORDER = "attention", 90
    SUMMARY = "attention maps of models side by side"
    BY_PLACE = ("models", "data")
    POSITIONAL = "models"

    models: Sequence[str]
    """timm directories or models; or names of starts such as random or mimetic, shown untrained in the
    architecture of the first trained model."""
    data: str
    """images (see distill)."""
    out: str | Path
    """PNG to write."""
    layers: Sequence[int] = (1, 4, 11)
    """which, counted from 1; those a model lacks are its last."""
    images: int = 64
    """size of the batch."""
    split: str = "val"
    """where the images come from: train, val or test."""
    seed: int = 0
    """of untrained models."""
    overwrite: bool = field(default=False, metadata=UNRECORDED)
    """replace a file that is already there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.models or min(self.layers, default=0) < 1 or self.images < 1:
            raise LearngeneError(
                "attention needs at least one model, layers counted from 1, and at least one image"
            )
        if Path(self.out).suffix.lower() != ".png":
            raise LearngeneError(
                f"'{self.out}': attention maps are written as PNG; name a file that ends in .png"
            )
        check_between(self, "seed", 0, 2**32, below=True)

    def run(self) -> Path:
        """Do it.

        Returns:
            The file.

        Raises:
            LearngeneError: a model cannot be opened or shows no attention, no trained model to take the
                architecture from, a layer below 1, or OUT is no PNG or exists.
        """
        from learngene.studies.attention import attention_maps, batch, draw_maps, models_by_name

        check_new_file(self.out, overwrite=self.overwrite)
        opened = models_by_name(self.models, seed=self.seed)
        maps = [
            (name, attention_maps(model, batch(model, self.data, self, self.split, self.images), self.layers))
            for name, model in opened
        ]
        return draw_maps(maps, Path(self.out))

    @staticmethod
    def show(result: Any) -> None:
        """The file."""
        print(result)
