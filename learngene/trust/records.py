"""Records in files from others: how images are wanted, and names of classes."""

from __future__ import annotations

import json
from typing import Any

from learngene.errors import LearngeneError
from learngene.trust.limits import MAX_JSON, MAX_NUMBER


def check_data_config(config: Any, where: str) -> None:
    """Raise unless a data config's values are such as images can be prepared by; absent ones are allowed.

    ``input_size`` is (C, H, W); ``mean`` and ``std`` are numbers per channel.
    """
    if not isinstance(config, dict):
        raise LearngeneError(f"{where} is {_kind(config)}, not a mapping; write it again")
    for key in ("mean", "std"):
        values = config.get(key)
        if values is not None and not (
            _numbers(values) and 1 <= len(values) <= 1_000 and (key == "mean" or min(values) > 0)
        ):
            raise LearngeneError(
                f"{where}: {key} {_shown(values)} must be a list of numbers, one per channel; write it again"
            )
    size = config.get("input_size")
    if size is not None and not (
        _numbers(size) and len(size) == 3 and all(isinstance(n, int) and 0 < n <= 2**16 for n in size)
    ):
        raise LearngeneError(
            f"{where}: input_size {_shown(size)} must be channels, height and width, up to {2**16}; write it "
            "again"
        )
    crop = config.get("crop_pct")
    if crop is not None and not (_numbers([crop]) and 0 < crop <= 10):
        raise LearngeneError(
            f"{where}: crop_pct {_shown(crop)} must be a number above 0 and at most 10; write it again"
        )
    for key in ("interpolation", "crop_mode", "license"):
        if not isinstance(config.get(key, ""), (str, type(None))):
            raise LearngeneError(f"{where}: {key} {_shown(config[key])} must be a word; write it again")


def check_class_names(names: Any, where: str) -> None:
    """Raise unless class names are a list of texts that can be printed and written; none is allowed."""
    if names is None:
        return
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise LearngeneError(f"{where}: class names {_shown(names)} must be a list of texts; write it again")
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        raise LearngeneError(f"{where}: a class name is no Unicode text; rename that class") from None
    if sum(map(len, names)) > MAX_JSON // 2:
        raise LearngeneError(
            f"{where}: class names of {sum(map(len, names))} letters in all, and {MAX_JSON // 2} are stored; "
            "shorten them"
        )


def _numbers(values: Any) -> bool:
    """Whether this is a list of finite numbers."""
    # not a number compares as false
    return isinstance(values, (list, tuple)) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) <= MAX_NUMBER for v in values
    )


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _shown(value: Any) -> str:
    """The beginning of a value, for a message."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = _kind(value)
    return text if len(text) <= 60 else text[:57] + "..."
