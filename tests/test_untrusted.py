"""Attacks by file: each is refused in a sentence, at once, and nothing of it is run, fetched or allocated."""

import json
import os
import struct
import time
import zlib
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import CLASSES
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from learngene import Architecture, LearngeneError, report, spawn
from learngene.cli import main
from learngene.data.images import BROKEN_IMAGE, decode
from learngene.families.timm import open_model
from learngene.formats.timm_directory import save_timm_directory
from learngene.gene import Learngene
from learngene.gene_file import HEADER_KEY, _digest
from learngene.plan import StagePlan
from learngene.studies.depths import describe_depths
from learngene.tables import Table, code_span, escape_markdown, numbers
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


RESULTS = Path(__file__).parent.parent / "docs/results/starts/results.jsonl"
EVIL = (
    "<b>|x|`](y)",
    "![x](../../secret.png)",
    "<script>a()</script>",
    "$\\x$ *a* _b_ ~~c~~ &lt; \\|",
    "# 1. vit_tiny #",
)


def shown(markdown):
    """What a reader sees of a Markdown page: tables and other lines, as plain text. No link or tag."""
    tables, lines, kinds = [], [], set()
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    for before, token in pairwise(tokens):
        if before.type == "table_open":
            tables.append([])
        elif before.type == "tr_open":
            tables[-1].append([])
        if token.type == "inline":
            kinds |= {child.type for child in token.children}
            text = "".join(child.content for child in token.children if child.type != "image")
            (tables[-1][-1] if before.type in ("th_open", "td_open") else lines).append(text)
    assert kinds <= {"text", "image", "code_inline", "softbreak", "strong_open", "strong_close"}
    assert not any(token.type == "html_block" for token in tokens)
    return tables, lines


class Reader(HTMLParser):
    """The same of a page of HTML."""

    def __init__(self, page):
        super().__init__()
        self.tables, self.lines, self.tags, self.cell = [], [], set(), None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
            self.cell = self.tables[-1][-1]

    def handle_endtag(self, tag):
        self.cell = None if tag in ("th", "td") else self.cell

    def handle_data(self, data):
        if self.cell is not None:
            self.cell[-1] += data
        elif data.strip():
            self.lines.append(data)


