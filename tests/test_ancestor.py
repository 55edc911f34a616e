"""Ancestors of any kind, and whose order of classes counts."""

import json
import logging
import random
import shutil
import threading
from types import SimpleNamespace

import pytest
import timm
import torch
from conftest import CLASSES, FAST, TINY_ARGS, write_folder
from torch import nn

from learngene import LearngeneError, cache, distill, evaluate, finetune
from learngene.costs import count_flops
from learngene.data import open_training
from learngene.data.classes import matched
from learngene.families.anatomy import find_blocks, get_blocks
from learngene.families.ancestors import open_ancestor
from learngene.families.architecture import Architecture
from learngene.families.foreign import Foreign, logits_of
from learngene.families.records import data_config_of, label_names_of, set_pretrained_cfg
from learngene.families.timm import open_model
from learngene.families.weights import digest_of
from learngene.formats.timm_directory import save_timm_directory
from learngene.objectives import Ancestor
from learngene.recipe import AncestorOptions, DataOptions
from learngene.training.freezing import entering_parameters, freeze

ARCH = "vit_tiny_patch16_224"
ARGS = {k: v for k, v in TINY_ARGS.items() if k not in ("num_classes", "in_chans")}
OWN = {"ancestor_mean": (0.2, 0.4, 0.6), "ancestor_std": (0.1, 0.2, 0.3), "ancestor_input_size": 40}
OPTIONS = DataOptions(workers=0)


class Net(nn.Module):
    """A small CNN that takes nothing but 40 x 40 pixels; ``wrap`` says how it hands out its logits."""

    def __init__(self, wrap=lambda logits: logits, classes=3):
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 5, stride=5), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, classes)
        )
        self.wrap = wrap
        self.seen = []

    def forward(self, images):
        self.seen.append(images)
        return self.wrap(self.body(images))


def test_a_module_sees_images_in_its_own_way(folder, tmp_path, caplog):
    """In a distillation and in a cache: its own mean, deviation and size."""
    for number, job in enumerate((distill, cache)):
        net = Net()
        plan = {"plan": "1,1"} if job is distill else {}
        with caplog.at_level(logging.WARNING):
            job(
                net,
                str(folder),
                out=tmp_path / str(number),
                arch=ARCH,
                arch_args=ARGS,
                hflip=0.0,
                crop_scale=1.0,
                **plan,
                **FAST,
                **OWN,
            )
        assert not caplog.records
        shown = net.seen[-1].cpu()
        assert shown.shape[1:] == (3, 40, 40)
        back = shown * torch.tensor(OWN["ancestor_std"]).view(3, 1, 1) + torch.tensor(
            OWN["ancestor_mean"]
        ).view(3, 1, 1)
        assert back.min() > -0.2
        assert back.max() < 1.2  # bicubic resizing overshoots
        grey = back - back.mean(1, keepdim=True)
        assert (
            grey.abs().max() < 1e-4
        )  # the images are grey: the channels agree only without their normalisation


def test_its_logits_are_those_of_the_module_on_its_own_images():
    student = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "input_size": (3, 40, 40)}
    options = AncestorOptions(**OWN, ancestor_classes=CLASSES)
    net = Net()
    ancestor = Ancestor(Foreign(net, options.said(), student), student)
    pixels = torch.rand(4, 3, 40, 40)
    mean, std = (torch.tensor(OWN[f"ancestor_{key}"]).view(1, 3, 1, 1) for key in ("mean", "std"))
    assert torch.allclose(ancestor((pixels - 0.5) / 0.25), net((pixels - mean) / std), atol=1e-5)
    assert label_names_of(ancestor.model) == list(CLASSES)


def test_what_is_not_said_is_assumed_aloud(caplog):
    student = data_config_of(Architecture(ARCH, ARGS).build(1))
    with caplog.at_level(logging.WARNING):
        found = open_ancestor(
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), AncestorOptions(), ARCH, ARGS
        )
    assert found.num_classes == 3
    assert found.pretrained_cfg["mean"] == student["mean"]
    assert (
        "does not say how it wants its images: mean [0.5, 0.5, 0.5] and input_size [3, 28, 28] assumed"
        in caplog.text
    )
    assert "give ancestor_mean and ancestor_std and ancestor_input_size" in caplog.text


