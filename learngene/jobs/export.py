"""learngene export"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learngene.arguments import ModelSource
from learngene.files import check_new_file
from learngene.job import UNRECORDED, Job


@dataclass(frozen=True, kw_only=True)
class Export(Job):
    """Write a timm directory as ONNX, checked against torch on random images. Needs the extra 'export'."""

    COMMAND, ORDER = "export", 130
    SUMMARY = "write a model as ONNX"
    BY_PLACE = ("model",)
    POSITIONAL = "model"

    model: ModelSource
    """a timm directory, or anything distill takes as an ancestor."""
    out: str | Path
    """file to write, e.g. model.onnx."""
    tolerance: float = 0.0001
    """largest absolute difference of the logits to accept."""
    overwrite: bool = field(default=False, metadata=UNRECORDED)
    """replace a file that is already there."""

    def run(self) -> Path:
        """Do it.

        Returns:
            The file.

        Raises:
            LearngeneError: the model cannot be opened or exported, the numbers differ, or the file exists.
        """
        import logging

        from learngene.families.timm import open_model
        from learngene.formats.onnx import export_onnx

        path = Path(self.out)
        check_new_file(path, overwrite=self.overwrite)
        difference = export_onnx(open_model(self.model), path, tolerance=self.tolerance)
        logging.getLogger("learngene").info(
            "wrote %s (%.2f MB); largest difference from torch %.2g",
            path,
            path.stat().st_size / 1e6,
            difference,
        )
        return path

    @staticmethod
    def show(result: Any) -> None:
        """The file."""
        print(result)
