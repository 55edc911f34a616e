"""Write models for other programs: timm directories and ONNX."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models import save_for_hf
from torch import nn

from learngene import vit
from learngene.errors import LearngeneError
from learngene.files import atomic_directory, atomic_file

log = logging.getLogger("learngene")


FILES = ("config.json", "model.safetensors", "README.md")


def save_timm_directory(
    model: nn.Module,
    directory: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    card: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write ``config.json`` and ``model.safetensors``, which ``timm.create_model("local-dir:DIR", pretrained=True)`` loads.

    The model must come from `Architecture.build`, `Learngene.spawn` or timm itself, so that its arguments are recorded.

    Args:
        class_names: names of the head's outputs, in order.
        card: Markdown text for ``README.md``.
        overwrite: replace a directory that is already there.

    Raises:
        LearngeneError: the directory is in use, or timm cannot record this model.
    """
    name = vit.architecture_name(model)
    depth = len(vit.get_blocks(model)) if vit.is_supported(name) else None
    if depth is not None:
        vit.check_storable(name, depth)
    if Path(directory).is_dir() and any(Path(directory).iterdir()) and not (Path(directory) / "config.json").is_file():
        raise LearngeneError(
            f"'{directory}' holds something that is no timm directory, which is never overwritten; choose another --out"
        )
    config = {"label_names": list(class_names)} if class_names else {}
    with atomic_directory(directory, overwrite=overwrite, own=FILES) as scratch:
        save_for_hf(model, str(scratch), model_config=config, safe_serialization=True)
        if card:
            (scratch / "README.md").write_text(card, encoding="utf-8")
    return Path(directory)


def describe_as_trained(model: nn.Module, data: Mapping[str, Any], *, license: str | None = None) -> nn.Module:
    """Make a model's own record (``pretrained_cfg``) say how it was trained here, not what timm's registry says."""
    keep = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    said = {k: data[k] for k in keep if k in data} | {"license": license, "num_classes": model.num_classes}
    vit.set_pretrained_cfg(model, vit.UNTRAINED | said)
    return model


def export_onnx(model: nn.Module, path: str | Path, *, tolerance: float = 1e-4) -> float:
    """Write an ONNX file with a free batch size, and compare it with torch on random images.

    Returns:
        The largest absolute difference of the logits.

    Raises:
        LearngeneError: the extra 'export' is not installed, torch cannot export the model, or the numbers differ.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ModuleNotFoundError as error:
        raise LearngeneError(f"export needs {error.name}; install it with pip install 'learngene[export]'") from None
    model = model.cpu().eval()
    size = vit.data_config(model)["input_size"]
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
            raise LearngeneError(f"torch cannot export {vit.architecture_name(model)} to ONNX: {error}") from error
        session = onnxruntime.InferenceSession(str(scratch), providers=["CPUExecutionProvider"])
        difference = 0.0
        for batch in (images, images[:1]):
            with torch.no_grad():
                expected = model(batch)
            found = torch.from_numpy(session.run(None, {"images": batch.numpy()})[0])
            difference = max(difference, float((found - expected).abs().max()))
        if difference > tolerance:
            raise LearngeneError(
                f"the ONNX model differs from torch by {difference:.2g}, more than {tolerance:.2g}; it was not written"
            )
    return difference
