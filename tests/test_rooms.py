"""Imports point up the list of rooms only (CONTRIBUTING.md), and light rooms stay light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "learngene"
ROOMS = [
    "errors", "openmp", "log", "processes", "trust", "arguments", "plan", "expansion", "elastic", "files",
    "fingerprints", "provenance", "recipe", "job", "mix", "devices", "families", "latency", "costs",
    "sharing", "elastic_nets", "gene_file", "gene", "starts", "formats", "objectives", "calibration",
    "assets", "data", "runs", "training", "tables", "bench", "studies", "terminal", "jobs", "help",
    "words", "cli",
]  # fmt: skip
HEAVY = {"torch", "timm", "lightning", "torchvision", "matplotlib", "torchmetrics", "numpy"}


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("learngene.")} & set(ROOMS)


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


def test_contributing_shows_the_rooms_in_their_order():
    table = (PACKAGE.parent / "CONTRIBUTING.md").read_text().partition("| room |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    shown = [name for row in rows for name in re.findall(r"`(\w+)/?`", row)]
    assert shown == ROOMS


def test_help_and_light_rooms_import_nothing_heavy():
    code = (
        "import sys; from learngene.cli import main; main(['--help']); main(['distill', '--help']);"
        "import learngene, learngene.jobs; from learngene import StagePlan; learngene.distill;"
        "learngene.finetune.__doc__, dir(learngene), learngene.jobs.functions();"
        f"heavy = sorted(set(sys.modules) & {HEAVY!r}); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


GONE = (
    "locals()", "_OWN", "_special_types", 'get("batch_size", 128)', "VIEW_FIELDS", "isinstance(objective",
    "isinstance(self.objective", "take_bad", "from_ancestor:", "relayer", "markdown_it", "flock",
)  # fmt: skip


def test_what_was_mended_does_not_come_back():
    """Second copies of what a job's dataclass says, and shortcuts through walls."""
    found = [
        f"{path.relative_to(PACKAGE)}: {word}"
        for path in PACKAGE.rglob("*.py")
        for word in GONE
        if word in path.read_text()
    ]
    assert not found


def test_files_and_functions_are_short():
    """A page each: at most 400 lines a file, 50 a function."""
    long = []
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        if len(text.splitlines()) > 400:
            long.append(f"{path.relative_to(PACKAGE)}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 50:
                long.append(f"{path.relative_to(PACKAGE)}: {node.name}")
    assert not long
