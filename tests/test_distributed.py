"""Several processes, with gloo on one machine: the same step as one, exchanges, and how they are launched."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import TINY_ARGS

from learngene import Learngene
from learngene.families.architecture import Architecture
from learngene.objectives import Supervised
from learngene.plan import StagePlan
from learngene.processes import is_follower
from learngene.recipe import Recipe
from learngene.sharing import build_auxnet
from learngene.training import TrainingModule
from learngene.training.distributed import gather, shard

TWO = ["--batch-size", "16", "--devices", "2"]
SGD = [
    "--opt",
    "sgd",
    "--lr",
    "3",
    "--clip-grad",
    "0.5",
]  # unlike AdamW's, its step shows the size of a gradient, and does not blow up noise
CUT = """
import os, sys
from learngene.cli import main
from learngene.training.callbacks import MetricsFile
goes_on = MetricsFile.on_train_epoch_end
def cut(self, *args):
    goes_on(self, *args)
    if len(self.rows) == 2:
        os._exit(9)
MetricsFile.on_train_epoch_end = cut
sys.exit(main(sys.argv[1:]))
"""


def words(ancestor, out, *extra, data="fashion-mnist"):
    common = [
        "--ancestor",
        str(ancestor),
        "--data",
        str(data),
        "--plan",
        "2,1",
        "--precision",
        "32-true",
        "--workers",
        "0",
    ]
    return ["distill", *common, "--unlabeled", "--accelerator", "cpu", *extra, "--out", str(out)]


def run(command, **variables):
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, **variables}
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def learngene(*args):
    return run([sys.executable, "-m", "learngene", *args])


def load(out):
    return Learngene.load(out / "learngene.safetensors")


def distance(a, b):
    assert a.state.keys() == b.state.keys()
    return max((a.state[key] - b.state[key]).abs().max().item() for key in a.state)


@pytest.fixture(scope="module")
def alone(ancestor, tmp_path_factory):
    """Three steps of one process with the whole batch."""
    out = tmp_path_factory.mktemp("alone") / "run"
    learngene(*words(ancestor, out, *SGD, "--steps", "3", "--batch-size", "32", "--feature", "0.5"))
    return load(out)


@pytest.fixture(scope="module")
def begun(ancestor, tmp_path_factory):
    """What has not moved yet."""
    out = tmp_path_factory.mktemp("begun") / "run"
    learngene(*words(ancestor, out, "--steps", "1", "--lr", "1e-12", "--min-lr", "0", "--batch-size", "32"))
    return load(out)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_take_the_same_steps_as_one(ancestor, alone, begun, tmp_path, strategy):
    """Half the batch each, tied weights, and the same depths drawn; FSDP trains the plan alone."""
    common = [*SGD, "--steps", "3", "--feature", "0.5"]
    log = learngene(*words(ancestor, tmp_path / "two", *common, *TWO, "--strategy", strategy))
    assert log.count("wrote") == 1
    if strategy == "fsdp":
        learngene(*words(ancestor, tmp_path / "one", *common, "--batch-size", "32", "--elastic", "none"))
    one, two = load(tmp_path / "one") if strategy == "fsdp" else alone, load(tmp_path / "two")
    assert (one.elastic is None) == (two.elastic is None) == (strategy == "fsdp")
    assert distance(two, begun) > 1e-2
    assert distance(two, one) < 1e-6
    assert two.metrics["cost"]["images"] == one.metrics["cost"]["images"] == 96
    assert two.metrics["cost"]["flops"] == one.metrics["cost"]["flops"]
    assert two.metrics["val_kl"] == pytest.approx(one.metrics["val_kl"], rel=1e-4)


@pytest.mark.slow
def test_a_sharded_run_resumes_to_what_ddp_trains(folder, ancestor, tmp_path):
    """Its checkpoint is an ordinary one: whole tensors in one file, those that DDP writes."""
    common = [*SGD, "--epochs", "3", "--batch-size", "8", "--devices", "2"]  # with momentum
    plain = [*common, "--strategy", "ddp", "--elastic", "none"]
    learngene(*words(ancestor, tmp_path / "ddp", *plain, data=folder))
    (tmp_path / "cut.py").write_text(CUT)
    sharded = words(ancestor, tmp_path / "fsdp", *common, "--strategy", "fsdp", data=folder)
    assert (
        subprocess.run(
            [sys.executable, tmp_path / "cut.py", *sharded], capture_output=True, timeout=300
        ).returncode
        == 9
    )
    found = torch.load(tmp_path / "fsdp" / "last.ckpt", weights_only=True)
    wanted = torch.load(tmp_path / "ddp" / "last.ckpt", weights_only=True)
    assert found["epoch"] == 0
    assert shapes(found["state_dict"]) == shapes(wanted["state_dict"])
    assert shapes(found["optimizer_states"][0]["state"]) == shapes(wanted["optimizer_states"][0]["state"])
    learngene(*sharded, "--resume")
    assert distance(load(tmp_path / "fsdp"), load(tmp_path / "ddp")) < 1e-6


def shapes(tree):
    if isinstance(tree, dict):
        return {key: shapes(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [shapes(value) for value in tree]
    return (type(tree), tree.shape) if isinstance(tree, torch.Tensor) else type(tree)


def tied():
    torch.manual_seed(0)
    return build_auxnet(Architecture("vit_tiny_patch16_224", TINY_ARGS), StagePlan((3, 3, 4, 3, 3)))


def loss(model):
    return model(torch.linspace(-1, 1, 784).view(1, 1, 28, 28)).square().sum()


def counted(collective, seen, key):
    def counting(*args, **kwargs):
        seen[key] += max(t.numel() for t in [*args, *kwargs.values()] if isinstance(t, torch.Tensor))
        return collective(*args, **kwargs)

    return counting


def exchange(rank, store, answers):
    """In each of two processes: how many numbers DDP and FSDP reduce, and the gradients they come to."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    seen = {"ddp": 0, "fsdp": 0, "gathered": 0}

    def counting(group, bucket):
        seen["ddp"] += bucket.buffer().numel()
        return allreduce_hook(group, bucket)

    model = tied()
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    parallel.register_comm_hook(None, counting)
    loss(parallel).backward()

    for key, names in (
        ("fsdp", ("reduce_scatter_single", "reduce_scatter_tensor")),  # in newer and in older torch
        ("gathered", ("all_gather_single", "all_gather_into_tensor")),
    ):
        name = next(name for name in names if hasattr(dist, name))
        setattr(dist, name, counted(getattr(dist, name), seen, key))
    module = TrainingModule(tied(), Supervised(), Recipe(), num_classes=3)
    module.training_step = lambda: loss(module.model)
    module._device_mesh = dist.init_device_mesh(
        "cpu", (2, 1), mesh_dim_names=("data_parallel", "tensor_parallel")
    )
    shard(module)
    module.training_step().backward()
    shown = dict(seen)
    shards = [p.grad.full_tensor() for p in module.model.parameters()]
    gather(module)
    same = module.model.blocks[0].attn is module.model.blocks[2].attn
    whole = sum(p.numel() for p in module.parameters())
    if rank == 0:
        torch.save((shown, [p.grad for p in model.parameters()], shards, same, whole), answers)
    dist.destroy_process_group()