def test_markup_in_results_is_plain_text(tmp_path):
    """In names of starts, data sets, recipes and machines; no table breaks, and the plots take them too."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    rows = [row for row in rows if row["depth"] in (6, 9) and row["seed"] < 2]
    names = dict(zip(("learngene", "random", "pretrained", "mimetic", "weight-selection"), EVIL, strict=True))
    changes = {
        "data": EVIL[0],
        "recipe": EVIL[3],
        "hardware": EVIL[1],
        "commit": EVIL[2],
        "versions": {EVIL[0]: EVIL[1]},
    }
    rows = [row | changes | {"start": names[row["start"]]} for row in rows if row["start"] in names]
    (tmp_path / "results.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report(tmp_path)
    tables, lines = shown((tmp_path / "report.md").read_text())
    page = Reader((tmp_path / "report.html").read_text())
    page_itself = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "ul", "li", "p", "img"}
    assert page.tags == page_itself | {"table", "thead", "tbody", "tr", "th", "td"}
    assert [[list(map(str.strip, row)) for row in table] for table in page.tables] == tables
    assert len(tables) == 5
    for table in tables:
        assert {len(row) for row in table} == {len(table[0])}
    for name in EVIL:
        assert any(name in cell for row in tables[-1] for cell in row)
        assert name in " ".join(lines)
        assert name in " ".join(page.lines)
    assert set(lines) <= set(page.lines) | {""}  # an image has no text
    assert f"{EVIL[0]}, recipe {EVIL[3]}" in lines


def test_results_that_are_none_make_no_page(tmp_path):
    row = json.loads(RESULTS.read_text().splitlines()[0])
    for change in (
        {"start": "a\nb"},
        {"start": "\x1b[31m"},
        {"start": "x" * 1_001},
        {"versions": {"a": 1}},
        {"depth": "6"},
        {"curve": [1]},
        {"flops": 1e300},
    ):
        (tmp_path / "results.jsonl").write_text(json.dumps(row | change))
        with pytest.raises(LearngeneError, match="is not what a benchmark writes"):
            report(tmp_path)
    assert not (tmp_path / "report.html").exists()


SIGNS = st.sampled_from(
    [*"\\`*_{}[]()<>#+-.!|&~$:;=\"'/^ a1é\n", "](", "&amp;", "**", "__", "<b>", "http://a.b"]
)


@settings(max_examples=400, derandomize=True, deadline=None, database=None)
@given(st.lists(SIGNS, max_size=12).map("".join))
@example("__a__")
@example("vit_tiny_patch16_224")
@example("\\")
@example("a\\|b")
@example("x ##")
def test_any_text_is_plain_text_in_markdown(text):
    """In a heading, a sentence and a cell, beside other text or alone."""
    plain, printed = " ".join(text.split()), escape_markdown(text)
    page = f"# {printed}\n\n- a: {printed}\n\n**b:** {printed}\n\n| c | d |\n|---|---|\n| {printed} | 1 |\n"
    ((_, cells),), lines = shown(page)
    assert lines == [plain, f"a: {plain}".strip(), f"b: {plain}".strip()]
    assert cells == [plain, "1"]
    assert escape_markdown(printed) is printed


def test_names_of_architectures_and_numbers_are_printed_as_they_are():
    for text in (
        "vit_tiny_patch16_224",
        "91.23 ± 0.12",
        "-1.20 to +3.40",
        "Intel(R), 2 cores",
        "'not reached'; a: b, c.",
    ):
        assert escape_markdown(text) == text


@pytest.mark.parametrize("text", ["a", "a b", "`", "a `` b", "``a`", "<b> & \\ *x* |"])
def test_code_in_markdown(text):
    (inline,) = [
        token for token in MarkdownIt().parse(f"- command: {code_span(text)}") if token.type == "inline"
    ]
    assert [(child.type, child.content) for child in inline.children] == [
        ("text", "command: "),
        ("code_inline", text),
    ]


def test_an_evaluation_shows_names_as_they_are():
    row = {
        "depth": 3,
        "plan": "1,1,1",
        "step": "1",
        "parameters": 1000,
        "gflops": 0.5,
        "latency_ms": 1.0,
        "latency_quartiles_ms": [0.5, 2.0],
    }
    row |= {"top1": 0.5, "top5": 0.75, "loss": 1.0, "images": 24}
    latency = {"batch": 1, "dtype": "float32", "threads": 1, "device": "cpu", "hardware": EVIL[1]}
    result = {
        "model": EVIL[0],
        "split": EVIL[4],
        "rows": [row],
        "latency": latency,
        "versions": {"torch": EVIL[3]},
    }
    ((head, cells),), lines = shown(describe_depths(result))
    assert lines[0] == f"{EVIL[0]} on {EVIL[4]}, untuned"
    assert lines[1].endswith(f". torch {EVIL[3]}.")
    assert dict(zip(head, cells, strict=True))["ms (quartiles)"] == "1 (0.5 to 2)"


def test_a_table_has_a_cell_in_each_column():
    with pytest.raises(ValueError, match="3 cells for 2 columns"):
        Table(numbers("depth", "top-1 %"), [["a", "1", "2"]])


def test_names_from_a_file_stay_out_of_paths(gene, tmp_path):
    from dataclasses import replace

    evil = replace(gene, class_names=("../../a", "/etc/passwd", "c"), ancestor={"name": "../../x"})
    paths = spawn(evil.save(tmp_path / "g.safetensors"), depth=3, out=tmp_path / "out")
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == ["out/depth-03"]
    assert {p.name for p in tmp_path.iterdir()} == {"g.safetensors", "out"}
    assert len(CLASSES) == 3
