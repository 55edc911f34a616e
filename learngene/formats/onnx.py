"""Write models as ONNX, checked against torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from learngene.errors import LearngeneError
from learngene.families.records import architecture_name, data_config_of
from learngene.files import atomic_file


def export_onnx(model: nn.Module, path: str | Path, *, tolerance: float = 1e-4) -> float:
    """Write an ONNX file with a free batch size, and compare it with torch on random images.

    Returns:
        The largest absolute difference of the logits.

    Raises:
        LearngeneError: the extra 'export' is not installed, torch cannot export the model, or the numbers
            differ.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ModuleNotFoundError as error:
        raise LearngeneError(
            f"export needs {error.name}; install it with pip install 'learngene[export]'"
        ) from None
    model = model.cpu().eval()
    size = data_config_of(model)["input_size"]
    images = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    with atomic_file(path) as scratch:
        try:
            torch.onnx.export(
                model,
                (images,),
                str(scratch),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=2**16)},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except OSError:
            raise
        except Exception as error:  # the exporter raises many kinds
            raise LearngeneError(
                f"torch cannot export {architecture_name(model)} to ONNX: {error}"
            ) from error
        session = onnxruntime.InferenceSession(str(scratch), providers=["CPUExecutionProvider"])
        difference = max(_difference(session, model, batch) for batch in (images, images[:1]))
        if not difference <= tolerance:  # also where it is no number
            raise LearngeneError(
                f"the ONNX model differs from torch by {difference:.2g}, more than {tolerance:.2g}; it was "
                "not written"
            )
    return difference


@torch.no_grad()
def _difference(session: Any, model: nn.Module, images: Tensor) -> float:
    """The largest absolute difference between the logits of an onnxruntime session and of a model."""
    found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    return float((found - model(images)).abs().max())
