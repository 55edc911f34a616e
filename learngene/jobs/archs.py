"""learngene archs"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from learngene.job import Job

USUAL = "*patch16_224"  # a few seconds' worth, with most families in it; all of timm takes minutes
MOST_REASONS = 20


@dataclass(frozen=True, kw_only=True)
class Archs(Job):
    """Which of timm's architectures can be an auxiliary net, and what is against the others."""

    COMMAND, ORDER = "archs", 120
    SUMMARY = "which timm architectures can be distilled into"
    BY_PLACE = ("pattern",)
    POSITIONAL = "pattern"
    JSON = True

    pattern: str | None = None
    """names to look at, with * and ? as in timm.list_models, e.g. 'deit3*'; by default *patch16_224. '*'
    is all of timm, which takes minutes."""

    def run(self) -> dict[str, Any]:
        """Do it.

        Returns:
            ``supported``: a row each with ``name``, ``depth`` (its own), ``width``, ``parameters`` (at that
            depth, with timm's head) and ``any_depth`` (off where timm fixes the depth, so that only its own
            can be stored as a timm directory);
            ``unsupported``: ``name`` and ``reason`` of the others that match; ``pattern`` and the version of
            ``timm``.

        Raises:
            LearngeneError: no architecture of timm's matches, or the pattern is empty.
        """
        from learngene.families.survey import survey

        return survey(USUAL if self.pattern is None else self.pattern)

    @staticmethod
    def show(result: Any) -> None:
        """A row per supported architecture; what is against the others, where they are few."""
        from learngene.tables import Table, numbers, words
        from learngene.terminal import print_table, say

        supported, others = result["supported"], result["unsupported"]
        rows = [
            (
                row["name"],
                f"{row['depth']}{'' if row['any_depth'] else ' *'}",
                f"{row['width']}",
                f"{row['parameters']:,}",
            )
            for row in supported
        ]
        columns = [*words("name"), *numbers("depth", "width", "parameters")]
        if supported:
            title = f"timm {result['timm']}, {result['pattern']}: can be distilled into"
            print_table(title, Table(columns, rows), less=("width",))
        if not all(row["any_depth"] for row in supported):
            say("* timm fixes the depth: other depths in Python only")
        if others and (len(others) <= MOST_REASONS or not supported):
            for row in others[:MOST_REASONS]:
                say(row["reason"])
        left = len(others) if len(others) > MOST_REASONS else 0
        matched = f"{len(supported) + len(others)} that match {result['pattern']}"
        why = f"what is against {left} others: a narrower pattern, or --json; " if left else ""
        more = "more with e.g. learngene archs 'deit3*'; '*' takes minutes"
        say(f"{len(supported)} of {matched} are supported; {why}{more}")
