"""Starts against their equations, their refusals, and a fingerprint each."""

import inspect
import json
import os
from pathlib import Path

import pytest
import torch
from conftest import CLASSES, FAST, TINY_ARGS, randomize

from learngene import LearngeneError, distill, finetune
from learngene.families.architecture import Architecture, architecture_of
from learngene.families.records import data_config_of
from learngene.families.timm import open_model
from learngene.families.variants import is_post_norm
from learngene.formats.timm_directory import save_timm_directory
from learngene.gene import Learngene
from learngene.plan import StagePlan
from learngene.starts import STARTS, begin, branch_variances, parse
from learngene.starts.learngene import arrange
from learngene.starts.mimetic import split
from learngene.starts.selection import choose_layers, selected_indices


def build(depth=3, **args):
    torch.manual_seed(0)
    return Architecture("vit_tiny_patch16_224", {**TINY_ARGS, **args}).build(depth)


def products(block):
    """The paper's W_Q W_K^T of each head, and W_V W_proj, from torch's transposed weights."""
    query, key, value = block.attn.qkv.weight.chunk(3)
    heads = block.attn.num_heads
    queries, keys = (m.unflatten(0, (heads, -1)) for m in (query, key))
    return [q.T @ k for q, k in zip(queries, keys, strict=True)], value.T @ block.attn.proj.weight.T


# mimetic ----------------------------------------------------------------------------------------------------


def test_mimetic_products_have_the_stated_diagonal_and_noise():
    model = begin(build(embed_dim=128, num_heads=1), "mimetic")
    for block in model.blocks:
        (attention,), value = products(block)
        for product, noise, diagonal in ((attention, 0.7, 0.7), (value, 0.4, -0.4)):
            off = product - torch.diag(product.diagonal())
            assert product.diagonal().mean().item() == pytest.approx(diagonal, abs=0.03)
            assert (off.pow(2).sum() / (128 * 127)).sqrt().item() == pytest.approx(noise / 128**0.5, rel=0.03)
        assert not block.attn.qkv.bias.any()
        assert not block.attn.proj.bias.any()


def test_mimetic_heads_are_the_best_approximation_of_their_rank_and_differ():
    product = torch.randn(16, 16) + torch.eye(16)
    left, right = split(product, 4)
    assert left.shape == right.shape == (16, 4)
    singular = torch.linalg.svdvals(product)
    assert (product - left @ right.T).norm().item() == pytest.approx(singular[4:].norm().item(), rel=1e-4)
    first, second = products(begin(build(num_heads=4), "mimetic").blocks[0])[0][:2]
    assert torch.linalg.matrix_rank(first) == 4
    assert not torch.allclose(first, second)


def test_mimetic_takes_its_coefficients_and_leaves_the_mlp():
    plain = build()
    model = begin(build(), "mimetic", a1=0.0, b1=1.0, a2=0.0, b2=0.5)
    _, value = products(model.blocks[1])
    assert torch.allclose(value, -0.5 * torch.eye(16), atol=1e-5)
    assert torch.equal(model.blocks[1].mlp.fc1.weight, plain.blocks[1].mlp.fc1.weight)
    assert torch.equal(model.pos_embed, plain.pos_embed)
    placed = begin(build(), "mimetic", position=True)
    assert not torch.equal(placed.pos_embed, plain.pos_embed)
    assert placed.pos_embed[0].pow(2).sum(-1).tolist() == pytest.approx(
        [8.0] * 16
    )  # half of the 16 are sines, half their cosines


# random -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "grows"), [("random", False), ("trunc-normal", False), ("xavier", True), ("ds-init", True)]
)
def test_branches_of_small_weights_add_little(start, grows):
    """Zhang et al. 2019: with 0.02 branches hardly change the stream, with Xavier each adds its variance."""
    model = begin(build(depth=8, embed_dim=64, num_heads=2), start)
    variances = branch_variances(model, torch.randn(8, 1, 28, 28))
    assert len(variances) == 8
    added = [branch for branch, _ in variances]
    if not grows:
        assert max(added) < 0.02
        return
    assert added[0] > 0.1
    assert variances[-1][1] > variances[0][1] + 0.1
    if start == "ds-init":
        assert added[-1] < 0.5 * added[0]


