"""Images per second of our training loop, and their ratio to a plain eager fp32 loop's in the same run.

    OUT=docs/results/throughput
    python tools/throughput.py --preset cpu --out $OUT/cpu            # 2 cores: half an hour
    python tools/throughput.py --preset shared --out $OUT/shared      # defaults, alone and beside others
    python tools/throughput.py --preset sws --sws DIR --out $OUT/sws  # the official code, cloned to DIR
    python tools/throughput.py --preset gpu --out $OUT/h200           # ViT-S/16 and ViT-B/16 at 224 px

Every case runs in a process of its own, cases take turns, and each is the median over the rounds. Weights are
random and images may be (speed knows no difference); with --data host or device they are the embedded
Fashion-MNIST images. MFU is model FLOPs (three forward passes of the student, one of the ancestor) over the
time of a step, against the best matrix product measured here. Variables of OpenMP in the environment are
dropped: by hand-written loops torch's own waiting is used, by ours what `import learngene` sets.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from learngene.families.records import data_config_of

VARIANTS: dict[str, dict[str, Any]] = {
    "plain loop": {"plain": True, "precision": "32-true"},
    "eager fp32": {"precision": "32-true", "compile": False},
    "compiled fp32": {"precision": "32-true", "compile": True},
    "eager bf16": {"precision": "bf16-mixed", "compile": False},
    "compiled bf16": {"precision": "bf16-mixed", "compile": True},
    "checkpointed bf16": {"precision": "bf16-mixed", "compile": False, "grad_checkpointing": True},
    "defaults": {},
    "official SWS": {"plain": True, "precision": "32-true"},
}
LOOPS = tuple(name for name, options in VARIANTS.items() if "precision" in options and name != "official SWS")
LIBGOMP = "300000"  # what libgomp does when nothing is said
# What a busy process does while a case is measured: one thread in Python, or matrix products on all cores as
# torch does them.
BUSY = {
    "python": "while True: pass",
    "torch": "import torch; a = torch.randn(600, 600)\nwhile True: (a @ a).relu_()",
}
SMALL = {
    "img_size": 28,
    "patch_size": 4,
    "in_chans": 1,
    "num_classes": 10,
    "class_token": False,
    "global_pool": "avg",
}


def small(width: int, depth: int) -> dict[str, Any]:
    """A ViT for 28 x 28 grey images, and an ancestor twice as wide."""
    args = {**SMALL, "embed_dim": width, "num_heads": max(1, width // 32)}
    wider = {**SMALL, "embed_dim": 2 * width, "num_heads": max(1, width // 16), "depth": 8}
    return {
        "arch": "vit_tiny_patch16_224",
        "args": args,
        "depth": depth,
        "ancestor": "vit_tiny_patch16_224",
        "ancestor_args": wider,
    }


def presets(name: str) -> list[dict[str, Any]]:
    """The cases of a run: a base, and one thing changed at a time."""
    cases: list[dict[str, Any]] = []

    def add(
        base: dict[str, Any],
        tasks: tuple[str, ...],
        variants: tuple[str, ...],
        data: tuple[str, ...] = ("none",),
        **more: Any,
    ) -> None:
        for task, variant, source in itertools.product(tasks, variants, data):
            cases.append({**base, "task": task, "variant": variant, "data": source, "processes": 1, **more})

    both = ("distill", "finetune")
    if name == "cpu":
        base = small(128, 8)
        add(base, both, LOOPS, batch=64)
        add(base, both, ("eager bf16",), ("host", "device"), batch=64)
        add(base, ("distill",), ("eager bf16",), ("cached",), batch=64)
        add(base, ("distill",), ("eager bf16",), batch=32, processes=2)
        for other in (small(128, 4), small(128, 16), small(64, 8), small(256, 8)):
            add(other, ("distill",), ("plain loop", "eager bf16"), batch=64)
        for batch in (16, 256):
            add(base, ("distill",), ("plain loop", "eager bf16"), batch=batch)
    elif name == "shared":
        for busy, waiting in itertools.product(("", "python", "torch"), ("ours", "torch's")):
            add(small(128, 8), ("distill",), ("defaults",), batch=64, busy=busy, waiting=waiting)
        for busy in ("", "python", "torch"):
            add(small(128, 8), ("distill",), ("plain loop",), batch=64, busy=busy)
    elif name == "sws":
        for width in (64, 192):
            add(
                small(width, 16),
                ("distill",),
                ("official SWS", "plain loop", "defaults", "eager fp32"),
                batch=64,
            )
    elif name == "gpu":  # what tells most comes first: a machine lent by the minute may be taken back
        large = {"args": {}, "ancestor": "levit_384", "ancestor_args": {}}
        base = {**large, "arch": "vit_small_patch16_224", "depth": 16}
        add(base, ("distill",), LOOPS, batch=512)
        add(small(128, 8), ("distill",), ("plain loop",), batch=512)
        add(small(128, 8), ("distill",), ("compiled bf16",), ("none", "host", "device", "cached"), batch=512)
        add(base, ("finetune",), ("plain loop", "compiled bf16"), batch=512)
        add(
            {**base, "arch": "vit_base_patch16_224"},
            ("distill",),
            ("plain loop", "compiled bf16", "checkpointed bf16"),
            batch=256,
        )
        for depth in (6, 12):
            add({**base, "depth": depth}, ("finetune",), ("plain loop", "compiled bf16"), batch=512)
        add(base, ("distill",), ("plain loop", "compiled bf16"), batch=128)
    else:  # one of each kind, as small as can be: for tests
        base = small(32, 2)
        add(base, both, ("plain loop", "eager fp32"), batch=8)
        add(base, ("distill",), ("eager fp32",), ("host", "device", "cached"), batch=8)
    return cases


# in a process of its own ------------------------------------------------------------------------------------


def measure(case: dict[str, Any], steps: int, warmup: int, sws: str | None = None) -> dict[str, Any]:
    """Run one case here.

    Returns:
        Images per second, milliseconds per step, seconds to the first step, peak memory, FLOPs per image.
    """
    import timm
    import torch

    from learngene.costs import forward_flops
    from learngene.families.architecture import Architecture
    from learngene.plan import StagePlan
    from learngene.recipe import Recipe
    from learngene.sharing import tie
    from learngene.training.devices import training_device

    torch.manual_seed(0)
    began = time.perf_counter()
    options = dict(VARIANTS[case["variant"]])
    plain = options.pop("plain", False)
    if case["processes"] > 1:
        options |= {"devices": case["processes"], "strategy": "ddp"}
    recipe = Recipe(batch_size=case["batch"], steps=warmup + steps, log_every=10**6, **options)
    model = Architecture(case["arch"], case["args"]).build(case["depth"])
    ancestor = None
    if case["task"] == "distill":
        tie(model, StagePlan.balanced(case["depth"], min(5, case["depth"])))
        ancestor = timm.create_model(case["ancestor"], **case["ancestor_args"])
    size = data_config_of(model)["input_size"]
    flops = 3 * forward_flops(model, size)
    if ancestor is not None and case["data"] != "cached":
        flops += forward_flops(ancestor, size)
    device = training_device(recipe)
    if plain:
        net, divide = (model, False) if case["variant"] == "plain loop" else (_official(case, str(sws)), True)
        times = _plain(net, ancestor, case, recipe, size, device, warmup, divide=divide)
    else:
        times = _ours(model, ancestor, case, recipe, size, device, warmup)
    seconds = times[-1] - times[warmup]
    peak = (
        torch.cuda.max_memory_allocated()
        if device.type == "cuda"
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    rate = steps * case["batch"] * case["processes"] / seconds
    return {
        "images_per_second": rate,
        "step_ms": 1e3 * seconds / steps,
        "first_step_s": times[1] - began,
        "peak_bytes": peak,
        "flops_per_image": flops,
        "threads": torch.get_num_threads(),
    }


def _now(device: Any) -> float:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _official(case: dict[str, Any], folder: str) -> Any:
    """The auxiliary net of the released code (github.com/AlphaXia/SWS, SWS_vit.py), of the case's size."""
    sys.path.insert(0, folder)
    from SWS_vit import VisionTransformer  # type: ignore[import-not-found]

    from learngene.plan import StagePlan

    args, plan = case["args"], list(StagePlan.balanced(case["depth"], 5).repeats)
    shared = ("norm1", "norm2", "attn_rpe", "attn_qkv", "attn_proj", "mlp_fc1", "mlp_fc2")
    schedule: dict[str, Any] = {name: [plan, [True] * 5] for name in shared}
    schedule |= {"dim": [args["embed_dim"]] * 5, "transform_flag": [0] * case["depth"]}
    sizes = {k: args[k] for k in ("img_size", "patch_size", "in_chans", "num_classes")}
    wide = {
        "embed_dim": schedule["dim"],
        "num_heads": [args["num_heads"]] * 5,
        "mlp_ratio": 4,
        "qkv_bias": True,
    }
    return VisionTransformer(
        depth=case["depth"], use_cls_token=False, repeated_times_schedule=schedule, **sizes, **wide
    )


