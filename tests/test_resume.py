"""A run that is stopped anywhere ends where an uninterrupted one does, bit for bit."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from conftest import FAST, TINY_ARGS

from learngene import LearngeneError, distill, finetune
from learngene.cli import main
from learngene.families.timm import open_model
from learngene.families.weights import digest_of
from learngene.runs import newest_checkpoint, previous_checkpoint
from learngene.training import RunDirectory
from learngene.training.checkpoints import AtomicCheckpointIO
from learngene.training.module import TrainingModule

ARGS = {k: v for k, v in TINY_ARGS.items() if k != "num_classes"}
STRONG = {
    "mixup": 0.5,
    "cutmix": 0.5,
    "drop_path": 0.2,
    "auto_augment": "rand-m5-inc1",
    "ema": 0.9,
    "accumulate": 2,
    "repeats": 2,
}
OFTEN = {
    "batch_size": 4,
    "epochs": 3,
    "checkpoint_minutes": 0.0,
}  # 13 batches an epoch, a checkpoint at every step


class Stop(Exception):
    """The power goes out."""


def scratch(folder, out, **options):
    return finetune(
        "vit_tiny_patch16_224", str(folder), out=out, depth=2, arch_args=ARGS, **{**FAST, **OFTEN, **options}
    )


def weights(out):
    return digest_of(open_model(out / "model").state_dict())


def rows(out):
    return [
        {k: v for k, v in row.items() if k != "seconds"}
        for row in csv.DictReader((out / "metrics.csv").open())
    ]


def power_goes_out(monkeypatch, epoch, batch):
    original = TrainingModule.training_step

    def step(self, images, batch_idx):
        if (self.current_epoch, batch_idx) == (epoch, batch):
            raise Stop
        return original(self, images, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", step)


@pytest.mark.parametrize(
    ("options", "workers", "moment"),
    [
        ({}, 0, (0, 5)),
        ({}, 2, (1, 0)),
        ({}, 2, (1, 12)),
        (STRONG, 0, (1, 0)),
        (STRONG, 0, (1, 1)),  # in the midst of the first accumulation after an epoch
        (STRONG, 0, (2, 7)),
        (STRONG, 2, (0, 6)),
        (STRONG, 2, (2, 0)),
        (STRONG, 2, (2, 12)),
        ({"rifle": 2, "accumulate": 3}, 0, (1, 4)),
        ({"steps": 30}, 0, (1, 0)),  # after the checkpoint at the end of an epoch
        ({"steps": 11, "accumulate": 3, "ema": 0.9}, 0, (1, 7)),
    ],
    ids=str,
)
def test_resumes_within_an_epoch(folder, tmp_path, monkeypatch, options, workers, moment):
    whole = scratch(folder, tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        power_goes_out(patch, *moment)
        with pytest.raises(Stop):
            scratch(folder, tmp_path / "cut", workers=workers, **options)
    steps = []
    original = TrainingModule.training_step
    monkeypatch.setattr(
        TrainingModule, "training_step", lambda self, *args: (steps.append(1), original(self, *args))[1]
    )
    resumed = scratch(folder, tmp_path / "cut", resume=True, workers=workers, **options)
    total = min(3 * 13, options.get("steps", 99) * options.get("accumulate", 1))
    assert total - len(steps) > 13 * moment[0] + moment[1] - options.get(
        "accumulate", 1
    )  # not from the start of the epoch
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert resumed["val_loss"] == whole["val_loss"]
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_a_damaged_checkpoint_gives_way_to_the_one_before(folder, tmp_path, monkeypatch, caplog):
    """The power went out while the last checkpoint was on its way to the disk."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    scratch(folder, whole)
    with monkeypatch.context() as patch:
        power_goes_out(patch, 1, 6)
        with pytest.raises(Stop):
            scratch(folder, cut)
    last = cut / "last.ckpt"
    good = last.read_bytes()
    for damaged in (good[: len(good) // 2], good[:500] + bytes([good[500] ^ 1]) + good[501:], b""):
        last.write_bytes(damaged)
        assert newest_checkpoint(last) == previous_checkpoint(last)
    scratch(folder, cut, resume=True)
    assert "last.ckpt is damaged; going on from previous.ckpt" in caplog.text
    assert weights(cut) == weights(whole)
    last.write_bytes(b"")
    previous_checkpoint(last).write_bytes(b"PK")
    with pytest.raises(
        LearngeneError, match="is damaged, and there is no older checkpoint; pass --overwrite"
    ):
        newest_checkpoint(last)


def test_a_full_disk_keeps_the_last_checkpoint(folder, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    scratch(folder, whole)
    calls = []

    def full(self, checkpoint, path, storage_options=None):
        calls.append(1)
        if len(calls) == 9:
            path.write_bytes(b"half a checkpoint")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        torch.save(checkpoint, path)

    with monkeypatch.context() as patch:
        patch.setattr(AtomicCheckpointIO.__base__, "save_checkpoint", full)
        with pytest.raises(LearngeneError, match=r"No space left on device.*free some space"):
            scratch(folder, cut)
    assert torch.load(cut / "last.ckpt", weights_only=True)["global_step"] == 8
    assert not [path for path in cut.iterdir() if path.name.startswith(".")]
    scratch(folder, cut, resume=True)
    assert weights(cut) == weights(whole)


def test_what_differs_is_named_inside_a_mapping(tmp_path):
    then = {
        "distill": {"ancestor": "a", "seed": 0},
        "starts": ["random", {"name": "b", "epochs": [8]}],
        "lr": 0.1,
    }
    RunDirectory(tmp_path / "run", then).begin()
    for now, message in (
        (
            {"distill": {"ancestor": "a", "seed": 3}},
            "was begun with distill.seed 0, now it is 3; resume with the same",
        ),
        (
            {"starts": ["random", {"name": "b", "epochs": [9]}]},
            r"was begun with starts.2.epochs \[8\], now it is \[9\];",
        ),
        ({"starts": ["random"]}, "was begun with starts "),
        ({"lr": 0.2}, "was begun with lr 0.1, now it is 0.2;"),
    ):
        with pytest.raises(LearngeneError, match=message):
            RunDirectory(tmp_path / "run", {**then, **now}, resume=True)
    RunDirectory(tmp_path / "run", {**then, "new": None}, resume=True)


def test_one_path_is_written_in_many_ways(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "other").mkdir()
    RunDirectory("run", {"model": "model", "distill": {"ancestor": "./model"}, "opt": "adamw"}).begin()
    for name in ("./model", "model/", str(tmp_path / "model"), "local-dir:model"):
        RunDirectory("run", {"model": name, "distill": {"ancestor": name}, "opt": "adamw"}, resume=True)
    for changed in ({"model": "other"}, {"distill": {"ancestor": "nowhere"}}, {"opt": "./adamw"}):
        with pytest.raises(LearngeneError, match="was begun with"):
            RunDirectory(
                "run",
                {"model": "model", "distill": {"ancestor": "model"}, "opt": "adamw", **changed},
                resume=True,
            )


def command(folder, out, *words):
    program = [
        sys.executable,
        "-m",
        "learngene",
        "finetune",
        "vit_tiny_patch16_224",
        "--data",
        str(folder),
        "--out",
        str(out),
    ]
    options = {
        "depth": 2,
        "arch_args": json.dumps(ARGS),
        "batch_size": 4,
        "epochs": 8,
        "precision": "32-true",
        "workers": 0,
    }
    return [
        *program,
        *(f"--{name}={value}" for name, value in options.items()),
        "--checkpoint-minutes=0",
        *words,
    ]


def wait_for(path, process):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGKILL], ids=lambda n: n.name
)
def test_signals_stop_and_resume(folder, tmp_path, number):
    """And another run in the same directory is refused meanwhile."""
    out = tmp_path / "run"
    with subprocess.Popen(command(folder, out), stderr=subprocess.PIPE, text=True) as process:
        wait_for(out / "last.ckpt", process)
        if number is signal.SIGTERM:
            process.send_signal(signal.SIGSTOP)
            second = subprocess.run(
                command(folder, out, "--resume"), capture_output=True, text=True, timeout=60
            )
            assert second.returncode == 2
            assert (
                f"error: another run is at work in '{out}'; wait for it, or choose another --out"
                in second.stderr
            )
            process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == {signal.SIGINT: 130, signal.SIGKILL: -9}.get(number, 128 + number)
    if number is not signal.SIGKILL:
        assert f"{number.name}: stopping after this step" in errors
        assert "Traceback" not in errors
    assert json.loads((out / "run.json").read_text())["status"] == "running"
    if number is signal.SIGTERM:
        done = subprocess.run(command(folder, out, "--resume"), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "resuming from" in done.stderr
        subprocess.run(command(folder, tmp_path / "whole"), check=True, capture_output=True, timeout=120)
        assert weights(out) == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    "config", [{"models": ["{}"]}, {"prepare": {"gene": {"distill": {"ancestor": "local-dir:{}"}}}}]
)
def test_overwriting_a_run_does_not_delete_what_is_read_however_deep_it_is_named(tmp_path, config):
    run = RunDirectory(tmp_path / "run", {})
    run.begin()
    (run.path / "model").mkdir()
    named = json.loads(json.dumps(config).replace("{}", str(run.path / "model")))
    with pytest.raises(
        LearngeneError, match=f"--overwrite would delete {next(iter(config))} .*choose another --out"
    ):
        RunDirectory(run.path, named, overwrite=True)


@pytest.mark.parametrize("was", [True, False])
def test_what_an_earlier_version_wrote_is_understood(folder, ancestor, tmp_path, was, capsys):
    """`from_ancestor` was a flag, and is a start: in records that are resumed, in configs, from Python."""
    start = {"start": "from-ancestor" if was else "random"}
    out, common = tmp_path / "run", {"plan": "2,1", "elastic": None, **FAST, "accelerator": "cpu"}
    distill(ancestor, str(folder), out=out, **start, **common)
    record = json.loads((out / "run.json").read_text())
    record["config"]["from_ancestor"] = was
    record["config"]["start"] = None
    for later in ("elastic", "elastic_step", "elastic_draw", "calibration"):
        del record["config"][later]
    (out / "run.json").write_text(json.dumps(record))
    resumed = distill(ancestor, str(folder), out=out, resume=True, **start, **common)
    again = distill(ancestor, str(folder), out=tmp_path / "again", from_ancestor=was, **common)
    assert digest_of(again.state) == digest_of(resumed.state)
    (tmp_path / "c.yaml").write_text(f"from_ancestor: {str(was).lower()}\n")
    assert main(["distill", "--config", str(tmp_path / "c.yaml"), "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["start"] == start["start"]
    other = {} if was else {"start": "from-ancestor"}
    with pytest.raises(LearngeneError, match="was begun with start"):
        distill(ancestor, str(folder), out=out, resume=True, **other, **common)
