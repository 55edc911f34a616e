"""A run is a value: one frozen dataclass per job. Standard library only.

Its fields are at once the options of the command line, the YAML, ``run.json``, the arguments of the Python
function, and a benchmark's preparation. What travels is the value; nothing else lists its options or knows
their defaults.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from learngene.arguments import Checked, Module, cached, check_options
from learngene.plan import StagePlan
from learngene.recipe import GROUPS, DataOptions, DistillOptions, Recipe

Kind = TypeVar("Kind")
# Of a field that says where and how a run is made, not what it is: not in ``config.yaml`` and ``run.json``.
UNRECORDED = {"recorded": False}
OPTIONS = (Recipe, DataOptions, DistillOptions)  # whose fields come after a job's own, in groups of theirs


@dataclass(frozen=True, kw_only=True)
class Job(Checked):
    """A run, checked when it is made. Subclasses name their command, and do the work in `run`.

    Files of jobs import light rooms at their head; `run` imports what it needs, so that the command line
    shows help at once.
    """

    COMMAND: ClassVar[str]
    SUMMARY: ClassVar[str]  # what ``learngene --help`` says of it, in one line
    ORDER: ClassVar[int] = 1_000  # where, among the others
    FUNCTION: ClassVar[str] = ""  # its name in Python, where `learngene.COMMAND` is a module
    BY_PLACE: ClassVar[tuple[str, ...]] = ()  # arguments that the Python function takes without their names
    POSITIONAL: ClassVar[str | None] = None  # the one that the command line takes without its name
    MAIN: ClassVar[tuple[str, ...]] = ()  # first in --help, ten at most; by default the job's own fields
    JSON: ClassVar[bool] = False  # whether its result can be printed as JSON

    def run(self) -> Any:
        """Do it.

        Raises:
            LearngeneError: bad input, before anything expensive is done.
        """
        raise NotImplementedError

    @staticmethod
    def show(result: Any) -> None:
        """Print a result on a terminal."""

    @classmethod
    def upgraded(cls, said: Mapping[str, Any]) -> dict[str, Any]:
        """Fields that an earlier version wrote, or that were written for it, in today's words."""
        return dict(said)

    @classmethod
    def check_some(cls, said: Mapping[str, Any]) -> None:
        """Raise unless these are fields that say what the job is, each of its type and within its limits.

        Others may come later.
        """
        every = {option.name: option for option in fields(cls)}
        recorded = [name for name, option in every.items() if option.metadata.get("recorded", True)]
        check_options(said, others=recorded)
        later = {name: "-" for name, option in every.items() if is_required(option)}
        cls(**{**later, **said})

    def part(self, kind: type[Kind]) -> Kind:
        """The fields of one of the `OPTIONS`, as that."""
        return kind(**{option.name: getattr(self, option.name) for option in fields(kind)})  # type: ignore[arg-type]

    def record(self) -> dict[str, Any]:
        """The fields as plain values, in the order of the help."""
        kept = [option for option in ordered_fields(type(self)) if option.metadata.get("recorded", True)]
        return {option.name: _plain(getattr(self, option.name)) for option in kept}


def _plain(value: Any) -> Any:
    if isinstance(value, Module):
        return type(value).__name__
    return str(value) if isinstance(value, (Path, StagePlan)) else value


def ordered_fields(job: type[Job]) -> list[Field[Any]]:
    """The fields that the job's class names itself, what is said of an ancestor, then its options."""
    every = {option.name: option for option in fields(job)}
    options = [option.name for kind in OPTIONS if issubclass(job, kind) for option in fields(kind)]
    own = [name for name in (*inspect.get_annotations(job), *every) if name in every and name not in options]
    return [every[name] for name in dict.fromkeys([*own, *options])]


def own_fields(job: type[Job]) -> list[Field[Any]]:
    """`ordered_fields` without those of its options."""
    options = {option.name for kind in OPTIONS if issubclass(job, kind) for option in fields(kind)}
    return [option for option in ordered_fields(job) if option.name not in options]


def is_required(option: Field[Any]) -> bool:
    """Whether it has no default."""
    return option.default is MISSING and option.default_factory is MISSING


def default_of(option: Field[Any]) -> Any:
    """Its default; none for a required one."""
    return None if is_required(option) else option.default


@cached
def field_helps(job: type[Job]) -> dict[str, str]:
    """What stands under each field in the source of its class, in one line."""
    from docstring_parser import parse_from_object

    found: dict[str, str] = {}
    for kind in reversed([kind for kind in job.__mro__ if issubclass(kind, Checked)]):
        for known in parse_from_object(kind).params:
            found[known.arg_name] = " ".join((known.description or "").split())
    return found


def grouped_fields(job: type[Job]) -> dict[str, list[Field[Any]]]:
    """The fields by the titles under which ``--help`` shows them, in its order."""
    every, own = {option.name: option for option in ordered_fields(job)}, own_fields(job)
    main = [every[name] for name in job.MAIN] or own
    groups = {
        "Main options": main,
        f"More of {job.COMMAND}": [option for option in own if option not in main],
    }
    groups |= {title: [] for title in GROUPS}
    for kind in [kind for kind in OPTIONS if issubclass(job, kind)]:
        for option in fields(kind):
            if every[option.name] not in main:
                groups[option.metadata.get("group") or kind.GROUP].append(every[option.name])
    return {title: options for title, options in groups.items() if options}


def function_of(job: type[Job]) -> Callable[..., Any]:
    """The Python function of a job: it takes its fields, checks them, and gives what `Job.run` gives."""
    every = {option.name: option for option in ordered_fields(job)}

    def parameter(name: str, kind: Any) -> inspect.Parameter:
        default = inspect.Parameter.empty if is_required(every[name]) else default_of(every[name])
        return inspect.Parameter(name, kind, default=default, annotation=every[name].type)

    placed = [parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in job.BY_PLACE]
    named = [parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in every if name not in job.BY_PLACE]
    returned = inspect.signature(job.run).return_annotation
    signature = inspect.Signature([*placed, *named], return_annotation=returned)

    def call(*args: Any, **kwargs: Any) -> Any:
        kwargs = job.upgraded(kwargs)
        check_options(kwargs, job)
        return job(**signature.bind(*args, **kwargs).arguments).run()

    call.__name__ = call.__qualname__ = job.FUNCTION or job.COMMAND
    call.__module__ = job.__module__
    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__doc__ = _docstring(job)
    return call


def _docstring(job: type[Job]) -> str:
    """What the job's class says, its fields with their defaults, and what `Job.run` gives and raises."""
    helps = field_helps(job)
    lines = []
    for option in ordered_fields(job):
        default = "" if is_required(option) else f" (default {default_of(option)!r})"
        text = f"{option.name}{default}: {helps[option.name]}"
        lines += textwrap.wrap(
            text, 110, initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False
        )
    result = (inspect.getdoc(job.run) or "").partition("\n\n")[2]
    return "\n".join([inspect.getdoc(job) or "", "", "Args:", *lines, "", result])
