"""Several processes: the same step as one, what they exchange, and how they are launched. All with gloo on one machine."""

import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from conftest import TINY_ARGS

from learngene import Learngene
from learngene.auxnet import build_auxnet
from learngene.objectives import Supervised
from learngene.plan import StagePlan
from learngene.recipe import Recipe
from learngene.training import TrainingModule
from learngene.training.distributed import gather, shard
from learngene.vit import Architecture

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
    common = ["--ancestor", str(ancestor), "--data", str(data), "--plan", "2,1", "--precision", "32-true", "--workers", "0"]
    return ["distill", *common, "--unlabeled", "--accelerator", "cpu", *extra, "--out", str(out)]


def run(command, **variables):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **variables})
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


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_take_the_same_step_as_one(ancestor, alone, tmp_path, strategy):
    """Two ranks with half the batch each, and tied weights."""
    log = learngene(*words(ancestor, tmp_path / "run", *SGD, *TWO, "--steps", "3", "--feature", "0.5", "--strategy", strategy))
    assert log.count("wrote") == 1
    two = load(tmp_path / "run")
    learngene(*words(ancestor, tmp_path / "still", "--steps", "1", "--lr", "1e-12", "--min-lr", "0", "--batch-size", "32"))
    assert distance(two, load(tmp_path / "still")) > 1e-2  # it has moved
    assert distance(two, alone) < 1e-6
    assert two.metrics["cost"]["images"] == alone.metrics["cost"]["images"] == 96
    assert two.metrics["val_kl"] == pytest.approx(alone.metrics["val_kl"], rel=1e-4)


def test_a_sharded_run_resumes_to_what_ddp_trains(folder, ancestor, tmp_path):
    """Its checkpoint is an ordinary one: whole tensors in one file, which DDP can go on from as well."""
    common = [*SGD, "--epochs", "3", "--batch-size", "8", "--devices", "2"]  # with momentum
    learngene(*words(ancestor, tmp_path / "ddp", *common, "--strategy", "ddp", data=folder))
    (tmp_path / "cut.py").write_text(CUT)
    sharded = words(ancestor, tmp_path / "fsdp", *common, "--strategy", "fsdp", data=folder)
    assert subprocess.run([sys.executable, tmp_path / "cut.py", *sharded], capture_output=True, timeout=300).returncode == 9
    found = torch.load(tmp_path / "fsdp" / "last.ckpt", weights_only=True)
    wanted = torch.load(tmp_path / "ddp" / "last.ckpt", weights_only=True)
    assert found["epoch"] == 0
    assert shapes(found["state_dict"]) == shapes(wanted["state_dict"])
    assert shapes(found["optimizer_states"]) == shapes(wanted["optimizer_states"])
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


def exchange(rank, store, answers):
    """In each of two processes: how many numbers DDP and FSDP reduce, and the gradients they come to."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    seen = {"ddp": 0, "fsdp": 0}

    def counting(group, bucket):
        seen["ddp"] += bucket.buffer().numel()
        return allreduce_hook(group, bucket)

    model = tied()
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    parallel.register_comm_hook(None, counting)
    loss(parallel).backward()

    name = "reduce_scatter_single" if hasattr(dist, "reduce_scatter_single") else "reduce_scatter_tensor"  # newer or older torch
    reduce_scatter = getattr(dist, name)

    def counted(*args, **kwargs):
        seen["fsdp"] += max(t.numel() for t in [*args, *kwargs.values()] if isinstance(t, torch.Tensor))
        return reduce_scatter(*args, **kwargs)

    setattr(dist, name, counted)
    module = TrainingModule(tied(), Supervised(), Recipe(), num_classes=3)
    module.training_step = lambda: loss(module.model)
    module._device_mesh = dist.init_device_mesh("cpu", (2, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    shard(module)
    module.training_step().backward()
    shards = [p.grad.full_tensor() for p in module.model.parameters()]
    gather(module)
    same = module.model.blocks[0].attn is module.model.blocks[2].attn
    whole = sum(p.numel() for p in module.parameters())
    if rank == 0:
        torch.save((seen, [p.grad for p in model.parameters()], shards, same, whole), answers)
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
    assert unique <= seen["fsdp"] < 1.02 * unique  # shards are padded
    assert same
    for one, two, three in zip(model.parameters(), reduced, shards, strict=True):
        torch.testing.assert_close(two, one.grad)
        torch.testing.assert_close(three, one.grad)
