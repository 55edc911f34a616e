"""How threads that wait for work share the processor with other programs. To be settled before torch is imported."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import MutableMapping
from pathlib import Path

# Any of these is the user's own word, and nothing is changed then.
SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def wait_politely(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let waiting threads sleep (``OMP_WAIT_POLICY=PASSIVE``) if the machine is busy now, unless the user or torch was here before.

    By default OpenMP's threads spin for milliseconds before they sleep. On an idle machine that is fast: small nets lose more than half
    of their speed without it. Beside another busy program it takes the processor away from the threads that work, and training falls to a
    fraction of its speed. No spin count in between serves both (docs/results/throughput/spinning.md), so the machine is looked at.
    """
    if "torch" not in sys.modules and not any(name in environment for name in SETTINGS) and is_busy():
        environment["OMP_WAIT_POLICY"] = "PASSIVE"


def is_busy() -> bool:
    """Whether other programs leave fewer processors free than this one may use: Linux, by what is runnable over 20 ms; else False."""
    try:
        wanted = len(os.sched_getaffinity(0))
        others = statistics.median(_runnable() for _ in range(5)) - 1  # this process runs as well
    except (AttributeError, OSError, ValueError, IndexError):  # no Linux
        return False
    return others + wanted > (os.cpu_count() or 1)


def _runnable() -> int:
    """Threads of the whole machine that run or could run now (the fourth field of ``/proc/loadavg``)."""
    time.sleep(0.004)
    return int(Path("/proc/loadavg").read_text().split()[3].split("/")[0])
