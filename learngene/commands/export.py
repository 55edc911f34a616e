"""learngene export"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from learngene.arguments import typed

if TYPE_CHECKING:
    from torch import nn


@typed
def export(model: str | Path | nn.Module, *, out: str | Path, tolerance: float = 1e-4, overwrite: bool = False) -> Path:
    """Write a timm directory as ONNX, checked against torch on random images. Needs the extra 'export'.

    Args:
        model: a timm directory, or anything distill takes as an ancestor.
        out: file to write, e.g. model.onnx.
        tolerance: largest absolute difference of the logits to accept.
        overwrite: replace a file that is already there.

    Returns:
        The file.

    Raises:
        LearngeneError: the model cannot be opened or exported, the numbers differ, or the file exists.
    """
    import logging

    from learngene.export.onnx import export_onnx
    from learngene.families.timm import open_model
    from learngene.files import check_new_file

    path = Path(out)
    check_new_file(path, overwrite=overwrite)
    difference = export_onnx(open_model(model), path, tolerance=tolerance)
    logging.getLogger("learngene").info(
        "wrote %s (%.2f MB); largest difference from torch %.2g", path, path.stat().st_size / 1e6, difference
    )
    return path
