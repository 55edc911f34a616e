"""Arguments of the public functions, checked against their annotations before anything is done: a value of another type is one sentence."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import numbers
import os
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from learngene.errors import LearngeneError

Function = TypeVar("Function", bound=Callable[..., Any])
MISFIT = object()
WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", Path: "a path"}


def typed(function: Function) -> Function:
    """A public function that takes what its annotations say: numbers of numpy become Python's, and a path is a text where a text is asked for.

    Raises:
        LearngeneError: an argument is of another type.
    """
    own = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        own.bind(*args, **kwargs)  # Python's own words for what is missing or too much
        names = list(own.parameters)
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        hints = _hints(function)
        return function(**{name: take(name, value, hints[name]) if name in hints else value for name, value in given.items()})

    return call  # type: ignore[return-value]


def take(name: str, value: Any, hint: Any) -> Any:
    """A value as its annotation has it.

    Raises:
        LearngeneError: it is of another type.
    """
    found = _as(value, hint)
    if found is not MISFIT:
        return found
    plain = isinstance(value, (str, bytes, numbers.Number, list, tuple, dict, type(None)))
    shown = f"{value!r:.60}" if plain else f"of type {type(value).__name__}"
    saved = "; save it, and name the file" if hasattr(value, "save") or hasattr(value, "state_dict") else ""
    raise LearngeneError(f"{name} {shown}: it must be {_words(hint)}{saved}")


def _as(value: Any, hint: Any) -> Any:
    """The value as a type has it, or `MISFIT`."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        options = [_as(value, option) for option in get_args(hint)]
        return next((found for found in options if found is not MISFIT and type(found) is type(value)), _first_fit(options))
    if origin is Literal:
        return next((known for known in get_args(hint) if known == value and type(known) is type(value)), MISFIT)
    if hint is Any:
        return value
    if hint is bool:
        return bool(value) if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool") else MISFIT
    if isinstance(value, bool):
        return MISFIT
    if hint in (int, float):
        fits = isinstance(value, numbers.Integral if hint is int else numbers.Real)
        return (
            value if fits and isinstance(value, (int, float)) and type(value) in (int, float) else hint(value) if fits else MISFIT
        )
    if hint is str:
        return os.fspath(value) if isinstance(value, (str, os.PathLike)) else MISFIT
    if hint is Path:
        return value if isinstance(value, (str, Path)) else Path(value) if isinstance(value, os.PathLike) else MISFIT
    if origin in (collections.abc.Sequence, Sequence):
        value = value.tolist() if hasattr(value, "tolist") and getattr(value, "ndim", 0) else value  # arrays and tensors
        if not isinstance(value, (list, tuple, range)):
            return MISFIT
        items = [_as(item, get_args(hint)[0]) for item in value]
        return MISFIT if any(item is MISFIT for item in items) else type(value)(items) if type(value) in (list, tuple) else value
    if origin in (collections.abc.Mapping, Mapping):
        return value if isinstance(value, Mapping) else MISFIT
    return value if isinstance(value, hint) else MISFIT


def _first_fit(options: Sequence[Any]) -> Any:
    return next((found for found in options if found is not MISFIT), MISFIT)


def _words(hint: Any) -> str:
    """A type for people."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        words = list(dict.fromkeys(_words(option) for option in get_args(hint) if option is not type(None)))
        return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
    if origin is Literal:
        return " or ".join(map(str, get_args(hint)))
    if origin in (collections.abc.Sequence, Sequence):
        return "a list"
    if origin in (collections.abc.Mapping, Mapping):
        return "a mapping"
    return WORDS.get(hint) or ("None" if hint is type(None) else f"a {hint.__name__}")


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Types of the arguments; also those which the modules of commands import for type checkers alone."""
    written = {name: text for name, text in function.__annotations__.items() if name not in ("return", "options")}
    names: dict[str, Any] = {}
    if any("nn.Module" in str(text) for text in written.values()):
        from torch import nn

        names["nn"] = nn
    return get_type_hints(types.SimpleNamespace(__annotations__=written), {**function.__globals__, **names})
