"""Digests of what short runs make: SHA-256 of weights in fp32 on CPU, one thread.

No move through the house may change one.

    python tests/golden/make.py OUT           # run everything, print the digests as JSON
    python tests/golden/make.py OUT --write   # and keep them in digests.json, under this version of torch
    python tests/golden/make.py OUT --quick   # half a minute: without runs that are processes of their own

They were first written by the commit before the house was rebuilt. Kernels differ between processors and
between releases of torch: this is always a process of its own, with the plainest kernels there are, and
`canary` says whether a machine computes at all what the machine computed that wrote the file.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

FILE = Path(__file__).parent / "digests.json"
PLAIN = {
    "OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE", "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE",
}  # fmt: skip
ARGS = {
    "img_size": 28,
    "patch_size": 7,
    "in_chans": 1,
    "embed_dim": 16,
    "num_heads": 2,
    "class_token": False,
    "global_pool": "avg",
}
DATA_SET = "fashion-mnist"
DATA = {
    "train_fraction": 0.02,
    "val_fraction": 0.02,
    "workers": 0,
    "precision": "32-true",
    "compile": False,
    "on_device": False,
}
SHORT = {**DATA, "epochs": 2, "batch_size": 32, "lr": 0.01, "accelerator": "cpu"}
STRONG = {
    "mixup": 0.5,
    "cutmix": 0.5,
    "drop_path": 0.2,
    "auto_augment": "rand-m5-inc1",
    "repeats": 2,
    "warmup_epochs": 0.5,
}
LONG = {**SHORT, **STRONG, "epochs": 6}  # of the run that is stopped


def digest(state):
    """SHA-256 over names, dtypes, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return total.hexdigest()


def canary():
    """Of a computation that has nothing to do with this package."""
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 7, 7), torch.nn.Flatten(), torch.nn.LayerNorm(256),
        torch.nn.Linear(256, 64), torch.nn.GELU(), torch.nn.Linear(64, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, fused=True)
    images, queries = torch.randn(32, 1, 28, 28), torch.randn(2, 4, 16, 8)
    for _ in range(5):
        attended = torch.nn.functional.scaled_dot_product_attention(queries, queries, queries).mean()
        torch.nn.functional.cross_entropy(net(images) * (1 + attended), torch.arange(32) % 10).backward()
        optimizer.step()
        optimizer.zero_grad()
    return digest(net.state_dict())


OWN = {"arch": "vit_tiny_patch16_224", "arch_args": ARGS, "plan": "2,1,2", "start": "random"}


def run(out, *, quick=False):
    """Everything, in a folder; the digests by name."""
    import learngene

    found = {}

    def distilled(name, **options):
        made = learngene.distill(
            str(out / "ancestor" / "model"), DATA_SET, out=out / name, elastic=None, **options
        )
        found[name] = digest(made.state)

    def tuned(name, model, **options):
        learngene.finetune(model, DATA_SET, out=out / name, **{**SHORT, **options})
        found[name] = digest(read(out / name / "model" / "model.safetensors"))

    tuned("ancestor", OWN["arch"], depth=4, arch_args={**ARGS, "embed_dim": 32, "num_heads": 4})
    distillations(distilled, out)
    if not quick:
        distilled("whole", **OWN, **LONG)
        for name, process in (("resumed", stop_and_resume), ("two-processes", two_processes)):
            process(out / name, str(out / "ancestor" / "model"), OWN)
            found[name] = digest(read(out / name / "learngene.safetensors"))
    tunings(tuned, out)
    return {**found, **spawned(out), "benchmark": benchmarked(out)}


def distillations(distilled, out):
    """One of each kind, from the ancestor."""
    import learngene

    soft = {"ce": 0.5, "hard": 0.25, "temperature": 2.0, "label_smoothing": 0.1}
    distilled("distill", **OWN, **SHORT, **STRONG, **soft)
    features = {"feature": 1.0, "feature_loss": "cosine", "share_norms": False}
    distilled("distill-feature", **OWN, **SHORT, **features, accumulate=2, opt="lamb")
    mimetic = {"start": "mimetic", "start_args": {"position": True}}
    distilled("distill-ema", **{**OWN, **mimetic}, **SHORT, **STRONG, ema=0.9)
    distilled("distill-unlabeled", **OWN, **SHORT, unlabeled=True, steps=7)
    one = {**SHORT, "epochs": 1}
    distilled("distill-from-ancestor", plan="2,1,2", start="from-ancestor", **one, share_norms=False)
    shape = {"arch": OWN["arch"], "arch_args": ARGS}
    ancestor = str(out / "ancestor" / "model")
    learngene.cache(ancestor, DATA_SET, out=out / "cache", **shape, top_k=4, **SHORT, **STRONG)
    distilled("distill-cached", **OWN, **SHORT, **STRONG, cache=out / "cache")
    distilled("distill-on-device", **OWN, **{**SHORT, "on_device": True})


