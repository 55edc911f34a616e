"""Whatever makes a step faster or smaller computes the same step."""

from functools import partialmethod

import numpy as np
import pytest
import torch
from conftest import FAST, TINY_ARGS, write_folder
from timm.models.vision_transformer import VisionTransformer
from torch._dynamo.utils import counters

from learngene import LearngeneError, distill, finetune
from learngene.data.device import crop, random_boxes, uniforms
from learngene.data.embedded import load_embedded
from learngene.families.timm import open_model
from learngene.families.weights import digest_of
from learngene.plan import StagePlan
from learngene.recipe import Recipe
from learngene.sharing import build_auxnet
from learngene.training.speed import at_speed, compiled_parts, compiles

ARGS = {k: v for k, v in TINY_ARGS.items() if k != "num_classes"}
CPU = torch.device("cpu")


def gradients(model, images):
    model.zero_grad()
    torch.manual_seed(3)
    model(images).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("drop_path", [0.0, 0.3])
def test_layers_are_compiled_once_and_compute_the_same(architecture, drop_path, monkeypatch):
    """Six tied layers, one graph; with drop path, one graph for each kind of part, which are only counted."""
    if drop_path:  # a backend's work takes long
        monkeypatch.setattr(
            torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager")
        )
    torch.manual_seed(0)
    plan = StagePlan((3, 3))
    model = build_auxnet(architecture, plan, drop_path_rate=drop_path).train()
    images = torch.randn(8, 1, 28, 28)
    plain = gradients(model, images)
    torch._dynamo.reset()
    counters.clear()
    with at_speed([model], Recipe(compile=True), CPU):
        fast = gradients(model, images)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs == 1 if not drop_path else graphs <= 6
    assert plain.keys() == fast.keys()
    if not drop_path:  # else the two draw different random numbers
        assert all(torch.allclose(plain[k], fast[k], atol=1e-5) for k in plain)
    assert not any(module._compiled_call_impl for module in model.modules())


def test_what_is_compiled(architecture):
    assert len(compiled_parts(architecture.build(4))) == 4
    tied = build_auxnet(architecture, StagePlan((2, 2)), drop_path_rate=0.2)
    assert len(compiled_parts(tied)) == 2 * 4  # two norms, attention and MLP of each stage, each once
    head = torch.nn.Linear(2, 2)
    assert compiled_parts(head) == [head]
    assert not compiles(Recipe(), CPU)
    assert compiles(Recipe(compile=True), CPU)


def test_gradient_checkpointing_gives_the_same_gradients(architecture):
    torch.manual_seed(0)
    model = build_auxnet(architecture, StagePlan((3, 1)), drop_path_rate=0.3).train()
    images = torch.randn(4, 1, 28, 28)
    with at_speed([model], Recipe(), CPU):
        plain = gradients(model, images)
    with at_speed([model], Recipe(grad_checkpointing=True), CPU):
        assert model.grad_checkpointing
        small = gradients(model, images)
    assert not model.grad_checkpointing
    assert all(torch.equal(plain[k], small[k]) for k in plain)


def test_gradient_checkpointing_trains_to_the_same_weights(folder, tmp_path, monkeypatch):
    asked = []
    original = VisionTransformer.set_grad_checkpointing
    monkeypatch.setattr(
        VisionTransformer,
        "set_grad_checkpointing",
        lambda self, enable=True: (asked.append(enable), original(self, enable)),
    )
    runs = {"plain": {}, "small": {"grad_checkpointing": True}}
    for name, options in runs.items():
        options = {**FAST, "drop_path": 0.2, **options}
        finetune("vit_tiny_patch16_224", str(folder), out=tmp_path / name, depth=3, arch_args=ARGS, **options)
    plain, small = (digest_of(open_model(tmp_path / name / "model").state_dict()) for name in runs)
    assert plain == small
    assert asked == [True, False]


def test_a_model_without_gradient_checkpointing_is_refused():
    with pytest.raises(LearngeneError, match="grad_checkpointing: timm has none for Linear"):
        at_speed([torch.nn.Linear(2, 2)], Recipe(grad_checkpointing=True), CPU).__enter__()


# images on the device ---------------------------------------------------------------------------------------


