"""Distilling from cached logits is distilling, and a cache that does not belong is refused."""

import csv
import hashlib
import json
import math
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from conftest import CLASSES, FAST, IMAGES_28, TINY_ARGS, write_folder
from safetensors.numpy import load, save

from learngene import LearngeneError, cache
from learngene import distill as distil
from learngene.data import ImageData, open_training
from learngene.data.teacher import LogitCache, spread
from learngene.families.architecture import Architecture
from learngene.families.records import data_config_of
from learngene.families.timm import open_model
from learngene.families.weights import digest_of
from learngene.formats.timm_directory import save_timm_directory
from learngene.objectives import Ancestor, Distillation, soft_kl
from learngene.recipe import DataOptions, Recipe

STRONG = {
    "mixup": 0.5,
    "cutmix": 0.5,
    "auto_augment": "rand-m5-inc1",
    "repeats": 2,
    "accumulate": 2,
    "drop_path": 0.2,
}
distill = partial(distil, start="random")  # begun from the ancestor there would be nothing to learn
LOOKS = {k: v for k, v in FAST.items() if k != "epochs"}


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr("learngene.data.teacher.SHARD", 20)  # two batches


def losses(out):
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    return [float(row["train_kl"]) for row in rows]


@pytest.mark.parametrize(
    "options",
    [{}, STRONG, {"workers": 2}, {"on_device": True, "mixup": 0.4}],
    ids=["plain", "strong", "workers", "device"],
)
def test_cached_equals_live(folder, ancestor, tmp_path, small_shards, options, monkeypatch):
    options = {**LOOKS, **options}
    written = cache(
        ancestor, str(folder), out=tmp_path / "cache", epochs=2, top_k=3, dtype="float32", **options
    )
    assert written["views"] == 48
    assert len(list((tmp_path / "cache").glob("epoch-*.safetensors"))) == 4
    live = distill(ancestor, str(folder), out=tmp_path / "live", plan="2,1", epochs=2, **options)
    seen = []
    forward = Ancestor.forward
    monkeypatch.setattr(
        Ancestor, "forward", lambda self, images: (seen.append(len(images)), forward(self, images))[1]
    )
    cached = distill(
        ancestor,
        str(folder),
        out=tmp_path / "cached",
        plan="2,1",
        epochs=2,
        cache=tmp_path / "cache",
        **options,
    )
    assert sum(seen) <= 2 * 24  # validation alone
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "live"), rel=1e-5)
    assert all(torch.allclose(cached.state[k], live.state[k], atol=1e-5) for k in live.state)
    cost = cached.metrics["cost"]
    assert cost["flops"] + cost["cache_flops"] == live.metrics["cost"]["flops"]


@pytest.mark.parametrize(
    "options",
    [
        {"mixup": 0.5},
        {"mixup": 0.5, "cutmix": 0.5, "repeats": 2, "workers": 2},
        {"mixup": 0.5, "on_device": True},
    ],
    ids=["mixup", "workers", "device"],
)
def test_the_batch_has_what_the_ancestor_says_of_its_views(
    folder, ancestor, tmp_path, small_shards, options, monkeypatch
):
    """Of mixed images too, and behind an interruption; those of validation are shown to the ancestor."""
    from test_resume import Stop, power_goes_out

    options = {**LOOKS, "batch_size": 8, "checkpoint_minutes": 0.0, **options}
    made = tmp_path / "cache"
    cache(ancestor, str(folder), out=made, epochs=2, top_k=3, dtype="float32", **options)
    forward, compare = Distillation.forward, Distillation.compare
    errors, validated = [], []

    def trained(self, model, batch):
        own = self.ancestor.to(batch["image"].device)(batch["image"]).log_softmax(-1)
        errors.append((batch["teacher"] - own).abs().max().item())
        assert own.std(0).max() > 1e-3  # the views differ in what the ancestor says of them
        return forward(self, model, batch)

    def compared(self, logits, batch):
        validated.append("teacher" in batch or "number" in batch)
        return compare(self, logits, batch)

    monkeypatch.setattr(Distillation, "forward", trained)
    monkeypatch.setattr(Distillation, "compare", compared)
    common = {"plan": "2,1", "epochs": 2, "cache": made, "out": tmp_path / "run", **options}
    with monkeypatch.context() as patch:
        power_goes_out(patch, 1, 3)
        with pytest.raises(Stop):
            distill(ancestor, str(folder), **common)
    assert len(errors) == 6 + 3
    distill(ancestor, str(folder), resume=True, **common)
    assert len(errors) == 2 * 6
    assert max(errors) < 1e-5
    assert validated == [False, False]


