"""What a layer adds to the residual stream scales with the tensors that end its branches."""

import functools
import warnings

import pytest
import torch

from learngene.families.anatomy import get_blocks
from learngene.families.architecture import Architecture
from learngene.families.branches import branches_of, ends_of
from learngene.families.records import data_config_of

# the smallest of each class of layer and each way in which its branches end
SCALE = (
    "test_vit", "test_vit2", "test_vit_relpos", "xcit_nano_12_p8_224", "vit_tiny_patch16_dinov3_qkvb",
    "eva02_tiny_patch14_224", "gmlp_ti16_224", "visformer_tiny", "cait_xxs24_224", "gmixer_12_224",
    "vit_pwee_patch16_reg1_gap_256", "resmlp_12_224", "vit_relpos_small_patch16_rpn_224", "vitamin_small_224",
    "vit_base_patch16_xp_224", "beit_base_patch16_224", "vit_base_patch16_rpn_224",
    "vit_base_patch16_sapiens2", "gemma4_vit_167m", "aimv2_large_patch14_224", "deepseek_vit_412m",
)  # fmt: skip
LARGE = (
    "eva02_enormous_patch14_clip_224"  # ends as vit_base_patch16_rpn_224; 4 billion parameters are not run
)
SMALLER = {name: {"img_size": 64} for name in ("vit_base_patch16_sapiens2", "gemma4_vit_167m")}
# no sum of their input and branches, or several streams at once
NOT_SCALABLE = (
    "coat_",
    "convmixer_",
    "crossvit_",
    "hrnet_",
    "tnt_",
    "vit_base_patch16_18x2",
    "vit_small_patch16_18x2",
)


class Caught(Exception):
    pass


def inputs_of(model, layer):
    """What the layer is given when the model sees an image."""
    kept = []

    def keep(_, args, kwargs):
        kept.append((args, kwargs))
        raise Caught

    handle = layer.register_forward_pre_hook(keep, with_kwargs=True)
    with pytest.raises(Caught):
        model(torch.randn(1, *data_config_of(model)["input_size"]))
    handle.remove()
    return kept[0]


def added(layer, inputs):
    (x, *others), kwargs = inputs
    return (layer(x, *others, **kwargs) - x).double()


@torch.no_grad()
def check_scales(name):
    """Without its branches a layer is the identity; with one of them, what it adds scales to 1e-5."""
    model = Architecture(name, SMALLER.get(name, {})).build(1).eval()
    layer = get_blocks(model)[0]
    for tensor in layer.parameters():  # away from zeros and gains of 1e-6
        torch.nn.init.normal_(tensor, std=0.3)
    inputs = inputs_of(model, layer)
    branches, tensors = branches_of(layer), dict(layer.named_parameters())
    learned = {end: tensors[end].clone() for branch in branches for end in branch}
    assert learned.keys() == ends_of(layer)
    for end in learned:
        tensors[end].zero_()
    assert not added(layer, inputs).any(), f"{name}: something is added beside its branches"
    for branch in branches:
        outputs = []
        for factor in (1.0, 0.25):
            for end in branch:
                tensors[end].copy_(factor * learned[end])
            outputs.append(added(layer, inputs))
            for end in branch:
                tensors[end].zero_()
        whole, quarter = outputs
        assert whole.any(), f"{name}: {branch} adds nothing"
        error = (whole / 4 - quarter).norm() / quarter.norm()
        assert error < 1e-5, f"{name}: {branch} scales but for {error:.1e}"


@functools.cache
def tried():
    """Classes of layers, and the ends of their branches, that `check_scales` is run on."""
    with torch.device("meta"):
        layers = [get_blocks(Architecture(name).build(2))[0] for name in (*SCALE, LARGE)]
    return {(type(layer), branches_of(layer)) for layer in layers}


def check_ends(name, layer):
    """A layer's branches end as those of a net that is tried, or its architecture is listed; for
    test_registry.py, which builds them all.
    """
    branches = branches_of(layer)
    assert bool(branches) != name.startswith(NOT_SCALABLE), name
    assert not branches or (type(layer), branches) in tried(), f"add {name} to SCALE in test_branches.py"


@pytest.mark.parametrize("name", SCALE)
def test_what_a_layer_adds_scales(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_scales(name)


def test_norms_in_the_stream_are_not_scalable():
    model = Architecture("vit_tiny_patch16_224", {"post_norm": True}).build(2)
    assert branches_of(get_blocks(model)[0]) == ()
