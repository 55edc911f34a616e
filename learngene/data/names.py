"""Names of classes and splits: their order, their Unicode forms, and what splits are usually called."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from learngene.errors import LearngeneError

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid"),
    "test": ("test", "testing"),
}


def natural(name: str) -> tuple[Any, ...]:
    """A key for a total order: 2 before 10, a before B, and the name itself where two are equal (1, 01).

    timm's ``natural_key`` leaves ties to the order in which names happen to come, and cannot read some digits
    ('²').
    """
    parts = re.split(r"(\d+)", name.lower())
    numbers = [
        (len(part.lstrip("0")), part.lstrip("0")) if odd % 2 else part for odd, part in enumerate(parts)
    ]
    return tuple(numbers), name


def shown_name(name: str) -> str:
    """A file name for messages; bytes that are no UTF-8 become question marks, as no log could write them."""
    return name.encode(errors="replace").decode()


def first_names(names: Sequence[str], count: int = 8) -> str:
    """Names for messages, of which there may be thousands."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def twin(name: str, names: Iterable[str]) -> str | None:
    """Another name that is the same text in another Unicode form, so that both print alike.

    'é' may be one letter, or e and an accent.
    """
    text = unicodedata.normalize("NFC", name)
    return next(
        (other for other in names if other != name and unicodedata.normalize("NFC", other) == text), None
    )


def check_forms(names: Collection[str], where: str) -> None:
    """Raise if two classes would have names that print alike."""
    if len({unicodedata.normalize("NFC", name) for name in names}) < len(names):
        name, other = next((name, other) for name in names if (other := twin(name, names)))
        raise LearngeneError(
            f"'{where}' has the classes {name!a} and {other!a}, which are one text in two Unicode forms; "
            f"give them one name"
        )


def is_same_split(one: str, other: str) -> bool:
    """Whether two splits have images in common by their names: 'train' and 'train[:80%]', 'a+b' and 'b'."""

    def overlap(a: str, b: str) -> bool:
        whole = "[" not in a or "[" not in b
        return a == b or (whole and a.partition("[")[0] == b.partition("[")[0])

    return any(overlap(a.strip(), b.strip()) for a in one.split("+") for b in other.split("+"))