LOOKING = """
import os, sys
from learngene.cli import main
from learngene.objectives import Distillation
forward = Distillation.forward
def looking(self, model, batch):
    own = self.ancestor.to(batch["image"].device)(batch["image"]).log_softmax(-1)
    with open(f"errors-{os.environ.get('LOCAL_RANK', 0)}", "a") as file:
        print((batch["teacher"] - own).abs().max().item(), file=file)
    return forward(self, model, batch)
Distillation.forward = looking
sys.exit(main(sys.argv[1:]))
"""


def test_ranks_read_one_cache(folder, ancestor, tmp_path, small_shards):
    """One process wrote it. A step of two ranks shows 16 views, of which a shard holds 24."""
    options = {**LOOKS, "batch_size": 8}
    cache(ancestor, str(folder), out=tmp_path / "cache", epochs=1, top_k=3, dtype="float32", **options)
    (tmp_path / "looking.py").write_text(LOOKING)
    words = ["distill", f"--ancestor={ancestor}", f"--data={folder}", f"--out={tmp_path / 'run'}"]
    words += [f"--cache={tmp_path / 'cache'}", "--plan=2,1", "--epochs=1", "--batch-size=8", "--workers=0"]
    words += ["--devices=2", "--accelerator=cpu", "--precision=32-true"]
    command = [sys.executable, "looking.py", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        errors = [float(line) for line in (tmp_path / f"errors-{rank}").read_text().split()]
        assert len(errors) == 3
        assert max(errors) < 1e-5


def test_mixed_images_are_for_one_rank(folder, ancestor, tmp_path):
    cache(ancestor, str(folder), out=tmp_path / "cache", epochs=1, top_k=3, **LOOKS, mixup=0.5)
    kept, loading = LogitCache(tmp_path / "cache"), DataOptions(workers=0)
    train, val = open_training(str(folder), loading, "L")
    recipe = Recipe(epochs=1, batch_size=16, mixup=0.5)
    images = ImageData(train, val, IMAGES_28, recipe, loading, teacher=kept)
    images.setup("fit")
    images.trainer = SimpleNamespace(global_rank=0, world_size=2, fit_loop=None)
    with pytest.raises(LearngeneError, match=r"is for 1, not 2; use --devices 1, or drop --cache"):
        images.setup("fit")


@pytest.mark.parametrize(
    ("top_k", "dtype", "tolerance"), [(3, "float16", 1e-3), (2, "float32", 1e-4), (1, "float32", 0.5)]
)
def test_tolerance_by_k_and_dtype(folder, ancestor, tmp_path, top_k, dtype, tolerance):
    cache(ancestor, str(folder), out=tmp_path / "cache", epochs=1, top_k=top_k, dtype=dtype, **LOOKS)
    distill(ancestor, str(folder), out=tmp_path / "live", plan="2,1", **FAST)
    distill(ancestor, str(folder), out=tmp_path / "cached", plan="2,1", cache=tmp_path / "cache", **FAST)
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "live"), rel=tolerance)


def test_what_is_left_is_shared_evenly():
    torch.manual_seed(0)
    full = (3 * torch.randn(64, 50)).log_softmax(-1)
    value, index = full.topk(10)
    near = spread(value, index, 50)
    assert torch.allclose(near.exp().sum(-1), torch.ones(64), atol=1e-5)
    assert torch.equal(near.gather(1, index), value)
    every, order = full.topk(50)
    assert torch.equal(spread(every, order, 50), full)
    student = torch.randn(64, 50)
    errors = [
        abs(soft_kl(student, spread(*full.topk(k), 50)) - soft_kl(student, full)).item() for k in (2, 10, 30)
    ]
    assert errors == sorted(errors, reverse=True)


