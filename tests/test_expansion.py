"""How a learngene becomes another depth: plans, step sizes, what is chosen and what is written down."""

import json

import pytest
import torch
from conftest import FAST, randomize

from learngene import Learngene, LearngeneError, calibrate, distill, evaluate, finetune, info, spawn
from learngene.bench.prepare import outside
from learngene.calibration import affordable, depths_of, flops_of_a_view, ways_of
from learngene.calibration import calibrate as choose
from learngene.cli import main
from learngene.costs import Sizes
from learngene.elastic import Elastic
from learngene.expansion import Expansion, candidates, near_balanced, parse_exponents, usual_expansion
from learngene.families.anatomy import get_blocks
from learngene.families.architecture import Architecture
from learngene.families.timm import open_model
from learngene.gene_file import read, write
from learngene.mix import pick
from learngene.objectives import soft_kl
from learngene.plan import StagePlan
from learngene.sharing import build_auxnet
from learngene.starts import begin

TRAINED = StagePlan((2, 1, 2))
IMAGES = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def output(model):
    with torch.no_grad():
        return model.eval()(IMAGES)


def test_steps_are_trained_over_spawned_repeats():
    way = Expansion(StagePlan((1, 2, 4)), (1, 1, 0.5))
    assert way.steps(TRAINED) == (2, 0.5, 0.5, *(4 * [0.5**0.5]))
    assert Expansion(TRAINED, (1, 0.5, 2)).steps(TRAINED) == (1,) * 5
    assert Expansion(StagePlan((0, 2, 1)), (0, 0, 0)).steps(TRAINED) == (1,) * 3
    assert (str(way), Expansion(TRAINED, (1, 1, 1)).words) == ("1,2,4, step 1,1,0.5", "1")


@pytest.mark.parametrize("step", ["x", "1,2", "-1", 3, float("nan"), (1, 1), None])
def test_steps_that_are_none(step):
    with pytest.raises(LearngeneError, match="step"):
        parse_exponents(step, 3)


def test_the_rule_makes_no_double_step_in_the_first_stage():
    assert usual_expansion(TRAINED, StagePlan((1, 1, 1))).exponents == (0.5, 0.5, 0.5)
    assert usual_expansion(TRAINED, StagePlan((2, 1, 1))).exponents == (1, 1, 1)


def test_near_balanced_plans():
    for depth in range(3, 12):
        plans = near_balanced(depth, TRAINED)
        assert len(set(plans)) == len(plans)
        assert plans[0] == StagePlan.balanced(depth, 3)
        assert {plan.depth for plan in plans} == {depth}
        assert min(min(plan.repeats) for plan in plans) >= 1
    ways = candidates(7, TRAINED)
    assert len({(way.plan, way.steps(TRAINED)) for way in ways}) == len(ways)


def test_a_step_scales_what_layers_add(gene):
    plain, scaled = gene.spawn(plan="1,1,1", step=0), gene.spawn(plan="1,1,1", step="1,0,0")
    x = torch.randn(2, 16, 16)
    first, second = (get_blocks(model)[0].eval() for model in (plain, scaled))
    with torch.no_grad():
        attended = [layer.attn(layer.norm1(x)) for layer in (first, second)]
        assert torch.allclose(2 * attended[0], attended[1])
        assert torch.allclose(2 * first.mlp(x), second.mlp(x))
    for other in (1, 2):
        assert all(
            torch.equal(a, b)
            for a, b in zip(
                get_blocks(plain)[other].parameters(), get_blocks(scaled)[other].parameters(), strict=True
            )
        )


def test_the_own_plan_is_the_same_function_and_step_0_plain_repetition(gene):
    for step in (None, 0, 0.5, 1):
        assert torch.equal(output(gene.spawn(plan=gene.plan, step=step)), output(gene.auxnet()))
    plan = StagePlan((3, 2, 1))
    layers = pick(gene.state, plan.stage_of_layer, "blocks")
    repeated = gene.architecture.build(6)
    repeated.load_state_dict(layers)
    assert torch.equal(output(gene.spawn(plan=plan, step=0)), output(repeated))
    assert not torch.allclose(output(gene.spawn(plan=plan)), output(repeated))