def test_depth_scaling_falls_with_the_layer_as_paper_and_code_say():
    for start, power in (("ds-init", 1.0), ("ds-init-code", 0.5)):
        model = begin(build(depth=9, embed_dim=64, num_heads=1), start, alpha=0.5)
        limits = [block.mlp.fc1.weight.abs().max().item() for block in model.blocks]
        first = (6 / (64 + 256)) ** 0.5
        for layer, limit in enumerate(limits, start=1):
            assert limit == pytest.approx(first * (0.5 * layer**-0.5) ** power, rel=0.01)
        query = model.blocks[0].attn.qkv.weight.chunk(3)[0]
        assert query.abs().max().item() == pytest.approx(0.5**power * (6 / 128) ** 0.5, rel=0.01)


def test_xavier_and_truncated_normal_have_their_scale():
    model = begin(build(embed_dim=64, num_heads=1), "xavier")
    assert model.blocks[0].attn.qkv.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.03)
    model = begin(build(embed_dim=64, num_heads=1), "trunc-normal", std=0.05)
    weight = model.blocks[0].mlp.fc1.weight
    assert weight.std().item() == pytest.approx(0.88 * 0.05, rel=0.03)
    assert weight.abs().max() <= 0.1
    assert model.pos_embed.abs().max() <= 0.1


# small embedding --------------------------------------------------------------------------------------------


def test_small_embedding_is_tiny_and_needs_a_norm():
    model = begin(build(pre_norm=True), "small-embedding")
    assert 0 < model.patch_embed.proj.weight.abs().max() <= 1e-4
    assert not model.pos_embed.any()
    with pytest.raises(LearngeneError, match="pre_norm: true"):
        begin(build(), "small-embedding")


def test_post_norm_is_another_function_of_the_same_parameters():
    plain, turned = build().eval(), build(post_norm=True).eval()
    assert (is_post_norm(plain), is_post_norm(turned)) == (False, True)
    images = torch.randn(2, 1, 28, 28)
    assert turned.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in turned.state_dict().items())
    block, x = turned.blocks[0], torch.randn(2, 16, 16)
    y = block.norm1(x)
    y = y + block.attn(y)
    y = block.norm2(y)
    assert torch.equal(block(x), y + block.mlp(y))
    assert not torch.allclose(plain(images), turned(images))
    small = begin(build(post_norm=True), "small-embedding")  # its norm stands behind the embedding
    assert small.patch_embed.proj.weight.abs().max() <= 1e-4


def test_post_norm_is_an_architecture_and_no_start():
    with pytest.raises(LearngeneError, match=r"not a start; ask for it with arch_args {post_norm: true}"):
        begin(build(), "post-norm")
    with pytest.raises(LearngeneError, match=r"not a start; ask for it with arch_args {post_norm: true}"):
        parse("post-norm+small-embedding")
    with pytest.raises(
        LearngeneError, match=r"plain layers, and vit_relpos_small_patch16_224 has .*; drop it"
    ):
        Architecture("vit_relpos_small_patch16_224", {"img_size": 32, "post_norm": True}).build(1)
    again = architecture_of(build(post_norm=True))
    assert again.args["post_norm"] is True
    assert is_post_norm(again.build(2))
    assert "post_norm" not in architecture_of(build()).args


# selection --------------------------------------------------------------------------------------------------


def test_weight_selection_follows_the_released_index_rule():
    assert selected_indices(384, 192).tolist() == list(range(0, 384, 2))
    assert selected_indices(10, 4).tolist() == [0, 3, 6, 9]
    assert selected_indices(7, 7).tolist() == list(range(7))
    large, small = build(depth=4, embed_dim=32, num_heads=4), build(depth=2)
    begin(small, "weight-selection", ancestor=large)
    expected = large.blocks[1].attn.qkv.weight[::2, ::2]
    assert torch.equal(small.blocks[1].attn.qkv.weight, expected)
    assert torch.equal(small.pos_embed, large.pos_embed[..., ::2])
    assert not torch.equal(small.head.weight, large.head.weight[:, ::2])
    with pytest.raises(LearngeneError, match="too small for"):
        begin(build(depth=2, embed_dim=64, num_heads=2), "weight-selection", ancestor=large)
    with pytest.raises(LearngeneError, match="its ancestor only 4"):
        begin(build(depth=5), "weight-selection", ancestor=large)
    stretched = begin(build(depth=5), "weight-selection", ancestor=large, layers="even")
    for layer, source in enumerate(choose_layers(4, 5, "even")):
        assert torch.equal(
            stretched.blocks[layer].mlp.fc1.weight, large.blocks[source].mlp.fc1.weight[::2, ::2]
        )


