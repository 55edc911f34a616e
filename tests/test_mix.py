"""Layers as weighted sums of stored layers: one-hot rows give the very tensors, others the sums, step sizes
scale the ends of branches and nothing else.
"""

import pytest
import torch
from conftest import TINY_ARGS, randomize

from learngene.errors import LearngeneError
from learngene.families.architecture import Architecture
from learngene.mix import mix, one_hot, pick, split_layers
from learngene.plan import StagePlan
from learngene.sharing import expand

STORED = 3
ENDS = ("attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias")
AROUND = {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "head.weight", "head.bias"}


@pytest.fixture
def state():
    model = Architecture("vit_tiny_patch16_224", TINY_ARGS).build(STORED)
    return randomize(model).state_dict()


def layer_of(state, layer):
    return {
        k.removeprefix(f"blocks.{layer}."): v for k, v in state.items() if k.startswith(f"blocks.{layer}.")
    }


def test_one_hot_rows_give_the_very_tensors(state):
    layers = [0, 0, 2, 1, 2]
    mixed = mix(state, one_hot(layers, STORED), "blocks")
    for place, layer in enumerate(layers):
        stored = layer_of(state, layer)
        assert stored
        assert layer_of(mixed, place).keys() == stored.keys()
        assert all(tensor is stored[name] for name, tensor in layer_of(mixed, place).items())
    around = {k for k in state if not k.startswith("blocks.")}
    assert around >= AROUND
    assert all(mixed[name] is state[name] for name in around)
    assert len(mixed) == len(around) + len(layers) * len(layer_of(state, 0))


def test_picking_and_expanding_are_mixing_with_one_hot_rows(state):
    layers, plan = [2, 0, 0, 1], StagePlan((2, 0, 1))
    for found, rows in (
        (pick(state, layers, "blocks"), one_hot(layers, STORED)),
        (expand(state, plan, "blocks"), [[1, 0, 0], [1, 0, 0], [0, 0, 1]]),
    ):
        mixed = mix(state, rows, "blocks")
        assert found.keys() == mixed.keys()
        assert all(tensor is mixed[name] for name, tensor in found.items())


def test_what_is_mixed_fills_a_model_of_that_depth(state):
    rows = [[1, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 1]]
    model = Architecture("vit_tiny_patch16_224", TINY_ARGS).build(4)
    model.load_state_dict(mix(state, rows, "blocks"))
    assert torch.isfinite(model(torch.randn(2, 1, 28, 28))).all()


def test_other_rows_give_weighted_sums(state):
    """Against a loop in double precision; a weight may be negative, and a single one other than 1."""
    rows = [[1.0, 0.0, 0.25], [0.3, -0.7, 0.1], [0.0, 2.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]
    mixed = mix(state, rows, "blocks")
    for place, row in enumerate(rows):
        for name, tensor in layer_of(mixed, place).items():
            expected = torch.zeros(tensor.shape, dtype=torch.float64)
            for layer, weight in enumerate(row):
                expected += weight * state[f"blocks.{layer}.{name}"].double()
            assert tensor.dtype == torch.float32
            assert torch.allclose(tensor.double(), expected, atol=1e-6)
    assert all(mixed[name] is state[name] for name in AROUND)


def test_mixing_changes_no_stored_tensor(state):
    before = {name: tensor.clone() for name, tensor in state.items()}
    mix(state, [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]], "blocks", steps=[2.0, 0.5], ends=ENDS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.items())


def test_step_sizes_scale_the_ends_of_branches_and_nothing_else(state):
    steps = [0.5, 1, 2.0, 1.0]
    for rows in (one_hot([0, 1, 1, 2], STORED), [[0.5, 0.5, 0], [0, 1, 0], [0, 0.1, 0.9], [0, 0, 2]]):
        plain = mix(state, rows, "blocks")
        stepped = mix(state, rows, "blocks", steps=steps, ends=ENDS)
        assert stepped.keys() == plain.keys()
        for place, step in enumerate(steps):
            layer = layer_of(stepped, place)
            assert set(ENDS) < layer.keys()
            for name, tensor in layer.items():
                factor = step if name in ENDS else 1
                assert torch.equal(tensor, factor * plain[f"blocks.{place}.{name}"])
        assert all(stepped[name] is state[name] for name in AROUND)
    untouched = mix(state, one_hot([0, 2], STORED), "blocks", steps=[1, 1.0], ends=ENDS)
    assert all(tensor is state[f"blocks.2.{name}"] for name, tensor in layer_of(untouched, 1).items())


