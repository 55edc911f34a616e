"""The one exception that users see: a sentence with the value, the limit and the way out."""

from __future__ import annotations


class LearngeneError(ValueError):
    """Bad input. Raised before expensive work starts; the CLI prints it and exits with status 2."""


def first_line(error: BaseException) -> str:
    """What an error says first; torch's list of tensors that do not fit has a title above it."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or ["no message"]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
