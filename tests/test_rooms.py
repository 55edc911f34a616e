"""Imports point up the list of rooms only (shared/design.md), and light rooms stay light."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "learngene"
ROOMS = [
    "errors", "openmp", "log", "trust", "arguments", "processes", "plan", "files", "fingerprints", "provenance", "recipe", "devices", "mix", "families", "costs", "latency", "sharing", "gene", "starts", "export", "objectives",
    "assets", "data", "runs", "training", "bench", "studies", "jobs", "show", "commands", "help", "cli",
]  # fmt: skip
HEAVY = {"torch", "timm", "lightning", "torchvision", "matplotlib", "torchmetrics", "numpy"}


def imported_rooms(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    rooms = {name.split(".")[1] for name in names if name.startswith("learngene.")}
    tree = ast.walk(ast.parse(path.read_text()))
    direct = {
        alias.name
        for node in tree
        if isinstance(node, ast.ImportFrom) and node.module == "learngene"
        for alias in node.names
    }
    return rooms | (direct & set(ROOMS))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_point_up():
    files = [p for p in PACKAGE.rglob("*.py") if room_of(p) not in ("__init__", "__main__")]
    assert {room_of(p) for p in files} == set(ROOMS)
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {room}"
        for path in files
        for room in imported_rooms(path)
        if ROOMS.index(room) > ROOMS.index(room_of(path))
    ]
    assert not wrong


def test_help_and_light_rooms_import_nothing_heavy():
    code = (
        "import sys; from learngene.cli import main; main(['--help']); main(['distill', '--help']);"
        "import learngene, learngene.commands; from learngene import StagePlan;"
        f"heavy = sorted(set(sys.modules) & {HEAVY!r}); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
