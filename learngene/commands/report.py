"""learngene report"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from learngene.errors import LearngeneError
from learngene.limits import parse_json

NUMBER = (int, float)
NEEDED: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("start", "kind", "data", "recipe", "architecture", "hardware", "precision"), (str,)),
    **dict.fromkeys(("depth", "seed", "parameters"), (int,)),
    **dict.fromkeys(("epochs", "test_images"), (int, type(None))),
    **dict.fromkeys(("val_top1", "flops", "images", "seconds"), NUMBER),
    **dict.fromkeys(("tflops", "test_top1"), (*NUMBER, type(None))),
    "commit": (str, type(None)), "prepared": (dict,), "versions": (dict,), "curve": (list,),
}  # fmt: skip
OF_EACH = {
    "prepared": ("images", "seconds", "flops", "stored_parameters"),
    "curve": ("epoch", "val_top1"),
}
MAX_RESULTS = 256 * 2**20  # bytes of a results.jsonl: a row has a few kB


def report(results: str | Path, *, out: str | Path | None = None) -> dict[str, Any]:
    """Write a benchmark's report.md, report.html (self-contained) and plots from its results.

    Args:
        results: directory of a benchmark, finished or not, or its results.jsonl.
        out: directory to write; by default where the results are.

    Returns:
        ``report`` and ``html`` (files), and ``trials`` (how many are in it).

    Raises:
        LearngeneError: no results, or lines that are no trials.
    """
    place = Path(results)
    file = place / "results.jsonl" if place.is_dir() else place
    if not file.is_file():
        raise LearngeneError(f"there are no results at '{file}'; 'learngene benchmark' writes them, one line per finished trial")
    if file.stat().st_size > MAX_RESULTS:
        raise LearngeneError(
            f"'{file}' is larger than {MAX_RESULTS} bytes, the most that is read; give the results of one benchmark"
        )
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [_row(line, file, number) for number, line in enumerate(lines, start=1) if line.strip()]
    target = Path(out) if out is not None else file.parent

    from learngene.bench import write_report

    config = file.parent / "config.yaml"
    written = write_report(
        rows, target, command=f"learngene benchmark --config {config.name} --out NEW" if config.exists() else None
    )
    return {"report": str(written), "html": str(written.with_suffix(".html")), "trials": len(rows)}


def _row(line: str, file: Path, number: int) -> dict[str, Any]:
    where = f"'{file}' line {number}"
    row = parse_json(line, where, "delete that line and resume the benchmark")
    lacking = [key for key in NEEDED if not isinstance(row, dict) or key not in row]
    if lacking:
        raise LearngeneError(f"{where} is no trial: it lacks '{lacking[0]}'; give the results.jsonl of a benchmark")
    wrong = next((key for key, kinds in NEEDED.items() if not _is(row[key], kinds)), None) or _wrong_inside(row)
    if wrong is not None:
        raise LearngeneError(f"{where} is no trial: its '{wrong}' is not what a benchmark writes; delete that line and resume it")
    return row


def _is(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a value is of its kind, finite, small enough to be drawn, and (for it goes into a page) no markup."""
    if isinstance(value, bool):
        return bool in kinds
    markup = isinstance(value, str) and (set(value) & set("<>|`") or "](" in value)
    if markup or (isinstance(value, str) and not (value.isprintable() and len(value) <= 1_000)):
        return False
    return isinstance(value, kinds) and (not isinstance(value, NUMBER) or abs(value) < 1e30)


def _wrong_inside(row: dict[str, Any]) -> str | None:
    """The first of a trial's lists and mappings that does not hold what it should."""
    versions = all(_is(name, (str,)) and _is(version, (str,)) for name, version in row["versions"].items())
    if not versions:
        return "versions"
    for key, names in OF_EACH.items():
        inner = list(row[key].values()) if isinstance(row[key], dict) else row[key]
        if not all(isinstance(one, dict) and all(_is(one.get(name), NUMBER) for name in names) for one in inner):
            return key
    usual = row["curve"] and row["depth"] > 0 and (row["epochs"] or row["tflops"]) and (row["epochs"] or 1) > 0
    joules = _is(row.get("joules"), (*NUMBER, type(None)))
    return (
        None
        if usual and joules and (row["test_top1"] is None or row["test_images"])
        else "curve, depth, epochs, joules or test_images"
    )