def test_only_unique_parameters_are_exchanged(tmp_path):
    """16 layers in 5 stages: both ways send the gradients of 5 layers, and they are those of one process."""
    answers = tmp_path / "answers.pt"
    torch.multiprocessing.spawn(exchange, (str(tmp_path / "store"), str(answers)), nprocs=2)
    seen, reduced, shards, same, whole = torch.load(answers)
    model = tied()
    loss(model).backward()
    unique = sum(p.numel() for p in model.parameters())
    untied = sum(p.numel() for p in Architecture("vit_tiny_patch16_224", TINY_ARGS).build(16).parameters())
    assert untied > 2.5 * unique
    assert seen["ddp"] == whole == unique
    assert unique <= seen["fsdp"] == seen["gathered"] < 1.02 * unique  # shards are padded
    assert same
    for one, two, three in zip(model.parameters(), reduced, shards, strict=True):
        torch.testing.assert_close(two, one.grad)
        torch.testing.assert_close(three, one.grad)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def together(commands):
    """Start all at once, and wait for all."""
    running = [
        subprocess.Popen(c, stderr=subprocess.PIPE, text=True, env={**os.environ, **env})
        for c, env in commands
    ]
    logs = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0] * len(running), "\n".join(logs)
    return "".join(logs)


def torchrun(node, port):
    where = [
        "--nnodes",
        "2",
        "--nproc-per-node",
        "1",
        "--node-rank",
        str(node),
        "--master-addr",
        "127.0.0.1",
        "--master-port",
        port,
    ]
    return [sys.executable, "-m", "torch.distributed.run", *where, "-m", "learngene"]


@pytest.mark.slow
def test_two_machines_by_torchrun_train_what_one_does(ancestor, alone, tmp_path):
    """And again on the finished run: both see that there is nothing to do."""
    half = [
        *SGD,
        "--steps",
        "3",
        "--batch-size",
        "16",
        "--feature",
        "0.5",
        "--num-nodes",
        "2",
        "--devices",
        "1",
        "--resume",
    ]
    for wrote in (1, 0):
        port = free_port()
        commands = [
            ([*torchrun(node, port), *words(ancestor, tmp_path / "run", *half)], {}) for node in (0, 1)
        ]
        assert together(commands).count("wrote") == wrote
    assert distance(load(tmp_path / "run"), alone) < 1e-6