def test_a_step_size_is_a_factor_on_what_a_layer_adds(state):
    """Folded into ordinary weights: the branch of a layer, times the step."""
    build = Architecture("vit_tiny_patch16_224", TINY_ARGS).build
    plain, stepped = build(1).eval(), build(1).eval()
    plain.load_state_dict(mix(state, [[0, 1, 0]], "blocks"))
    stepped.load_state_dict(mix(state, [[0, 1, 0]], "blocks", steps=[0.25], ends=ENDS))
    x = torch.randn(2, 16, 16)  # (B, N, D)
    with torch.no_grad():
        for block, other in zip(plain.blocks, stepped.blocks, strict=True):
            added, scaled = block.attn(block.norm1(x)), other.attn(other.norm1(x))
            assert torch.allclose(0.25 * added, scaled, atol=1e-5)
            added, scaled = block.mlp(block.norm2(x)), other.mlp(other.norm2(x))
            assert torch.allclose(0.25 * added, scaled, atol=1e-5)


def test_numbers_that_are_no_floats_come_from_the_greatest_weight():
    state = {f"blocks.{layer}.index": torch.tensor([layer, 7]) for layer in range(STORED)}
    state |= {f"blocks.{layer}.scale": torch.tensor([float(layer)]) for layer in range(STORED)}
    mixed = mix(state, [[0.2, 0.5, 0.3], [0.1, 0.0, -0.9], [0.0, 0.5, 0.0]], "blocks")
    for place, layer in enumerate((1, 2, 1)):
        assert mixed[f"blocks.{place}.index"] is state[f"blocks.{layer}.index"]
    scales = [mixed[f"blocks.{place}.scale"].item() for place in range(3)]
    assert scales == pytest.approx([0.5 + 2 * 0.3, -2 * 0.9, 0.5])


def test_layers_are_in_the_order_of_their_numbers_not_of_their_names():
    state = {f"blocks.{layer}.w": torch.tensor([float(layer)]) for layer in (10, 2, 0, 1, *range(3, 10))}
    around, layers = split_layers({**state, "blocks_of_others.0.w": torch.zeros(1)}, "blocks")
    assert [layer["w"].item() for layer in layers] == list(range(11))
    assert set(around) == {"blocks_of_others.0.w"}
    assert pick(state, [10], "blocks")["blocks.0.w"] is state["blocks.10.w"]


@pytest.mark.parametrize(
    ("rows", "steps", "message"),
    [
        ([[1, 0]], (), r"rows of \[2\] weights for 3 stored layers; give each a weight for each layer"),
        ([[1, 0, 0], [1, 0, 0, 0]], (), r"rows of \[3, 4\] weights for 3 stored layers; give each"),
        ([[1, 0, 0]], (1, 2), "2 step sizes for 1 layers; give one each"),
        ([[1, 0, 0], [0, 1, 0]], (2.0,), "1 step sizes for 2 layers; give one each"),
        ([[1, 0, 0], [0, 0, 0]], (), "a row without any weight makes no layer; give it one"),
    ],
)
def test_rows_and_steps_that_do_not_fit_are_refused(state, rows, steps, message):
    with pytest.raises(LearngeneError, match=message):
        mix(state, rows, "blocks", steps=steps, ends=ENDS)


@pytest.mark.parametrize("layer", [3, -1])
def test_a_layer_that_is_not_stored_is_refused(state, layer):
    with pytest.raises(LearngeneError, match=rf"layer {layer} was asked for, .* only 3 layers \(0 to 2\)"):
        pick(state, [0, layer], "blocks")


def test_layers_of_different_parts_have_no_sum(state):
    odd = {name: tensor for name, tensor in state.items() if name != "blocks.1.mlp.fc2.bias"}
    with pytest.raises(LearngeneError, match=r"layers \[0, 1\] have different parts"):
        mix(odd, [[0.5, 0.5, 0.0]], "blocks")
