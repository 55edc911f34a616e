"""A command's parser, and what ``--help`` prints of it.

Options come from the fields of the job's class. What is needed and what matters comes first, then the
others in titled groups.
"""

from __future__ import annotations

from argparse import SUPPRESS
from collections.abc import Mapping, Sequence
from dataclasses import Field
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from learngene.arguments import UNIONS, cached, field_types
from learngene.job import Job, default_of, field_helps, grouped_fields, is_required

PLAIN = (str, int, float, bool, type(None))  # classes that a word of the command line can be read as
METAVARS: dict[Any, str] = {int: "N", float: "X", Mapping: "JSON", Sequence: "LIST"}


def members(kind: Any) -> tuple[Any, ...]:
    """The types of a union; a type alone is one."""
    return get_args(kind) if get_origin(kind) in UNIONS else (kind,)


def spoken(kind: Any) -> Any:
    """A type without what no word can be: paths are texts, modules and plans come from Python only."""
    kept = [one for one in members(kind) if one in PLAIN or not isinstance(one, type)]
    return Union[tuple(kept)]  # noqa: UP007  of however many


@cached
def build_parser(job: type[Job]) -> ArgumentParser:
    """A jsonargparse parser with a job's fields, in the groups of its help."""
    usage = " ".join(filter(None, ["learngene", job.COMMAND, (job.POSITIONAL or "").upper(), "[options]"]))
    parser = ArgumentParser(
        prog=f"learngene {job.COMMAND}", usage=usage, description=_first_paragraph(job),
        exit_on_error=False, formatter_class=HelpFormatter, add_help=False,
    )  # fmt: skip
    for title, options in grouped_fields(job).items():
        group = parser.add_argument_group(title)
        for option in options:
            _add(group, job, option)
    general = parser.add_argument_group("General")
    general.add_argument("-h", "--help", action="help", help="show this help message and exit")
    config = "YAML file of arguments; those on the command line override it."
    general.add_argument("--config", metavar="CONFIG", help=config)
    printing = "Print all arguments as YAML, for --config, and exit."
    general.add_argument("--print_config", action="store_true", help=printing)
    if job.JSON:
        text = "Print one JSON document instead of a table."
        general.add_argument("--json", type=bool, default=False, help=text)
    return parser


def _first_paragraph(job: type[Job]) -> str:
    return " ".join((job.__doc__ or "").strip().split("\n\n")[0].split())


def _add(group: Any, job: type[Job], option: Field[Any]) -> None:
    """Add a field of a job to a group of its parser."""
    kind, default = spoken(field_types(job)[option.name]), default_of(option)
    action = group.add_argument(
        f"--{option.name}", type=kind, default=list(default) if isinstance(default, tuple) else default,
        help=field_helps(job)[option.name], **_metavar(option.name, kind),
    )  # fmt: skip
    action.is_needed = is_required(option)
    action.is_placed = option.name == job.POSITIONAL


def _metavar(name: str, kind: Any) -> dict[str, str]:
    """What stands for an option's value; jsonargparse lists the choices where there are some."""
    kinds = [one for one in members(kind) if one is not type(None)]
    alone = (get_origin(kinds[0]) or kinds[0]) if len(kinds) == 1 else None
    if alone in (bool, Literal):
        return {}
    return {"metavar": METAVARS.get(alone, name.upper().replace("_", "-"))}


class HelpFormatter(DefaultHelpFormatter):
    """Shows --batch-size for --batch_size (both are understood), what is required, and useful defaults."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"max_help_position": 32, **kwargs})

    def _format_action_invocation(self, action: Any, *args: Any, **kwargs: Any) -> str:
        if getattr(action, "is_placed", False):
            return str(action.dest)
        text: str = super()._format_action_invocation(action, *args, **kwargs)
        parts = [part for part in text.split(", ") if not part.partition(" ")[0].endswith("+")]  # --plan+
        words = ", ".join(parts).split(" ")
        return " ".join(word.replace("_", "-") if word.startswith("--") else word for word in words)

    def _get_help_string(self, action: Any) -> str:
        text = (action.help or "").rstrip(".")
        if getattr(action, "is_needed", False):
            return f"{text} (required)"
        default = action.default
        if default is None or default is False or default in ("", [], SUPPRESS):
            return text
        shown = ",".join(map(str, default)) if isinstance(default, list) else str(default)
        return f"{text} (default: {shown.lower() if default is True else shown})"
