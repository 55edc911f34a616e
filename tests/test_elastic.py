"""Elastic distillation: what is drawn, nets of other depths are the descendants, and all it goes with."""

import logging
from collections import Counter
from functools import partial, partialmethod

import pytest
import torch
import yaml
from conftest import FAST, TINY_ARGS, randomize
from test_resume import Stop, power_goes_out
from torch import nn
from torch._dynamo.utils import counters

from learngene import Learngene, LearngeneError, cache, distill
from learngene.cli import main
from learngene.costs import forward_flops
from learngene.elastic import Elastic
from learngene.elastic_nets import ElasticNets, parts_of
from learngene.families.anatomy import get_blocks
from learngene.families.architecture import Architecture
from learngene.families.timm import open_model
from learngene.jobs.distill import Distill
from learngene.objectives import Ancestor, Distillation
from learngene.plan import StagePlan
from learngene.recipe import Recipe
from learngene.sharing import build_auxnet
from learngene.training.speed import at_speed

PLAN = StagePlan((2, 1))
ELASTIC = {"plan": "2,1", "elastic": "2:6"}
CPU = torch.device("cpu")
SCALED = {**TINY_ARGS, "init_values": 0.1, "class_token": True, "global_pool": "token"}
BEIT = {k: v for k, v in TINY_ARGS.items() if k != "class_token"} | {"init_values": 0.1}


def nets_of(architecture, deepest=6, **overrides):
    auxnet = randomize(build_auxnet(architecture, PLAN, **overrides))
    return ElasticNets(auxnet, architecture, PLAN, Elastic(2, deepest), seed=0, **overrides)


def distilled(ancestor, folder, out, **options):
    usual = {**FAST, "batch_size": 8, "epochs": 2, "start": "random", "calibration": 0}
    return distill(str(ancestor), str(folder), out=out, **{**usual, **ELASTIC, **options})


def same(a, b):
    return all(torch.equal(a.state[key], b.state[key]) for key in a.state)


# ---- what is drawn ----


def test_depths_are_a_function_of_seed_and_step():
    uniform = Elastic(5, 15)
    plan = StagePlan((2, 2, 2, 2, 2))
    drawn = [uniform.drawn(plan, 3, step) for step in range(2200)]
    assert drawn == [uniform.drawn(plan, 3, step) for step in range(2200)]
    assert drawn != [uniform.drawn(plan, 4, step) for step in range(2200)]
    counts = Counter(drawn)
    assert set(counts) == {(depth,) for depth in range(5, 16)}
    assert min(counts.values()) > 140
    assert max(counts.values()) < 260
    # written down, so that another version of Python or of this package draws the same
    assert [depth for (depth,) in drawn[:12]] == EXPECTED


EXPECTED = [6, 5, 11, 14, 5, 9, 10, 13, 6, 9, 12, 10]


def test_ends_are_drawn_more_often_and_split_draws_two():
    plan = StagePlan((2, 2))
    ends = Counter(Elastic(2, 9, draw="ends").drawn(plan, 0, step)[0] for step in range(2000))
    assert 500 < ends[2] < 750
    assert 500 < ends[9] < 750
    assert all(4 in Elastic(2, 9, draw="split").drawn(plan, 0, step) for step in range(9))
    assert {len(Elastic(2, 9, draw="split").drawn(plan, 0, step)) for step in range(9)} == {2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"elastic": "5-15"}, "5:15, or auto, or none"),
        ({"elastic": "5:6"}, "leaves out the plan's own 3 layers, which are validated; write 3:6"),
        ({"elastic": None}, "the plan is trained alone here; drop them"),
        ({"elastic": "9:3"}, "least and the greatest depth"),
        ({"elastic": "1:9"}, "fewer than the 2 stages"),
        ({"elastic": "2:99999"}, "layers"),
        ({"share_norms": False}, "norms of their own"),
        ({"strategy": "fsdp"}, "use ddp"),
        ({"elastic_draw": "split", "batch_size": 1}, "batch_size"),
        ({"elastic_step": 3.0}, "elastic_step"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(ancestor, folder, tmp_path, options, message):
    with pytest.raises(LearngeneError, match=message):
        distilled(ancestor, folder, tmp_path / "run", **{"elastic_draw": "ends", **options})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [["--elastic", "none"], ["--config", "CONFIG"]])
