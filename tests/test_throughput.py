"""tools/throughput.py measures what it says, and the committed table is what its JSON says."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "docs" / "results" / "throughput").glob("*.json"))


@pytest.fixture(scope="module")
def tool():
    return runpy.run_path(str(ROOT / "tools" / "throughput.py"))


def test_a_case_is_measured_in_a_process_of_its_own(tool):
    (case,) = [c for c in tool["presets"]("tiny") if c["data"] == "cached"]
    found = tool["child"]({"case": case, "steps": 2, "warmup": 2})
    assert found["images_per_second"] == pytest.approx(1e3 * case["batch"] / found["step_ms"])
    assert found["first_step_s"] > 0
    assert found["peak_bytes"] > 1e7
    live = {**case, "data": "none", "variant": "plain loop"}
    plain = tool["child"]({"case": live, "steps": 2, "warmup": 2})
    assert plain["flops_per_image"] > found["flops_per_image"]  # the cache spares the ancestor


def test_a_case_that_fails_is_left_out(tool, capsys):
    case = {**tool["presets"]("tiny")[0], "arch": "no_such_model"}
    assert tool["child"]({"case": case, "steps": 2, "warmup": 2}) is None
    assert "failed: " in capsys.readouterr().err


def test_ratios_are_those_of_the_same_model_task_and_batch(tool):
    cases = tool["presets"]("cpu")
    rates = range(100, 100 + len(cases))
    measured = [
        [{"images_per_second": rate + n, "flops_per_image": 10, "step_ms": 1.0} for n in (0, 2, 1)]
        for rate in rates
    ]
    rows = tool["rows_of"](cases, measured, {"32-true": 1e3, "bf16-mixed": 2e3})
    assert [row["images_per_second"] for row in rows] == [rate + 1 for rate in rates]
    for row in rows:
        assert row["mfu"] == row["images_per_second"] * 10 / (
            1e3 if "fp32" in row["variant"] or row["variant"] == "plain loop" else 2e3
        )
        same = [
            r
            for r in rows
            if r["variant"] == "plain loop" and r["processes"] * r["batch"] == row["processes"] * row["batch"]
        ]
        (plain,) = [r for r in same if all(r[k] == row[k] for k in ("task", "arch", "args", "depth"))]
        assert row["ratio"] == row["images_per_second"] / plain["images_per_second"]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_committed_table_is_what_was_measured(tool, path):
    report = json.loads(path.read_text())
    assert path.with_suffix(".md").read_text() == tool["table"](report)
    assert all(row["rounds"] == report["rounds"] for row in report["rows"])
