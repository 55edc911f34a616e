"""What a label is: a whole number from 0 to K-1, or text where the classes are known.

Labels are checked before images are read, or while they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from learngene.data.names import check_forms, first_names, natural, twin
from learngene.errors import LearngeneError


def whole_number(label: Any) -> int | None:
    """A label as an integer; none if it is no whole number.

    Python's, numpy's and torch's numbers without a fraction are, and digits as text or bytes.
    """
    if hasattr(label, "item") and np.ndim(label) == 0:
        label = label.item()
    if isinstance(label, bytes):
        label = label.decode(errors="replace")
    if isinstance(label, str):
        return int(label) if re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", label) else None
    if isinstance(label, float):
        return int(label) if label.is_integer() else None
    return int(label) if isinstance(label, int) else None


@dataclass(frozen=True)
class Labels:
    """The labels that a data set may have.

    Attributes:
        name: of the data set, for messages.
        count: K, when it is known.
        names: of the classes, when they are known.
        text: the labels are the names themselves.
    """

    name: str
    count: int | None
    names: tuple[str, ...] | None = None
    text: bool = False

    def index(self, label: Any, place: str) -> int:
        """The class of a label.

        Args:
            place: which image or row has it, for the message.

        Raises:
            LearngeneError: it is missing, no whole number, or out of range.
        """
        word = label if self.text and isinstance(label, str) else None
        found = whole_number(label) if not self.text else None if word is None else self._by_name.get(word)
        if found is None or found < 0 or (self.count is not None and found >= self.count):
            other = None if word is None else twin(word, self.names or ())
            alike = "" if other is None else f" ({label!a}, and {other!a} is another Unicode form of that)"
            raise LearngeneError(
                f"{self.name}: {place} has {_said(label)}{alike}; {self._allowed()}. {self._ways(found)}"
            )
        return found

    def indices(self, labels: Iterable[Any], place: Callable[[int], str]) -> np.ndarray:
        """The classes (N,) int64 of all labels of a data set, as `index`."""
        labels = list(labels)
        if not self.text and set(map(type, labels)) <= {int, np.int64}:
            numbers = np.array(labels, dtype=np.int64)  # a million of them at once
            if self._in_range(numbers):
                return numbers
        return np.array([self.index(label, place(row)) for row, label in enumerate(labels)], dtype=np.int64)

    def _in_range(self, labels: np.ndarray) -> bool:
        return bool((labels >= 0).all() and (self.count is None or (labels < self.count).all()))

    @cached_property
    def _by_name(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names or ())}

    def _allowed(self) -> str:
        listed = first_names(self.names or ())
        if self.text:
            return f"the labels of the training images are {listed}"
        end = "on" if self.count is None else f"to {self.count - 1}"
        return f"labels are whole numbers from 0 {end}" + (f" ({listed})" if listed else "")

    def _ways(self, found: int | None) -> str:
        more = ""
        if found is not None and found >= 0 and not self.names:
            more = f", raise --num-classes (to {found + 1} or more)"
        elif found == -1:
            more = (
                ", use another split where -1 stands for labels that are kept secret "
                "(--split val, --test-split NAME)"
            )
        return f"Mend the labels{more}, or pass --unlabeled to distil without them"


def _said(label: Any) -> str:
    if label is None or label != label or label in ("", b""):  # NaN differs from itself
        return f"no label ({'none' if label is None else repr(label)})"
    if isinstance(label, bytes):
        label = label.decode(errors="replace").strip()
    shown = repr(label.item() if isinstance(label, np.generic) else label)
    return f"the label {shown if len(shown) <= 60 else shown[:57] + '...'}"


def check_count(name: str, names: Sequence[str], num_classes: int | None) -> None:
    """Raise if ``--num-classes`` contradicts the names that a data set gives its classes."""
    if num_classes not in (None, len(names)):
        raise LearngeneError(
            f"num_classes {num_classes}: {name} names {len(names)} classes itself; drop --num-classes"
        )


def names_from_text(labels: Iterable[Any], name: str) -> tuple[str, ...]:
    """Class names from a column of text, in the order of class folders, whatever the order of the rows.

    Raises:
        LearngeneError: two of them are one text in two Unicode forms.
    """
    names = tuple(sorted({label for label in labels if isinstance(label, str) and label}, key=natural))
    check_forms(names, name)
    return names


def count_from(labels: Sequence[Any], name: str) -> int:
    """K from labels without names: the highest and one more.

    Raises:
        LearngeneError: they do not begin at 0, or there would be more classes than images.
    """
    numbers = [number for label in labels if (number := whole_number(label)) is not None]
    low, high = min(numbers, default=0), max(numbers, default=0)
    if low > 0 or high >= max(len(labels), 1):
        raise LearngeneError(
            f"{name} has labels from {low} to {high} for {len(labels)} images, and names no classes; "
            f"labels are whole numbers from 0 to K-1. Mend the labels, give K with --num-classes, or pass "
            f"--unlabeled to distil without them"
        )
    return high + 1