def _plain(
    model: Any,
    ancestor: Any,
    case: dict[str, Any],
    recipe: Any,
    size: Any,
    device: Any,
    warmup: int,
    *,
    divide: bool,
) -> list[float]:
    """What one would write by hand: fp32, eager, the default AdamW.

    Args:
        divide: the loss by all elements, as the released code does.
    """
    import torch

    from learngene.objectives import soft_kl

    model.to(device).train()
    if ancestor is not None:
        ancestor.to(device).eval()
    images = torch.randn(case["batch"], *size, device=device)
    targets = torch.randint(0, 10, (case["batch"],), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    times = [_now(device)]
    for step in range(recipe.steps):
        logits = model(images)
        if ancestor is None:
            loss = torch.nn.functional.cross_entropy(logits, targets)
        else:
            with torch.no_grad():
                theirs = ancestor(images)
            loss = soft_kl(logits, theirs) / (logits.shape[1] if divide else 1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step in (0, warmup - 1, recipe.steps - 1):
            times.append(_now(device))
    return _by_step(times, warmup)


def _ours(
    model: Any, ancestor: Any, case: dict[str, Any], recipe: Any, size: Any, device: Any, warmup: int
) -> list[float]:
    """The loop of `learngene distill` and `finetune`, with everything it does in a step."""
    from lightning.pytorch.callbacks import Callback

    from learngene.objectives import Ancestor, Distillation, Supervised
    from learngene.training import RunDirectory, TrainingModule, fit

    times = []

    class Clock(Callback):
        def on_train_start(self, *_: Any) -> None:
            times.append(_now(device))

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step in (1, warmup, recipe.steps):
                times.append(_now(device))

    config = data_config_of(model)
    objective = Supervised() if ancestor is None else Distillation(Ancestor(ancestor, config))
    data = _images(case, recipe, config, model.num_classes, device)
    module = TrainingModule(model, objective, recipe, num_classes=model.num_classes)
    with tempfile.TemporaryDirectory() as folder:
        fit(module, data, RunDirectory(Path(folder) / "run", {}), callbacks=[Clock()], validate=False)
    return _by_step(times, warmup)


def _by_step(times: list[float], warmup: int) -> list[float]:
    """Times by step, where `measure` asks: before the first, after it, after the warm-up, after the last."""
    return [times[0], times[1], *[times[2]] * (warmup - 1), times[3]]


def _images(case: dict[str, Any], recipe: Any, config: dict[str, Any], classes: int, device: Any) -> Any:
    """The embedded images, with cached logits if the case says so; with ``none`` one batch, always there."""
    import torch

    from learngene.data import ImageData, open_training
    from learngene.data.teacher import LogitCache
    from learngene.recipe import DataOptions

    class OneBatch:
        """Images and labels that are there already, again and again."""

        def __init__(self) -> None:
            images = torch.randn(case["batch"], *config["input_size"], device=device)
            self.batch = {"image": images, "target": torch.randint(0, 10, (len(images),), device=device)}

        def __len__(self) -> int:
            return recipe.steps

        def __iter__(self) -> Any:
            return itertools.repeat(self.batch, len(self))

    class Nothing(ImageData):
        def train_dataloader(self) -> Any:
            return OneBatch()

    options = DataOptions(on_device=case["data"] in ("device", "cached"))
    train, val = open_training("fashion-mnist", options, "L")
    data = (Nothing if case["data"] == "none" else ImageData)(train, val, config, recipe, options)
    if case["data"] != "cached":
        return data
    folder = Path(tempfile.mkdtemp())
    sampler = data._sampler()
    views = {"views": len(sampler), "batch_size": case["batch"]}
    data.teacher = cache = LogitCache.create(
        folder, {}, top_k=min(10, classes), dtype="float16", classes=classes, **views
    )
    for epoch in range(recipe.steps // sampler.batches + 1):
        sampler.set_epoch(epoch)
        _, seeds = sampler.views()
        cache.write(epoch, 0, seeds, torch.randn(len(seeds), classes), {"images": len(seeds)})
    return data


def ceiling(precision: str) -> float:
    """FLOP/s of the best matrix product: three sizes, the best of ten."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if "bf16" in precision else torch.float32
    best = 0.0
    for n in (4096, 8192, 16384) if device.type == "cuda" else (1024, 2048, 3072):
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in "ab")
        for _ in range(10):
            began = _now(device)
            a @ b
            best = max(best, 2 * n**3 / (_now(device) - began))
    return best


# the parent -------------------------------------------------------------------------------------------------


def child(job: dict[str, Any]) -> dict[str, Any] | None:
    """Run a job in a process of its own; nothing if it fails, with its last line on stderr."""
    case = job.get("case", {})
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    if case.get("processes", 1) > 1:
        env["OMP_NUM_THREADS"] = "1"
    hand_written = VARIANTS.get(case.get("variant"), {}).get("plain", False)
    waiting = case.get("waiting", "torch's" if hand_written else "ours")
    if waiting != "ours":  # which is what importing learngene decides, in the process that is measured
        env["GOMP_SPINCOUNT"] = LIBGOMP
    with beside(case.get("busy", "")):
        done = subprocess.run(
            [sys.executable, __file__, "--job", json.dumps(job)], capture_output=True, text=True, env=env
        )
    if done.returncode:
        print("failed:", (done.stderr.strip().splitlines() or ["?"])[-1], file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


@contextlib.contextmanager
def beside(busy: str) -> Iterator[None]:
    """A process that keeps the machine busy while the block runs, or none."""
    if not busy:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", BUSY[busy]]) as other:
        time.sleep(3)  # until it has imported what it needs
        try:
            yield
        finally:
            other.kill()


def family(case: dict[str, Any]) -> str:
    """Cases that have one plain loop as their baseline."""
    return json.dumps(
        [case[k] for k in ("task", "arch", "args", "depth")]
        + [case["batch"] * case["processes"], case.get("busy", "")]
    )


def rows_of(
    cases: list[dict[str, Any]], results: list[list[dict[str, Any]]], ceilings: dict[str, float]
) -> list[dict[str, Any]]:
    """Medians over the rounds, spread, ratio to the plain loop, MFU."""
    rows = []
    for case, measured in zip(cases, results, strict=True):
        if measured:
            row = {key: statistics.median(m[key] for m in measured) for key in measured[0]}
            rates = sorted(m["images_per_second"] for m in measured)
            row |= {"rounds": len(rates), "slowest": rates[0], "fastest": rates[-1]}
            row["mfu"] = (
                row["images_per_second"]
                * row["flops_per_image"]
                / ceilings[VARIANTS[case["variant"]].get("precision", "32-true")]
            )
            rows.append({**case, **row})
    plain = {family(r): r["images_per_second"] for r in rows if r["variant"] == "plain loop"}
    return [
        {**r, "ratio": r["images_per_second"] / plain[family(r)] if family(r) in plain else None}
        for r in rows
    ]


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        "# Throughput",
        "",
        f"{report['hardware']}; {', '.join(f'{k} {v}' for k, v in report['versions'].items())}; "
        f"commit {report['commit']}.",
        f"`{report['command']}`: medians of {report['rounds']} round{'s' * (report['rounds'] > 1)} of "
        f"{report['steps']} steps after {report['warmup']}; matrix products: "
        + ", ".join(f"{k} {v / 1e12:.2f} TFLOP/s" for k, v in report["ceilings"].items())
        + ".",
        "",
        "| task | model | batch | processes | data | loop | beside | images/s | slowest to fastest "
        "| of plain | MFU | first step s | peak GiB |",
        "|---|---|---:|---:|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for r in report["rows"]:
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f}"
        width = f"D {r['args']['embed_dim']}, " if "embed_dim" in r["args"] else ""
        model = f"{r['arch'].split('_patch')[0]}, {width}{r['depth']} layers"
        loop = r["variant"] + (", torch's waiting" if r.get("waiting") == "torch's" else "")
        lines.append(
            f"| {r['task']} | {model} | {r['batch']} | {r['processes']} | {r['data']} | {loop} | "
            f"{r.get('busy') or 'nothing'} | {r['images_per_second']:.0f} | "
            f"{r['slowest']:.0f} to {r['fastest']:.0f} | {ratio} | {100 * r['mfu']:.0f} % | "
            f"{r['first_step_s']:.1f} | {r['peak_bytes'] / 2**30:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="cpu", choices=["cpu", "shared", "sws", "gpu", "tiny"])
    parser.add_argument("--sws", type=Path, help="a clone of the official code, for --preset sws")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--out", type=Path, required="--job" not in sys.argv, help="writes OUT.json and OUT.md"
    )
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        job = json.loads(args.job)
        result = measure(**job) if "case" in job else ceiling(job["precision"])
        print(json.dumps(result))
        return
    if args.preset == "sws" and not (args.sws and (args.sws / "SWS_vit.py").is_file()):
        parser.error(
            f"--sws {args.sws}: no SWS_vit.py there; clone github.com/AlphaXia/SWS and name its folder"
        )
    if args.warmup < 2:
        parser.error(f"--warmup {args.warmup}: the first step is timed by itself, so at least 2")
    from learngene.provenance import commit, hardware, versions

    cases = presets(args.preset)
    precisions = sorted({VARIANTS[case["variant"]].get("precision", "32-true") for case in cases})
    ceilings: dict[str, Any] = {precision: child({"precision": precision}) for precision in precisions}
    results: list[list[dict[str, Any]]] = [[] for _ in cases]
    report = {
        "hardware": hardware(),
        "versions": versions(),
        "commit": commit(),
        "rounds": args.rounds,
        "steps": args.steps,
    }
    report |= {"warmup": args.warmup, "ceilings": ceilings, "command": " ".join(["python", *sys.argv])}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for number in range(args.rounds):
        for case, found in zip(cases, results, strict=True):
            measured = child(
                {
                    "case": case,
                    "steps": args.steps,
                    "warmup": args.warmup,
                    **({"sws": str(args.sws)} if args.sws else {}),
                }
            )
            found += [measured] if measured else []
            what = (case[key] for key in ("task", "arch", "depth", "batch", "variant", "data"))
            rate = f"{measured['images_per_second']:.0f} images/s" if measured else "failed"
            print(number + 1, *what, case.get("busy", ""), case.get("waiting", ""), rate, flush=True)
            report["rows"] = rows_of(
                cases, results, ceilings
            )  # as it stands: who is interrupted keeps what was measured
            args.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
            args.out.with_suffix(".md").write_text(table(report))
    print(table(report))


if __name__ == "__main__":
    main()