def test_none_is_the_plan_alone(words, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("elastic: none\n")
    words = [str(tmp_path / "c.yaml") if word == "CONFIG" else word for word in words]
    assert main(["distill", *words, "--print-config"]) == 0
    said = yaml.safe_load(capsys.readouterr().out)["elastic"]
    assert Distill(ancestor="a", data="d", out="o", elastic=said).depths_drawn is None
    (tmp_path / "c.yaml").write_text("elastic: 5:15\n")  # 315 to YAML
    assert main(["distill", "--config", str(tmp_path / "c.yaml"), "--print-config"]) == 2
    assert "write '5:15'" in capsys.readouterr().err


def test_auto_is_the_plan_alone_where_it_must_be(ancestor, folder, tmp_path, caplog):
    job = partial(Distill, ancestor="a", data="d", out="o")
    assert job().depths_drawn == Elastic(5, 24)
    assert job(plan="1,1,1").depths_drawn is None  # nothing is shared
    assert job(strategy="fsdp").depths_drawn is None
    caplog.set_level(logging.INFO, logger="learngene")
    distill(str(ancestor), str(folder), out=tmp_path / "run", plan="2,1", share_norms=False, **FAST)
    assert "the plan is trained alone" in caplog.text


# ---- the nets ----


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("vit_tiny_patch16_224", TINY_ARGS),
        (
            "vit_tiny_patch16_224",
            {**TINY_ARGS, "init_values": 0.1, "class_token": True, "global_pool": "token"},
        ),
        ("beit_base_patch16_224", BEIT),
        ("cait_xxs24_224", {"img_size": 28, "patch_size": 14, "embed_dim": 16, "num_heads": 2}),
        ("xcit_nano_12_p8_224", {"img_size": 32, "embed_dim": 16, "num_heads": 2}),
        ("vit_tiny_patch16_dinov3_qkvb", {"img_size": 32, "embed_dim": 32, "num_heads": 2}),
        ("vit_pwee_patch16_reg1_gap_256", {"img_size": 32, "embed_dim": 32, "num_heads": 2}),
        ("vit_base_patch16_rpn_224", {"img_size": 32, "embed_dim": 32, "num_heads": 2}),
        ("gmlp_ti16_224", {"img_size": 32}),
        ("resmlp_12_224", {"img_size": 32}),
    ],
)
def test_each_net_is_the_descendant(name, args):
    architecture = Architecture(name, args)
    nets = nets_of(architecture, deepest=4)
    gene = Learngene.extract(nets.auxnet, PLAN)
    assert gene.scalable
    images = torch.randn(2, args.get("in_chans", 3), args["img_size"], args["img_size"])
    for depth, net in nets.nets.items():
        way = nets.ways[depth]
        expected = gene.spawn(plan=way.plan, step=way.exponents).eval()
        with torch.no_grad():
            found, wanted = net.eval()(images), expected(images)
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-4), depth


def test_nets_hold_the_very_weights(architecture):
    nets = nets_of(architecture, drop_path_rate=0.2)
    own = {id(p) for p in nets.auxnet.parameters()}
    for net in nets.nets.values():
        assert {id(p) for p in net.parameters()} == own
        assert net.state_dict().keys() >= {"fc_norm.weight", "pos_embed"}
    deepest = nets.nets[6].blocks
    assert deepest[-1].drop_path1[0].drop_prob == pytest.approx(0.2)


def test_every_stage_gets_a_gradient_in_every_step(architecture):
    nets = nets_of(architecture)
    for net in nets.nets.values():
        nets.auxnet.zero_grad()
        net(torch.randn(2, 1, 28, 28)).sum().backward()
        assert all(p.grad is not None for p in nets.auxnet.parameters())


def test_a_batch_is_shared_out():
    batch = {"image": torch.arange(5), "target": torch.arange(5), "epoch": 3, "teacher": torch.ones(5, 2)}
    first, second = parts_of(batch, 2)
    assert (first["image"].tolist(), second["image"].tolist()) == ([0, 1], [2, 3, 4])
    assert (len(first["teacher"]), second["target"].tolist(), first["epoch"]) == (2, [2, 3, 4], 3)


