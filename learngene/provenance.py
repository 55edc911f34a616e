"""Where a result came from: package versions, hardware, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("learngene", "torch", "torchvision", "timm", "lightning")


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of Python and of the packages a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=1)
def hardware() -> str:
    """One line: the processor and its cores, and the accelerators torch sees."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    line = f"{_processor()}, {cores} cores"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        line += f", {len(names)} x {names[0]}"
    return line


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def commit() -> str | None:
    """The git commit of this package's checkout, with '+' for uncommitted changes; none for an installed
    wheel.
    """
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None
    try:
        head = _git(here, "rev-parse", "--short=12", "HEAD")
        changes = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head.strip() + ("+" if changes.strip() else "")


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout


def joules() -> float | None:
    """Energy used so far by all GPUs (NVML, needs the package nvidia-ml-py) and processors (Linux RAPL); none
    if neither tells.

    Only differences mean anything. Both count the whole device, whoever uses it.
    """
    readings = [*_gpu_joules(), *_processor_joules()]
    return sum(readings) if readings else None


def _gpu_joules() -> list[float]:
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3 for handle in handles]
    except Exception:  # not installed, no driver, or a GPU that does not say
        return []


def _processor_joules(root: Path = Path("/sys/class/powercap")) -> list[float]:
    try:
        return [int(path.read_text()) / 1e6 for path in sorted(root.glob("intel-rapl:?/energy_uj"))]
    except (OSError, ValueError):  # for root alone on most systems
        return []
