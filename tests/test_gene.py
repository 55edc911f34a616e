import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import CLASSES, FAST, TINY_ARGS, randomize
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from learngene import finetune, spawn
from learngene.costs import count_flops
from learngene.errors import LearngeneError
from learngene.families.anatomy import count_parameters
from learngene.families.architecture import Architecture
from learngene.families.records import data_config_of
from learngene.families.weights import _is_all_state, build_filled, digest_of, load_strict
from learngene.formats.timm_directory import save_timm_directory
from learngene.gene import Learngene
from learngene.gene_file import FORMAT_VERSION, HEADER_KEY
from learngene.plan import StagePlan


@pytest.fixture
def file(gene, tmp_path):
    return gene.save(tmp_path / "learngene.safetensors")


def test_save_and_load_are_bit_exact(gene, file):
    again = Learngene.load(file)
    assert digest_of(again.state) == digest_of(gene.state)
    assert (again.architecture, again.plan, again.class_names) == (
        gene.architecture,
        gene.plan,
        gene.class_names,
    )
    assert again.data_config == gene.data_config
    assert again.ancestor == gene.ancestor
    assert file.read_bytes() == again.save(file.with_name("second.safetensors")).read_bytes()


def test_holds_one_layer_per_stage(gene, file):
    with safe_open(file, "pt") as opened:
        layers = {name.split(".")[1] for name in opened.keys() if name.startswith("blocks.")}  # noqa: SIM118
    assert layers == {"0", "1", "2"}
    assert gene.parameters == count_parameters(gene.architecture.build(3))


def rewrite(file: Path, change) -> Path:
    """The file again with a changed header, its digest left as it was unless changed too."""
    with safe_open(file, "pt") as opened:
        header = json.loads(opened.metadata()[HEADER_KEY])
    tensors = load_file(file)
    change(header, tensors)
    save_file(tensors, file, metadata={HEADER_KEY: json.dumps(header)})
    return file


def redigest(header, tensors):
    from learngene.gene_file import _digest

    header.pop("digest")
    header["digest"] = _digest(header, tensors)


def newer(header, tensors):
    header["format_version"] = FORMAT_VERSION + 1


def other_sharing(header, tensors):
    header["sharing"] = "linear"
    redigest(header, tensors)


def no_sharing(header, tensors):
    del header["sharing"]
    redigest(header, tensors)


def altered(header, tensors):
    tensors["blocks.0.attn.qkv.weight"][0, 0] += 1e-3


def forged_classes(header, tensors):
    header["class_names"] = ["x", "y", "z"]


def forged_plan(header, tensors):
    header["plan"] = [1, 1, 1, 1]
    redigest(header, tensors)


def forged_width(header, tensors):
    header["architecture"]["args"]["embed_dim"] = 32
    redigest(header, tensors)


def no_plan(header, tensors):
    del header["plan"]
    redigest(header, tensors)


def unknown_architecture(header, tensors):
    header["architecture"]["name"] = "vit_nowhere"
    redigest(header, tensors)


def header_of(file: Path) -> dict:
    with safe_open(file, "pt") as opened:
        return json.loads(opened.metadata()[HEADER_KEY])


def test_the_header_names_the_way_of_sharing(gene, file):
    header = header_of(file)
    assert (header["format_version"], header["sharing"]) == (2, "stages") == (FORMAT_VERSION, gene.sharing)
    assert Learngene.load(file).sharing == "stages"


def test_format_1_loads_for_ever(tmp_path):
    """It was written at commit bb6e6e9, before the header named the way of sharing."""
    file = Path(__file__).parent / "golden" / "format-1.safetensors"
    header = header_of(file)
    assert header["format_version"] == 1
    assert "sharing" not in header
    old = Learngene.load(file)
    assert (old.sharing, old.expansions, old.elastic) == ("stages", {}, None)
    again = Learngene.load(old.save(tmp_path / "again.safetensors"))
    assert header_of(tmp_path / "again.safetensors")["format_version"] == 2
    assert again.state.keys() == old.state.keys()
    assert all(torch.equal(tensor, old.state[name]) for name, tensor in again.state.items())
    assert (again.architecture, again.plan) == (old.architecture, old.plan)
    assert again.class_names == old.class_names
    images = torch.randn(2, *old.data_config["input_size"])
    with torch.no_grad():
        assert torch.equal(old.spawn(7).eval()(images), again.spawn(7).eval()(images))