@pytest.mark.parametrize(
    "wrap",
    [lambda x: (x, None), lambda x: {"logits": x}, lambda x: SimpleNamespace(logits=x), lambda x: [x]],
    ids=["tuple", "mapping", "object", "list"],
)
def test_logits_are_found(wrap):
    logits = torch.randn(2, 3)
    assert logits_of(wrap(logits)) is logits


@pytest.mark.parametrize(
    ("net", "said", "message"),
    [
        (
            Net(),
            {},
            r"ancestor Net fails on images of shape \[2, 3, 28, 28\] "
            r"\(RuntimeError: .*give ancestor_input_size",
        ),
        (Net(lambda x: "cat"), OWN, "ancestor Net gives str, not logits"),
        (Net(lambda x: x.mean()), OWN, r"ancestor Net gives a tensor of shape \[\] for 2 images"),
        (
            Net(),
            {**OWN, "ancestor_classes": ["a", "b"]},
            "2 ancestor_classes, but the ancestor Net has 3 outputs",
        ),
        (Net(), {"ancestor_mean": [0.5]}, "ancestor_mean and ancestor_std belong together"),
        (Net(), {**OWN, "ancestor_std": (0.1, 0.0, 0.1)}, "ancestor_std .* it is from 0.001 to 1"),
        (
            Net(),
            {**OWN, "ancestor_mean": (123.7, 116.3, 103.5)},
            "ancestor_mean .* divide values up to 255 by 255",
        ),
        (
            Net(),
            {"ancestor_mean": (0.1, 0.9), "ancestor_std": (0.1, 0.5)},
            r"fails on images of shape \[2, 2, 28, 28\]",
        ),
        (
            Net(),
            {**OWN, "ancestor_classes": {"a", "b", "c"}},
            "ancestor_classes of type set: it must be a list",
        ),
        (Net().half(), OWN, r"Net has weights in float16; pass it as model.float\(\)"),
        (Net(), {**OWN, "ancestor_input_size": (1, 40, 40)}, "ancestor_input_size .* must be"),
        (Net(classes=4), OWN, "has a head of 4 classes, the data .* has 3"),
    ],
)
def test_bad_ancestors_are_refused_before_training(folder, tmp_path, net, said, message):
    with pytest.raises(LearngeneError, match=message):
        distill(net, str(folder), out=tmp_path / "run", arch=ARCH, arch_args=ARGS, plan="1,1", **FAST, **said)
    assert not (tmp_path / "run").exists()


def test_a_module_needs_an_architecture_for_the_student(folder, tmp_path):
    with pytest.raises(LearngeneError, match="ancestor Net is not a timm model; name the architecture"):
        distill(Net(), str(folder), out=tmp_path / "run", plan="1,1", **FAST)


