"""README.md is run, not believed: its commands, its Python example, its file tree, and CI's two lines."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from learngene.cli import main
from learngene.jobs import jobs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
QUICK = ["--epochs", "1", "--batch-size", "16", "--workers", "0", "--precision", "32-true"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def tour() -> list[list[str]]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("learngene ")]


def test_the_cli_tour_runs_as_written(folder, ancestor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(folder)
    shutil.copytree(ancestor, tmp_path / "my-vit")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    commands = tour()
    assert {words[0] for words in commands} == set(jobs()) - {"demo"}
    for words in commands:
        if words[0] in ("distill", "cache", "finetune", "relearn"):
            words += QUICK
        if words[0] == "relearn":
            words += ["--max-images", "32"]
        if words[0] == "benchmark":  # its own data, learngene and grid take minutes
            gene = json.dumps(
                {"ancestor": "my-vit", "plan": "1,1", "epochs": 1, "batch_size": 16, "workers": 0}
            )
            small = [
                "--data",
                "photos",
                "--distill",
                gene,
                "--depths",
                "[3]",
                "--seeds",
                "[0]",
                "--scratch-epochs",
                "[]",
            ]
            words += [*small, "--warmup-epochs", "0", *QUICK]
        assert main(words) == 0, words
    assert (tmp_path / "runs" / "benchmark" / "report.md").exists()


def test_the_python_example_runs(folder, ancestor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(folder)
    shutil.copytree(ancestor, tmp_path / "my-vit")
    (code,) = blocks("python")
    quick = 'epochs=1, batch_size=16, workers=0, precision="32-true"'
    assert code.count("epochs=10") == 2
    exec(compile(code.replace("epochs=10", quick), "README.md", "exec"), {})


def test_ci_runs_the_two_commands():
    marked = README[README.index("<!-- ci:begin -->") : README.index("<!-- ci:end -->")]
    lines = [line for line in marked.splitlines() if line and not line.startswith(("<!--", "```"))]
    assert len(lines) == 2
    assert lines[0].endswith("learngene demo")
    assert lines[1].endswith("pytest")


def test_the_file_tree_is_complete():
    tree = next(block for block in blocks("text") if "pyproject.toml" in block)
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True
    ).stdout.split("\n")
    if not any(tracked):
        pytest.skip("not a checkout")
    for name in {
        Path(f).name for f in tracked if f.startswith("learngene/") and f.endswith(".py") and "__" not in f
    }:
        assert name in tree, f"{name} is missing from README's file tree"


def test_no_word_is_left_to_fill_in():
    assert "FILL" not in README