def test_format_1_is_also_what_a_file_of_format_1_says(gene, file):
    """A file of today, as it would have been written then."""

    def older(header, tensors):
        header["format_version"] = 1
        no_sharing(header, tensors)

    old = Learngene.load(rewrite(file, older))
    assert digest_of(old.state) == digest_of(gene.state)
    assert old.sharing == "stages"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (newer, "has learngene format 3, this package reads up to 2; upgrade with 'pip install --upgrade"),
        (other_sharing, "shares layers by 'linear', and this package knows 'stages' alone; upgrade it"),
        (no_sharing, "its header lacks or garbles 'sharing'"),
        (altered, "was altered after it was written"),
        (forged_classes, "was altered"),
        (forged_plan, "do not fit the header"),
        (forged_width, "do not fit the header"),
        (no_plan, "its header lacks or garbles 'plan'"),
        (unknown_architecture, "not an architecture of timm"),
    ],
)
def test_inconsistent_files_are_named_with_the_reason(file, change, reason):
    with pytest.raises(LearngeneError, match=reason) as caught:
        Learngene.load(rewrite(file, change))
    assert str(file) in str(caught.value)


def test_damaged_files(file, tmp_path):
    content = file.read_bytes()
    for name, damage in {
        "truncated": content[: len(content) // 2],
        "cut": content[:-1],
        "header cut": content[:40],
        "empty": b"",
        "text": b"not a learngene at all",
        "flipped": content[:-5] + bytes([content[-5] ^ 1]) + content[-4:],
    }.items():
        path = tmp_path / name
        path.write_bytes(damage)
        with pytest.raises(LearngeneError, match=r"damaged or not a learngene|altered"):
            Learngene.load(path)


def test_a_pickle_is_refused_and_not_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    for name, write in {
        "a.pkl": lambda p: p.write_bytes(pickle.dumps(Bomb())),
        "a.pt": lambda p: torch.save({"x": torch.zeros(1)}, p),
    }.items():
        write(tmp_path / name)
        with pytest.raises(LearngeneError, match="is a pickle, which could run code"):
            Learngene.load(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_a_header_whose_length_looks_like_a_pickle_is_read(gene, tmp_path):
    from dataclasses import replace

    def save(note: int) -> int:
        file = replace(gene, metrics={"note": "x" * note}).save(tmp_path / "g.safetensors")
        return int.from_bytes(file.read_bytes()[:8], "little")

    wanted = int.from_bytes(b"PK", "little")  # a multiple of 8, as header lengths are
    assert save(wanted - save(0)) == wanted
    assert Learngene.load(tmp_path / "g.safetensors").plan == gene.plan


def test_other_things_offered_as_a_learngene(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(LearngeneError, match="a safetensors file but not a learngene"):
        Learngene.load(tmp_path / "plain.safetensors")
    with pytest.raises(
        LearngeneError, match=r"no learngene header.; give a learngene, a safetensors file that"
    ):
        Learngene.load(tmp_path / "plain.safetensors")
    for name, message in {
        "m.onnx": "'.*m.onnx' is an ONNX graph, which cannot be run as a torch model; give a learngene",
        "x.PNG": "is a file, and a model is a directory with config.json; give a learngene",
        "old.tar": "is a torch checkpoint, which does not say of which architecture; give a learngene",
        "x.safetensors": "is damaged or not a learngene",
    }.items():
        (tmp_path / name).write_bytes(b"\x89PNG\r\n" + bytes(100))
        with pytest.raises(LearngeneError, match=message):
            Learngene.load(tmp_path / name)
    (tmp_path / "a.pt").write_bytes(b"PK\x03\x04 something")
    with pytest.raises(LearngeneError, match=r"is a pickle, .*; give a learngene, a safetensors file"):
        Learngene.load(tmp_path / "a.pt")
    with pytest.raises(LearngeneError, match="is a directory"):
        Learngene.load(tmp_path)
    with pytest.raises(LearngeneError, match="there is no file"):
        Learngene.load(tmp_path / "missing.safetensors")


def test_a_part_of_a_timm_directory_names_the_directory(ancestor):
    for name in ("model.safetensors", "config.json"):
        with pytest.raises(LearngeneError, match=f"; give the directory '{ancestor}', or a learngene"):
            Learngene.load(ancestor / name)


def test_a_cut_learngene_of_any_name_is_damaged(gene, tmp_path):
    whole = gene.save(tmp_path / "g.bin").read_bytes()
    (tmp_path / "g.bin").write_bytes(whole[:500])
    with pytest.raises(LearngeneError, match=r"is damaged or not a learngene .*; fetch or distil it again"):
        Learngene.load(tmp_path / "g.bin")


def test_head_is_inherited_for_the_same_classes_only(gene):
    head = gene.state["head.weight"]
    assert torch.equal(gene.spawn(4).head.weight, head)
    assert torch.equal(gene.spawn(4, class_names=CLASSES).head.weight, head)
    assert not torch.equal(gene.spawn(4, class_names=CLASSES[::-1]).head.weight, head)
    assert gene.spawn(4, num_classes=37).head.weight.shape == (37, 16)


def test_stage_left_out_and_depth_beyond_the_auxiliary_net(gene):
    short = gene.spawn(plan="1,0,2")
    assert torch.equal(short.blocks[1].attn.qkv.weight, gene.state["blocks.2.attn.qkv.weight"])
    assert len(gene.spawn(19).blocks) == 19


def test_descendants_are_untied(gene):
    model = gene.spawn(6)
    assert len({p.data_ptr() for p in model.parameters()}) == len(list(model.parameters()))


def test_image_size_and_channels(gene):
    wide = gene.spawn(4, img_size=56, in_chans=3)
    assert wide.pos_embed.shape == (1, 64, 16)
    assert wide(torch.randn(1, 3, 56, 56)).shape == (1, 3)
    assert torch.equal(wide.blocks[0].mlp.fc1.weight, gene.state["blocks.0.mlp.fc1.weight"])
    assert float(gene.spawn(4, img_size=56).pos_embed.detach().std()) == pytest.approx(
        float(gene.state["pos_embed"].std()), rel=0.5
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 2}, "depth 2 is less than the 3 stages"),
        ({}, "say how deep"),
        ({"plan": "1,1"}, "has 2 stages, the learngene has 3"),
        ({"plan": "1,1,1", "depth": 4}, "adds up to 3 layers, not to the depth 4"),
        ({"depth": 4, "num_classes": 0}, "at least 1 class"),
        ({"depth": 4, "num_classes": 2, "class_names": ("a",)}, "1 class names for 2 classes"),
    ],
)
def test_bad_spawns(gene, arguments, message):
    with pytest.raises(LearngeneError, match=message):
        gene.spawn(**arguments)


