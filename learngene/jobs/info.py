"""learngene info"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learngene.errors import LearngeneError
from learngene.job import Job


@dataclass(frozen=True, kw_only=True)
class Info(Job):
    """What a learngene or a timm directory holds, and what descendants of each depth cost."""

    COMMAND, ORDER = "info", 100
    SUMMARY = "what a learngene or model holds, and what each depth costs"
    BY_PLACE = ("source",)
    POSITIONAL = "source"
    JSON = True

    source: str | Path
    """learngene file, or timm directory."""
    depth: int | str | Sequence[int | str] | None = None
    """depths for the table, e.g. 6 9 or 4-12; by default 6 to 15 (those that have a layer for each stage)."""
    latency: bool = False
    """also measure milliseconds per image, all depths in turn."""
    device: str = "cpu"
    """where to measure."""

    def run(self) -> dict[str, Any]:
        """Do it.

        Returns:
            Plain values: the header, and a row per depth with ``plan``, ``step`` (its exponents) and ``kl``
            (from the auxiliary net, where `learngene.calibrate` measured it), ``parameters``, ``bytes``,
            ``gflops`` and, measured, ``latency_ms`` (median) and ``latency_quartiles_ms``; how that was
            measured under ``latency``; for a learngene also how many times smaller it is than ten models of
            depth 6 to 15.

        Raises:
            LearngeneError: the file is missing or damaged, or a depth does not fit, or is given for a timm
                directory.
        """
        from learngene.devices import check_device
        from learngene.files import local_path
        from learngene.jobs.work.info import of_directory, of_gene

        path = local_path(self.source)
        if self.depth is not None and path.is_dir():
            raise LearngeneError(
                f"--depth is for the depths of a learngene file, and '{self.source}' is none; drop it, or "
                "name a learngene"
            )
        check_device(self.device)
        if path.is_dir():
            return of_directory(path, latency=self.latency, device=self.device)
        return of_gene(path, self.depth, latency=self.latency, device=self.device)

    @staticmethod
    def show(result: Any) -> None:
        """The header in lines, then a row per depth."""
        from learngene.terminal import print_costs, print_lines, say, stored_lines

        say(f"{result['kind']} {result['file']}  {result['bytes'] / 1e6:.2f} MB", style="bold")
        lines = {"architecture": result["architecture"], "classes": result["classes"]}
        if result["kind"] == "learngene":
            ancestor = result["ancestor"]
            lines |= {
                "plan": result["plan"],
                **_step_lines(result),
                "ancestor": ancestor.get("name"),
                "licence of the ancestor": ancestor.get("license"),
            }
            lines |= stored_lines(result)
            lines |= {k: f"{v:.4f}" for k, v in result["metrics"].items() if isinstance(v, float)}
        print_lines(lines)
        print_costs(result["depths"], result.get("latency"))


def _step_lines(result: Any) -> dict[str, str]:
    """How descendants of other depths are made."""
    elastic, measured = result["elastic"], any(row["kl"] is not None for row in result["depths"])
    lines = {}
    if elastic is not None:
        drawn = f"{elastic['shallowest']} to {elastic['deepest']} layers"
        lines["elastic"] = f"distilled at depths of {drawn}, step {elastic['step']:g}, {elastic['draw']}"
    if not result["scalable"]:
        lines["step"] = "0: what a layer of this architecture adds cannot be scaled"
    elif not measured and elastic is None:
        lines["step"] = "by rule; 'learngene calibrate' chooses it, and the plan, for each depth"
    return lines
