"""How long a thread that waits for work keeps its processor busy. To be settled before torch is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

# Any of these is the user's own word, and nothing is changed then.
SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
SPINS = "3000"  # measured: docs/results/throughput/shared.md


def spin_less(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let waiting threads spin for microseconds instead of milliseconds, unless the user has said otherwise or torch is there already.

    By default libgomp, with which torch comes on Linux, spins 300,000 times before a thread sleeps. Beside another busy process
    the spinning threads take the processor away from those that work, and training falls to a fraction of its speed.
    """
    if "torch" not in sys.modules and not any(name in environment for name in SETTINGS):
        environment["GOMP_SPINCOUNT"] = SPINS
