"""A learngene's file: safetensors, with a JSON header under the metadata key ``learngene``. Nothing in it is ever executed.

Format 2 (2026) names the way of ``sharing``; format 1 knew one, and is read for ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from learngene.errors import LearngeneError
from learngene.families.timm import what_file
from learngene.families.weights import digest_of
from learngene.files import atomic_file
from learngene.mix import State
from learngene.sharing import STAGES
from learngene.trust.limits import MAX_JSON, parse_json

FORMAT_VERSION = 2
HEADER_KEY = "learngene"
PICKLES = (
    b"PK",
    *(bytes([0x80, protocol]) for protocol in range(2, 6)),
)  # how torch.save's and pickle's files begin


def write(path: Path, header: Mapping[str, Any], state: State) -> Path:
    """Write a learngene, whole or not at all.

    Raises:
        LearngeneError: the header is too long, or the file cannot be written.
    """
    versioned = {"format_version": FORMAT_VERSION, **header}
    text = json.dumps(versioned | {"digest": _digest(versioned, state)})
    if len(text) > MAX_JSON:
        raise LearngeneError(
            f"the header would have {len(text)} bytes, and {MAX_JSON} are the most; shorten class_names or metrics"
        )
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with atomic_file(path) as scratch:
        save_file(tensors, scratch, metadata={HEADER_KEY: text})
    return path


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header of a learngene, as today's format has it, and its tensors.

    Raises:
        LearngeneError: missing, truncated, a pickle, not a learngene, of a newer format, or altered.
    """
    header, state = _open(path)
    version = header.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise LearngeneError(
            f"'{path}' has learngene format {version!r:.40}, this package reads up to {FORMAT_VERSION}; "
            f"upgrade with 'pip install --upgrade learngene'"
        )
    stored = header.pop("digest", None)
    if stored != _digest(header, state):
        raise LearngeneError(
            f"'{path}' was altered after it was written (its digest does not match); fetch or distil it again"
        )
    return ({"sharing": STAGES, **header} if version == 1 else header), state


def _digest(header: Mapping[str, Any], state: State) -> str:
    return digest_of(
        {
            **state,
            "": torch.frombuffer(bytearray(json.dumps(header, sort_keys=True).encode()), dtype=torch.uint8),
        }
    )


def _open(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
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
    try:
        _check_length(path)
        with safe_open(path, framework="pt") as file:
            header = parse_json((file.metadata() or {}).get(HEADER_KEY, "null"), f"the header of '{path}'")
            if not isinstance(header, dict):
                raise LearngeneError(
                    f"'{path}' is a safetensors file but not a learngene (it has no learngene header); {_instead(path)}"
                )
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (
        SafetensorError,
        OSError,
        ValueError,
        RuntimeError,
        OverflowError,
        TypeError,
        KeyError,
        AttributeError,
    ) as error:
        if isinstance(error, LearngeneError):
            raise
        first = _first_bytes(path, 9)
        if first[:2] in PICKLES:
            raise LearngeneError(
                f"'{path}' is a pickle, which could run code when opened; {_instead(path)}"
            ) from None
        # after the header's length a safetensors file has its JSON
        if path.suffix.lower() not in ("", ".safetensors") and first[8:] != b"{":
            raise LearngeneError(f"{what_file(path)}; {_instead(path)}") from None
        raise LearngeneError(
            f"'{path}' is damaged or not a learngene ({error}); fetch or distil it again"
        ) from None


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
    """Raise if the safetensors header, whose length comes first, is longer than any of ours (quotes are written as two bytes)."""
    length = int.from_bytes(_first_bytes(path), "little")
    if 3 * MAX_JSON < length <= path.stat().st_size:
        raise LearngeneError(
            f"'{path}' has a header of {length} bytes, and {3 * MAX_JSON} are the most; fetch or distil it again"
        )
