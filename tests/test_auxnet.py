"""The invariances of tied weights, over the families of timm."""

import copy

import pytest
import torch
from conftest import TINY_ARGS, randomize

from learngene.errors import LearngeneError
from learngene.families.anatomy import count_parameters, get_blocks
from learngene.families.architecture import Architecture
from learngene.families.records import data_config_of
from learngene.families.weights import digest_of
from learngene.gene import Learngene
from learngene.mix import pick
from learngene.plan import StagePlan
from learngene.sharing import build_auxnet, tie

PLAN = StagePlan((2, 1, 2))
SMALL = {"embed_dim": 32, "num_heads": 2, "num_classes": 3}
FAMILIES = {
    "vit": Architecture("vit_tiny_patch16_224", TINY_ARGS),
    "deit": Architecture("deit_tiny_patch16_224", {**SMALL, "img_size": 32}),
    "deit distilled": Architecture("deit_tiny_distilled_patch16_224", {**SMALL, "img_size": 32}),
    "deit3": Architecture("deit3_small_patch16_224", {**SMALL, "img_size": 32}),
    "dinov2": Architecture("vit_small_patch14_dinov2", {**SMALL, "img_size": 28}),
    "dinov3": Architecture("vit_small_patch16_dinov3", {**SMALL, "img_size": 32}),
    "eva": Architecture("eva02_tiny_patch14_224", {**SMALL, "img_size": 28}),
    "beit": Architecture("beit_base_patch16_224", {**SMALL, "img_size": 32}),
    "cait": Architecture("cait_xxs24_224", {**SMALL, "img_size": 32}),
    "xcit": Architecture("xcit_nano_12_p16_224", {**SMALL, "img_size": 32}),
    "mixer": Architecture("mixer_s32_224", {"img_size": 64, "num_classes": 3}),
    "naflexvit": Architecture(
        "naflexvit_base_patch16_gap", {"embed_dim": 32, "num_heads": 2, "num_classes": 3}
    ),
}


@pytest.fixture(params=FAMILIES)
def family(request) -> Architecture:
    return FAMILIES[request.param]


def images_for(model: torch.nn.Module) -> torch.Tensor:
    size = data_config_of(model)["input_size"]
    return torch.randn(2, *size, generator=torch.Generator().manual_seed(1))


def test_own_plan_is_the_same_function(family):
    auxnet = randomize(build_auxnet(family, PLAN)).eval()
    gene = Learngene.extract(auxnet, PLAN)
    images = images_for(auxnet)
    with torch.no_grad():
        expected = auxnet(images)
        assert torch.equal(gene.spawn(plan=PLAN).eval()(images), expected)
        assert torch.equal(gene.auxnet().eval()(images), expected)
    assert expected.std() > 0


def test_extract_undoes_spawn(family):
    gene = Learngene.extract(randomize(build_auxnet(family, PLAN)), PLAN)
    plan = StagePlan((3, 2, 1))
    again = Learngene.extract(gene.spawn(plan=plan, step=0), plan)
    assert digest_of(again.state) == digest_of(gene.state)


def test_stages_share_and_the_rest_does_not(architecture):
    auxnet = build_auxnet(architecture, PLAN, drop_path_rate=0.5)
    blocks = get_blocks(auxnet)
    assert blocks[0].attn is blocks[1].attn
    assert blocks[1].attn is not blocks[2].attn
    assert len({id(block) for block in blocks}) == PLAN.depth
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    assert rates == sorted(rates)
    assert len(set(rates)) == PLAN.depth
    assert count_parameters(auxnet) == count_parameters(architecture.build(PLAN.stages))


def shared(model: torch.nn.Module) -> bool:
    blocks = get_blocks(model)
    return (
        blocks[0].attn.qkv.weight is blocks[1].attn.qkv.weight
        and blocks[3].norm1.weight is blocks[4].norm1.weight
    )


def test_sharing_survives_deepcopy_dtype_and_loading(architecture):
    auxnet = randomize(build_auxnet(architecture, PLAN))
    assert shared(copy.deepcopy(auxnet))
    assert shared(auxnet.to(torch.bfloat16).to(torch.float32))
    other = build_auxnet(architecture, PLAN)
    other.load_state_dict(auxnet.state_dict(), assign=True)
    assert shared(other)
    assert shared(other.to_empty(device="cpu"))


def test_layer_scale_and_bare_parameters_are_shared():
    auxnet = build_auxnet(FAMILIES["cait"], PLAN)
    blocks = get_blocks(auxnet)
    assert blocks[0].gamma_1 is blocks[1].gamma_1
    assert blocks[0].gamma_1 is not blocks[2].gamma_1


def test_gradient_checkpointing_gives_the_same_gradients(architecture):
    auxnet = randomize(build_auxnet(architecture, PLAN))
    images = images_for(auxnet)
    gradients = []
    for enabled in (False, True):
        auxnet.zero_grad()
        auxnet.set_grad_checkpointing(enabled)
        auxnet(images).square().sum().backward()
        gradients.append([p.grad.clone() for p in auxnet.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_step_moves_all_stage_mates_once(architecture):
    auxnet = randomize(build_auxnet(architecture, PLAN))
    weight = get_blocks(auxnet)[1].attn.qkv.weight
    auxnet(images_for(auxnet)).sum().backward()
    before, gradient = weight.detach().clone(), weight.grad.clone()
    torch.optim.SGD(auxnet.parameters(), lr=0.1).step()
    assert torch.allclose(get_blocks(auxnet)[0].attn.qkv.weight, before - 0.1 * gradient)


def test_depth_must_agree(architecture):
    with pytest.raises(LearngeneError, match="plan 2,1,2 has 5 layers, but the model has 4"):
        tie(architecture.build(4), PLAN)


def test_relayer_composes(architecture):
    state = randomize(architecture.build(5)).state_dict()
    a, b = (4, 2, 0, 1), (1, 1, 3, 0, 2)
    twice = pick(pick(state, a, "blocks"), b, "blocks")
    once = pick(state, [a[i] for i in b], "blocks")
    assert digest_of(twice) == digest_of(once)
    with pytest.raises(LearngeneError, match=r"layer 9 was asked for, but there are only 5 layers"):
        pick(state, (9,), "blocks")
