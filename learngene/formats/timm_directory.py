"""Write models as timm directories, which timm loads with this package not installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from timm.models import save_for_hf
from torch import nn

from learngene.errors import LearngeneError
from learngene.families.anatomy import get_blocks, is_supported
from learngene.families.architecture import architecture_of, check_storable
from learngene.families.records import architecture_name
from learngene.files import atomic_directory

FILES = ("config.json", "model.safetensors", "README.md")


def save_timm_directory(
    model: nn.Module,
    directory: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    card: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a timm directory: ``config.json`` and ``model.safetensors``.

    ``timm.create_model("local-dir:DIR", pretrained=True)`` loads it.
    The model must come from `Architecture.build`, `Learngene.spawn` or timm itself, so that its arguments are
    recorded.

    Args:
        class_names: names of the head's outputs, in order.
        card: Markdown text for ``README.md``.
        overwrite: replace a directory that is already there.

    Raises:
        LearngeneError: the directory is in use, or timm cannot record this model.
    """
    name = architecture_name(model)
    depth = len(get_blocks(model)) if is_supported(name) else None
    if depth is not None:
        check_storable(architecture_of(model), depth)
    if (
        Path(directory).is_dir()
        and any(Path(directory).iterdir())
        and not (Path(directory) / "config.json").is_file()
    ):
        raise LearngeneError(
            f"'{directory}' holds something that is no timm directory, which is never overwritten; choose "
            "another --out"
        )
    config = {"label_names": list(class_names)} if class_names else {}
    with atomic_directory(directory, overwrite=overwrite, own=FILES) as scratch:
        save_for_hf(model, str(scratch), model_config=config, safe_serialization=True)
        if card:
            (scratch / "README.md").write_text(card, encoding="utf-8")
    return Path(directory)
