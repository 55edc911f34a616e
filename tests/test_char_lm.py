"""The character model: causal, its starts fit it, and a short run writes its table and is not run twice."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from learngene.families.variants import is_post_norm

spec = importlib.util.spec_from_file_location(
    "char_lm", Path(__file__).parent.parent / "tools" / "char_lm.py"
)
char_lm = sys.modules["char_lm"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(char_lm)
SIZES = {"width": 16, "depth": 2, "heads": 2, "context": 8}


@pytest.mark.parametrize("setting", char_lm.SETTINGS, ids=lambda s: s.name)
def test_no_character_sees_the_next(setting):
    torch.manual_seed(0)
    model = char_lm.build(setting, **SIZES).eval()
    assert is_post_norm(model) is setting.name.startswith("post-norm")
    text = torch.randint(128, (2, 8))
    other = text.clone()
    other[:, 5:] = (other[:, 5:] + 1) % 128
    ours, theirs = model(text), model(other)
    assert torch.allclose(ours[:, :5], theirs[:, :5], atol=1e-6)
    assert not torch.allclose(ours[:, 5:], theirs[:, 5:], atol=1e-6)


def test_a_short_run_learns_writes_and_is_not_repeated(tmp_path, capsys):
    text = char_lm.standard_library()
    assert len(text) > 1_000_000
    assert text.max() < 128
    options = {**SIZES, "batch": 8, "steps": 30, "seeds": [0], "lr": 1e-2}
    rows = char_lm.main(tmp_path, **options)
    assert len(rows) == len(char_lm.SETTINGS)
    assert all(row["bits"] < 6.5 for row in rows)  # 7 is chance
    assert "| pre-norm, mimetic | 1 |" in (tmp_path / "char-lm.md").read_text()
    capsys.readouterr()
    assert char_lm.main(tmp_path, **options) == rows
    assert not capsys.readouterr().out
    with pytest.raises(SystemExit, match="choose another --out"):
        char_lm.main(tmp_path, **{**options, "steps": 31})