def test_processes_that_would_train_alone_are_refused(ancestor, tmp_path):
    """Forgotten --num-nodes: Lightning would let each machine train by itself."""
    command = [
        *torchrun(0, free_port()),
        *words(ancestor, tmp_path / "run", "--steps", "1", "--devices", "1"),
    ]
    command[command.index("2")] = "1"
    command[command.index("--nproc-per-node") + 1] = "2"
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (
        "2 processes were launched, but this run is to have 1 x 1: "
        "give the number of machines with --num-nodes" in done.stderr
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("variables", "follows"),
    [
        ({}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, True),
        ({"SLURM_PROCID": "3"}, True),
        (
            {
                "TORCHELASTIC_RUN_ID": "1",
                "RANK": "0",
                "SLURM_PROCID": "1",
                "GROUP_RANK": "0",
                "LOCAL_RANK": "0",
            },
            False,
        ),
        (
            {
                "TORCHELASTIC_RUN_ID": "1",
                "RANK": "1",
                "SLURM_PROCID": "0",
                "GROUP_RANK": "1",
                "LOCAL_RANK": "0",
            },
            True,
        ),
    ],
)
def test_one_process_writes(monkeypatch, variables, follows):
    for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "TORCHELASTIC_RUN_ID", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_follower() is follows


SRUN = """#!{python}
import os, signal, subprocess, sys
assert sys.argv[1] == "--kill-on-bad-exit=1" and sys.argv[2] == "learngene"
words = sys.argv[3:]
nodes, each = words[words.index("--num-nodes") + 1], words[words.index("--devices") + 1]
assert (nodes, each) == ("2", "1")
common = dict(
    os.environ, SLURM_NTASKS="2", SLURM_STEP_NUM_TASKS="2", SLURM_LOCALID="0",
    MASTER_ADDR="127.0.0.1", MASTER_PORT="{port}",
)
command = [sys.executable, *{program}, *words]
tasks = [
    subprocess.Popen(command, env=dict(common, SLURM_PROCID=str(n), SLURM_NODEID=str(n))) for n in (0, 1)
]
signal.signal(signal.SIGUSR1, lambda *_: [task.send_signal(signal.SIGUSR1) for task in tasks])
print("running", flush=True)
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
SCRIPT = Path(__file__).parent.parent / "tools" / "slurm_train.sh"


def slurm(tmp_path, program):
    """A SLURM job of two machines with one process each, in which srun and scontrol are ours."""
    fakes = {
        "srun": SRUN.format(python=sys.executable, program=program, port=free_port()),
        "scontrol": f'#!/bin/sh\necho "$@" >> "{tmp_path}/called"\n',
    }
    for name, text in fakes.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    job = {
        "SLURM_NNODES": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NTASKS": "2",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "gene",
    }
    return {**os.environ, **job, "PATH": f"{tmp_path}:{os.environ['PATH']}"}


def test_a_slurm_job_trains_what_one_process_does(ancestor, alone, tmp_path):
    half = [*SGD, "--steps", "3", "--batch-size", "16", "--feature", "0.5"]
    job = slurm(tmp_path, ["-m", "learngene"])
    done = subprocess.run(
        [SCRIPT, *words(ancestor, tmp_path / "run", *half)],
        env=job,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "called").exists()
    assert distance(load(tmp_path / "run"), alone) < 1e-6


@pytest.mark.parametrize("code", [138, 0, 3])
def test_a_slurm_job_is_queued_again(tmp_path, code):
    """When the time is nearly up and the run has saved itself; not when it finished, nor after a failure."""
    program = (
        "import signal, sys, time; "
        f"signal.signal(signal.SIGUSR1, lambda *_: (time.sleep(1), sys.exit({code}))); "
    )
    program += "sys.exit(3)" if code == 3 else "time.sleep(60)"
    job = subprocess.Popen(
        [SCRIPT, "distill"], env=slurm(tmp_path, ["-c", program]), stdout=subprocess.PIPE, text=True
    )
    assert job.stdout.readline() == "running\n"
    time.sleep(1)
    if code != 3:
        job.send_signal(signal.SIGUSR1)
    job.communicate(timeout=60)
    assert job.returncode == (0 if code == 138 else code)
    assert (tmp_path / "called").exists() == (code == 138)
    if code == 138:
        assert (tmp_path / "called").read_text() == "requeue 4711\n"


@pytest.mark.slow
def test_a_slurm_job_goes_on_where_it_was_stopped(ancestor, tmp_path):
    """USR1 to the script, through srun to both processes, a checkpoint within the epoch, requeue, again."""
    half = [*SGD, "--epochs", "4", "--batch-size", "16"]
    learngene(*words(ancestor, tmp_path / "whole", *half, "--devices", "2", "--num-nodes", "1"))
    command = [SCRIPT, *words(ancestor, tmp_path / "run", *half)]
    job = subprocess.Popen(
        command, env=slurm(tmp_path, ["-m", "learngene"]), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    while not (tmp_path / "run" / "last.ckpt").exists():  # the first epoch
        assert job.poll() is None
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    log = job.communicate(timeout=120)[1].decode()
    assert "goes on there" in log
    assert (job.returncode, (tmp_path / "called").read_text()) == (0, "requeue 4711\n")
    assert not (tmp_path / "run" / "learngene.safetensors").exists()
    done = subprocess.run(
        command, env=slurm(tmp_path, ["-m", "learngene"]), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stderr
    assert distance(load(tmp_path / "run"), load(tmp_path / "whole")) < 1e-6
