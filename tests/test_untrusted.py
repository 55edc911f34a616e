"""Attacks by file: each is refused in a sentence, at once, and nothing of it is run, fetched or allocated."""

import json
import os
import struct
import time
import zlib
from pathlib import Path

import pytest
import torch
from conftest import CLASSES
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from learngene import Architecture, LearngeneError
from learngene.cli import main
from learngene.commands import report, spawn
from learngene.data.images import BROKEN_IMAGE, decode
from learngene.formats.timm_directory import save_timm_directory
from learngene.families.timm import open_model
from learngene.gene import HEADER_KEY, Learngene, _digest
from learngene.plan import StagePlan
from learngene.trust.limits import MAX_LAYERS


@pytest.fixture(autouse=True)
def soon():
    begin = time.perf_counter()
    yield
    assert time.perf_counter() - begin < 30


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def forge(gene, path, change):
    """A learngene file with a changed header and a right digest."""
    gene.save(path)
    with safe_open(path, "pt") as opened:
        header = json.loads(opened.metadata()[HEADER_KEY])
    del header["digest"]
    change(header)
    tensors = load_file(path)
    header["digest"] = _digest(header, tensors)
    save_file(tensors, path, metadata={HEADER_KEY: json.dumps(header)})
    return path


def args(**changes):
    return lambda header: header["architecture"]["args"].update(changes)


def named(name):
    return lambda header: header["architecture"].update(name=name)


def said(**changes):
    return lambda header: header.update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (args(embed_dim=10**9), "'embed_dim' is 1000000000, and numbers go up to"),
        (args(num_classes=10**12), "'num_classes' is 1000000000000, and numbers go up to"),
        (args(img_size=10**6), "do not fit the header"),
        (args(embed_dim=10**6), "do not fit the header"),
        (args(reg_tokens=[[1]] * 20_000), "more than 10000 values"),
        (said(plan=[10**9, 1, 1]), "more than 1000 layers"),
        (said(plan=[1] * 100_000), "more than 1000 layers"),
        (said(plan=[1] * 1000), "do not fit the header"),
        (args(checkpoint_path="/tmp/x.pth"), "'checkpoint_path' is not allowed"),
        (args(pretrained=True), "'pretrained' is not allowed"),
        (args(pretrained_cfg={"file": "/tmp/x.pth"}), "'pretrained_cfg' is not allowed"),
        (args(pretrained_cfg_overlay={"url": "http://x/y"}), "'pretrained_cfg_overlay' is not allowed"),
        (args(features_only=True), "'features_only' is not allowed"),
        (args(cache_dir="/tmp"), "'cache_dir' is not allowed"),
        (args(device="cpu"), "'device' is not allowed"),
        (args(scriptable=True), "'scriptable' is not allowed"),
        (named("hf-hub:nobody/nothing"), "is not the name of an architecture"),
        (named("local-dir:/tmp"), "is not the name of an architecture"),
        (named("../vit"), "is not the name of an architecture"),
        (named(["vit"]), "is not the name of an architecture"),
        (said(class_names=["a", "\ud800", "c"]), "no Unicode text"),
        (said(class_names=[1, 2, 3]), "must be a list of texts"),
        (said(data_config={"mean": "abc"}), "mean .* must be a list of numbers"),
        (said(data_config=[]), "must be a mapping"),
        (said(ancestor=5), "must be a mapping|header lacks or garbles"),
        (said(format_version=True), "has learngene format True"),
        (said(metrics={"x": "y" * 9_000_000}), "more than 8388608 bytes of JSON"),
    ],
)
def test_forged_headers(gene, tmp_path, change, message):
    path = forge(gene, tmp_path / "g.safetensors", change)
    with pytest.raises(LearngeneError, match=message) as caught:
        Learngene.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("length", [2**60, 2**64 - 1, 10**8 + 1, 10**12])
def test_forged_header_lengths(gene, tmp_path, length):
    path = gene.save(tmp_path / "g.safetensors")
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(LearngeneError, match="damaged or not a learngene"):
        Learngene.load(path)


def test_a_header_that_is_too_long_is_not_read(tmp_path):
    with (tmp_path / "g.safetensors").open("wb") as file:
        file.write((50 * 2**20).to_bytes(8, "little"))
        file.truncate(60 * 2**20)
    with pytest.raises(LearngeneError, match="has a header of 52428800 bytes"):
        Learngene.load(tmp_path / "g.safetensors")