def test_what_was_chosen_is_used_everywhere(gene, tmp_path, folder):
    chosen = {4: Expansion(StagePlan((1, 1, 2)), (0.5, 1, 1), 0.25)}
    file = Learngene(**{**vars_of(gene), "expansions": chosen}).save(tmp_path / "gene.safetensors")
    loaded = Learngene.load(file)
    assert loaded.expansions == chosen
    expected = gene.spawn(plan="1,1,2", step="0.5,1,1").state_dict()
    (directory,) = spawn(file, out=tmp_path / "spawned", depth=4)
    begun = begin(gene.architecture.build(4), "learngene", gene=file, class_names=gene.class_names)
    for model in (loaded.spawn(4), open_model(directory), begun):
        assert [k for k, t in model.state_dict().items() if not torch.equal(t, expected[k])] == []
    (row,) = info(file, depth=4)["depths"]
    assert (row["plan"], row["step"], row["kl"]) == ("1,1,2", "0.5,1,1", 0.25)
    (row,) = evaluate(file, str(folder), depth=4)["rows"]
    assert (row["plan"], row["step"]) == ("1,1,2", "0.5,1,1")
    plain = gene.spawn(plan="2,1,1", step=0).state_dict()  # one that is named goes before
    (directory,) = spawn(file, out=tmp_path / "plain", depth=4, step=0)
    assert all(torch.equal(t, plain[k]) for k, t in open_model(directory).state_dict().items())


def test_finetune_begins_from_the_chosen_way(gene, tmp_path, folder):
    file = gene.save(tmp_path / "gene.safetensors")
    still = {"epochs": 1, "lr": 1e-12, "min_lr": 0.0, "weight_decay": 0.0, "workers": 0}
    finetune(file, str(folder), out=tmp_path / "run", depth=4, step="1,0,0", **still)
    tuned, expected = open_model(tmp_path / "run" / "model"), gene.spawn(plan="2,1,1", step="1,0,0")
    assert torch.allclose(output(tuned), output(expected), atol=1e-4)
    with pytest.raises(LearngeneError, match="step 1 is for a learngene file"):
        finetune("vit_tiny_patch16_224", str(folder), out=tmp_path / "other", step=1)


def vars_of(gene):
    return {name: value for name, value in vars(gene).items() if name != "ends"}


def test_calibration_finds_the_least_divergence(gene, monkeypatch):
    monkeypatch.setattr("learngene.calibration.PART", 1)
    found = choose(gene, IMAGES, [4, 5, 7])
    assert found.expansions[5] == Expansion(gene.plan, (1, 1, 1), 0.0)
    reference = output(gene.auxnet())
    for depth in (4, 7):
        every = {
            way: float(soft_kl(output(gene.spawn(plan=way.plan, step=way.exponents)), reference))
            for way in ways_of(gene, depth)
        }
        best = min(every, key=every.get)
        way = found.expansions[depth]
        assert (way.plan, way.exponents) == (best.plan, best.exponents)
        assert way.kl == pytest.approx(every[best], abs=1e-5)
    assert found.state is gene.state


def test_a_calibrated_file_keeps_its_tensors(gene, tmp_path, folder, capsys):
    file = gene.save(tmp_path / "gene.safetensors")
    assert main(["calibrate", str(file), "--data", str(folder), "--depth", "3-6", "--views", "20"]) == 0
    assert "KL" in capsys.readouterr().out
    after = Learngene.load(file)
    assert all(torch.equal(after.state[k], t) for k, t in gene.state.items())
    assert sorted(after.expansions) == [3, 4, 5, 6]
    assert after.expansions == calibrate(file, str(folder), depth="3-6", views=20).expansions
    with pytest.raises(LearngeneError, match="3 stages"):
        calibrate(file, str(folder), depth=2)
    link = tmp_path / "link.safetensors"
    link.symlink_to(file)
    calibrate(link, str(folder), depth=8, views=20)
    assert link.is_symlink()
    assert 8 in Learngene.load(file).expansions


def test_a_protected_file_is_refused_before_images_are_opened(gene, tmp_path, monkeypatch):
    file = gene.save(tmp_path / "gene.safetensors")
    monkeypatch.setattr("learngene.files.os.access", lambda path, how: path != file)
    with pytest.raises(LearngeneError, match="protected against writing; name another file with --out"):
        calibrate(file, str(tmp_path / "nowhere"))


