"""The rows of finished trials: in their run directories, and gathered in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from learngene.errors import LearngeneError

FILE = "results.jsonl"
NEEDED = (
    "start", "kind", "arch_args", "depth", "seed", "epochs", "tflops", "data", "recipe", "architecture", "val_top1", "test_top1",
    "test_images", "parameters", "flops", "images", "seconds", "prepared", "curve", "hardware", "versions", "commit", "precision",
)  # fmt: skip


def find_rows(place: Path) -> list[dict[str, Any]]:
    """Those in a file, or of a benchmark's directory: its file, or its trials where more of them are finished.

    Raises:
        LearngeneError: nothing is there, or what is there are no trials.
    """
    file = place / FILE if place.is_dir() else place
    stored = read_rows(file) if file.is_file() else []
    finished = _finished(place)
    if not file.is_file() and not finished:
        raise LearngeneError(f"there are no results at '{file}'; 'learngene benchmark' makes them, a row per finished trial")
    return gather_rows(place) if len(finished) > len(stored) else stored


def gather_rows(folder: Path) -> list[dict[str, Any]]:
    """Those of all finished trials in a benchmark's directory, whoever ran them."""
    way_out = "an earlier version ran it; delete its folder and resume the benchmark"
    return [_checked(row, f"'{path}'", way_out) for path, row in _finished(folder).items()]


def _finished(folder: Path) -> dict[Path, Any]:
    records = {path: json.loads(path.read_text()) for path in sorted((folder / "trials").glob("*/run.json"))}
    return {path: record["results"] for path, record in records.items() if record["status"] == "finished"}


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Those in a file, one JSON object a line."""
    return [_parse(line, f"'{file}' line {n}") for n, line in enumerate(file.read_text().splitlines(), start=1) if line.strip()]


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise LearngeneError(f"{where} is not JSON ({error}); delete that line") from None
    return _checked(row, where, "give the results.jsonl of a benchmark")


def _checked(row: Any, where: str, way_out: str) -> dict[str, Any]:
    lacking = [key for key in NEEDED if key not in row] if isinstance(row, dict) else ["start"]
    if lacking:
        raise LearngeneError(f"{where} is no trial: it lacks '{lacking[0]}'; {way_out}")
    return row