def test_descendant_loads_in_plain_timm_without_this_package(gene, file, tmp_path):
    (directory,) = spawn(file, depth=[7], out=tmp_path / "out")
    images = torch.randn(2, 1, 28, 28)
    torch.save(images, tmp_path / "images.pt")
    code = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "learngene":
            raise ImportError("learngene is hidden")
sys.meta_path.insert(0, Blocker())
import timm, torch
try:
    import learngene
    raise SystemExit("learngene can be imported")
except ImportError:
    pass
model = timm.create_model("local-dir:{directory}", pretrained=True).eval()
assert model.pretrained_cfg["label_names"] == {list(CLASSES)!r}, model.pretrained_cfg
with torch.no_grad():
    torch.save(model(torch.load("{tmp_path}/images.pt")), "{tmp_path}/logits.pt")
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=120)
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "logits.pt"), gene.spawn(7).eval()(images))


def test_directory_says_nothing_of_the_registry_weights(gene, tmp_path):
    save_timm_directory(gene.spawn(4), tmp_path / "d")
    text = (tmp_path / "d" / "config.json").read_text()
    assert "augreg" not in text
    assert "googleapis" not in text
    assert '"license": "mit"' in text


def test_fixed_depth_architecture_cannot_be_stored_at_another_depth(tmp_path):
    architecture = Architecture("mixer_s32_224", {"img_size": 64, "num_classes": 3})
    gene = Learngene.extract(randomize(architecture.build(3)), StagePlan((1, 1, 1)))
    assert gene.spawn(5)(torch.randn(1, 3, 64, 64)).shape == (1, 3)
    with pytest.raises(LearngeneError, match="timm fixes its depth at 8"):
        save_timm_directory(gene.spawn(5), tmp_path / "d")
    save_timm_directory(gene.spawn(8), tmp_path / "e")


def test_layers_that_timm_does_not_have_are_not_stored(folder, gene, tmp_path):
    """`post_norm` is an argument of ours, which no timm directory could tell of."""
    message = "with post_norm is no model of timm's, so it cannot be stored; compare it in 'learngene bench"
    model = Architecture("vit_tiny_patch16_224", {**TINY_ARGS, "post_norm": True}).build(3)
    with pytest.raises(LearngeneError, match=message):
        save_timm_directory(model, tmp_path / "d")
    assert not (tmp_path / "d").exists()
    with pytest.raises(LearngeneError, match=message):
        Learngene.extract(model, (1, 1, 1))
    plain = Architecture("vit_tiny_patch16_224", {**TINY_ARGS, "post_norm": False}).build(3)
    trained = save_timm_directory(plain, tmp_path / "plain")
    changed = {"arch_args": {"post_norm": True}, "out": tmp_path / "run", **FAST}
    for start, depth in ((trained, None), (gene.save(tmp_path / "g.safetensors"), 4)):
        with pytest.raises(
            LearngeneError, match=r"post_norm: the weights of .* were trained without it; drop"
        ):
            finetune(start, str(folder), depth=depth, **changed)
        assert not (tmp_path / "run").exists()
    with pytest.raises(LearngeneError, match=r"post_norm: the weights of .* were trained without it; drop"):
        gene.spawn(4, post_norm=True)


