"""Bad input that shows only once a run has begun leaves nothing that the same command would stumble over."""

import json
import shutil

import pytest
from conftest import FAST, TINY_ARGS, write_folder

from learngene import LearngeneError, benchmark, cache, distill, finetune, relearn
from learngene.cli import main
from learngene.files import locked
from learngene.jobs import demo as own
from learngene.runs import RunDirectory
from learngene.training.module import TrainingModule

ARGS = {k: v for k, v in TINY_ARGS.items() if k != "num_classes"}
NAME = "vit_tiny_patch16_224"


@pytest.fixture
def broken(tmp_path):
    """Class folders of images of which each is cut off; and the whole ones."""
    whole = write_folder(tmp_path / "whole" / "train", 12).parent
    root = tmp_path / "photos"
    shutil.copytree(whole, root)
    for file in root.rglob("*.*g"):
        file.write_bytes(file.read_bytes()[:60])
    return root, whole


def jobs(ancestor):
    return {
        "distill": lambda data, out: distill(ancestor, data, out=out, plan="1,1", **FAST),
        "finetune": lambda data, out: finetune(NAME, data, out=out, depth=1, arch_args=ARGS, **FAST),
        "tracked": lambda data, out: finetune(
            NAME, data, out=out, depth=1, arch_args=ARGS, track="tensorboard", **FAST
        ),
        "cache": lambda data, out: cache(ancestor, data, out=out, **FAST),
        "benchmark": lambda data, out: benchmark(
            data, out=out, arch=NAME, arch_args=ARGS, depths=(1,), starts=("random",), seeds=(0,), **FAST
        ),
        "prepared": lambda data, out: benchmark(
            data, out=out, distill={"ancestor": str(ancestor), "plan": "1,1", **FAST}, depths=(2,),
            starts=("learngene",), seeds=(0,), **FAST,
        ),
        "relearn": lambda data, out: relearn(
            [str(ancestor)], data, out=out, layers=(1,), shares=(1.0,), modes=("free",), max_images=16, **FAST
        ),
    }  # fmt: skip


@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
@pytest.mark.parametrize(
    "job", ["distill", "finetune", "tracked", "cache", "benchmark", "prepared", "relearn"]
)
def test_broken_images_leave_no_run_behind(broken, ancestor, tmp_path, job, there):
    """And once they are mended the same command runs."""
    if job == "tracked":
        pytest.importorskip("tensorboard")
    root, whole = broken
    out = tmp_path / "out"
    if there:
        out.mkdir()
    run = jobs(ancestor)[job]
    with pytest.raises(LearngeneError, match="read"):
        run(str(root), out)
    assert out.exists() == there
    assert not there or not list(out.iterdir())
    shutil.copytree(whole, root, dirs_exist_ok=True)
    if not there and job in ("finetune", "cache", "prepared"):
        run(str(root), out)
        assert list(out.iterdir())


def test_what_was_trained_stays(folder, tmp_path, monkeypatch):
    """A loss that is no number in the second epoch: the first one's checkpoint is there to go on from."""
    original = TrainingModule.training_step

    def step(self, batch, batch_idx):
        if self.current_epoch == 1:
            raise LearngeneError("something is wrong")
        return original(self, batch, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", step)
    words = {"out": tmp_path / "r", "depth": 1, "arch_args": ARGS, **FAST, "epochs": 2}
    with pytest.raises(LearngeneError, match="something is wrong"):
        finetune(NAME, str(folder), **words)
    assert (tmp_path / "r" / "last.ckpt").exists()
    monkeypatch.undo()
    assert "val_top1" in finetune(NAME, str(folder), resume=True, **words)


def begin_and_fail(run, around, *, write=None, error=LearngeneError):
    """A run that is begun, writes something, and meets an error."""
    with around():
        run.begin()
        if write:
            (run.path / write).parent.mkdir(parents=True, exist_ok=True)
            (run.path / write).write_text(json.dumps({"status": "finished"}))
        raise error("bad")


def test_only_what_this_run_began_is_taken_back(tmp_path):
    out = tmp_path / "r"
    killed = RunDirectory(out, {})
    with pytest.raises(RuntimeError, match="bad"):
        begin_and_fail(killed, killed.held, error=RuntimeError)
    resumed = RunDirectory(out, {}, resume=True)
    with pytest.raises(LearngeneError, match="bad"):
        begin_and_fail(resumed, resumed.held)
    assert (out / "run.json").exists()
    again = RunDirectory(out, {}, overwrite=True)
    with pytest.raises(LearngeneError, match="bad"):
        begin_and_fail(again, again.held)
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    "name", ["notes.txt", "last.ckpt", "cells/a/run.json", "prepared/gene/learngene.safetensors"]
)
@pytest.mark.parametrize("around", ["held", "taken_back"])
def test_what_is_of_use_stays(tmp_path, name, around):
    run = RunDirectory(tmp_path / "r", {})
    with pytest.raises(LearngeneError, match="bad"):
        begin_and_fail(run, getattr(run, around), write=name)
    assert (run.path / "run.json").exists()
    assert (run.path / name).exists()


def test_another_process_at_work_is_left_alone(tmp_path):
    run = RunDirectory(tmp_path / "r", {})
    with locked(run.path / "trials" / "a.lock"), pytest.raises(LearngeneError, match="bad"):
        begin_and_fail(run, run.taken_back)
    assert (run.path / "run.json").exists()


def test_the_demo_goes_on_where_it_was_interrupted(tmp_path, monkeypatch, capsys):
    small = {"train_fraction": 0.02, "val_fraction": 0.02, "epochs": 1, "workers": 0, "precision": "32-true"}
    for name, value in {
        "DISTILL": own.DISTILL | small | {"plan": "1,1,1,1,1"},
        "FINETUNE": own.FINETUNE | small | {"test": False},
        "DEPTHS": (5,),
    }.items():
        monkeypatch.setattr(own, name, value)
    command = ["demo", "--out", str(tmp_path / "demo")]

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            "learngene.bench.trials.evaluate_model", interrupt
        )  # the learngene is distilled, the first trial begins
        assert main(command) == 130
    assert "learngene demo: interrupted; the same command with --resume goes on" in capsys.readouterr().err
    distilled = (tmp_path / "demo" / "prepared" / "distill" / "learngene.safetensors").stat().st_mtime_ns
    assert main([*command, "--resume"]) == 0
    assert "learngene" in capsys.readouterr().out
    assert (
        tmp_path / "demo" / "prepared" / "distill" / "learngene.safetensors"
    ).stat().st_mtime_ns == distilled
