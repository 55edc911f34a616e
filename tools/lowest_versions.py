"""Run the tests with the lowest version that pyproject.toml allows of every package.

All tests, in a quarter of an hour on two cores and 9 GB of disk; or an environment that is kept, and what
follows -- is pytest's:

    python3 tools/lowest_versions.py
    python3 tools/lowest_versions.py --venv /tmp/lowest -- tests/test_cli.py

CI always takes the newest packages. This is the slow lane for the other end: run it before a release, and
when a floor in pyproject.toml changes. A failure means that the code needs a mend or the floor has to rise;
only direct dependencies are held down.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[.*?\])?(.*)")


def requirements(project: dict, extras: Iterable[str]) -> list[str]:
    """What the package and some of its extras require, but for the package itself."""
    optional = project.get("optional-dependencies", {})
    found = [*project["dependencies"], *(line for extra in extras for line in optional[extra])]
    return [line for line in found if REQUIREMENT.match(line)[1] != project["name"]]


def floor(requirement: str) -> str:
    """The requirement held to its lower bound: 'x[extra]>=1.2,!=1.3' becomes 'x==1.2'.

    Raises:
        ValueError: it has no lower bound.
    """
    name, versions = REQUIREMENT.match(requirement).groups()
    bound = re.search(r">=\s*([\w.]+)", versions)
    if not bound:
        raise ValueError(
            f"{requirement!r} has no lower bound in pyproject.toml; write one, as in '{name}>=1.2'"
        )
    return f"{name}=={bound[1]}"


def constraints(path: Path = ROOT / "pyproject.toml", extras: Iterable[str] = ("test",)) -> list[str]:
    """One line for each direct dependency, as pip's --constraint takes them."""
    project = tomllib.loads(path.read_text())["project"]
    return sorted({floor(line) for line in requirements(project, extras)}, key=str.lower)


def install(directory: Path) -> Path:
    """The package, editable, with its tests' packages at their floors; the environment's python."""
    python = directory / "bin" / "python"
    if not python.exists():
        venv.create(directory, with_pip=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(constraints()) + "\n")
        file.flush()
        subprocess.run([python, "-m", "pip", "install", "-c", file.name, "-e", f"{ROOT}[test]"], check=True)
    return python


def main(words: list[str]) -> int:
    """Install, then test; pytest's exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--venv",
        type=Path,
        help="the environment's folder, made if need be and kept (default: a temporary one)",
    )
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, behind --")
    args = parser.parse_args(words)
    print("\n".join(constraints()), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        python = install((args.venv or Path(scratch)).absolute())
        return subprocess.run([python, "-m", "pytest", *args.pytest], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