def test_bytes_of_a_view(tmp_path):
    sizes = {"views": 128, "batch_size": 64}
    for name, classes, each, seed_and_pairs in (
        ("wide", 1000, {"top_k": 10, "dtype": "float16"}, 4 + 10 * (2 + 2)),
        ("small", 10, {"top_k": 5, "dtype": "float32"}, 4 + 5 * (1 + 4)),
    ):
        made = LogitCache.create(tmp_path / name, {}, classes=classes, **each, **sizes)
        made.write(0, 0, np.arange(128), torch.randn(128, classes), {"images": 128})
        assert made.bytes == pytest.approx(128 * seed_and_pairs, abs=400)  # and a header
        assert made.epochs == 1


def test_an_interrupted_cache_goes_on(folder, ancestor, tmp_path, small_shards, monkeypatch):
    options = {**LOOKS, "mixup": 0.5, "top_k": 3}
    whole = cache(ancestor, str(folder), out=tmp_path / "whole", epochs=3, **options)
    original = LogitCache.write
    with monkeypatch.context() as patch:
        patch.setattr(
            LogitCache,
            "write",
            lambda self, epoch, shard, *a: (
                original(self, epoch, shard, *a) if (epoch, shard) < (1, 1) else 1 / 0
            ),
        )
        with pytest.raises(ZeroDivisionError):
            cache(ancestor, str(folder), out=tmp_path / "cut", epochs=2, **options)
    with pytest.raises(LearngeneError, match="holds 1 of 2 epochs; 'learngene cache --resume --epochs 2'"):
        distill(
            ancestor,
            str(folder),
            out=tmp_path / "early",
            plan="2,1",
            cache=tmp_path / "cut",
            mixup=0.5,
            **{**FAST, "epochs": 2},
        )
    assert not (tmp_path / "early").exists()
    with pytest.raises(LearngeneError, match="holds a cache; pass --resume to go on with it"):
        cache(ancestor, str(folder), out=tmp_path / "cut", epochs=2, **options)
    cache(ancestor, str(folder), out=tmp_path / "cut", epochs=2, resume=True, **options)
    again = cache(ancestor, str(folder), out=tmp_path / "cut", epochs=3, resume=True, **options)
    assert {k: v for k, v in again.items() if k not in ("cache", "seconds")} == {
        k: v for k, v in whole.items() if k not in ("cache", "seconds")
    }
    shards = [json.loads((tmp_path / name / "cache.json").read_text())["shards"] for name in ("whole", "cut")]
    assert shards[0] == shards[1]


def test_a_cache_that_does_not_belong_is_refused(folder, ancestor, tmp_path):
    made = tmp_path / "cache"
    cache(ancestor, str(folder), out=made, epochs=1, top_k=2, **LOOKS)
    torch.manual_seed(9)
    other = save_timm_directory(
        Architecture("vit_tiny_patch16_224", TINY_ARGS).build(4), tmp_path / "other", class_names=CLASSES
    )
    trained = save_timm_directory(
        Architecture("vit_tiny_patch16_224", TINY_ARGS).build(3), tmp_path / "trained", class_names=CLASSES
    )
    write_folder(tmp_path / "elsewhere" / "train", 20, offset=200)
    cases = [
        ({"ancestor": other}, "was made with ancestor [0-9a-f]{12}..., now [0-9a-f]{12}...;"),
        ({"data": str(tmp_path / "elsewhere")}, r"is of another data \("),
        ({"hflip": 0.0}, r"was made with hflip 0\.5, now 0\.0;"),
        ({"seed": 1}, "was made with seed 0, now 1;"),
        (
            {"start": "pretrained", "start_args": {"source": trained}},
            r"was made with mean \[0\.3\], now \[0\.5\]",
        ),
        ({"feature": 1.0}, "feature 1.0 needs the ancestor's layers"),
        ({"kl": 0.0, "ce": 1.0}, "nothing of the cache would be used"),
        ({"cache": tmp_path / "elsewhere"}, r"is no cache \(it has no cache.json\)"),
    ]
    for number, (options, message) in enumerate(cases):
        common = {"ancestor": ancestor, "data": str(folder), "cache": made, "plan": "2,1", **FAST, **options}
        with pytest.raises(LearngeneError, match=message):
            distill(common.pop("ancestor"), common.pop("data"), out=tmp_path / str(number), **common)
        assert not (tmp_path / str(number)).exists()
    for options, message in (
        ({"top_k": 0}, "top_k 0: keep at least 1 of the ancestor's classes, of which it has 3"),
        ({"dtype": "int4"}, "dtype 'int4': "),
    ):
        with pytest.raises(LearngeneError, match=message):
            cache(ancestor, str(folder), out=tmp_path / "no", epochs=1, **{"top_k": 2, **LOOKS, **options})


