"""Attention maps are probabilities, averaged as said; the picture is of models and of untrained starts."""

import pytest
import torch

from learngene import LearngeneError, attention
from learngene.cli import main
from learngene.families.architecture import Architecture
from learngene.families.timm import open_model
from learngene.starts import begin
from learngene.studies.attention import attention_maps


def test_maps_are_averages_of_probabilities(ancestor):
    model = open_model(ancestor).eval()
    images = torch.randn(3, 1, 28, 28)
    maps = attention_maps(model, images, [1, 4, 11])
    assert list(maps) == [1, 4, 11]
    assert torch.equal(maps[4], maps[11])  # four layers: the last stands in
    assert torch.allclose(maps[1].sum(-1), torch.ones(16), atol=1e-5)
    tokens = model._pos_embed(model.patch_embed(images))
    x = model.blocks[0].norm1(tokens)
    q, k, _ = model.blocks[0].attn.qkv(x).reshape(3, 16, 3, 2, 8).permute(2, 0, 3, 1, 4)
    expected = (q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1).mean((0, 1))
    assert torch.allclose(maps[1], expected, atol=1e-6)
    assert all(block.attn.fused_attn for block in model.blocks)


def test_mimetic_attention_has_a_diagonal_and_random_has_none():
    args = {
        "img_size": 28,
        "patch_size": 7,
        "in_chans": 1,
        "embed_dim": 64,
        "num_heads": 1,
        "class_token": False,
        "global_pool": "avg",
    }
    found = {}
    for start in ("random", "mimetic"):
        torch.manual_seed(0)
        model = begin(Architecture("vit_tiny_patch16_224", args).build(2), start).eval()
        (found[start],) = attention_maps(model, torch.randn(8, 1, 28, 28), [1]).values()
    assert found["mimetic"].diagonal().mean() > 1.5 / 16
    assert found["random"].diagonal().mean() == pytest.approx(1 / 16, rel=0.05)


def test_picture_of_models_and_starts(ancestor, folder, tmp_path, capsys):
    out = tmp_path / "maps.png"
    words = [
        "attention",
        str(ancestor),
        "random",
        "mimetic",
        "--data",
        str(folder),
        "--layers",
        "1",
        "3",
        "--images",
        "4",
        "--out",
        str(out),
    ]
    assert main(words) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert main(words) == 2
    assert main([*words, "--overwrite"]) == 0
    assert str(out) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kept.safetensors", {"overwrite": True}, "written as PNG; name a file that ends in .png"),
        ("kept.png", {}, "exists; choose another --out, or pass --overwrite"),
        ("folder.png", {"overwrite": True}, "is a directory; --out is the file to write"),
    ],
)
def test_a_file_is_not_overwritten_unasked(tmp_path, name, options, message):
    (tmp_path / "kept.safetensors").write_bytes(b"weights")
    (tmp_path / "kept.png").write_bytes(b"picture")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(LearngeneError, match=message):
        attention(
            ["no/model"], "no/data", out=tmp_path / name, **options
        )  # said before any of these is opened
    assert (tmp_path / "kept.safetensors").read_bytes() == b"weights"
    assert (tmp_path / "kept.png").read_bytes() == b"picture"


def test_bad_input(ancestor, folder, tmp_path):
    out = tmp_path / "maps.png"
    for models, options, message in (
        ([], {}, "at least one model"),
        (["random"], {}, "no architecture of its own"),
        ([str(ancestor)], {"layers": [0]}, "counted from 1"),
        (["nowhere/model"], {}, "no model directory"),
    ):
        with pytest.raises(LearngeneError, match=message):
            attention(models, str(folder), out=out, **options)
    with pytest.raises(LearngeneError, match=r"cannot be read|shows no attention"):
        attention_maps(
            Architecture("mixer_s16_224", {"img_size": 32}).build(8), torch.randn(1, 3, 32, 32), [1]
        )