def test_spawn_command(file, tmp_path, caplog):
    caplog.set_level("INFO", logger="learngene")
    paths = spawn(file, depth=[6, 3], out=tmp_path / "out")
    assert [p.name for p in paths] == ["depth-03", "depth-06"]
    assert "head inherited" in caplog.text
    with pytest.raises(LearngeneError, match="is not empty"):
        spawn(file, depth=[6, 9], out=tmp_path / "out")
    assert not (tmp_path / "out" / "depth-09").exists()
    assert spawn(file, depth=6, out=tmp_path / "out", overwrite=True)
    with pytest.raises(LearngeneError, match="in one way"):
        spawn(file, depth=6, plan="2,2,2", out=tmp_path / "other")


def test_spawn_by_budget(gene, file, tmp_path):
    budget = count_parameters(gene.architecture.build(7)) + 5
    (path,) = spawn(file, max_params=budget, out=tmp_path / "a")
    assert path.name == "depth-07"
    (path,) = spawn(
        file,
        max_params=budget,
        max_gflops=count_flops(gene.architecture.build(5).to("meta")) / 1e9 + 1e-9,
        out=tmp_path / "b",
    )
    assert path.name == "depth-05"
    with pytest.raises(LearngeneError, match=r"max_params 10: 3 layers have \d+ parameters, the shallowest"):
        spawn(file, max_params=10, out=tmp_path / "c")
    assert spawn(file, max_latency_ms=1e6, out=tmp_path / "d")[0].name == "depth-200"


def test_architecture_arguments():
    with pytest.raises(LearngeneError, match="'depth' is not allowed"):
        Architecture("vit_tiny_patch16_224", {"depth": 3})
    with pytest.raises(LearngeneError, match="did you mean"):
        Architecture("vit_tiny_patch16_225")
    with pytest.raises(LearngeneError, match="timm cannot build"):
        Architecture("vit_tiny_patch16_224", {"no_such": 1}).build(2)
    assert Architecture("vit_tiny_patch16_224", TINY_ARGS).args["embed_dim"] == 16


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("vit_tiny_patch16_224", TINY_ARGS),
        ("deit3_small_patch16_224", {"img_size": 32, "embed_dim": 24, "num_heads": 2, "num_classes": 3}),
        ("beit_base_patch16_224", {"img_size": 32, "embed_dim": 24, "num_heads": 2, "num_classes": 3}),
        ("eva02_tiny_patch14_224", {"img_size": 28, "embed_dim": 24, "num_heads": 2, "num_classes": 3}),
        ("vit_relpos_small_patch16_224", {"img_size": 32, "embed_dim": 24, "num_heads": 2, "num_classes": 3}),
        ("mixer_s32_224", {"img_size": 64, "num_classes": 3}),
    ],
)
def test_filling_a_model_is_loading_into_a_built_one(name, args):
    architecture = Architecture(name, args)
    built = randomize(architecture.build(3))
    state = {k: v.clone() for k, v in built.state_dict().items()}
    filled = build_filled(architecture, 3, state)
    load_strict(built, state, set())
    assert {n: (p.requires_grad, p.dtype, p.stride()) for n, p in filled.named_parameters()} == {
        n: (p.requires_grad, p.dtype, p.stride()) for n, p in built.named_parameters()
    }
    for (name_filled, one), (name_built, other) in zip(
        filled.named_buffers(), built.named_buffers(), strict=True
    ):
        assert name_filled == name_built
        assert torch.equal(one, other)
    images = torch.randn(2, *data_config_of(built)["input_size"])
    with torch.no_grad():
        assert torch.equal(filled.eval()(images), built.eval()(images))
    assert not {p.data_ptr() for p in filled.parameters()} & {t.data_ptr() for t in state.values()}


def test_tables_that_no_state_tells_are_computed():
    for name, whole in [
        ("vit_tiny_patch16_224", True),
        ("beit_base_patch16_224", False),
        ("eva02_tiny_patch14_224", False),
    ]:
        with torch.device("meta"):
            assert _is_all_state(Architecture(name).build(1)) is whole


def test_spawning_draws_no_random_numbers_but_for_a_fresh_head(gene):
    before = torch.get_rng_state()
    gene.spawn(5)
    gene.auxnet()
    assert torch.equal(torch.get_rng_state(), before)
    gene.spawn(5, num_classes=7)
    assert not torch.equal(torch.get_rng_state(), before)