def test_a_damaged_cache_says_so(folder, ancestor, tmp_path):
    made = tmp_path / "cache"
    cache(ancestor, str(folder), out=made, epochs=1, top_k=2, **LOOKS)
    shard = made / "epoch-0000-0000.safetensors"
    good = shard.read_bytes()
    options = {"plan": "2,1", "cache": made, **FAST}
    shard.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(
        LearngeneError,
        match=r"is damaged \(its checksum differs\); delete it, and 'learngene cache --resume'",
    ):
        distill(ancestor, str(folder), out=tmp_path / "a", **options)
    shard.unlink()
    with pytest.raises(LearngeneError, match="cannot be read"):
        distill(ancestor, str(folder), out=tmp_path / "b", **options)
    cache(ancestor, str(folder), out=made, epochs=1, top_k=2, resume=True, **LOOKS)
    assert shard.read_bytes() == good
    record = json.loads((made / "cache.json").read_text())
    for change, message in (
        ({"top_k": 10**12}, "sizes or names that cannot be"),
        ({"shards": 3}, "lacks or garbles"),
        ({"format_version": 2}, "has cache format 2, this package reads up to 1"),
    ):
        (made / "cache.json").write_text(json.dumps({**record, **change}))
        with pytest.raises(LearngeneError, match=message):
            LogitCache(made)
    assert math.isclose(record["cost"]["images"], 2 * 48)  # written twice, paid twice


@pytest.mark.parametrize(
    "garbled",
    [
        {"index": np.array([[0, -1]], np.int64)},
        {"index": np.array([[0, 3]], np.uint8)},
        {"seed": np.zeros(0)},
        {"value": np.array([[0.5, -1]], np.float32)},
        {"value": np.array([[np.nan, -1]], np.float32)},
    ],
    ids=["negative", "class", "empty", "probability", "nan"],
)
def test_a_shard_that_cannot_be_says_so(tmp_path, garbled):
    """Somebody wrote it, checksum and all."""
    made = LogitCache.create(tmp_path, {}, top_k=2, dtype="float32", classes=3, views=1, batch_size=1)
    made.write(0, 0, np.arange(1), torch.randn(1, 3), {})
    assert made.read(0, np.arange(1), np.arange(1)).shape == (1, 3)
    path = tmp_path / "epoch-0000-0000.safetensors"
    path.write_bytes(save({**load(path.read_bytes()), **garbled}))
    record = json.loads((tmp_path / "cache.json").read_text())
    record["shards"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "cache.json").write_text(json.dumps(record))
    with pytest.raises(LearngeneError, match=r"does not hold what cache.json says"):
        LogitCache(tmp_path).read(0, np.arange(1), np.arange(1))


