"""Whatever breaks while a run is under way: one sentence, and `--resume` ends as an uninterrupted run does.

    pytest --slow -n 0 -s tests/faults

About a quarter of an hour on two cores; figures in docs/reliability.md.

FAULTS_SEED chooses other moments, FAULTS_KILLS another number of kills.
"""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY_ARGS

from learngene.families.timm import open_model
from learngene.families.weights import digest_of
from learngene.gene import Learngene

pytestmark = pytest.mark.slow
SEED = int(os.environ.get("FAULTS_SEED", "0"))
KILLS = int(os.environ.get("FAULTS_KILLS", "50"))
ARGS = {k: v for k, v in TINY_ARGS.items() if k != "num_classes"}
STRONG = (
    "--mixup=0.5",
    "--cutmix=0.5",
    "--ema=0.9",
    "--accumulate=2",
    "--drop-path=0.2",
    "--auto-augment=rand-m5-inc1",
    "--repeats=2",
)


def finetune(folder, out, *words):
    options = {
        "depth": 2,
        "arch_args": json.dumps(ARGS),
        "batch_size": 4,
        "epochs": 6,
        "precision": "32-true",
        "workers": 0,
    }
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
    return [
        *program,
        *(f"--{name}={value}" for name, value in options.items()),
        "--checkpoint-minutes=0",
        *words,
    ]


def distill(ancestor, folder, out, *words):
    options = {"plan": "2,1", "batch_size": 4, "epochs": 6, "precision": "32-true", "workers": 0}
    program = [
        sys.executable,
        "-m",
        "learngene",
        "distill",
        "--ancestor",
        str(ancestor),
        "--data",
        str(folder),
        "--out",
        str(out),
    ]
    return [
        *program,
        *(f"--{name}={value}" for name, value in options.items()),
        "--checkpoint-minutes=0",
        *words,
    ]


def finish(command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def digest(out):
    gene = out / "learngene.safetensors"
    return digest_of(Learngene.load(gene).state if gene.exists() else open_model(out / "model").state_dict())


def clean(errors):
    """One sentence, and no traceback."""
    assert "Traceback" not in errors
    (sentence,) = [line for line in errors.splitlines() if ": error: " in line]
    return sentence


def wait_for(path, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not path.exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process.poll() is None


def kill_at_random(command, out, draw, counts):
    """Start a run and stop it at some moment, also before its first checkpoint; whether it had ended."""
    number = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
    (out / "run.lock").unlink(missing_ok=True)  # of a run that was killed
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        if draw.random() < 0.8:
            wait_for(out / "run.lock", process)  # else somewhere in the imports
        time.sleep(draw.uniform(0, 1.5))
        if process.poll() is None:
            process.send_signal(number)
        errors = process.communicate(timeout=120)[1]
    if process.returncode == 0:
        return True
    saved = f"{number.name}: stopping after this step" in errors
    counts["saved first"] = counts.get("saved first", 0) + saved
    expected = {128 + number} if saved else {-number, 128 + number}  # before training: at once
    assert process.returncode in expected, (number, process.returncode, errors)
    counts[number.name] = counts.get(number.name, 0) + 1
    if number == signal.SIGKILL and (out / "previous.ckpt").exists() and draw.random() < 0.3:
        whole = (out / "last.ckpt").read_bytes() if (out / "last.ckpt").exists() else b""
        (out / "last.ckpt").write_bytes(whole[: draw.randrange(len(whole) or 1)])
        counts["truncated"] = counts.get("truncated", 0) + 1
    return False


def test_kills_at_random_moments(folder, ancestor, tmp_path):
    """Runs of three kinds are killed again and again; each ends with an uninterrupted one's weights."""
    draw = random.Random(SEED)
    makers = {
        "plain": lambda out, *words: finetune(folder, out, *words),
        "strong, two workers": lambda out, *words: finetune(folder, out, *STRONG, "--workers=2", *words),
        "distillation": lambda out, *words: distill(
            ancestor, folder, out, "--feature=1", "--ema=0.9", *words
        ),
    }
    expected = {}
    for name, make in makers.items():
        assert finish(make(tmp_path / name)).returncode == 0
        expected[name] = digest(tmp_path / name)
    counts, runs, kills = {}, 0, 0
    while kills < KILLS:
        name, make = list(makers.items())[runs % len(makers)]
        out = tmp_path / f"run-{runs}"
        while not kill_at_random(make(out, "--resume"), out, draw, counts):
            kills += 1
            if kills >= KILLS:
                done = finish(make(out, "--resume"))
                assert done.returncode == 0, done.stderr
                break
        assert digest(out) == expected[name], (name, runs)
        shutil.rmtree(out)
        runs += 1
    assert counts["saved first"]
    print(f"\n{kills} kills {counts}, {runs} runs, all with the weights of uninterrupted ones; seed {SEED}")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1.5 MB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(mount)], capture_output=True
    ).returncode:
        pytest.skip("not allowed to mount")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_full_disk(folder, tmp_path, small_disk):
    """The disk fills up in the middle; the checkpoint before survives, and with space the run goes on."""
    assert finish(finetune(folder, tmp_path / "whole")).returncode == 0
    out = small_disk / "run"
    with subprocess.Popen(finetune(folder, out), stderr=subprocess.PIPE, text=True) as process:
        assert wait_for(out / "last.ckpt", process)
        process.send_signal(signal.SIGSTOP)
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        process.send_signal(signal.SIGCONT)
        errors = process.communicate(timeout=120)[1]
    assert process.returncode == 2, errors
    assert "space" in clean(errors)
    ballast.unlink()
    done = finish(finetune(folder, out, "--resume"))
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stderr
    assert digest(out) == digest(tmp_path / "whole")


