"""Arguments of public functions and fields of options are checked against their annotations first of all.

A value of another type, and a name that nobody knows, is one sentence. Standard library only.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import numbers
import os
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from learngene.errors import LearngeneError

Function = TypeVar("Function", bound=Callable[..., Any])
MISFIT = object()
Kind = TypeVar("Kind")
UNIONS = (Union, types.UnionType)
WORDS = {int: "a whole number", float: "a number", str: "a text", Path: "a path"}
PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}

if TYPE_CHECKING:
    from torch.nn import Module as Module

    def cached(function: Function) -> Function: ...  # mypy holds that a class of dataclasses has no hash
else:
    cached = functools.cache

    class _KnownLater(type):
        def __instancecheck__(cls, value: Any) -> bool:
            torch = sys.modules.get("torch")
            return torch is not None and isinstance(value, torch.nn.Module)

    class Module(metaclass=_KnownLater):
        """``torch.nn.Module`` in an annotation, without importing torch: who has a module has torch."""


ModelSource = str | Path | Module  # a name, a file or directory, or in Python a module


def typed(function: Function) -> Function:
    """A public function that takes what its annotations say.

    Numbers of numpy become Python's, and a path is a text where a text is asked for.

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
        return function(
            **{
                name: take(name, value, hints[name]) if name in hints else value
                for name, value in given.items()
            }
        )

    return call  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A dataclass whose fields hold what their annotations say, from the moment it is made.

    Raises:
        LearngeneError: a field is of another type, or a text without a letter, as an unset variable of the
            shell leaves it: as a path it would be the current directory.
    """

    def __post_init__(self) -> None:
        hints = field_types(type(self))
        for option in fields(self):
            value = take(option.name, getattr(self, option.name), hints[option.name])
            check_filled(option.name, value)
            object.__setattr__(self, option.name, value)


def check_filled(name: str, value: Any) -> None:
    """Raise for an empty text, or a list with one in it.

    Within mappings nothing is looked at: an argument of timm's may be empty.
    """
    for text in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(text, str) and not text.removeprefix("local-dir:").strip():
            raise LearngeneError(f"{name} is empty; give a value, or leave it out")


@cached
def field_types(kind: type[Any]) -> dict[str, Any]:
    """The annotations of a class's fields, as types."""
    hints = get_type_hints(kind)
    return {option.name: hints[option.name] for option in fields(kind)}


def check_options(
    said: Mapping[str, Any], *kinds: type[Any], others: collections.abc.Iterable[str] = ()
) -> None:
    """Raise for a name that is no field of some dataclasses, nor of ``others``; its neighbour is named."""
    known = {option.name for kind in kinds for option in fields(kind)} | set(others)
    for name in said:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; the options are {', '.join(sorted(known))}"
            raise LearngeneError(f"unknown option '{name}'{hint}")


def make(kind: type[Kind], said: Mapping[str, Any]) -> Kind:
    """A dataclass from some of its fields.

    Raises:
        LearngeneError: an option is none of them, or has a bad value.
    """
    check_options(said, kind)
    return kind(**said)


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
    raise LearngeneError(f"{name} {shown}: it must be {describe_type(hint)}{saved}")


def _as(value: Any, hint: Any) -> Any:
    """The value as a type has it, or `MISFIT`."""
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in UNIONS:  # of those that fit, the one that changes nothing
        fits = [found for found in (_as(value, option) for option in get_args(hint)) if found is not MISFIT]
        return next((found for found in fits if type(found) is type(value)), fits[0] if fits else MISFIT)
    if origin is Literal:
        return next(
            (known for known in get_args(hint) if known == value and type(known) is type(value)), MISFIT
        )
    if hint is bool:
        return (
            bool(value) if type(value).__name__ in ("bool", "bool_") else MISFIT
        )  # bool_: numpy 1's name of its own
    if isinstance(value, bool):  # which is a number to Python
        return MISFIT
    if hint is int:
        return int(value) if isinstance(value, numbers.Integral) else MISFIT
    if hint is float:
        fits_float = isinstance(value, numbers.Real)
        return value if type(value) is int else float(value) if fits_float else MISFIT
    if hint is str:
        return os.fspath(value) if isinstance(value, (str, os.PathLike)) else MISFIT
    if hint is Path:
        return (
            value
            if isinstance(value, (str, Path))
            else Path(value)
            if isinstance(value, os.PathLike)
            else MISFIT
        )
    if origin is collections.abc.Sequence:
        return _as_list(value, get_args(hint)[0])
    return value if isinstance(value, origin or hint) else MISFIT


def _as_list(value: Any, hint: Any) -> Any:
    """A list, tuple, range, array or tensor whose items are of a type, or `MISFIT`."""
    value = value.tolist() if getattr(value, "ndim", False) else value
    if not isinstance(value, (list, tuple, range)):
        return MISFIT
    items = [_as(item, hint) for item in value]
    if any(item is MISFIT for item in items):
        return MISFIT
    return tuple(items) if isinstance(value, tuple) else items if isinstance(value, list) else value


def describe_type(hint: Any) -> str:
    """A type for people: *a whole number or auto*."""
    words = list(dict.fromkeys(_words(hint)))
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _words(hint: Any) -> list[str]:
    """What a value of a type may be."""
    origin = get_origin(hint)
    if origin in UNIONS:
        options = [option for option in get_args(hint) if option is not type(None)]
        return [word for option in options for word in _words(option)]
    if origin is Literal:
        return list(map(str, get_args(hint)))
    if origin is collections.abc.Sequence:
        return [f"a list of {PLURALS[get_args(hint)[0]]}" if get_args(hint)[0] in PLURALS else "a list"]
    if origin is collections.abc.Mapping:
        return ["a mapping"]
    if hint is bool:
        return ["True", "False"]
    return [WORDS.get(hint) or ("None" if hint is type(None) else f"a {hint.__name__}")]


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Types of the arguments."""
    written = {
        name: text for name, text in function.__annotations__.items() if name not in ("return", "options")
    }
    return get_type_hints(types.SimpleNamespace(__annotations__=written), function.__globals__)