@pytest.mark.parametrize(
    ("name", "message"),
    [("vit_b_16.pth", "is a torch checkpoint"), ("x.safetensors", "holds weights"), ("x.onnx", "is an ONNX")],
)
def test_a_file_that_is_there_is_not_said_to_be_missing(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(LearngeneError, match=message):
        open_model(tmp_path / name)


# whose order of classes counts ------------------------------------------------------------------------------


def trained(place, names, seed=0):
    torch.manual_seed(seed)
    model = Architecture(ARCH, {**TINY_ARGS, "num_classes": len(names)}).build(3)
    return save_timm_directory(model, place, class_names=names)


def test_labels_follow_the_models_own_order(folder, tmp_path, caplog):
    """The same weights, the head's outputs in another order: the same accuracy, to the image."""
    first = trained(tmp_path / "a", CLASSES)
    model = open_model(first)
    order = [2, 0, 1]
    for tensor in (model.head.weight, model.head.bias):
        tensor.data = tensor.data[order]
    second = save_timm_directory(model, tmp_path / "b", class_names=[CLASSES[i] for i in order])
    for split in ("train", "val", "test"):
        a, b = (
            evaluate(place, str(folder), split=split, workers=0, device="cpu") for place in (first, second)
        )
        assert (a["top1"], round(a["loss"], 5)) == (b["top1"], round(b["loss"], 5))


def test_a_model_of_more_classes_is_evaluated_and_distilled(folder, tmp_path):
    more = trained(tmp_path / "more", ["shirt", "hat", "bag", "coat", "boot"])
    found = evaluate(more, str(folder), workers=0, device="cpu")
    assert found["images"] == 24
    gene = distill(more, str(folder), out=tmp_path / "run", plan="1,1", ce=0.5, **FAST)
    assert gene.class_names == ("shirt", "hat", "bag", "coat", "boot")


def test_a_class_that_the_model_lacks_is_named(folder, tmp_path):
    other = trained(tmp_path / "other", ["bag", "boot", "coat"])
    with pytest.raises(LearngeneError, match="class 'shirt' that is not among the 3"):
        distill(other, str(folder), out=tmp_path / "run", plan="1,1", **FAST)


def test_numbers_have_to_agree_where_names_are_unknown(folder, ancestor):
    train, val = open_training(str(folder), OPTIONS, "L")
    unnamed = Architecture(ARCH, TINY_ARGS).build(2)
    set_pretrained_cfg(unnamed, {"label_names": None})
    assert matched(unnamed, "it", "or else", train, val) == (train, val)
    unnamed.reset_classifier(5)
    with pytest.raises(LearngeneError, match=r"it has a head of 5 classes, the data .* has 3; or else"):
        matched(unnamed, "it", "or else", train, val)


def test_finetuning_keeps_a_head_in_another_order_and_warns_when_it_drops_one(folder, tmp_path, caplog):
    names = ["shirt", "bag", "boot"]
    finetune(trained(tmp_path / "a", names), str(folder), out=tmp_path / "run", **FAST)
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["label_names"] == names
    assert not [r for r in caplog.records if "dropped" in r.getMessage()]
    with caplog.at_level(logging.WARNING):
        finetune(trained(tmp_path / "b", ["x", "y", "z"]), str(folder), out=tmp_path / "other", **FAST)
    assert "(3 classes) is dropped, because it has no class 'bag'" in caplog.text


def test_finetuning_a_learngene_of_other_classes_warns(gene, tmp_path, caplog):
    data = write_folder(tmp_path / "data", 8)
    shutil.move(data / "bag", data / "hat")
    with caplog.at_level(logging.WARNING):
        finetune(gene.save(tmp_path / "g.safetensors"), str(data), depth=3, out=tmp_path / "run", **FAST)
    assert (
        "the trained head of the learngene (3 classes) is dropped, because it has no class 'hat'"
        in caplog.text
    )


def test_class_names_that_cannot_be_stored_are_refused_before_training(ancestor, tmp_path, monkeypatch):
    monkeypatch.setattr("learngene.trust.records.MAX_JSON", 20)
    with pytest.raises(LearngeneError, match="class names of 12 letters in all, and 10 are stored"):
        finetune(
            ARCH,
            str(write_folder(tmp_path / "data", 8)),
            depth=2,
            arch_args=ARGS | {"in_chans": 1},
            out=tmp_path / "run",
            **FAST,
        )
    assert not (tmp_path / "run").exists()


def test_a_module_is_named_by_its_architecture(folder, tmp_path):
    model = open_model(trained(tmp_path / "a", CLASSES))
    assert evaluate(model, str(folder), workers=0, device="cpu")["model"] == ARCH


# what is frozen ---------------------------------------------------------------------------------------------

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "num_heads": 2, "num_classes": 2}
BEFORE = {
    "vit_tiny_patch16_224": {"cls_token", "pos_embed", "patch_embed"},
    "cait_xxs24_224": {"pos_embed", "patch_embed"},
    "deit_tiny_distilled_patch16_224": {"cls_token", "dist_token", "pos_embed", "patch_embed"},
    "beit_base_patch16_224": {"cls_token", "patch_embed"},
    "vit_base_patch16_clip_224": {"cls_token", "pos_embed", "patch_embed", "norm_pre"},
    "xcit_nano_12_p16_224": {"patch_embed", "pos_embed"},
}


