"""Tables, and pages that hold them: jinja2 templates print Markdown and HTML, and escape every value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True)
class Column:
    """A column's head, and whether its cells stand to the right, as numbers do."""

    name: str
    right: bool = False


def words(*names: str) -> list[Column]:
    """Columns of words."""
    return [Column(name) for name in names]


def numbers(*names: str) -> list[Column]:
    """Columns of numbers."""
    return [Column(name, right=True) for name in names]


@dataclass(frozen=True)
class Table:
    """Rows of text under the heads of their columns.

    Raises:
        ValueError: a row has more or fewer cells than there are columns.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{len(row)} cells for {len(self.columns)} columns: {row}")


# What CommonMark, and GitHub's tables and strikethrough, take for markup within a line; '#' ends a heading.
# What means something at a line's beginning only (> - + 1.) is left: no template begins a line with a value.
_MEANT = re.compile(r"[\\`*<|\[\]~#]|&(?=[#\w])|_+")


def escape_markdown(value: Any) -> Markup:
    """A value as one line of plain text for a Markdown page; what is `Markup` already stays as it is."""
    if isinstance(value, Markup):
        return value
    return Markup(_MEANT.sub(_escaped, " ".join(str(value).split())))


def _escaped(found: re.Match[str]) -> str:
    before, after = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    if found[0].startswith("_") and before.isalnum() and after.isalnum():
        return found[0]  # within a word, as in vit_tiny, it emphasises nothing
    return "".join(f"\\{character}" for character in found[0])


def code_span(value: Any) -> Markup:
    """A value as code in a Markdown page; its fence is longer than any within, so nothing needs an escape."""
    text = re.sub(r"[\r\n]+", " ", str(value))
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return Markup(f"{fence}{space}{text}{space}{fence}")


# Markup is jinja's word for text that is part of a page as it is; on a Markdown page it is Markdown.
# `finalize` sees every value that a template prints, so that none can be forgotten, and leaves nothing for
# the escaping of HTML to do.
_HTML = Environment(
    loader=PackageLoader("learngene", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
    lstrip_blocks=True, keep_trailing_newline=True,
)  # fmt: skip
_MARKDOWN = _HTML.overlay(finalize=escape_markdown)
_MARKDOWN.filters = {**_HTML.filters, "code": code_span}


def page(template: str, **data: Any) -> str:
    """The text of a page.

    Args:
        template: a file of the package that ends in ``.md.jinja`` or ``.html.jinja``, such as
            ``bench/report.md.jinja``.
        data: what it prints.
    """
    environment = _MARKDOWN if template.endswith(".md.jinja") else _HTML
    return environment.get_template(template).render(data)