def test_unwritable_directory(folder, small_disk):
    """Refused before any work."""
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = finish(finetune(folder, small_disk / "run"))
    assert done.returncode == 2, done.stderr
    assert "Read-only file system" in clean(done.stderr)
    assert "choose another --out" in done.stderr


def test_corrupt_images(folder, tmp_path):
    """A few are left out and named; too many stop the run."""
    photos = tmp_path / "photos"
    shutil.copytree(folder, photos)
    pictures = sorted((photos / "train").rglob("*.png"))
    pictures[0].write_bytes(pictures[0].read_bytes()[:60])
    pictures[1].write_bytes(b"")
    done = finish(finetune(photos, tmp_path / "few"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("skipped an image that cannot be read") == 2
    for picture in pictures:
        picture.write_bytes(b"not an image")
    done = finish(finetune(photos, tmp_path / "many"))
    assert done.returncode == 2
    assert "cannot be read" in clean(done.stderr)


def test_vanished_data(folder, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(folder, photos)
    with subprocess.Popen(finetune(photos, tmp_path / "run"), stderr=subprocess.PIPE, text=True) as process:
        assert wait_for(tmp_path / "run" / "last.ckpt", process)
        shutil.rmtree(photos)
        errors = process.communicate(timeout=120)[1]
    assert process.returncode == 2, errors
    clean(errors)
    shutil.copytree(folder, photos)
    assert finish(finetune(photos, tmp_path / "run", "--resume")).returncode == 0
    assert finish(finetune(photos, tmp_path / "whole")).returncode == 0
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_worker_crash(folder, tmp_path):
    with subprocess.Popen(
        finetune(folder, tmp_path / "run", "--workers=2"), stderr=subprocess.PIPE, text=True
    ) as process:
        assert wait_for(tmp_path / "run" / "last.ckpt", process)
        os.kill(children(process.pid)[0], signal.SIGKILL)
        errors = process.communicate(timeout=120)[1]
    assert process.returncode == 2, errors
    assert "a process that reads images died" in clean(errors)
    assert finish(finetune(folder, tmp_path / "run", "--workers=2", "--resume")).returncode == 0
    assert finish(finetune(folder, tmp_path / "whole", "--workers=2")).returncode == 0
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")


def test_out_of_memory(folder, tmp_path):
    """The address space ends 600 MB above what the program itself takes."""
    code = (
        "import resource, sys, torch, timm, lightning; from learngene.cli import main;"
        "pages = int(open('/proc/self/statm').read().split()[0]);"
        f"limit = pages * {resource.getpagesize()} + 600 * 2**20;"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit));"
        "sys.exit(main(sys.argv[1:]))"
    )
    words = finetune(folder, tmp_path / "run")[3:]
    words[words.index(next(w for w in words if w.startswith("--batch_size")))] = "--batch_size=4096"
    words = [
        w if not w.startswith("--arch_args") else f"--arch_args={json.dumps(ARGS | {'embed_dim': 512})}"
        for w in words
    ]
    done = finish([sys.executable, "-c", code, *words])
    assert done.returncode == 2, done.stderr
    assert "out of memory with batch_size 4096; try --batch-size 2048 --accumulate 2" in clean(done.stderr)


def test_rank_loss(ancestor, tmp_path):
    """One of two ranks is killed: the other ends, and a resumed run ends as an uninterrupted one."""
    words = ["--devices=2", "--strategy=ddp", "--accelerator=cpu", "--unlabeled"]
    command = distill(ancestor, "fashion-mnist", tmp_path / "run", *words, "--steps=300", "--batch_size=16")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert wait_for(tmp_path / "run" / "last.ckpt", process, 120)
        (other, *_) = children(process.pid)
        os.kill(other, signal.SIGKILL)
        try:
            errors = process.communicate(timeout=120)[1]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode not in (0, None)
    assert "Traceback" not in errors, errors
    done = finish([*command, "--resume"])
    assert done.returncode == 0, done.stderr
    whole = finish(
        distill(ancestor, "fashion-mnist", tmp_path / "whole", *words, "--steps=300", "--batch_size=16")
    )
    assert whole.returncode == 0
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")