def test_calibration_costs_at_most_a_tenth(gene):
    views, plans = affordable(gene, 1e15)
    assert (views, plans) == (256, True)
    assert affordable(gene, 1e6) == (0, False)
    dear, cheap = flops_of_a_view(gene), flops_of_a_view(gene, plans=False)
    assert affordable(gene, 40.5 * dear) == (40, True)
    assert affordable(gene, 31.5 * dear) == (min(256, int(31.5 * dear / cheap)), False)  # 31 are too few
    sizes = Sizes(gene.architecture)
    once = sum(1e9 * sizes.gflops(depth) for depth in depths_of(gene.plan))
    assert cheap > once


def test_a_calibration_is_a_cost(ancestor, folder, tmp_path):
    options = {"plan": "2,1", "calibration": 20, **FAST, "batch_size": 8, "steps": 2}
    made = distill(str(ancestor), str(folder), out=tmp_path / "run", **options)
    cost, file = made.metrics["cost"], tmp_path / "run" / "learngene.safetensors"
    assert cost["calibration_flops"] == 20 * flops_of_a_view(made)  # though training stopped in an epoch
    assert outside(str(file), "gene", "x").cost["flops"] == cost["flops"] + cost["calibration_flops"]
    assert set(made.expansions) == set(depths_of(made.plan))


def test_learned_steps_are_spawned(gene):
    elastic = Learngene(**{**vars_of(gene), "elastic": Elastic(3, 9)})
    assert elastic.expansion_for(3) == Expansion(StagePlan((1, 1, 1)), (1, 1, 1))
    assert ways_of(elastic, 7) == [Expansion(StagePlan((3, 2, 2)), (1, 1, 1))]  # the way it was trained


def test_without_a_plan_the_own_depth_is_the_own_plan(gene):
    own = gene.plan
    assert gene.expansion_for(own.depth).plan == own != StagePlan.balanced(own.depth, own.stages)
    assert gene.expansion_for(own.depth, step=0).plan == StagePlan.balanced(own.depth, own.stages)


def test_layers_that_cannot_be_scaled_are_repeated(tmp_path):
    architecture = Architecture(
        "tnt_s_legacy_patch16_224", {"img_size": 32, "embed_dim": 48, "num_classes": 3}
    )
    auxnet = randomize(build_auxnet(architecture, StagePlan((1, 1))))
    gene = Learngene.extract(auxnet, "1,1")
    assert not gene.scalable
    assert gene.expansion_for(4).exponents == (0, 0)
    with pytest.raises(LearngeneError, match="cannot be scaled"):
        gene.spawn(4, step=1)
    assert not info(gene.save(tmp_path / "gene.safetensors"))["scalable"]


@pytest.mark.parametrize(
    "damage",
    [
        {"expansions": {"4": {"plan": [1, 1, 2], "step": [9, 0, 0], "kl": 0}}},
        {"expansions": {"4": {"plan": [1, 1, 1], "step": [0, 0, 0], "kl": 0}}},
        {"expansions": {"4": {"plan": [1, 3], "step": [0, 0], "kl": 0}}},
        {"expansions": {"4": {"plan": [1, 1, 2], "step": [0, 0, 0], "kl": "low"}}},
        {"expansions": {"four": {"plan": [1, 1, 2], "step": [0, 0, 0], "kl": 0}}},
        {"expansions": [4]},
        {"elastic": {"shallowest": 9, "deepest": 3}},
        {"elastic": {"shallowest": 3, "deepest": 9, "draw": "best"}},
        {"elastic": [3, 9]},
    ],
)
def test_a_header_that_lies_is_refused(gene, tmp_path, damage):
    header, state = read(gene.save(tmp_path / "gene.safetensors"))
    header.pop("format_version")
    write(tmp_path / "odd.safetensors", json.loads(json.dumps({**header, **damage})), state)
    with pytest.raises(LearngeneError, match="cannot be used"):
        Learngene.load(tmp_path / "odd.safetensors")


def test_files_of_before_are_read(gene, tmp_path):
    header, state = read(gene.save(tmp_path / "gene.safetensors"))
    for name in ("format_version", "expansions", "elastic"):
        header.pop(name)
    write(tmp_path / "old.safetensors", header, state)
    assert Learngene.load(tmp_path / "old.safetensors").expansions == {}
