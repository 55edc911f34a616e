"""How threads that wait for work share the processor with other programs. To be settled before torch is
imported.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import MutableMapping
from pathlib import Path

# Any of these is the user's own word, and nothing is changed then.
SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
LOOKS, PAUSE = 6, 0.08  # about half a second in all: work that ends sooner is no reason
_polite = False


def wait_politely(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let waiting threads sleep (``OMP_WAIT_POLICY=PASSIVE``) if the machine is busy now, unless the user or
    torch was here before.

    By default OpenMP's threads spin for milliseconds before they sleep. On an idle machine that is fast:
    small nets lose a fifth to more than half of their speed without it. Beside another busy program it takes
    the processor away from the threads that work, and training falls to a fraction of its speed. No spin
    count in between serves both (docs/results/throughput/spinning.md), so the machine is looked at.
    """
    global _polite
    if "torch" not in sys.modules and not any(name in environment for name in SETTINGS) and is_busy():
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
        _polite = True


def waits_politely() -> bool:
    """Whether `wait_politely` has changed anything in this process."""
    return _polite


def is_busy() -> bool:
    """Whether other programs leave fewer processors free than this one may use, and go on so: Linux; else
    False.

    An idle machine is told from 20 ms, a busy one is looked at for half a second.
    """
    try:
        free = (os.cpu_count() or 1) - len(os.sched_getaffinity(0))
        for look in range(LOOKS):
            if look:
                time.sleep(PAUSE)
            if statistics.median(_runnable() for _ in range(5)) - 1 <= free:  # this process runs as well
                return False
    except (AttributeError, OSError, ValueError, IndexError):  # no Linux
        return False
    return True


def _runnable() -> int:
    """Threads of the whole machine that run or could run now (the fourth field of ``/proc/loadavg``)."""
    time.sleep(0.004)
    return int(Path("/proc/loadavg").read_text().split()[3].split("/")[0])