def tunings(tuned, out):
    """From a learngene, and from two starts."""
    small, ancestor = str(out / "distill" / "learngene.safetensors"), str(out / "ancestor" / "model")
    tuned("finetune", small, depth=4, step=0, layer_decay=0.7, freeze=1, drop_path=0.1, label_smoothing=0.1)
    shape = {"depth": 3, "arch_args": ARGS}
    mimetic = {"start": "trunc-normal+mimetic", "random_erasing": 0.2}
    tuned("finetune-rifle", OWN["arch"], **shape, rifle=2, **mimetic)
    soft = {"ancestor": ancestor, "kl": 1.0, "ce": 0.3}
    tuned("finetune-ancestor", small, plan="1,0,2", step=0, **soft, clip_grad=None, opt="sgd")
    selected = {"start": "weight-selection+sinusoidal-position", "start_args": {"ancestor": ancestor}}
    tuned("finetune-selected", OWN["arch"], **shape, **selected)


def spawned(out):
    """Descendants of the packaged learngene."""
    import learngene
    from learngene.assets import learngene_file

    other = {"plan": "2,0,1,1,1", "step": 0, "num_classes": 7, "img_size": 56, "in_chans": 3}
    found = {}
    for name, options in (("spawn", {"depth": "5 8 12", "step": 0, "seed": 3}), ("spawn-other", other)):
        for directory in learngene.spawn(str(learngene_file()), out=out / name, **options):
            found[f"{name}/{directory.name}"] = digest(read(directory / "model.safetensors"))
    return found


def benchmarked(out):
    """The curves of a few starts."""
    import learngene

    small, ancestor = str(out / "distill" / "learngene.safetensors"), str(out / "ancestor" / "model")
    result = learngene.benchmark(
        DATA_SET, out=out / "benchmark", gene=small, depths=[3], seeds=[1], test=False,
        **{**SHORT, "epochs": 1},
        starts=[
            {"start": "learngene", "gene": small, "step": 0}, "random",
            {"start": "weight-selection", "ancestor": ancestor},
            {"start": "ds-init", "recipe": {"lr": 0.02}},
        ],
    )  # fmt: skip
    curves = [
        [row["start"], [[p["val_top1"], p["val_loss"]] for p in row["curve"]], row["flops"]]
        for row in result["rows"]
    ]
    return hashlib.sha256(json.dumps(curves).encode()).hexdigest()


def read(file):
    from safetensors.torch import load_file

    return load_file(file)


def words(ancestor, own, options):
    """The command line of a distillation."""
    said = {"ancestor": ancestor, "data": DATA_SET, **own, **options}
    texts = {name: json.dumps(value) if not isinstance(value, str) else value for name, value in said.items()}
    return [
        sys.executable,
        "-m",
        "learngene",
        "distill",
        *(f"--{name.replace('_', '-')}={text}" for name, text in texts.items()),
    ]


def stop_and_resume(out, ancestor, own):
    """SIGTERM after the second epoch; then the same command with ``--resume``."""
    command = [*words(ancestor, own, {**LONG, "checkpoint_minutes": 0.0}), f"--out={out}"]
    process = subprocess.Popen(command)
    metrics = out / "metrics.csv"
    while process.poll() is None and (not metrics.exists() or len(metrics.read_text().splitlines()) < 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM, "it had ended before it was stopped"
    subprocess.run([*command, "--resume"], check=True)


def two_processes(out, ancestor, own):
    """DDP with gloo."""
    subprocess.run(
        [*words(ancestor, own, {**SHORT, "batch_size": 16, "devices": 2, "strategy": "ddp"}), f"--out={out}"],
        check=True,
    )


def main(words):
    import torch

    torch.set_num_threads(1)
    out = Path(words[0])
    found = {"canary": canary(), **run(out, quick="--quick" in words)}
    if "--write" in words:
        known = json.loads(FILE.read_text()) if FILE.exists() else {}
        FILE.write_text(json.dumps({**known, torch.__version__.partition("+")[0]: found}, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    if os.environ.get("MKL_CBWR") != PLAIN["MKL_CBWR"]:  # read when libraries are loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **PLAIN})
    main(sys.argv[1:])