def test_brackets_in_brackets(gene, tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "g.safetensors", metadata={HEADER_KEY: "[" * 1_000_000})
    with pytest.raises(LearngeneError, match="nested too deep"):
        Learngene.load(tmp_path / "g.safetensors")
    directory = save_timm_directory(gene.spawn(3), tmp_path / "d")
    (directory / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(LearngeneError, match="nested too deep"):
        open_model(directory)


def test_shapes_that_promise_terabytes(tmp_path):
    text = json.dumps({"x": {"dtype": "F32", "shape": [10**12, 10**6], "data_offsets": [0, 16]}}).encode()
    (tmp_path / "g.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 16)
    with pytest.raises(LearngeneError, match="damaged"):
        Learngene.load(tmp_path / "g.safetensors")


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pth", "x.pth.tar", "open_clip_pytorch_model.bin"]
)
def test_a_pickle_in_a_timm_directory_is_not_run(gene, tmp_path, name):
    directory = save_timm_directory(gene.spawn(3), tmp_path / "d")
    (directory / "model.safetensors").unlink()
    torch.save({"state_dict": Bomb(tmp_path / "exploded")}, directory / name)
    with pytest.raises(LearngeneError, match="cannot be loaded"):
        open_model(directory)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("model_args", "message"),
    [
        ({"embed_dim": 2**21}, "would take more than|cannot be loaded"),
        ({"num_classes": 2**22, "embed_dim": 3072, "num_heads": 2}, "would take more than"),
        ({"depth": 10**9}, "'depth' is 1000000000"),
        ({"depth": 2**22}, "at most 1000 layers|'depth' is"),
        ({"checkpoint_path": "/tmp/x"}, "'checkpoint_path' is not allowed"),
        ({"device": "cuda"}, "'device' is not allowed"),
        ([1], "no mapping"),
    ],
)
def test_forged_timm_configs(gene, tmp_path, model_args, message):
    directory = save_timm_directory(gene.spawn(3), tmp_path / "d")
    config = json.loads((directory / "config.json").read_text())
    config["model_args"] = config["model_args"] | model_args if isinstance(model_args, dict) else model_args
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(LearngeneError, match=message):
        open_model(directory)


def test_arguments_from_the_command_line_are_held_to_the_same(tmp_path):
    with pytest.raises(LearngeneError, match="'checkpoint_path' is not allowed"):
        Architecture("vit_tiny_patch16_224", {"checkpoint_path": "x"})
    with pytest.raises(LearngeneError, match="a depth above 1000 is refused"):
        Architecture("vit_tiny_patch16_224").build(MAX_LAYERS + 1)
    with pytest.raises(LearngeneError, match="more than 1000 layers"):
        StagePlan.balanced(10**15, 5)


def test_a_table_larger_than_the_weights_allow():
    small = {"img_size": 1600, "embed_dim": 8, "num_heads": 1, "num_classes": 2, "use_abs_pos_emb": False}
    architecture = Architecture("beit_base_patch16_224", small)
    with torch.device("meta"):
        state = {k: torch.zeros(v.shape) for k, v in architecture.build(1).state_dict().items()}
    with pytest.raises(LearngeneError, match="would compute tables of"):
        Learngene(architecture, StagePlan((1,)), state)


BILLION = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    "text", [BILLION, "plan: " + "[" * 100_000, "arch_args: &a {b: *a}\n", f"plan: [{'1,' * 30_000}1]"]
)
def test_configs_that_would_grow(tmp_path, capsys, text):
    """Whoever refuses them, PyYAML or we: one sentence."""
    (tmp_path / "c.yaml").write_text(text)
    for words in (
        ["--config", str(tmp_path / "c.yaml")],
        [f"--config={tmp_path / 'c.yaml'}"],
        ["--arch-args", "{a: " * 10_000],
    ):
        assert main(["distill", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("learngene distill: error: ")
        assert len(line) < 2_500


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.mkdir [hacked]", "{class_path: os.mkdir, init_args: {path: hacked}}"]
)
def test_configs_run_nothing(tmp_path, capsys, tag, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(f"arch_args: {tag}\nancestor: no/where\ndata: d\nout: o\n")
    assert main(["distill", "--config", "c.yaml"]) == 2
    assert not (tmp_path / "hacked").exists()


def test_messages_are_one_line_without_control_sequences(tmp_path, capsys):
    assert main(["info", "evil\n\x1b[31mname"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "\x1b" not in error
    assert main(["info", "x" * 5000]) == 2
    assert "File name too long" in capsys.readouterr().err


def test_names_in_a_file_are_shown_not_obeyed(gene, tmp_path, capsys):
    from dataclasses import replace

    path = replace(gene, ancestor={"name": "[/red] \x1b[31m[link=file:///x]"}).save(
        tmp_path / "g.safetensors"
    )
    assert main(["info", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "[/red] \\x1b[31m[link=file:///x]" in shown
    assert "\x1b" not in shown


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_png_that_would_unfold_to_gigabytes_is_a_broken_image(tmp_path):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 10_000)) + chunk(b"IEND", b"")
    )
    with pytest.raises(BROKEN_IMAGE):
        decode(tmp_path / "bomb.png", "RGB")


def test_postscript_under_the_name_of_an_image_is_not_run(tmp_path):
    (tmp_path / "x.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(BROKEN_IMAGE, match="cannot identify"):
        decode(tmp_path / "x.png", "RGB")


def test_results_with_markup_make_no_page(tmp_path):
    row = json.loads(
        (Path(__file__).parent.parent / "docs/results/starts/results.jsonl").read_text().splitlines()[0]
    )
    for change in (
        {"start": "<script>"},
        {"start": "![x](../../secret.png)"},
        {"versions": {"<b>": "1"}},
        {"depth": "6"},
        {"curve": [1]},
    ):
        (tmp_path / "results.jsonl").write_text(json.dumps(row | change))
        with pytest.raises(LearngeneError, match="is not what a benchmark writes"):
            report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_names_from_a_file_stay_out_of_paths(gene, tmp_path):
    from dataclasses import replace

    evil = replace(gene, class_names=("../../a", "/etc/passwd", "c"), ancestor={"name": "../../x"})
    paths = spawn(evil.save(tmp_path / "g.safetensors"), depth=3, out=tmp_path / "out")
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == ["out/depth-03"]
    assert {p.name for p in tmp_path.iterdir()} == {"g.safetensors", "out"}
    assert len(CLASSES) == 3
