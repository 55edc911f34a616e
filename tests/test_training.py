"""The loop: resuming, accumulating, averaging, schedules, and what happens when the loss breaks."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import FAST, TINY_ARGS

from learngene import Learngene, LearngeneError, distill, evaluate, finetune
from learngene.costs import count_flops
from learngene.data import ImageData, open_training
from learngene.families.anatomy import count_parameters
from learngene.families.building import create
from learngene.families.records import data_config_of
from learngene.families.timm import open_model
from learngene.families.weights import digest_of
from learngene.objectives import Supervised
from learngene.plan import StagePlan
from learngene.recipe import DataOptions, Recipe
from learngene.sharing import build_auxnet
from learngene.training import RunDirectory, TrainingModule, evaluate_model, fit
from learngene.training.callbacks import MetricsFile

ARGS = {k: v for k, v in TINY_ARGS.items() if k != "num_classes"}
LOADING = DataOptions(workers=0)
TINY = "tiny"
QUICK = {k: v for k, v in FAST.items() if k != "workers"}
STRONG = {
    "mixup": 0.5,
    "cutmix": 0.5,
    "drop_path": 0.2,
    "auto_augment": "rand-m5-inc1",
    "ema": 0.9,
    "accumulate": 2,
    "repeats": 2,
}


def scratch(folder, out, **options):
    return finetune(
        "vit_tiny_patch16_224", str(folder), out=out, depth=3, arch_args=ARGS, **{**FAST, **options}
    )


def weights(out):
    return digest_of(open_model(out / "model").state_dict())


class Stop(Exception):
    """The power goes out."""


def interrupt_after(monkeypatch, epochs):
    original = MetricsFile.write

    def write(self):
        original(self)
        if len(self.rows) == epochs + 1:
            raise Stop

    monkeypatch.setattr(MetricsFile, "write", write)


@pytest.mark.parametrize("options", [{}, STRONG, {"rifle": 3}], ids=["plain", "strong", "rifle"])
def test_resumed_equals_uninterrupted(folder, tmp_path, monkeypatch, options):
    whole = scratch(folder, tmp_path / "whole", epochs=3, **options)
    with monkeypatch.context() as patch:
        interrupt_after(patch, epochs=1)
        with pytest.raises(Stop):
            scratch(folder, tmp_path / "cut", epochs=3, **options)
    resumed = scratch(folder, tmp_path / "cut", epochs=3, resume=True, **options)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert resumed["val_loss"] == whole["val_loss"]
    rows = [list(csv.DictReader((tmp_path / run / "metrics.csv").open())) for run in ("whole", "cut")]
    assert [{k: v for k, v in r.items() if k != "seconds"} for r in rows[0]] == [
        {k: v for k, v in r.items() if k != "seconds"} for r in rows[1]
    ]


def test_distillation_resumes_exactly_and_keeps_the_ancestor_out(folder, ancestor, tmp_path, monkeypatch):
    options = {**FAST, "epochs": 2, "plan": "2,1,2", "feature": 1.0, "ema": 0.9}
    whole = distill(ancestor, str(folder), out=tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        interrupt_after(patch, epochs=1)
        with pytest.raises(Stop):
            distill(ancestor, str(folder), out=tmp_path / "cut", **options)
    checkpoint = torch.load(tmp_path / "cut" / "last.ckpt", weights_only=True)
    assert not [name for name in checkpoint["state_dict"] if "ancestor" in name or "teacher" in name]
    resumed = distill(ancestor, str(folder), out=tmp_path / "cut", resume=True, **options)
    assert digest_of(resumed.state) == digest_of(whole.state)


def test_resuming_after_the_last_epoch_keeps_the_average(folder, tmp_path, monkeypatch):
    scratch(folder, tmp_path / "whole", ema=0.9)
    with monkeypatch.context() as patch:
        patch.setattr(
            "learngene.jobs.work.finetune.save_timm_directory",
            lambda *args, **kwargs: (_ for _ in ()).throw(Stop),
        )
        with pytest.raises(Stop):
            scratch(folder, tmp_path / "cut", ema=0.9)
    scratch(folder, tmp_path / "cut", ema=0.9, resume=True)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_images_are_counted_as_they_are_seen(folder, tmp_path):
    assert scratch(folder, tmp_path / "run", epochs=2, accumulate=2)["images"] == 96


def test_overwriting_never_deletes_the_input(folder, tmp_path):
    scratch(folder, tmp_path / "run")
    with pytest.raises(LearngeneError, match="--overwrite would delete model"):
        finetune(tmp_path / "run" / "model", str(folder), out=tmp_path / "run", overwrite=True, **FAST)
    assert (tmp_path / "run" / "model" / "config.json").exists()


def test_ancestor_without_a_head_teaches_its_layers(folder, ancestor, tmp_path):
    net = open_model(ancestor)
    net.reset_classifier(0)
    common = {**FAST, "plan": "2,1", "unlabeled": True}
    with pytest.raises(LearngeneError, match="the ancestor has no classes"):
        distill(net, str(folder), out=tmp_path / "a", **common)
    gene = distill(net, str(folder), out=tmp_path / "b", kl=0.0, feature=1.0, **common)
    assert gene.num_classes == 0
    assert gene.spawn(4, num_classes=7).head.weight.shape == (7, 16)


def test_cait_and_other_families_distil(folder, tmp_path):
    for name in ("cait_xxs24_224", "eva02_tiny_patch14_224", "xcit_nano_12_p16_224"):
        size = 28 if "eva" in name else 32
        args = {"img_size": size, "embed_dim": 32, "num_heads": 2, "in_chans": 1}
        head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(size * size, 3))
        head.num_classes = 3
        gene = distill(head, str(folder), out=tmp_path / name, arch=name, arch_args=args, plan="2,1", **FAST)
        finetune(
            tmp_path / name / "learngene.safetensors",
            str(folder),
            depth=4,
            out=tmp_path / f"{name}-4",
            **FAST,
        )
        assert gene.metrics["cost"]["flops"] > 0


def test_run_directory(folder, ancestor, tmp_path):
    gene = distill(ancestor, str(folder), out=tmp_path / "run", plan="2,1", **FAST)
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "config.yaml", "run.json", "metrics.csv", "log.txt", "last.ckpt", "learngene.safetensors",
    }  # fmt: skip
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["results"]["images"] == gene.metrics["cost"]["images"] == 48
    assert gene.class_names == ("bag", "boot", "shirt")
    assert gene.ancestor["digest"] == digest_of(open_model(ancestor).state_dict())
    assert gene.data_config["mean"] == [0.3]  # the ancestor's own, as the architecture is its own
    assert Learngene.load(tmp_path / "run" / "learngene.safetensors").metrics == gene.metrics
    auxnet_flops = count_flops(gene.architecture.build(3).to("meta"))
    ancestor_flops = count_flops(open_model(ancestor).to("meta"))
    assert gene.metrics["cost"]["flops"] == 48 * (3 * auxnet_flops + ancestor_flops)


def test_finished_runs_are_kept(folder, tmp_path):
    out = tmp_path / "run"
    first = scratch(folder, out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    with pytest.raises(
        LearngeneError, match="holds a finished run; choose another --out, or pass --overwrite"
    ):
        scratch(folder, out)
    assert scratch(folder, out, resume=True) == first
    with pytest.raises(LearngeneError, match=r"was begun with lr 0\.001, now it is 0\.5"):
        scratch(folder, out, resume=True, lr=0.5)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    scratch(folder, out, overwrite=True)


def test_a_directory_that_is_no_run_is_never_deleted(folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(LearngeneError, match="is not empty"):
            scratch(folder, tmp_path / "mine", **options)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    with pytest.raises(LearngeneError, match="is a file, not a directory"):
        scratch(folder, tmp_path / "mine" / "thesis.txt")


def module_and_data(folder, recipe, model, objective=None):
    train, val = open_training(str(folder), LOADING, "L")
    data = ImageData(train, val, data_config_of(model), recipe, LOADING)
    return TrainingModule(model, objective or Supervised(), recipe, num_classes=3), data


def trained(folder, out, recipe, model):
    run = RunDirectory(out, {})
    module, data = module_and_data(folder, recipe, model)
    return fit(module, data, run), module


def test_accumulated_equals_a_big_batch(folder, tmp_path, architecture):
    recipes = [
        Recipe(**{**QUICK, "batch_size": size}, accumulate=48 // size, opt="sgd", lr=0.5, steps=1)
        for size in (48, 12)
    ]
    results = []
    for number, recipe in enumerate(recipes):
        torch.manual_seed(0)
        model = architecture.build(3)
        trained(folder, tmp_path / str(number), recipe, model)
        results.append(model.state_dict())
    assert all(torch.allclose(results[0][k], results[1][k], atol=1e-6) for k in results[0])


def test_ema_moves_a_tied_weight_once(folder, tmp_path, architecture, monkeypatch):
    torch.manual_seed(0)
    plan = StagePlan((3, 1))
    model = build_auxnet(architecture, plan)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    recipe = Recipe(
        **QUICK, opt="sgd", lr=1.0, min_lr=1.0, weight_decay=0.0, clip_grad=None, ema=0.9, steps=2
    )
    raw = {}
    from lightning.pytorch.callbacks import WeightAveraging

    original = WeightAveraging.on_train_batch_end

    def spy(self, trainer, module, *args):
        raw[trainer.global_step] = {k: v.cpu().clone() for k, v in module.model.state_dict().items()}
        original(self, trainer, module, *args)

    monkeypatch.setattr(WeightAveraging, "on_train_batch_end", spy)
    trained(folder, tmp_path / "run", recipe, model)
    key = "blocks.0.attn.qkv.weight"
    assert not torch.equal(raw[2][key], before[key])
    expected = 0.9 * raw[1][key] + 0.1 * raw[2][key]  # the first update copies
    assert torch.allclose(model.state_dict()[key], expected, atol=1e-6)
    assert model.blocks[0].attn is model.blocks[2].attn


def test_learning_rate_rises_and_falls(folder, tmp_path, architecture):
    recipe = Recipe(**{**QUICK, "epochs": 4}, lr=0.032, min_lr=0.0032, warmup_epochs=1.0)
    rates = []

    class Spy(Supervised):
        def forward(self, model, batch):
            rates.append(module.optimizers().param_groups[0]["lr"])
            return super().forward(model, batch)

    model = architecture.build(2)
    module, data = module_and_data(folder, recipe, model, Spy())
    run = RunDirectory(tmp_path / "run", {})
    fit(module, data, run)
    peak, low = 0.032 * 16 / 512, 0.0032 * 16 / 512
    assert len(rates) == 12
    assert rates[0] == pytest.approx(0.0, abs=1e-9)
    assert rates[3] == max(rates) == pytest.approx(peak)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert low < rates[-1] < 0.2 * peak


def test_no_weight_decay_on_norms_biases_and_position(folder, tmp_path, architecture):
    recipe = Recipe(**QUICK, weight_decay=0.1)
    model = architecture.build(2)
    _, module = trained(folder, tmp_path / "run", recipe, model)
    groups = module.trainer.optimizers[0].param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert names == {name for name, p in model.named_parameters() if p.ndim >= 2 and name != "pos_embed"}


def test_layer_decay_and_freezing(folder, tmp_path, architecture):
    model = architecture.build(3)
    assert "pos_embed" in model.no_weight_decay()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    _, module = trained(folder, tmp_path / "run", Recipe(**QUICK, freeze=2, layer_decay=0.5, lr=0.05), model)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert not [k for k in changed if k.startswith(("blocks.0.", "blocks.1.", "patch_embed", "pos_embed"))]
    assert {"blocks.2.attn.qkv.weight", "head.weight"} <= changed
    scales = {g["lr_scale"] for g in module.trainer.optimizers[0].param_groups}
    assert {1.0, 0.5} <= scales
    decayed = {
        id(p) for g in module.trainer.optimizers[0].param_groups if g["weight_decay"] for p in g["params"]
    }
    assert id(model.pos_embed) not in decayed
    model = architecture.build(3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trained(folder, tmp_path / "probe", Recipe(**QUICK, freeze=-1), model)
    assert {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])} == {
        "head.weight",
        "head.bias",
    }
    with pytest.raises(LearngeneError, match="freeze 9: the model has 3 layers"):
        trained(folder, tmp_path / "no", Recipe(**QUICK, freeze=9), architecture.build(3))


def break_gradients(monkeypatch, steps):
    """The loss stays as it is, its gradient does not."""
    original = Supervised.forward
    calls = []

    def broken(self, model, batch):
        losses = original(self, model, batch)
        calls.append(1)
        if len(calls) - 1 in steps:
            losses["ce"].register_hook(lambda gradient: gradient * float("inf"))
        return losses

    monkeypatch.setattr(Supervised, "forward", broken)


def test_gradients_that_are_not_finite_stop_before_they_are_used(folder, tmp_path, monkeypatch):
    break_gradients(monkeypatch, steps=[4])
    message = (
        r"the gradients are not finite \(every term of the loss is\) at step 4 of epoch 2; .*--skip-nonfinite"
    )
    with pytest.raises(LearngeneError, match=message):
        scratch(folder, tmp_path / "run", epochs=3, clip_grad=None)
    checkpoint = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    assert all(torch.isfinite(v).all() for v in checkpoint["state_dict"].values())


def test_steps_that_are_not_finite_are_left_out_on_request(
    folder, tmp_path, monkeypatch, caplog, architecture
):
    recipe = Recipe(**QUICK, skip_nonfinite=True, steps=3, ema=0.5)
    break_gradients(monkeypatch, steps=[1])
    states = []
    monkeypatch.setattr(
        TrainingModule,
        "on_train_batch_end",
        lambda self, *args: states.append(digest_of(self.model.state_dict())),
        raising=False,
    )
    result, module = trained(folder, tmp_path / "run", recipe, architecture.build(2))
    assert states[0] == states[1] != states[2]
    assert module.skipped == result["skipped"] == 1
    assert "left out step 1 of epoch 1: gradients not finite" in caplog.text
    assert all(torch.isfinite(v).all() for v in module.model.state_dict().values())
    break_gradients(monkeypatch, steps=range(100))
    with pytest.raises(LearngeneError, match="20 steps in a row were not finite, up to step 19 of epoch 7"):
        scratch(folder, tmp_path / "no", epochs=9, skip_nonfinite=True)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(folder, tmp_path, monkeypatch):
    original = Supervised.forward
    calls = []

    def broken(self, model, batch):
        calls.append(1)
        losses = original(self, model, batch)
        return {k: v * (float("nan") if len(calls) > 4 else 1.0) for k, v in losses.items()}

    monkeypatch.setattr(Supervised, "forward", broken)
    with pytest.raises(
        LearngeneError,
        match=r"not finite \(terms: total, ce(, gradients)?\) at step 4 of epoch 2; the last good checkpoint "
        r"is kept",
    ):
        scratch(folder, tmp_path / "run", epochs=3)
    checkpoint = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 0
    assert all(torch.isfinite(v).all() for v in checkpoint["state_dict"].values())
    assert not (tmp_path / "run" / "model").exists()


def test_finetune_from_each_kind_of_model(folder, ancestor, gene, tmp_path):
    file = gene.save(tmp_path / "gene.safetensors")
    assert finetune(file, str(folder), out=tmp_path / "a", depth=4, **FAST)["parameters"] == count_parameters(
        gene.architecture.build(4)
    )
    finetune(ancestor, str(folder), out=tmp_path / "b", **FAST)
    finetune(tmp_path / "a" / "model", str(folder), out=tmp_path / "c", ancestor=ancestor, kl=0.5, **FAST)
    result = evaluate(tmp_path / "c" / "model", str(folder), workers=0)
    assert result["images"] == 24
    assert result["split"].endswith("test")
    assert 0 <= result["top1"] <= result["top5"] == 1.0


def test_finetune_changes(folder, ancestor, gene, tmp_path):
    finetune(
        gene.save(tmp_path / "g"),
        str(folder),
        out=tmp_path / "a",
        plan="1,2,1",
        arch_args={"img_size": 56},
        **FAST,
    )
    assert data_config_of(open_model(tmp_path / "a" / "model"))["input_size"] == [1, 56, 56]


def test_rifle_begins_the_head_anew_in_each_cycle(folder, tmp_path, architecture):
    recipe = Recipe(**{**QUICK, "epochs": 4}, lr=0.032, rifle=2)  # 12 steps, two cycles of 6
    heads, rates = [], []

    class Spy(Supervised):
        def forward(self, model, batch):
            heads.append(model.head.weight.detach().clone())
            rates.append(module.optimizers().param_groups[0]["lr"])
            return super().forward(model, batch)

    model = architecture.build(2)
    torch.nn.init.constant_(model.head.weight, 1.0)
    module, data = module_and_data(folder, recipe, model, Spy())
    fit(module, data, RunDirectory(tmp_path / "run", {}))
    assert [step for step in range(1, 12) if (heads[step] - heads[step - 1]).abs().max() > 0.5] == [6]
    assert heads[6].std().item() == pytest.approx(0.02, rel=0.3)
    assert rates[6] == rates[0] == pytest.approx(0.032 * 16 / 512)
    assert rates[5] < 0.2 * rates[0]


def test_a_share_of_the_data_is_stratified_and_nested(folder):
    whole, val = open_training(str(folder), LOADING, "L")
    half, same_val = open_training(str(folder), dataclasses.replace(LOADING, train_fraction=0.5), "L")
    tenth, _ = open_training(str(folder), dataclasses.replace(LOADING, train_fraction=0.1), "L")
    names = [{source.describe(i) for i in range(len(source))} for source in (whole, half, tenth)]
    assert names[2] < names[1] < names[0]
    assert np.bincount(half.targets).tolist() == [9, 9, 9]
    assert np.bincount(tenth.targets).tolist() == [2, 2, 2]
    assert [val.describe(i) for i in range(len(val))] == [same_val.describe(i) for i in range(len(same_val))]


def test_starts_by_name(folder, ancestor, tmp_path):
    """From the command line's function: a closed form; a selection, and distillation on top; under an
    auxiliary net, where the ancestor need not be named.
    """
    tiny = {"depth": 3, "arch_args": ARGS, **FAST}
    begun = finetune(
        "vit_tiny_patch16_224",
        str(folder),
        out=tmp_path / "a",
        start="xavier+mimetic",
        start_args={"b2": 0.3},
        **tiny,
    )
    assert begun["images"] == 48
    select = {"start": "weight-selection", "start_args": {"ancestor": str(ancestor)}}
    finetune(
        "vit_tiny_patch16_224",
        str(folder),
        out=tmp_path / "b",
        ancestor=str(ancestor),
        kl=1.0,
        **select,
        **tiny,
    )
    assert data_config_of(open_model(tmp_path / "b" / "model"))["mean"] == [0.3]
    with pytest.raises(LearngeneError, match="brings weights; drop one"):
        finetune(str(ancestor), str(folder), out=tmp_path / "c", start="mimetic", **FAST)
    last = open_model(ancestor).state_dict()["blocks.3.mlp.fc1.weight"]
    idle = {**FAST, "lr": 1e-9, "min_lr": 0.0}
    for place, named in (("d", {"ancestor": str(ancestor)}), ("e", {})):
        chosen = {"start": "depth-selection", "start_args": {**named, "layers": "last"}}
        gene = distill(ancestor, str(folder), out=tmp_path / place, plan="1,1", **chosen, **idle)
        assert torch.allclose(gene.state["blocks.1.mlp.fc1.weight"], last, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "no/such"}, "there is no model at 'no/such'"),
        ({"model": "vit_nano"}, "not an architecture of timm"),
        ({"model": "resnet50"}, "resnet50 is not supported, because"),
        ({"model": "vit_tiny_patch16_224", "plan": "1,2"}, "is for a learngene file"),
        ({"model": "vit_tiny_patch16_224", "unlabeled": True}, "needs labels"),
        ({"model": "vit_tiny_patch16_224", "devices": 9, "accelerator": "gpu"}, "not available|devices 9"),
        ({"model": "vit_tiny_patch16_224", "devices": "many"}, "give a number of devices"),
        ({"model": "vit_tiny_patch16_224", "epoch": 3}, "unknown option 'epoch'; did you mean 'epochs'"),
        ({"model": "vit_tiny_patch16_224", "lr": -1.0}, r"lr -1.0: it must be above 0"),
        ({"model": TINY, "epochs": 1.5}, "epochs 1.5: it must be a whole number"),
        ({"model": TINY, "depth": 0}, "depth 0: a model has at least 1 layer"),
        (
            {"model": TINY, "arch_args": {"num_classes": 3}},
            "'num_classes' in --arch-args: the data decides it",
        ),
        ({"model": TINY, "arch_args": {"depth": 3}}, "'depth' in --arch-args: use --depth"),
        ({"model": TINY, "rifle": -1}, "rifle -1: it must be at least 0"),
        ({"model": TINY, "train_fraction": 0.0}, "train_fraction 0.0: it must be above 0"),
        ({"model": TINY, "start": "magic"}, "there is no start 'magic'"),
        ({"model": TINY, "start_args": {"a1": 1.0}}, "name it with --start"),
        ({"model": TINY, "start": "mimetic", "start_args": {"c1": 1.0}}, "no option 'c1'"),
        ({"model": TINY, "start": "small-embedding"}, "pre_norm: true"),
        (
            {"model": TINY, "start": "post-norm"},
            r"is an architecture, not a start; .*arch_args {post_norm: true}",
        ),
        ({"model": TINY, "arch_args": {**ARGS, "post_norm": True}}, "with post_norm .* cannot be stored"),
        ({"model": TINY, "start": "weight-selection"}, "needs the option 'ancestor'"),
        ({"model": TINY, "opt": "adamww"}, "opt 'adamww': timm does not know it"),
        ({"model": TINY, "auto_augment": "none-such"}, "auto_augment 'none-such': timm does not know it"),
        ({"model": TINY, "precision": "bf17"}, "training cannot be set up: .*bf17"),
        ({"model": TINY, "strategy": "ddpp"}, "training cannot be set up: .*ddpp"),
        (
            {"model": TINY, "strategy": "fsdp", "ema": 0.9},
            "ema 0.9 does not work with sharded weights; use --strategy ddp",
        ),
        ({"model": "vit_tiny_patch16_224", "mixup": 0.5, "batch_size": 7}, "must be even"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(folder, tmp_path, arguments, message):
    model = arguments.pop("model")
    if model == TINY:
        model, arguments = "vit_tiny_patch16_224", {"arch_args": ARGS, "depth": 2, **arguments}
    with pytest.raises(LearngeneError, match=message):
        finetune(model, str(folder), out=tmp_path / "run", **{**FAST, **arguments})
    assert not (tmp_path / "run").exists()


def test_bad_distillations(folder, ancestor, tmp_path):
    out = tmp_path / "run"
    cases = [
        ({"plan": "2,0,1"}, "stage 1 has no layer"),
        ({"arch": "resnet50"}, "not supported, because"),
        (
            {"arch": "vit_tiny_patch16_224", "arch_args": {**TINY_ARGS, "num_classes": 7}},
            "num_classes 7 in --arch-args, but the ancestor's head has 3",
        ),
        ({"arch": "vit_tiny_patch16_224", "arch_args": ARGS | {"in_chans": 5}}, "takes 5 channels"),
        ({"arch": "mixer_s32_224", "arch_args": {"img_size": 64}, "start": "from-ancestor"}, "do not fit"),
        ({"unlabeled": True, "ce": 1.0}, "needs labels"),
        ({"kl": 0.0}, "nothing to learn"),
        ({"layer_decay": 0.8}, "layers share weights"),
        ({"start": "mimetic+from-ancester"}, "there is no start 'from-ancester'"),
        ({"start": "post-norm"}, r"is an architecture, not a start; .*arch_args {post_norm: true}"),
        ({"arch_args": {"post_norm": True}}, "with post_norm .* cannot be stored"),
        ({"start": "pretrained"}, "needs the option 'source'"),
    ]
    for options, message in cases:
        with pytest.raises(LearngeneError, match=message):
            distill(ancestor, str(folder), out=out, **{**FAST, "plan": "2,1", **options})
        assert not out.exists()


def test_classes_must_fit_or_labels_be_ignored(folder, ancestor, tmp_path):
    other = tmp_path / "other"
    from conftest import write_folder

    write_folder(other, 6)
    (other / "shirt").rename(other / "trousers")
    with pytest.raises(LearngeneError, match="has a class 'trousers' that is not among the 3"):
        distill(ancestor, str(other), out=tmp_path / "a", plan="2,1", **FAST)
    (other / "fourth").mkdir()
    (other / "fourth" / "x.png").write_bytes((other / "bag" / "000.png").read_bytes())
    (other / "fourth" / "y.png").write_bytes((other / "bag" / "001.png").read_bytes())
    with pytest.raises(LearngeneError, match=r"has a class .fourth. that is not among the 3.*--unlabeled"):
        distill(ancestor, str(other), out=tmp_path / "b", plan="2,1", **FAST)
    gene = distill(ancestor, str(other), out=tmp_path / "c", plan="2,1", unlabeled=True, **FAST)
    assert gene.class_names == ("bag", "boot", "shirt")
    assert set(gene.metrics) == {"val_kl", "val_agreement", "cost"}


def test_begin_from_the_ancestor(folder, ancestor, tmp_path):
    recipe = {**FAST, "lr": 1e-12, "min_lr": 0.0, "weight_decay": 0.0}
    gene = distill(ancestor, str(folder), out=tmp_path / "run", plan="2,2", start="from-ancestor", **recipe)
    net = open_model(ancestor).state_dict()
    assert torch.allclose(gene.state["blocks.0.attn.qkv.weight"], net["blocks.0.attn.qkv.weight"], atol=1e-5)
    assert torch.allclose(gene.state["blocks.1.attn.qkv.weight"], net["blocks.3.attn.qkv.weight"], atol=1e-5)


def test_ancestor_as_a_module_of_another_family(folder, tmp_path):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 3))
    net.num_classes = 3
    gene = distill(
        net,
        str(folder),
        out=tmp_path / "run",
        arch="vit_tiny_patch16_224",
        arch_args=ARGS,
        plan="1,1",
        **FAST,
    )
    assert gene.ancestor["name"] == "Sequential"
    levit = create("levit_128s", num_classes=3)
    gene = distill(
        levit,
        str(folder),
        out=tmp_path / "levit",
        arch="vit_tiny_patch16_224",
        arch_args=ARGS,
        plan="1,1",
        feature=0.1,
        **FAST,
    )
    assert gene.ancestor["architecture"] == "levit_128s"


def test_evaluate_is_exact(folder, ancestor):
    model = open_model(ancestor)
    from learngene.data import open_split

    source = open_split(str(folder), LOADING, "test", "L")
    data = ImageData(None, source, data_config_of(model), Recipe(batch_size=7), LOADING)
    found = evaluate_model(model, data, device="cpu")
    batch = next(
        iter(ImageData(None, source, data_config_of(model), Recipe(batch_size=99), LOADING).val_dataloader())
    )
    with torch.no_grad():
        logits = model(batch["image"])
    assert found["top1"] == pytest.approx(float((logits.argmax(-1) == batch["target"]).float().mean()))
    assert found["loss"] == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, batch["target"])), rel=1e-5
    )


def test_training_learns(tmp_path):
    options = {**FAST, "epochs": 4, "batch_size": 32, "lr": 0.1, "hflip": 0.0, "crop_scale": 0.9}
    result = finetune(
        "vit_tiny_patch16_224", "fashion-mnist", out=tmp_path / "run", depth=2, arch_args=ARGS, **options
    )
    assert result["val_top1"] > 0.6  # ten classes: 0.1 is chance
