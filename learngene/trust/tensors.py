"""Doubt about files of tensors: what is in one is known before it is opened, and a pickle never is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from learngene.errors import LearngeneError
from learngene.trust.limits import MAX_JSON, parse_json

# how torch.save's and pickle's files begin
PICKLES = (b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6)))
# what safetensors and its JSON raise at garbled files
GARBLED = (
    SafetensorError, OSError, ValueError, RuntimeError, OverflowError, TypeError, KeyError, AttributeError,
)  # fmt: skip


def read_tensors(path: Path, key: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON header under a metadata key of a learngene's file, and its tensors by name.

    Raises:
        LearngeneError: missing, a directory, truncated, a pickle, without such a header, or one that is too
            long.
    """
    _check_file(path)
    try:
        _check_length(path)
        with safe_open(path, framework="pt") as file:
            header = parse_json((file.metadata() or {}).get(key, "null"), f"the header of '{path}'")
            if not isinstance(header, dict):
                raise LearngeneError(
                    f"'{path}' is a safetensors file but not a learngene (it has no {key} header); "
                    f"{_instead(path)}"
                )
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except LearngeneError:
        raise
    except GARBLED as error:
        raise LearngeneError(_why(path, error)) from None


def _check_file(path: Path) -> None:
    try:
        is_directory = path.is_dir()
    except OSError as error:
        raise LearngeneError(
            f"'{str(path)[:100]}' cannot be opened ({error.strerror}); check the path and its rights"
        ) from None
    if is_directory:
        raise LearngeneError(
            f"'{path}' is a directory; a learngene is one file, usually {path}/learngene.safetensors"
        )
    if not path.is_file():
        raise LearngeneError(
            f"there is no file '{path}'; 'learngene distill' writes RUN/learngene.safetensors"
        )


def _why(path: Path, error: Exception) -> str:
    """What a file that cannot be read is, by how it begins."""
    first = _first_bytes(path, 9)
    if first[:2] in PICKLES:
        return f"'{path}' is a pickle, which could run code when opened; {_instead(path)}"
    # after the header's length a safetensors file has its JSON
    if path.suffix.lower() not in ("", ".safetensors") and first[8:] != b"{":
        return f"{what_file(path)}; {_instead(path)}"
    return f"'{path}' is damaged or not a learngene ({error}); fetch or distil it again"


def what_file(path: Path) -> str:
    """Why a file is no model."""
    kinds = {
        ".safetensors": "holds weights, but does not say of which architecture",
        ".onnx": "is an ONNX graph, which cannot be run as a torch model",
    }
    kinds |= dict.fromkeys(
        (".pth", ".pt", ".bin", ".tar", ".ckpt"),
        "is a torch checkpoint, which does not say of which architecture",
    )
    return (
        f"'{path}' {kinds.get(path.suffix.lower(), 'is a file, and a model is a directory with config.json')}"
    )


def _instead(path: Path) -> str:
    """What to give instead of a file that is no learngene: for a part of a timm directory, that directory."""
    gene = "a learngene, a safetensors file that 'learngene distill' writes"
    is_part = (
        path.name in ("model.safetensors", "config.json", "pytorch_model.bin")
        and (path.parent / "config.json").is_file()
    )
    return f"give the directory '{path.parent}', or {gene}" if is_part else f"give {gene}"


def _first_bytes(path: Path, count: int = 8) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _check_length(path: Path) -> None:
    """Raise if the safetensors header, whose length comes first, is longer than any of ours.

    A quote within it is written as two bytes.
    """
    length = int.from_bytes(_first_bytes(path), "little")
    if 3 * MAX_JSON < length <= path.stat().st_size:
        raise LearngeneError(
            f"'{path}' has a header of {length} bytes, and {3 * MAX_JSON} are the most; fetch or distil it "
            "again"
        )