def test_gradient_checkpointing_gives_the_same_gradients(architecture):
    nets, images = nets_of(architecture), torch.randn(4, 1, 28, 28)
    every = [nets.auxnet, *nets.nets.values()]

    def gradients(recipe):
        with at_speed(every, recipe, CPU):
            found = []
            for net in nets.nets.values():
                nets.auxnet.zero_grad()
                net.train()(images).square().sum().backward()
                found.append([p.grad.clone() for p in nets.auxnet.parameters()])
        return found

    plain, small = gradients(Recipe()), gradients(Recipe(grad_checkpointing=True))
    assert all(
        torch.equal(a, b) for x, y in zip(plain, small, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_nothing_is_compiled_anew_for_another_plan(architecture, monkeypatch):
    """Graphs are counted as they are captured; what a backend makes of them takes long and is its own."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    graphs = []
    for deepest in (3, 6):
        torch.manual_seed(0)
        nets = nets_of(architecture, deepest)
        torch._dynamo.reset()
        counters.clear()
        with at_speed([nets.auxnet, *nets.nets.values()], Recipe(compile=True), CPU):
            for net in nets.nets.values():
                net.train()(torch.randn(8, 1, 28, 28)).sum().backward()
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [1, 1]


# ---- training ----


def test_the_learngene_tells_how_it_was_distilled(ancestor, folder, tmp_path):
    gene = distilled(ancestor, folder, tmp_path / "run", elastic_draw="ends")
    assert (
        gene.elastic
        == Elastic(2, 6, 1.0, "ends")
        == Learngene.load(tmp_path / "run" / "learngene.safetensors").elastic
    )
    assert gene.expansion_for(6).exponents == (1, 1)
    assert torch.equal(*(model.eval()(torch.ones(1, 1, 28, 28)) for model in (gene.spawn(3), gene.auxnet())))


def test_costs_are_of_the_depths_that_were_run(ancestor, folder, tmp_path):
    gene = distilled(ancestor, folder, tmp_path / "run")
    cost, elastic = gene.metrics["cost"], Elastic(2, 6)
    teacher = Ancestor(open_model(ancestor), gene.data_config).flops()
    size = gene.data_config["input_size"]
    each = [forward_flops(gene.spawn(elastic.drawn(PLAN, 0, step)[0]), size) for step in range(cost["steps"])]
    assert cost["flops"] == pytest.approx(cost["images"] * (teacher + 3 * sum(each) / len(each)), rel=1e-6)


@pytest.mark.parametrize("draw", ["uniform", "split"])
def test_cached_logits_train_the_same(ancestor, folder, tmp_path, draw):
    cache(
        str(ancestor), str(folder), out=tmp_path / "cache", epochs=2, batch_size=8, dtype="float32", workers=0
    )
    options = {"elastic_draw": draw, "opt": "sgd", "lr": 3.0, "clip_grad": 0.5}  # AdamW blows noise up
    plain = distilled(ancestor, folder, tmp_path / "plain", **options)
    cached = distilled(ancestor, folder, tmp_path / "cached", cache=tmp_path / "cache", **options)
    begun = distilled(ancestor, folder, tmp_path / "begun", elastic_draw=draw, lr=1e-9, min_lr=0.0, steps=1)
    moved = max(float((plain.state[k] - begun.state[k]).abs().max()) for k in plain.state)
    apart = max(float((plain.state[k] - cached.state[k]).abs().max()) for k in plain.state)
    assert apart < 1e-2 * moved


@pytest.mark.parametrize(
    "options",
    [
        {"feature": 1.0},
        {"elastic_draw": "split", "accumulate": 2, "ema": 0.9, "drop_path": 0.2, "mixup": 0.5},
    ],
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(ancestor, folder, tmp_path, monkeypatch, options):
    options = {"checkpoint_minutes": 0.0, **options}
    whole = distilled(ancestor, folder, tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        power_goes_out(patch, 1, 3)
        with pytest.raises(Stop):
            distilled(ancestor, folder, tmp_path / "run", **options)
    assert same(whole, distilled(ancestor, folder, tmp_path / "run", resume=True, **options))


def test_half_precision_trains(ancestor, folder, tmp_path):
    gene = distilled(ancestor, folder, tmp_path / "run", precision="bf16-mixed")
    assert all(torch.isfinite(t).all() for t in gene.state.values())


def test_stage_ends_keep_their_targets(ancestor, folder, tmp_path, monkeypatch):
    """The last layer of each stage, wherever it is, learns from the ancestor's layer of the full plan."""
    theirs, own = set(), {}
    features, call = Ancestor.features, Distillation.__call__

    def watch(self, images, layers):
        theirs.add(tuple(layers))
        return features(self, images, layers)

    def watch_student(self, model, batch):
        own[len(get_blocks(model))] = batch.get("layers")
        return call(self, model, batch)

    monkeypatch.setattr(Ancestor, "features", watch)
    monkeypatch.setattr(Distillation, "__call__", watch_student)
    distilled(ancestor, folder, tmp_path / "run", feature=1.0)
    assert len(theirs) == 1
    drawn = {depth: layers for depth, layers in own.items() if layers is not None}
    assert len(drawn) > 2
    for depth, layers in drawn.items():
        assert layers == Elastic(2, 6).expansion(depth, PLAN).plan.last_layers


def test_the_log_tells_what_auto_begins_with(ancestor, folder, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="learngene")
    distill(str(ancestor), str(folder), out=tmp_path / "run", plan="2,1", **FAST)
    assert "begin as the ancestor's own layers" in caplog.text