def test_uniform_numbers_are_uniform_and_a_function_of_the_seed():
    seeds = np.arange(20_000)
    u = uniforms(seeds, 23)
    assert np.array_equal(uniforms(seeds[5:6], 23)[0], u[5])
    assert np.array_equal(uniforms(seeds, 3), u[:, :3])
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean(0) - 0.5).max() < 0.01
    assert abs(np.corrcoef(u.T) - np.eye(23)).max() < 0.04
    assert len(np.unique(u)) == u.size


@pytest.mark.parametrize(("rows", "columns", "scale"), [(28, 28, 0.35), (20, 60, 0.9), (60, 20, 0.4)])
def test_boxes_have_the_distribution_of_torchvision(rows, columns, scale):
    from torchvision.transforms import RandomResizedCrop

    boxes = random_boxes(np.arange(4000), rows, columns, scale)
    left, top, width, height = boxes.T
    assert (boxes[:, :2] >= 0).all()
    assert (left + width <= columns).all()
    assert (top + height <= rows).all()
    torch.manual_seed(0)
    image = torch.zeros(1, rows, columns)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, [scale, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    )
    for ours, other in zip((top, left, height, width), theirs.T, strict=True):
        assert abs(ours.mean() - other.mean()) < 4 * np.sqrt((ours.var() + other.var()) / 4000) + 1e-9
        assert ours.std() == pytest.approx(
            other.std(), rel=0.1, abs=0.05
        )  # pixels; few crops move at all where few fit


def test_crops_on_the_device_are_those_of_pixels():
    images = torch.from_numpy(load_embedded("train")[0][:4]).float()[:, None]
    whole = torch.tensor([[0.0, 0, 28, 28]]).expand(4, 4)
    ones = torch.ones(4)
    assert torch.allclose(crop(images, whole, ones, (28, 28)), images, atol=1e-3)
    assert torch.allclose(crop(images, whole, -ones, (28, 28)), images.flip(-1), atol=1e-3)
    corner = crop(images, torch.tensor([[14.0, 7, 7, 14]]).expand(4, 4), ones, (14, 7))
    assert torch.allclose(corner, images[:, :, 7:21, 14:21], atol=1e-3)
    flipped = crop(images, torch.tensor([[14.0, 7, 7, 14]]).expand(4, 4), -ones, (14, 7))
    assert torch.allclose(flipped, images[:, :, 7:21, 14:21].flip(-1), atol=1e-3)


def test_training_from_images_on_the_device(folder, tmp_path, monkeypatch, ancestor):
    """Resumes exactly, and shows other images than a folder does."""
    common = {**FAST, "batch_size": 4, "plan": "2,1", "epochs": 2, "on_device": True, "mixup": 0.2}
    whole = distill(ancestor, str(folder), out=tmp_path / "whole", **common)
    from test_resume import Stop, power_goes_out

    with monkeypatch.context() as patch:
        power_goes_out(patch, 1, 5)
        with pytest.raises(Stop):
            distill(ancestor, str(folder), out=tmp_path / "cut", checkpoint_minutes=0.0, **common)
    resumed = distill(
        ancestor, str(folder), out=tmp_path / "cut", checkpoint_minutes=0.0, resume=True, **common
    )
    assert digest_of(resumed.state) == digest_of(whole.state)
    usual = distill(ancestor, str(folder), out=tmp_path / "usual", **common | {"on_device": False})
    assert digest_of(usual.state) != digest_of(whole.state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"auto_augment": "rand-m5-inc1"}, "on_device: auto_augment rand-m5-inc1 is done image by image"),
        (
            {"arch_args": {**ARGS, "img_size": 14}},
            "on_device: images of 28 x 28 pixels would have to shrink to 14 x 14",
        ),
    ],
)
def test_what_cannot_live_on_the_device_is_refused(folder, tmp_path, options, message):
    options = {"arch_args": ARGS, "depth": 2, **FAST, **options}
    with pytest.raises(LearngeneError, match=message):
        finetune("vit_tiny_patch16_224", str(folder), out=tmp_path / "run", on_device=True, **options)
    assert not (tmp_path / "run").exists()


def test_images_of_several_sizes_stay_where_they_are(tmp_path):
    root = write_folder(tmp_path / "train", 12)
    from PIL import Image

    picture = root / "bag" / "000.png"
    Image.open(picture).resize((20, 20)).save(picture)
    with pytest.raises(LearngeneError, match="are not of one size; drop --on-device"):
        finetune(
            "vit_tiny_patch16_224",
            str(root),
            out=tmp_path / "run",
            depth=2,
            arch_args=ARGS,
            on_device=True,
            **FAST,
        )
