"""What ``--help`` of a command looks like: what is needed and the options that matter first, then the others in titled groups."""

from __future__ import annotations

import argparse
from types import UnionType
from typing import Any, Union, get_args, get_origin

from jsonargparse import DefaultHelpFormatter

UNIONS = (Union, UnionType)
METAVARS: dict[Any, str] = {int: "N", float: "X", dict: "JSON", list: "LIST"}


class HelpFormatter(DefaultHelpFormatter):
    """Shows --batch-size N for --batch_size (both are understood), what is required, and defaults that say something."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"max_help_position": 32, **kwargs})

    def _format_action_invocation(self, action: Any, *args: Any, **kwargs: Any) -> str:
        if getattr(action, "is_placed", False):
            return str(action.dest)
        text: str = super()._format_action_invocation(action, *args, **kwargs)
        shown = [
            part for part in text.split(", --") if not part.partition(" ")[0].endswith("+")
        ]  # jsonargparse's --plan+ appends
        return " ".join(
            word.replace("_", "-") if word.startswith("--") else word
            for word in ", --".join(shown).split(" ")
        )

    def _get_default_metavar_for_optional(self, action: Any) -> str:
        hint = getattr(action, "_typehint", None)
        kinds = (
            [kind for kind in get_args(hint) if kind is not type(None)]
            if get_origin(hint) in UNIONS
            else [hint]
        )
        kind = (get_origin(kinds[0]) or kinds[0]) if len(kinds) == 1 else None
        return METAVARS.get(kind) or str(action.dest).upper().replace("_", "-")

    def _get_help_string(self, action: Any) -> str:
        text = (action.help or "").rstrip(".")
        if getattr(action, "is_needed", False):
            return f"{text} (required)"
        default = ",".join(map(str, action.default)) if isinstance(action.default, list) else action.default
        if (
            default is None
            or default is False
            or default in ("", argparse.SUPPRESS)
            or action.dest == "config"
        ):
            return text
        return f"{text} (default: {str(default).lower() if isinstance(default, bool) else default})"
