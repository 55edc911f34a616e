"""Architectures that timm does not build by itself: arguments of ours, applied when timm's model is built.

A timm directory cannot record them, so such models can be compared, and neither stored nor made into a
learngene.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.models.vision_transformer import Block
from torch import Tensor, nn

from learngene.errors import LearngeneError
from learngene.families.anatomy import get_blocks
from learngene.families.records import architecture_name

POST_NORM = "post_norm"
VARIANTS = (POST_NORM,)


class PostNormBlock(Block):
    """timm's layer, norms in the stream: x = norm1(x); x = x + attn(x); x = norm2(x); x = x + mlp(x)."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        x = self.norm1(x)
        x = x + self.drop_path1(self.ls1(self.attn(x, attn_mask=attn_mask, is_causal=is_causal)))
        x = self.norm2(x)
        return x + self.drop_path2(self.ls2(self.mlp(x)))


def check_no_variant(changes: Mapping[str, Any], whose: str) -> None:
    """Raise for an argument of ours among changes of a trained model: another function of its weights."""
    ours = next((variant for variant in VARIANTS if variant in changes), None)
    if ours is not None:
        raise LearngeneError(f"{ours}: the weights of {whose} were trained without it; drop {ours}")


def apply_variants(model: nn.Module, args: Mapping[str, Any]) -> nn.Module:
    """A model as timm built it, turned into what the arguments that are ours ask for; changes ``model``."""
    return post_norm(model) if args.get(POST_NORM) else model


def post_norm(model: nn.Module) -> nn.Module:
    """Turn a pre-norm ViT into a post-norm one, with the same parameters; it is then another function.

    Raises:
        LearngeneError: its layers are not timm's plain ones.
    """
    for layer in get_blocks(model):
        if type(layer) is not Block:
            raise LearngeneError(
                f"post_norm turns timm's plain layers, and {architecture_name(model)} has "
                f"{type(layer).__name__}; drop it"
            )
        layer.__class__ = PostNormBlock
    return model


def is_post_norm(model: nn.Module) -> bool:
    """Whether `post_norm` was applied."""
    return any(isinstance(module, PostNormBlock) for module in model.modules())


def variants_of(model: nn.Module) -> dict[str, Any]:
    """The arguments of ours that a model was built with."""
    return {POST_NORM: True} if is_post_norm(model) else {}
