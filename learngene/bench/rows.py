"""The rows of finished trials: in their run directories, and gathered in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from learngene.bench.summary import budget_order
from learngene.errors import LearngeneError
from learngene.runs import read_record
from learngene.trust.limits import MAX_RECORD, parse_json

FILE = "results.jsonl"
NUMBER = (int, float)
NEEDED: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("start", "kind", "data", "recipe", "architecture", "hardware", "precision"), (str,)),
    **dict.fromkeys(("depth", "seed", "parameters"), (int,)),
    **dict.fromkeys(("epochs", "test_images"), (int, type(None))),
    **dict.fromkeys(("val_top1", "flops", "images", "seconds"), NUMBER),
    **dict.fromkeys(("tflops", "test_top1"), (*NUMBER, type(None))),
    **dict.fromkeys(("arch_args", "prepared", "versions"), (dict,)),
    "commit": (str, type(None)), "curve": (list,),
}  # fmt: skip
NAMES = ("start", "kind", "data", "architecture")
SHARES = ("val_top1", "test_top1")
COSTS = (
    "flops",
    "images",
    "seconds",
    "joules",
    "parameters",
    "stored_parameters",
    "test_images",
    "tflops",
    "epoch",
)
OF_EACH = {
    "prepared": ("images", "seconds", "flops", "stored_parameters"),
    "curve": ("epoch", "val_top1"),
}


def find_rows(place: Path) -> list[dict[str, Any]]:
    """Those in a file, or of a benchmark's directory: its file, or its trials where more are finished.

    Raises:
        LearngeneError: nothing is there, or what is there are no trials, or one is there twice.
    """
    file = place / FILE if place.is_dir() else place
    stored = read_rows(file) if file.is_file() else []
    finished = _finished(place)
    if not file.is_file() and not finished:
        raise LearngeneError(
            f"there are no results at '{file}'; 'learngene benchmark' makes them, a row per finished trial"
        )
    return gather_rows(place) if len(finished) > len(stored) else stored


def gather_rows(folder: Path) -> list[dict[str, Any]]:
    """Those of all finished trials in a benchmark's directory, whoever ran them."""
    way_out = "an earlier version ran it; delete its folder and resume the benchmark"
    return _each_once(
        {f"'{path}'": _checked(row, f"'{path}'", way_out) for path, row in _finished(folder).items()}
    )


def _finished(folder: Path) -> dict[Path, Any]:
    records = {
        path: read_record(path.parent) or {} for path in sorted((folder / "trials").glob("*/run.json"))
    }
    return {
        path: record.get("results") for path, record in records.items() if record.get("status") == "finished"
    }


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Those in a file, one JSON object a line."""
    if file.stat().st_size > MAX_RECORD:
        raise LearngeneError(
            f"'{file}' is larger than {MAX_RECORD} bytes, the most that is read; "
            "give the results of one benchmark"
        )
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    places = {f"'{file}' line {number}": line for number, line in enumerate(lines, start=1) if line.strip()}
    return _each_once({where: _parse(line, where) for where, line in places.items()})


def _each_once(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, by where they are from. No benchmark writes a trial twice: it would count as two seeds."""
    seen: dict[tuple[Any, ...], str] = {}
    for where, row in rows.items():
        budget = budget_order(row["epochs"], row["tflops"])
        first = seen.setdefault(
            (row["data"], row["recipe"], row["start"], row["depth"], budget, row["seed"]), where
        )
        if first != where:
            raise LearngeneError(
                f"{where} is the same trial as {first} "
                f"({row['start']}, depth {row['depth']}, seed {row['seed']}); delete one of them"
            )
    return list(rows.values())


def _parse(line: str, where: str) -> dict[str, Any]:
    row = parse_json(line, where, "delete that line and resume the benchmark")
    return _checked(row, where, "give the results.jsonl of a benchmark")


def _checked(row: Any, where: str, way_out: str) -> dict[str, Any]:
    lacking = [key for key in NEEDED if key not in row] if isinstance(row, dict) else ["start"]
    if lacking:
        raise LearngeneError(f"{where} is no trial: it lacks '{lacking[0]}'; {way_out}")
    wrong = next((key for key, kinds in NEEDED.items() if not _is(row[key], kinds)), None) or _wrong_inside(
        row
    )
    if wrong is not None:
        raise LearngeneError(
            f"{where} is no trial: its '{wrong}' is not what a benchmark writes; "
            "delete that line and resume it"
        )
    if untrue := _untrue(row):
        raise LearngeneError(f"{where} is no trial: its {untrue}; correct or delete it")
    return row


def _untrue(row: dict[str, Any]) -> str | None:
    """The first value that cannot be, in words: an empty name, a share outside 0 to 1, a negative cost."""
    if empty := next((name for name in NAMES if not row[name].strip()), None):
        return f"'{empty}' is empty"
    if not all(cost["name"].strip() for cost in row["prepared"].values()):
        return "'prepared' has an empty name"
    for inner in (row, *row["prepared"].values(), *row["curve"]):
        for key, value in inner.items():
            if key in SHARES and _is(value, NUMBER) and not 0 <= value <= 1:
                return f"'{key}' is {value:g}, where a share from 0 to 1 is meant"
            if key in COSTS and _is(value, NUMBER) and value < 0:
                return f"'{key}' is {value:g}, less than 0"
    return None


def _is(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a value is of its kind, a number small enough to be drawn, a text one printable line."""
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, str) and not (value.isprintable() and len(value) <= 1_000):
        return False
    return isinstance(value, kinds) and (not isinstance(value, NUMBER) or abs(value) < 1e30)


def _wrong_inside(row: dict[str, Any]) -> str | None:
    """The first of a trial's lists and mappings that does not hold what it should."""
    versions = all(_is(name, (str,)) and _is(version, (str,)) for name, version in row["versions"].items())
    if not versions:
        return "versions"
    for cost in row["prepared"].values():
        each = cost.get("each") if isinstance(cost, dict) else None
        if (
            not isinstance(each, list)
            or not set(map(str, each)) <= {"depth", "seed"}
            or not _is(cost.get("name"), (str,))
        ):
            return "prepared"
    for key, names in OF_EACH.items():
        inner = list(row[key].values()) if isinstance(row[key], dict) else row[key]
        if not all(
            isinstance(one, dict) and all(_is(one.get(name), NUMBER) for name in names) for one in inner
        ):
            return key
    budget = row["tflops"] is not None if row["epochs"] is None else row["epochs"] >= 0
    usual = row["curve"] and row["depth"] > 0 and budget
    joules = _is(row.get("joules"), (*NUMBER, type(None)))
    return (
        None
        if usual and joules and (row["test_top1"] is None or row["test_images"])
        else "curve, depth, epochs, joules or test_images"
    )
