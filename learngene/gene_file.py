"""A learngene's file: safetensors, with a JSON header under the metadata key ``learngene``. Nothing in it is
ever executed.

Format 2 (2026) names the way of ``sharing``; format 1 knew one, and is read for ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from learngene.errors import LearngeneError
from learngene.families.weights import digest_of
from learngene.files import atomic_file
from learngene.mix import State
from learngene.sharing import STAGES
from learngene.trust.limits import MAX_JSON, TABLES_FREE, TABLES_PER_WEIGHT
from learngene.trust.tensors import read_tensors

FORMAT_VERSION = 2
HEADER_KEY = "learngene"


def write(path: Path, header: Mapping[str, Any], state: State) -> Path:
    """Write a learngene, whole or not at all.

    Raises:
        LearngeneError: the header is too long, or the file cannot be written.
    """
    versioned = {"format_version": FORMAT_VERSION, **header}
    text = json.dumps(versioned | {"digest": _digest(versioned, state)})
    if len(text) > MAX_JSON:
        raise LearngeneError(
            f"the header would have {len(text)} bytes, and {MAX_JSON} are the most; shorten class_names or "
            "metrics"
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
    header, state = read_tensors(path, HEADER_KEY)
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


def check_tensors(name: str, skeleton: nn.Module, state: State) -> None:
    """Raise unless the tensors are those of the model that the header describes.

    Args:
        name: of its architecture.
        skeleton: the model, with a layer per stage, on the meta device.
    """
    expected = {name: tuple(t.shape) for name, t in skeleton.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in state.items()}
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            raise LearngeneError(
                f"the tensors do not fit the header: {name} "
                "with a layer per stage has "
                f"'{key}' of shape {expected.get(key, 'none')}, the learngene has "
                f"{found.get(key, 'none')}"
            )
    weights = sum(t.nbytes for t in state.values())
    tables = sum(t.nbytes for name, t in skeleton.named_buffers() if name not in state)
    if tables > TABLES_FREE + TABLES_PER_WEIGHT * weights:
        raise LearngeneError(
            f"{name} would compute tables of {tables / 1e6:,.0f} MB for "
            f"{weights / 1e6:,.1f} MB of weights; "
            f"use a smaller img_size"
        )
    odd = next(
        (
            k
            for k, t in skeleton.state_dict().items()
            if t.is_floating_point() != state[k].is_floating_point()
        ),
        None,
    )
    if odd is not None:
        raise LearngeneError(f"'{odd}' holds {state[odd].dtype}, which {name} cannot use; store it as float")


def _digest(header: Mapping[str, Any], state: State) -> str:
    return digest_of(
        {
            **state,
            "": torch.frombuffer(bytearray(json.dumps(header, sort_keys=True).encode()), dtype=torch.uint8),
        }
    )
