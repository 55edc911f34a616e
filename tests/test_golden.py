"""Short runs make the very weights that they made before the house was rebuilt; see tests/golden/make.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

MAKE = Path(__file__).parent / "golden" / "make.py"
TORCH = torch.__version__.partition("+")[0]


@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_weights_are_those_of_before(tmp_path, quick):
    """Another release of torch, or a machine that computes otherwise, needs digests of its own."""
    known = json.loads(MAKE.with_name("digests.json").read_text()).get(TORCH)
    if known is None:
        pytest.skip(f"no digests for torch {TORCH}; tests/golden/make.py says how to write them")
    command = [sys.executable, str(MAKE), str(tmp_path), *["--quick"] * quick]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3_000:]
    found = json.loads(done.stdout)
    if found["canary"] != known["canary"]:
        pytest.skip("this machine computes otherwise than the one that wrote the digests")
    assert {name for name in found if found[name] != known.get(name)} == set()
    assert quick or found.keys() == known.keys()
