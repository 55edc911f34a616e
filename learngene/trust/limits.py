"""How much of what a file says is believed: files come from others, and a forged one may promise anything.

Nothing read here is ever executed, and nothing is allocated or repeated by a number before the number was
checked. Standard library only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from learngene.errors import LearngeneError

# Bytes of one JSON text: half a million class names. Python's objects take up to 25 times as much memory.
MAX_JSON = 8 * 2**20
# Bytes of a run's own record: a benchmark's holds a few kB for each of its trials.
MAX_RECORD = 256 * 2**20
# Bytes of a YAML config; ours have a few thousand. PyYAML itself limits how deep brackets may be nested.
MAX_CONFIG = 2**20
# Layers of one model: as many as the deepest transformer that was published (DeepNet, arXiv 2203.00555).
MAX_LAYERS = 1_000
# An architecture's argument, be it a width or a number of classes: timm makes lists of that length before it
# builds a layer.
MAX_NUMBER = 2**22
# Values in all of an architecture's arguments: the most in timm's own are dozens.
MAX_VALUES = 10_000
# Modules of one model: 1,000 layers of 25. Building so many without memory (on the meta device) takes
# seconds.
MAX_MODULES = 25_000
# Bytes of the tables a model computes for itself (positions, rotations) per byte of weights, and what is
# always allowed.
TABLES_PER_WEIGHT, TABLES_FREE = 4, 64 * 2**20
# Bytes of a model per byte of its weights file: weights may be stored in 8 bits and tables are not stored;
# and what is always allowed.
MODEL_PER_FILE, MODEL_FREE = 8, 256 * 2**20


def read_json(path: Path, most: int = MAX_JSON) -> Any:
    """What a JSON file holds.

    Raises:
        LearngeneError: unreadable, too large, nested too deep, or not JSON.
    """
    try:
        with path.open("rb") as file:
            return parse_json(file.read(most + 1), f"'{path}'", most=most)
    except OSError as error:
        raise LearngeneError(
            f"'{path}' cannot be read ({error.strerror}); check the file and its rights"
        ) from None


def parse_json(
    text: str | bytes, where: str, way_out: str = "write it again", *, most: int = MAX_JSON
) -> Any:
    """What a JSON text from a file holds; ``where`` it came from is for the message.

    Raises:
        LearngeneError: too large, nested too deep, or not JSON.
    """
    if len(text) > most:
        raise LearngeneError(
            f"{where} holds more than {most} bytes of JSON, the most that is read; {way_out}"
        )
    try:
        return json.loads(text)
    except RecursionError:
        raise LearngeneError(
            f"{where} cannot be read as JSON (brackets are nested too deep); {way_out}"
        ) from None
    except ValueError as error:
        raise LearngeneError(f"{where} cannot be read as JSON ({error}); {way_out}") from None


def check_values(values: Any, where: str) -> None:
    """Raise unless all numbers, at any depth of lists and mappings, are small enough to build by."""
    left = [("", values)]
    for _ in range(MAX_VALUES + 1):
        if not left:
            return
        name, value = left.pop()
        if isinstance(value, dict):
            left += [(str(key), inner) for key, inner in list(value.items())[: MAX_VALUES + 1]]
        elif isinstance(value, (list, tuple)):
            left += [(name, inner) for inner in value[: MAX_VALUES + 1]]
        elif isinstance(value, (int, float)) and not abs(value) <= MAX_NUMBER:  # so is what is not a number
            raise LearngeneError(
                f"{where} '{name}' is {_short(value)}, and numbers go up to {MAX_NUMBER}; lower it"
            )
        elif isinstance(value, str) and len(value) > MAX_VALUES:
            raise LearngeneError(
                f"{where} '{name}' has {len(value)} letters, and {MAX_VALUES} are the most; shorten it"
            )
    raise LearngeneError(f"{where} has more than {MAX_VALUES} values, the most that are read; drop some")


def _short(value: float) -> str:
    """A number in a few letters; whole ones too large for Python to print as such included."""
    return (
        f"2^{value.bit_length() - 1} or more"
        if isinstance(value, int) and value.bit_length() > 100
        else str(value)
    )


def printable(text: str, most: int = 2_000) -> str:
    """One line that a terminal only shows: no line breaks, no control sequences from a file's or a folder's
    names.
    """
    line = " ".join(text.split())
    safe = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    return safe if len(safe) <= most else f"{safe[: most // 2]} ... {safe[-most // 2 :]}"
