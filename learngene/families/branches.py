"""Which tensors end the branches of a layer: times a factor, they scale what it adds to the residual stream.

A layer is x + f(x), then x + g(x), ...; where a branch ends in a gain (LayerScale, gamma, a norm after the
branch) that is its end, else it is its last linear map, bias and all.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

Branches = tuple[tuple[str, ...], ...]  # names of tensors within a layer, by branch

# By timm's class of layer: modules, or parameters of the layer itself, that may end a branch. Of those of a
# branch the first counts that is there; several in one text end it together.
_MLP = ("mlp.fc2", "mlp.w2", "mlp.down_proj", "mlp.conv3")
_PRE_NORM = (("gamma_1", "ls1", "attn.proj"), ("gamma_2", "ls2", *_MLP))
_POST_NORM = (("norm1",), ("norm2",))
_ENDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "timm.models.beit.Block": _PRE_NORM,
    "timm.models.cait.LayerScaleBlock": _PRE_NORM,
    "timm.models.deepseek_vit.DeepseekVitBlock": _PRE_NORM,
    "timm.models.eva.EvaBlock": _PRE_NORM,
    "timm.models.eva.EvaBlockPostNorm": _POST_NORM,
    "timm.models.gemma4_vit.Gemma4Block": (("norm2",), ("norm4",)),
    "timm.models.mlp_mixer.MixerBlock": (("mlp_tokens.fc2",), ("mlp_channels.fc2",)),
    "timm.models.mlp_mixer.ResBlock": (("ls1",), ("ls2",)),
    "timm.models.mlp_mixer.SpatialGatingBlock": (("mlp_channels.fc2",),),
    "timm.models.vision_transformer.Block": _PRE_NORM,
    "timm.models.vision_transformer.ParallelScalingBlock": (
        ("ls", "out_proj", "attn_out_proj mlp_out_proj"),
    ),
    "timm.models.vision_transformer.ResPostBlock": _POST_NORM,
    "timm.models.vision_transformer_relpos.RelPosBlock": _PRE_NORM,
    "timm.models.vision_transformer_relpos.ResPostRelPosBlock": _POST_NORM,
    "timm.models.visformer.Block": _PRE_NORM,
    "timm.models.xcit.XCABlock": (("gamma1",), ("gamma3",), ("gamma2",)),
}


def branches_of(layer: nn.Module) -> Branches:
    """For each branch of a layer, the names of the tensors that end it.

    None at all where what a layer adds cannot be scaled: it is no sum of its input and branches (ConvMixer,
    CrossViT, TNT, norms in the stream), or its class is not known here.
    """
    kind = f"{type(layer).__module__}.{type(layer).__qualname__}"
    tensors = [name for name, _ in layer.named_parameters()]
    found = []
    for candidates in _ENDS.get(kind, ()):
        ends = (_within(candidate.split(), tensors) for candidate in candidates)
        found.append(next(filter(None, ends), ()))
    return tuple(found) if all(found) else ()


def ends_of(layer: nn.Module) -> frozenset[str]:
    """All of `branches_of` together."""
    return frozenset(name for branch in branches_of(layer) for name in branch)


def _within(places: Sequence[str], tensors: Sequence[str]) -> tuple[str, ...]:
    """The tensors of some modules, and parameters of those names."""
    return tuple(n for n in tensors if any(n == place or n.startswith(f"{place}.") for place in places))
