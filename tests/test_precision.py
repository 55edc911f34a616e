"""``precision auto`` is decided by timing, kept by a resumed run, and leaves no trace; how threads wait."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from conftest import FAST, TINY_ARGS

from learngene import distill, finetune, openmp
from learngene.families.timm import open_model
from learngene.families.weights import digest_of
from learngene.recipe import Recipe
from learngene.runs import RunDirectory
from learngene.training import precision
from learngene.training.precision import FULL, HALF, choose_precision, settle_precision, time_steps

ARGS = {k: v for k, v in TINY_ARGS.items() if k != "num_classes"}
AUTO = {k: v for k, v in FAST.items() if k != "precision"} | {"accelerator": "cpu"}
CPU = Recipe(accelerator="cpu")


def slow_in(name):
    """A step that takes longer in one precision."""

    def step(images):
        half = torch.is_autocast_enabled("cpu")
        time.sleep(0.03 if (name == HALF) == half else 0.005)

    return step


@pytest.fixture
def with_bf16(monkeypatch):
    """A processor that knows bf16, by any name."""
    monkeypatch.setattr(precision, "_has_half", lambda: True)


@pytest.mark.parametrize(("slower", "chosen"), [(FULL, HALF), (HALF, FULL)])
def test_the_faster_precision_is_taken_and_said(with_bf16, caplog, slower, chosen):
    with caplog.at_level("INFO", logger="learngene"):
        assert choose_precision(CPU, slow_in(slower)) == chosen
    assert f"precision {chosen}: a step on" in caplog.text


def test_without_bf16_nothing_is_timed(monkeypatch):
    monkeypatch.setattr(precision, "_has_half", lambda: False)
    assert choose_precision(CPU, lambda images: pytest.fail("timed")) == FULL


def test_a_named_precision_is_taken(with_bf16):
    assert choose_precision(Recipe(precision="16-mixed", accelerator="cpu"), slow_in(FULL)) == "16-mixed"


def test_processes_that_have_to_agree_go_by_the_processor(with_bf16, monkeypatch):
    monkeypatch.setattr(precision, "_has_half_units", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_precision(CPU, slow_in(HALF)) == HALF


def test_steps_grow_up_to_the_batch_and_leave_the_generator_alone():
    seen = []
    before = torch.get_rng_state()
    images, seconds = time_steps(lambda n: seen.append((n, torch.randn(3))), 24)
    assert images == 24
    assert [n for n, _ in seen][:6] == [1, 1, 2, 4, 8, 16]
    assert set(seconds) == {FULL, HALF}
    assert torch.equal(torch.get_rng_state(), before)


def test_a_resumed_run_keeps_its_choice(with_bf16, tmp_path):
    run = RunDirectory(tmp_path / "run", {})
    assert settle_precision(run, CPU, slow_in(FULL)) == HALF
    run.begin()
    assert settle_precision(RunDirectory(tmp_path / "run", {}, resume=True), CPU, slow_in(HALF)) == HALF
    assert settle_precision(RunDirectory(tmp_path / "run", {}, overwrite=True), CPU, slow_in(HALF)) == FULL


def test_timing_leaves_no_trace_in_the_weights(with_bf16, monkeypatch, ancestor, folder, tmp_path):
    """The same weights whether 32 bits were named, or chosen by real steps."""
    monkeypatch.setattr(precision, "GAIN", 1e9)
    common = {"plan": "1,2", "drop_path": 0.2, **AUTO}
    genes = [
        distill(str(ancestor), str(folder), out=tmp_path / name, precision=name, **common)  #
        for name in ("auto", "32-true")
    ]
    assert all(torch.equal(genes[0].state[k], genes[1].state[k]) for k in genes[0].state)
    assert json.loads((tmp_path / "auto" / "run.json").read_text())["settled"]["precision"] == FULL


def test_what_was_chosen_is_trained_in(with_bf16, monkeypatch, folder, tmp_path):
    monkeypatch.setattr(precision, "GAIN", 0.0)  # bf16 whatever the clock says
    for name, out in (("auto", "chosen"), ("bf16-mixed", "named")):
        finetune(
            "vit_tiny_patch16_224",
            str(folder),
            out=tmp_path / out,
            depth=2,
            arch_args=ARGS,
            **AUTO,
            precision=name,
        )
    chosen, named = (
        digest_of(open_model(tmp_path / out / "model").state_dict()) for out in ("chosen", "named")
    )
    assert chosen == named


@pytest.mark.parametrize(("busy", "expected"), [(True, {"OMP_WAIT_POLICY": "PASSIVE"}), (False, {})])
def test_threads_wait_politely_beside_other_work_unless_the_user_says_otherwise(monkeypatch, busy, expected):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(openmp, "is_busy", lambda: busy)
    monkeypatch.setattr(openmp, "_polite", False)
    environment = {}
    openmp.wait_politely(environment)
    assert environment == expected
    assert openmp.waits_politely() is busy
    for name in openmp.SETTINGS:
        environment = {name: "7"}
        openmp.wait_politely(environment)
        assert environment == {name: "7"}


def test_torch_first_is_left_alone(monkeypatch):
    monkeypatch.setattr(openmp, "is_busy", lambda: True)
    environment = {}
    openmp.wait_politely(environment)  # torch is imported here
    assert environment == {}


@pytest.mark.parametrize(
    ("runnable", "busy"), [([1], False), ([2], True), ([2, 1, 1, 1, 1], False), ([9] * 8 + [1], False)]
)
def test_a_machine_is_busy_when_others_take_what_we_would_use_and_go_on(monkeypatch, runnable, busy):
    """The last two: work that ends while the machine is looked at."""
    monkeypatch.setattr(openmp, "PAUSE", 0)
    then = iter(runnable)
    monkeypatch.setattr(openmp, "_runnable", lambda: next(then, runnable[-1]))
    monkeypatch.setattr(openmp.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(openmp.os, "sched_getaffinity", lambda pid: set(range(4)), raising=False)
    assert openmp.is_busy() is busy


def test_importing_the_package_is_enough():
    """Beside a process that keeps every processor busy."""
    code = (
        "import os; [os.environ.pop(n, None) for n in {names}]; import learngene; "
        "print(os.environ.get('OMP_WAIT_POLICY'))"
    )
    spinners = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)
    ]
    try:
        time.sleep(1)
        done = subprocess.run(
            [sys.executable, "-c", code.format(names=openmp.SETTINGS)],
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        for spinner in spinners:
            spinner.kill()
    assert done.stdout.strip() == "PASSIVE"