@pytest.mark.parametrize("name", BEFORE)
def test_only_what_comes_before_the_layers_is_frozen(name):
    args = {
        k: v for k, v in SMALL.items() if not (name.startswith("xcit") and k in ("patch_size", "img_size"))
    }
    model = timm.create_model(name, depth=3, **args)
    freeze(model, 1)
    blocks = find_blocks(model)
    outside = {n for n, p in model.named_parameters() if not n.startswith(f"{blocks}.")}
    still = {n.split(".")[0] for n, p in model.named_parameters() if n in outside and not p.requires_grad}
    assert still == BEFORE[name]
    layers = [{p.requires_grad for p in layer.parameters()} for layer in get_blocks(model)]
    assert layers == [{False}, {True}, {True}]
    assert entering_parameters(model) == []  # all of them are frozen now


def test_freezing_all_but_the_head():
    model = timm.create_model("cait_xxs24_224", depth=2, **SMALL)
    frozen = freeze(model, -1)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    assert model.blocks_token_only in frozen


class Unmeasured(Net):
    """Runs, but on no meta device, and no copy can be made of it."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
        self.offset = torch.zeros(1, 3, 1, 1)  # no buffer

    def forward(self, images):
        return super().forward(images - self.offset if images.max() < 100 else images)


@pytest.mark.parametrize(
    "net", [Unmeasured(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())], ids=["lock", "no tensors"]
)
def test_counting_flops_stops_no_job(folder, tmp_path, net, caplog):
    options = {"arch": ARCH, "arch_args": ARGS, "plan": "1,1", **FAST, **OWN}
    distill(net, str(folder), out=tmp_path / "run", **options)
    assert "cannot be counted" not in caplog.text


def test_flops_that_cannot_be_counted_are_left_out_aloud(folder, tmp_path, caplog):
    class Pairs(Net):
        def forward(self, images):
            assert len(images) > 1
            return super().forward(images)

    options = {"arch": ARCH, "arch_args": ARGS, "plan": "1,1", **FAST, **OWN}
    gene = distill(Pairs(), str(folder), out=tmp_path / "run", **options)
    assert "the FLOPs of Pairs cannot be counted" in caplog.text
    student = count_flops(gene.architecture.build(2).to("meta"))
    assert gene.metrics["cost"]["flops"] == gene.metrics["cost"]["images"] * 3 * student


def test_the_users_module_is_left_as_it_was(folder, tmp_path):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).train()
    net[1].eval()
    net[4].requires_grad_(False)
    state, generators = digest_of(net.state_dict()), (torch.get_rng_state(), random.getstate())
    distill(net, str(folder), out=tmp_path / "run", arch=ARCH, arch_args=ARGS, plan="1,1", **FAST, **OWN)
    with pytest.raises(LearngeneError, match="2 ancestor_classes"):
        cache(
            net,
            str(folder),
            out=tmp_path / "cache",
            arch=ARCH,
            arch_args=ARGS,
            **FAST,
            **{**OWN, "ancestor_classes": ["a", "b"]},
        )
    assert [m.training for m in net] == [True, False, True, True, True]
    assert [p.requires_grad for p in net.parameters()] == [True, True, True, True, False, False]
    assert digest_of(net.state_dict()) == state
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    whole = Architecture(ARCH, {**ARGS, "num_classes": 3}).build(1).train()
    evaluate(whole, str(folder), workers=0)
    assert whole.training
    assert whole.blocks[0].training


def test_what_a_foreign_module_says_itself_is_believed_and_the_rest_assumed_aloud(folder, tmp_path, caplog):
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.pretrained_cfg = {
        "mean": (0.2, 0.4, 0.6),
        "std": (0.1, 0.2, 0.3),
        "label_names": ["shirt", "boot", "bag"],
    }
    found = open_ancestor(net, AncestorOptions(), ARCH, ARGS)
    assert (found.pretrained_cfg["mean"], found.num_classes) == ([0.2, 0.4, 0.6], 3)
    assert label_names_of(found) == ["shirt", "boot", "bag"]
    assert "input_size [3, 28, 28] assumed" in caplog.text
    assert "mean [" not in caplog.text
    net.pretrained_cfg = {"std": (0, 0, 0), "mean": (0, 0, 0)}
    with pytest.raises(LearngeneError, match="pretrained_cfg of the ancestor: std"):
        open_ancestor(net, AncestorOptions(), ARCH, ARGS)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"ancestor_input_size": 40},
            r"ancestor_input_size \[3, 40, 40\], but the ancestor vit_tiny_patch16_224 is built for "
            r"\[3, 28, 28\]",
        ),
        (
            {"ancestor_mean": [0.5], "ancestor_std": [0.5]},
            "ancestor_mean has 1 values, and the ancestor vit_tiny_patch16_224 takes 3 channels",
        ),
        (
            {"ancestor_classes": ["a"]},
            "1 ancestor_classes, but the ancestor vit_tiny_patch16_224 has 3 outputs",
        ),
    ],
)
def test_what_is_said_of_a_timm_ancestor_holds_or_is_refused(said, message):
    model = Architecture(ARCH, {**ARGS, "num_classes": 3}).build(1)
    with pytest.raises(LearngeneError, match=message):
        open_ancestor(model, AncestorOptions(**said), None, {})


def test_heads_that_are_not_what_the_model_says(folder, tmp_path):
    model = Architecture(ARCH, {**ARGS, "num_classes": 3}).build(1)
    model.head = nn.Linear(16, 5)
    with pytest.raises(LearngeneError, match="says num_classes 3 and gives 5 outputs"):
        distill(model, str(folder), out=tmp_path / "run", plan="1", **FAST)
    named = Architecture(ARCH, {**ARGS, "num_classes": 3}).build(1)
    set_pretrained_cfg(named, {"label_names": ["bag", "boot", "shirt", "hat"]})
    with pytest.raises(LearngeneError, match=r"4 label_names in its pretrained_cfg, but .* has 3 outputs"):
        distill(named, str(folder), out=tmp_path / "run", plan="1", **FAST)
    with pytest.raises(LearngeneError, match="has 4 class names for a head of 3"):
        evaluate(named, str(folder), workers=0)


def test_a_run_is_not_resumed_with_another_ancestor(folder, tmp_path, monkeypatch):
    from test_resume import Stop, power_goes_out

    options = {
        "out": tmp_path / "run",
        "arch": ARCH,
        "arch_args": ARGS,
        "plan": "1,1",
        **FAST,
        **OWN,
        "epochs": 2,
    }
    net, other = Net(), Net()
    nn.init.ones_(other.body[0].bias)
    with monkeypatch.context() as patch:
        power_goes_out(patch, 1, 1)
        with pytest.raises(Stop):
            distill(net, str(folder), **options)
    with pytest.raises(LearngeneError, match="was begun with another ancestor under this name"):
        distill(other, str(folder), resume=True, **options)
    distill(net, str(folder), resume=True, **options)


def test_a_compiled_model_is_the_model(folder):
    model = Architecture(ARCH, {**ARGS, "num_classes": 3}).build(1)
    assert open_model(torch.compile(model)) is model
    assert evaluate(torch.compile(model), str(folder), workers=0)["images"] > 0


def test_terms_of_an_ancestor_need_one(folder, tmp_path):
    for option in ({"temperature": 3.0}, {"hard": 1.0}, {"ancestor_classes": ["a"]}):
        with pytest.raises(LearngeneError, match="needs an ancestor to learn from"):
            finetune(ARCH, str(folder), out=tmp_path / "run", depth=1, arch_args=ARGS, **FAST, **option)