def test_depth_selection_keeps_layers_and_the_function_of_all_of_them():
    ancestor = build(depth=6).eval()
    images = torch.randn(2, 1, 28, 28)
    same = begin(build(depth=6), "depth-selection", ancestor=ancestor).eval()
    assert torch.equal(same(images), ancestor(images))
    last = begin(build(depth=2), "depth-selection", ancestor=ancestor, layers="last")
    assert torch.equal(last.blocks[0].mlp.fc1.weight, ancestor.blocks[4].mlp.fc1.weight)
    assert choose_layers(6, 3, "even") == [0, 2, 5]
    assert choose_layers(6, 3, "first") == [0, 1, 2]
    assert choose_layers(2, 4, "even") == [0, 0, 1, 1]
    assert choose_layers(4, 1, "even") == [0]
    with pytest.raises(LearngeneError, match="weights do not fit"):
        begin(build(depth=2, embed_dim=32), "depth-selection", ancestor=ancestor)
    with pytest.raises(LearngeneError, match="use first, last or even"):
        begin(build(depth=2), "depth-selection", ancestor=ancestor, layers="odd")
    other = Architecture("mixer_s16_224", {"img_size": 32, "num_classes": 3}).build(8)
    with pytest.raises(LearngeneError, match="weights do not fit"):
        begin(build(depth=2), "depth-selection", ancestor=other)


def test_from_ancestor_fills_stages_with_evenly_spaced_layers():
    ancestor = randomize(build(depth=8)).eval()
    for plan, sources in (
        ((3, 1, 4), (0, 0, 0, 4, 7, 7, 7, 7)),
        ((1, 2, 1), (0, 4, 4, 7)),
        ((2, 2, 2, 2, 2), (0, 0, 2, 2, 4, 4, 5, 5, 7, 7)),
    ):
        model = build(depth=len(sources))
        found = begin(model, "from-ancestor", ancestor=ancestor, stage_plan=plan)
        for layer, source in enumerate(sources):
            layer = found.blocks[layer].state_dict()
            for name, tensor in ancestor.blocks[source].state_dict().items():
                assert torch.equal(layer[name], tensor)
        assert torch.equal(found.pos_embed, ancestor.pos_embed)
        assert torch.equal(found.head.weight, ancestor.head.weight)
    images = torch.randn(2, 1, 28, 28)
    same = begin(build(depth=8), "from-ancestor", ancestor=ancestor).eval()  # each layer its own stage
    assert torch.equal(same(images), ancestor(images))
    composed = begin(build(depth=2), "from-ancestor+mimetic", ancestor=ancestor, b2=1.0, a2=0.0)
    assert torch.equal(composed.blocks[1].mlp.fc1.weight, ancestor.blocks[7].mlp.fc1.weight)
    assert torch.allclose(products(composed.blocks[1])[1], -torch.eye(16), atol=1e-5)


def test_from_ancestor_refuses_what_does_not_fit():
    ancestor = build(depth=6)
    for small, options, message in (
        (build(depth=2, embed_dim=32), {}, "the weights do not fit vit_tiny_patch16_224: 'pos_embed'"),
        (build(depth=3), {"stage_plan": "2,2"}, "stage_plan 2,2 has 4 layers, but the model has 3; make"),
        (build(depth=2), {"stage_plan": "2,0"}, "stage 1 has no layer"),
    ):
        with pytest.raises(LearngeneError, match=message):
            begin(small, "from-ancestor", ancestor=ancestor, **options)
    mixer = Architecture("mixer_s16_224", {"img_size": 32, "num_classes": 3}).build(8)
    with pytest.raises(LearngeneError, match="the weights do not fit vit_tiny_patch16_224: "):
        begin(build(depth=2), "from-ancestor", ancestor=mixer)
    other = Architecture("visformer_tiny", {"num_classes": 3}).build(4)
    with pytest.raises(
        LearngeneError, match="same family; visformer_tiny keeps its layers in 'stage3', vit_"
    ):
        begin(build(depth=2), "from-ancestor", ancestor=other)
    with pytest.raises(LearngeneError, match="the start 'from-ancestor' needs the option 'ancestor'"):
        begin(build(), "from-ancestor")