def test_a_shard_of_an_early_epoch_is_mended(folder, ancestor, tmp_path):
    made = tmp_path / "cache"
    cache(ancestor, str(folder), out=made, epochs=3, top_k=2, **LOOKS)
    (made / "epoch-0000-0000.safetensors").unlink()
    assert cache(ancestor, str(folder), out=made, epochs=3, top_k=2, resume=True, **LOOKS)["epochs"] == 3
    distill(ancestor, str(folder), out=tmp_path / "run", plan="2,1", cache=made, **{**FAST, "epochs": 3})


def test_steps_and_resuming_with_a_cache(folder, ancestor, tmp_path, monkeypatch):
    """Two epochs of three batches hold four steps of two batches each, the second of each epoch with one."""
    from test_resume import Stop, power_goes_out

    made = tmp_path / "cache"
    cache(ancestor, str(folder), out=made, epochs=2, top_k=2, **LOOKS, accumulate=2)
    options = {"plan": "2,1", "cache": made, **LOOKS, "accumulate": 2, "steps": 4, "checkpoint_minutes": 0.0}
    whole = distill(ancestor, str(folder), out=tmp_path / "whole", **options)
    assert whole.metrics["cost"]["images"] == 96
    for moment in ((1, 0), (1, 2)):
        out = tmp_path / str(moment)
        with monkeypatch.context() as patch:
            power_goes_out(patch, *moment)
            with pytest.raises(Stop):
                distill(ancestor, str(folder), out=out, **options)
        assert digest_of(distill(ancestor, str(folder), out=out, resume=True, **options).state) == digest_of(
            whole.state
        )
    with pytest.raises(LearngeneError, match="holds 2 of 3 epochs"):
        distill(ancestor, str(folder), out=tmp_path / "long", **{**options, "steps": 5})


def test_logits_that_are_not_finite_are_not_kept(tmp_path):
    made = LogitCache.create(tmp_path, {}, top_k=2, dtype="float16", classes=3, views=4, batch_size=4)
    with pytest.raises(LearngeneError, match="not finite; try --precision 32-true"):
        made.write(0, 0, np.arange(4), torch.full((4, 3), float("nan")), {})


@pytest.mark.parametrize("start", ["random", "auto"])
def test_the_architecture_may_be_another(folder, ancestor, tmp_path, start):
    """Whatever it begins with, it is shown images as the ancestor is, so that one cache serves all."""
    args = {k: v for k, v in TINY_ARGS.items() if k != "num_classes"} | {"embed_dim": 32}
    common = {"arch": "vit_tiny_patch16_224", "arch_args": args, **FAST}
    cache(ancestor, str(folder), out=tmp_path / "cache", top_k=3, dtype="float32", **common)
    common |= {"plan": "2,1", "start": start}
    gene = distill(ancestor, str(folder), out=tmp_path / "cached", cache=tmp_path / "cache", **common)
    distill(ancestor, str(folder), out=tmp_path / "live", **common)
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "live"), rel=1e-5)
    own = data_config_of(open_model(ancestor))
    assert [gene.data_config[k] for k in ("mean", "std")] == [own[k] for k in ("mean", "std")]
    assert own["mean"] != data_config_of(timm.create_model(common["arch"], in_chans=1))["mean"]


def test_the_difference_is_named(folder, ancestor, tmp_path):
    made = tmp_path / "cache"
    cache(ancestor, str(folder), out=made, epochs=1, top_k=2, **LOOKS)
    way_out = "use what it was made with, or write another one with 'learngene cache' to another --out"
    with pytest.raises(LearngeneError) as error:
        cache(ancestor, str(folder), out=made, epochs=1, top_k=2, resume=True, **{**LOOKS, "batch_size": 8})
    assert str(error.value) == f"the cache '{made}' was made with batch_size 16, now 8; {way_out}"
    with pytest.raises(LearngeneError) as error:
        distill(
            ancestor,
            str(folder),
            out=tmp_path / "run",
            cache=made,
            plan="2,1",
            auto_augment="rand-m5-inc1",
            **FAST,
        )
    assert (
        str(error.value) == f"the cache '{made}' was made with auto_augment none, now rand-m5-inc1; {way_out}"
    )
