"""The command line as a user meets it."""

import json
import subprocess
import sys

import pytest
import yaml
from conftest import TINY_ARGS

from learngene.cli import COMMANDS, main

ARGS = json.dumps({k: v for k, v in TINY_ARGS.items() if k != "num_classes"})
FAST = ["--epochs", "1", "--batch-size", "16", "--workers", "0", "--precision", "32-true"]


def fails(capsys, *words):
    """Run a command that must fail; its one sentence."""
    assert main([str(w) for w in words]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert "Traceback" not in captured.err
    return lines[0]


def test_help_names_every_command():
    done = subprocess.run([sys.executable, "-m", "learngene", "--help"], capture_output=True, text=True, check=True, timeout=60)
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"usage: learngene {command}" in capsys.readouterr().out


def test_version(capsys):
    import learngene

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == learngene.__version__


def test_pipeline_from_the_command_line(folder, ancestor, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["distill", "--ancestor", str(ancestor), "--data", str(folder), "--plan", "2,1,1", "--out", str(run), *FAST]) == 0
    gene = run / "learngene.safetensors"
    assert main(["spawn", str(gene), "--depth", "3", "5", "--out", str(tmp_path / "family")]) == 0
    assert (
        main(["finetune", str(tmp_path / "family" / "depth-05"), "--data", str(folder), "--out", str(tmp_path / "tuned"), *FAST])
        == 0
    )
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "tuned" / "model"), "--data", str(folder), "--workers", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 24
    assert main(["info", str(gene), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["plan"] == "2,1,1"
    assert [row["depth"] for row in document["depths"]] == list(range(6, 16))
    assert document["times_smaller_than_ten_models"] > 10
    for words in (["info", str(gene), "--latency", "--depth", "3"], ["info", str(run.parent / "family" / "depth-03")]):
        assert main(words) == 0
        assert "gflops" in capsys.readouterr().out
    again = ["distill", "--config", str(run / "config.yaml"), "--out", str(tmp_path / "again")]
    assert main(again) == 0
    from learngene import Learngene, vit

    assert vit.digest(Learngene.load(tmp_path / "again" / "learngene.safetensors").state) == vit.digest(Learngene.load(gene).state)


def test_print_config_and_back(tmp_path, capsys):
    words = [
        "distill",
        "--ancestor",
        "a",
        "--data",
        "d",
        "--out",
        "o",
        "--batch-size",
        "32",
        "--weight_decay=0.1",
        "--print-config",
    ]
    assert main(words) == 0
    text = capsys.readouterr().out
    config = yaml.safe_load(text)
    assert (config["batch_size"], config["weight_decay"], config["plan"]) == (32, 0.1, "3,3,4,3,3")
    (tmp_path / "c.yaml").write_text(text)
    assert main(["distill", "--config", str(tmp_path / "c.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == text
    assert main(["distill", "--config", str(tmp_path / "c.yaml"), "--batch-size", "64", "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["batch_size"] == 64


def test_switches_need_no_value(capsys):
    assert main(["distill", "--ancestor", "a", "--data", "d", "--unlabeled", "--in-memory", "--resume", "--print-config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["unlabeled"] is config["in_memory"] is config["resume"] is True
    assert main(["distill", "--unlabeled=false", "--download", "true", "--print-config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert (config["unlabeled"], config["download"]) == (False, True)


def test_mistakes_end_in_one_sentence_and_status_2(folder, ancestor, tmp_path, capsys):
    base = ["distill", "--ancestor", ancestor, "--data", folder, "--out", tmp_path / "x", *FAST]
    assert "there is no command 'distil'" in fails(capsys, "distil")
    assert "--ancestor is missing" in fails(capsys, "distill", "--data", folder, "--out", tmp_path / "x")
    assert "GENE is missing" in fails(capsys, "spawn", "--depth", "6", "--out", tmp_path / "x")
    assert "plan '3,x' is not a list of whole numbers" in fails(capsys, *base, "--plan", "3,x")
    assert "negative number of layers" in fails(capsys, *base, "--plan=3,-1")
    assert "epochs" in fails(capsys, *base, "--epochs", "many")
    assert "--epochz" in fails(capsys, *base, "--epochz", "3")
    assert "there is no data at" in fails(capsys, *base, "--data", tmp_path / "nothing")
    assert "did you mean" in fails(capsys, *base, "--arch", "vit_tiny_patch16_22")
    assert "resnet50 is not supported, because" in fails(capsys, *base, "--arch", "resnet50")
    assert "there is no directory" in fails(capsys, *base, "--ancestor", "local-dir:/no/where")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    assert "is not empty" in fails(capsys, *base, "--out", tmp_path / "used")
    (tmp_path / "bad.pt").write_bytes(b"PK\x03\x04 something")
    assert "is a pickle" in fails(capsys, "spawn", tmp_path / "bad.pt", "--depth", "6", "--out", tmp_path / "y")
    assert "is a pickle" in fails(capsys, "info", tmp_path / "bad.pt")
    assert "has no config.json" in fails(capsys, "evaluate", tmp_path / "used", "--data", folder)
    assert "device 'tpu9' cannot be used" in fails(capsys, "evaluate", ancestor, "--data", folder, "--device", "tpu9")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 2\nlearning_rate: 1\n", "learning_rate"),
        ("epochs: lots\n", "epochs"),
        ("arch_args: 3\n", "arch_args"),
        ("epochs: [unclosed\n", "config"),
        ("!!python/object/apply:os.mkdir [hacked]\n", "config"),
    ],
)
def test_bad_configs_name_the_key(tmp_path, capsys, text, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text)
    assert message in fails(capsys, "distill", "--config", "c.yaml", "--ancestor", "a", "--data", "d", "--out", "o")
    assert not (tmp_path / "hacked").exists()


def test_a_config_that_is_not_there(capsys):
    assert "no.yaml" in fails(capsys, "distill", "--config", "no.yaml")


def test_log_lines_when_redirected(folder, ancestor, tmp_path):
    words = [
        "distill",
        "--ancestor",
        str(ancestor),
        "--data",
        str(folder),
        "--plan",
        "1,1",
        "--out",
        str(tmp_path / "r"),
        *FAST,
        "--log-every",
        "2",
    ]
    done = subprocess.run([sys.executable, "-m", "learngene", *words], capture_output=True, text=True, check=True, timeout=120)
    assert "step 2/3  total" in done.stderr
    assert "images/s" in done.stderr
    assert " left" in done.stderr
    assert "\x1b" not in done.stderr
    assert "step 2/3" in (tmp_path / "r" / "log.txt").read_text()