def test_from_ancestor_in_finetuning_and_distilling(folder, ancestor, tmp_path):
    """In fine-tuning the ancestor is named; in a distillation it is that of the run, unless named."""
    trained = open_model(ancestor)
    randomize(trained)
    other = save_timm_directory(trained, tmp_path / "other", class_names=CLASSES)
    idle = {**FAST, "lr": 1e-12, "min_lr": 0.0, "weight_decay": 0.0}
    args = {k: v for k, v in TINY_ARGS.items() if k != "num_classes"}
    chosen = {"start": "from-ancestor", "start_args": {"ancestor": str(other), "stage_plan": "2,2"}}
    tiny = {"depth": 4, "arch_args": args, **idle}
    finetune("vit_tiny_patch16_224", str(folder), out=tmp_path / "a", **chosen, **tiny)
    model = open_model(tmp_path / "a" / "model")
    for layer, source in enumerate((0, 0, 3, 3)):
        found, wanted = (m.blocks[n].mlp.fc1.weight for m, n in ((model, layer), (trained, source)))
        assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(model.head.weight, trained.head.weight, atol=1e-5)  # the classes are the same
    assert data_config_of(model)["mean"] == [0.3]
    with pytest.raises(LearngeneError, match="the start 'from-ancestor' needs the option 'ancestor'"):
        finetune("vit_tiny_patch16_224", str(folder), out=tmp_path / "b", start="from-ancestor", **tiny)
    weight = "blocks.1.mlp.fc1.weight"
    for place, options, source in (
        ("c", {}, open_model(ancestor)),
        ("d", {"start_args": {"ancestor": str(other)}}, trained),
    ):
        gene = distill(
            ancestor, str(folder), out=tmp_path / place, plan="2,2", start="from-ancestor", **options, **idle
        )
        assert torch.allclose(gene.state[weight], source.blocks[3].mlp.fc1.weight, atol=1e-5)


