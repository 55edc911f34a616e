"""docs/scaling.md is what tools/scaling.py computes, and its formulas are what torch counts."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def scaling():
    return runpy.run_path(str(ROOT / "tools" / "scaling.py"))


def test_formulas_are_what_torch_counts(scaling):
    scaling["check"]()
    assert scaling["layer_flops"](192) * 12 < scaling["model_flops"](192, 12)


def test_the_page_is_up_to_date(scaling):
    text = (ROOT / "docs" / "scaling.md").read_text()
    assert f"{scaling['BEGIN']}\n{scaling['tables']()}\n{scaling['END']}" in text, (
        "run python tools/scaling.py --write"
    )


def test_the_words_around_the_tables_are_true(scaling):
    assert all(1 < float(row[-1]) < 3 for row in scaling["cost_rows"]())  # the second or third descendant
    small = scaling["model_parameters"](384, 5)
    assert round(scaling["reduced_bytes"](small, 8) / 1e6) == 67
    assert scaling["model_parameters"](384, 16) == pytest.approx(3 * small, rel=0.1)
    for width, share in ((384, 0.09), (768, 0.04)):
        assert scaling["layer_flops"](width) / (24 * 196 * width**2) - 1 == pytest.approx(share, abs=0.005)