def test_auto_takes_what_fits_and_says_what(caplog):
    caplog.set_level("INFO", logger="learngene")
    ancestor = randomize(build(depth=8))
    same = begin(build(depth=4), "auto", ancestor=ancestor, stage_plan="2,2")
    assert torch.equal(same.blocks[3].mlp.fc1.weight, ancestor.blocks[7].mlp.fc1.weight)
    assert "(start from-ancestor)" in caplog.text
    wide = randomize(build(depth=8, embed_dim=32, num_heads=4))
    narrow = begin(build(depth=4), "auto", ancestor=wide, stage_plan="2,2")
    assert torch.equal(narrow.blocks[3].mlp.fc1.weight, wide.blocks[7].mlp.fc1.weight[::2, ::2])
    assert torch.equal(narrow.blocks[1].mlp.fc1.weight, wide.blocks[0].mlp.fc1.weight[::2, ::2])
    assert "(start weight-selection)" in caplog.text


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"embed_dim": 8, "num_heads": 2}, "is smaller"),
        ({"num_heads": 4}, "its layers have [2] heads, the ancestor's [4]"),
        ({"embed_dim": 32, "img_size": 56}, "its images are of (28, 28) pixels, the ancestor's of (56, 56)"),
        ({"embed_dim": 32, "patch_size": 14}, "'pos_embed' is"),
        ({"class_token": True, "global_pool": "token"}, "only one of the two has"),
    ],
)
def test_auto_begins_at_random_where_nothing_fits(other, reason, caplog):
    caplog.set_level("INFO", logger="learngene")
    model = build(depth=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    begin(model, "auto", ancestor=build(depth=4, **other))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert "the weights begin at random (start random)" in caplog.text
    assert reason in caplog.text


def test_auto_of_another_family_or_no_vit_begins_at_random(caplog):
    caplog.set_level("INFO", logger="learngene")
    for other in (Architecture("visformer_tiny", {"num_classes": 3}).build(4), torch.nn.Linear(3, 3)):
        begin(build(depth=2), "auto", ancestor=other)
    assert caplog.text.count("(start random)") == 2


def test_pretrained_brings_the_head_only_for_the_same_classes(ancestor):
    trained = open_model(ancestor)
    torch.nn.init.normal_(trained.head.weight)
    trained.pretrained_cfg = trained.pretrained_cfg | {"label_names": CLASSES}
    fresh = build(depth=4).head.weight
    model = begin(build(depth=4), "pretrained", source=trained, class_names=CLASSES)
    assert torch.equal(model.head.weight, trained.head.weight)
    assert data_config_of(model)["mean"] == data_config_of(trained)["mean"] == [0.3]
    other = begin(build(depth=4), "pretrained", source=trained, class_names=("a", "b", "c"))
    assert torch.equal(other.head.weight, fresh)
    assert torch.equal(other.blocks[3].mlp.fc1.weight, trained.blocks[3].mlp.fc1.weight)
    assert begin(build(depth=4, num_classes=7), "pretrained", source=trained).head.out_features == 7
    with pytest.raises(LearngeneError, match="needs 3 layers"):
        begin(build(depth=3), "pretrained", source=str(ancestor))


# learngene --------------------------------------------------------------------------------------------------


def test_learngene_start_is_spawning(gene, tmp_path):
    file = gene.save(tmp_path / "gene.safetensors")
    images = torch.randn(2, 1, 28, 28)
    ours = begin(build(depth=7), "learngene", gene=str(file), class_names=CLASSES).eval()
    assert torch.equal(ours(images), gene.spawn(7).eval()(images))
    planned = begin(build(depth=4), "learngene", gene=gene, plan="2,1,1").eval()
    assert torch.equal(planned(images), gene.spawn(plan="2,1,1").eval()(images))
    with pytest.raises(LearngeneError, match="depth 2 is less than the 3 stages"):
        begin(build(depth=2), "learngene", gene=gene)
    with pytest.raises(LearngeneError, match="weights do not fit"):
        begin(build(depth=3, embed_dim=32), "learngene", gene=gene)


def test_other_orders_keep_the_repeats():
    stages = StagePlan((3, 2, 2)).stage_of_layer
    assert arrange(stages, "stages") == list(stages)
    found = set()
    for seed in range(20):
        torch.manual_seed(seed)
        shuffled, anywhere = arrange(stages, "shuffled"), arrange(stages, "random")
        assert sorted(shuffled) == sorted(anywhere) == sorted(stages)
        assert len([i for i in range(1, 7) if shuffled[i] != shuffled[i - 1]]) == 2
        found.add(tuple(shuffled))
    assert len(found) > 2
    with pytest.raises(LearngeneError, match="use stages, shuffled or random"):
        arrange(stages, "backwards")


def test_norms_of_their_own_are_averaged_over_the_stage(architecture):
    from learngene.sharing import tie

    plan = StagePlan((2, 1))
    auxnet = tie(architecture.build(3), plan, share_norms=False)
    assert auxnet.blocks[0].attn is auxnet.blocks[1].attn
    assert auxnet.blocks[0].norm1 is not auxnet.blocks[1].norm1
    torch.nn.init.constant_(auxnet.blocks[1].norm1.weight, 3.0)
    state = Learngene.extract(auxnet, plan).state
    assert state["blocks.0.norm1.weight"].unique().tolist() == [2.0]
    assert torch.equal(state["blocks.1.norm1.weight"], auxnet.blocks[2].norm1.weight)


# all of them ------------------------------------------------------------------------------------------------


def test_unknown_starts_and_options_are_refused():
    for start, options, message in (
        ("magic", [], "there is no start 'magic'; the starts are random"),
        ("mimetic", ["a3"], "has no option 'a3'; it has a1, a2, b1, b2, position"),
        ("random", ["std"], "has no option 'std'; it has none"),
        ("weight-selection", [], "needs the option 'ancestor'"),
        ("xavier+learngene", ["gain"], "'learngene' needs the option 'gene'"),
    ):
        with pytest.raises(LearngeneError, match=message):
            parse(start, options)
    for start, options, message in (
        ("ds-init", {"alpha": 2}, "takes a value from 0 to 1"),
        ("ds-init-code", {"alpha": -1}, "takes a value from 0 to 1"),
        ("trunc-normal", {"std": -1}, "std -1: it must be above 0"),
        ("xavier", {"gain": "x"}, "the start 'xavier' cannot be applied with {'gain': 'x'}"),
    ):
        with pytest.raises(LearngeneError, match=message):
            begin(build(), start, **options)


def test_a_start_that_does_not_fit_says_why():
    with pytest.raises(LearngeneError, match="one qkv matrix and proj, and mixer_s16_224 has none"):
        begin(Architecture("mixer_s16_224", {"img_size": 32}).build(8), "mimetic")
    with pytest.raises(LearngeneError, match="qk_norm"):
        begin(build(qk_norm=True), "mimetic")
    with pytest.raises(LearngeneError, match="no learned position embedding"):
        begin(build(pos_embed="none"), "sinusoidal-position")
    with pytest.raises(LearngeneError, match="no multiple of 4"):
        begin(build(embed_dim=6, num_heads=1), "sinusoidal-position")


def test_starts_compose_from_left_to_right():
    torch.manual_seed(1)
    composed = begin(build(), "trunc-normal+mimetic", std=0.5, b2=1.0, a2=0.0)
    assert composed.blocks[0].mlp.fc1.weight.std() > 0.3
    assert torch.allclose(products(composed.blocks[0])[1], -torch.eye(16), atol=1e-5)


def test_commands_really_begin_with_the_start_they_are_given(folder, ancestor, tmp_path):
    """Trained at a learning rate of almost nothing, the written weights still show the closed form."""
    idle = {**FAST, "lr": 1e-9, "min_lr": 0.0}
    args = {k: v for k, v in TINY_ARGS.items() if k != "num_classes"} | {"embed_dim": 64, "num_heads": 1}
    tiny = {"depth": 2, "arch_args": args, **idle}
    chosen = {"start": "xavier+mimetic", "start_args": {"b2": 0.3}}
    finetune("vit_tiny_patch16_224", str(folder), out=tmp_path / "a", **chosen, **tiny)
    for block in open_model(tmp_path / "a" / "model").blocks:
        assert products(block)[1].diagonal().mean().item() == pytest.approx(-0.3, abs=0.05)
        assert block.mlp.fc1.weight.std().item() == pytest.approx((2 / (64 + 256)) ** 0.5, rel=0.05)
    gene = distill(
        ancestor,
        str(folder),
        out=tmp_path / "b",
        arch="vit_tiny_patch16_224",
        arch_args=args,
        plan="1,1",
        start="mimetic",
        **idle,
    )
    value = gene.state["blocks.1.attn.qkv.weight"].chunk(3)[2].T @ gene.state["blocks.1.attn.proj.weight"].T
    assert value.diagonal().mean().item() == pytest.approx(-0.4, abs=0.05)
    select = {"start": "weight-selection", "start_args": {"ancestor": str(ancestor)}}
    small = {**tiny, "arch_args": {**args, "embed_dim": 8}}
    finetune("vit_tiny_patch16_224", str(folder), out=tmp_path / "c", **select, **small)
    large, small = (
        open_model(path).blocks[0].mlp.fc1.weight for path in (ancestor, tmp_path / "c" / "model")
    )
    rows, columns = selected_indices(64, 32), selected_indices(16, 8)
    assert torch.allclose(small, large[rows][:, columns], atol=1e-5)


def test_every_start_is_documented_and_has_a_fingerprint(ancestor, gene, tmp_path):
    """A start that writes other weights than it used to shows here. WRITE_FINGERPRINTS=1 writes them anew."""
    assert all(inspect.getdoc(start) for start in STARTS.values())
    if os.environ.get("WRITE_FINGERPRINTS"):
        FINGERPRINTS.write_text(json.dumps(fingerprints(ancestor, gene), indent=1) + "\n")
    stored = json.loads(FINGERPRINTS.read_text())
    drawn = {"trunc-normal": 0.1}  # torch 2.14 draws it in another way than 2.11
    assert fingerprints(ancestor, gene) == {
        name: pytest.approx(values, rel=drawn.get(name, 1e-4)) for name, values in stored.items()
    }


FINGERPRINTS = Path(__file__).parent / "fingerprints.json"


def fingerprints(ancestor, gene):
    """Sum of absolute values of three tensors after each start, with fixed seeds."""
    options = {
        "weight-selection": {"ancestor": ancestor},
        "depth-selection": {"ancestor": ancestor},
        "from-ancestor": {"ancestor": ancestor, "stage_plan": "2,2"},
        "auto": {"ancestor": ancestor, "stage_plan": "2,2"},
        "pretrained": {"source": ancestor},
        "learngene": {"gene": gene, "order": "random"},
    }
    found = {}
    for name in STARTS:
        args = {"pre_norm": True} if name == "small-embedding" else {}
        model = build(depth=4, **args)
        torch.manual_seed(7)
        begin(model, name, **options.get(name, {}))
        names = (
            "patch_embed.proj.weight",
            "blocks.1.attn.qkv.weight",
            "blocks.3.mlp.fc2.weight",
            "pos_embed",
        )
        found[name] = [round(model.get_parameter(key).abs().sum().item(), 5) for key in names]
    return found
