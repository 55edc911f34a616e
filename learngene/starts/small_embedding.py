"""LayerNorm(SmallInit(embedding)): tiny embeddings and a LayerNorm behind them (Peng Bo, 'SmallInitEmb')."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from learngene.errors import LearngeneError
from learngene.families.anatomy import get_blocks
from learngene.families.records import architecture_name
from learngene.starts.parts import embeddings


@torch.no_grad()
def small_embedding(model: nn.Module, *, scale: float = 1e-4) -> nn.Module:
    """U(-scale, scale) for the patch embedding (or the embedding table); position embedding and tokens 0.

    An embedding moves slowly when one step changes it by a small share of itself. Tiny ones turn at the first step, and
    the LayerNorm behind them makes that turn felt. The author's claim goes on: a post-norm model can then be trained
    without warm-up (see `post_norm`).

    Args:
        scale: limit of the uniform distribution.

    Raises:
        LearngeneError: there is no LayerNorm between the embedding and the first layer, or a scale that is not above 0.
    """
    if not scale > 0:
        raise LearngeneError(f"scale {scale}: it must be above 0")
    if isinstance(getattr(model, "norm_pre", nn.Identity()), nn.Identity) and not is_post_norm(model):
        raise LearngeneError(
            f"the start 'small-embedding' needs a LayerNorm behind the embedding, and {architecture_name(model)} has none; "
            "build it with the architecture argument pre_norm: true"
        )
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    for embedding in embeddings(model):
        embedding.zero_()
    if tables:
        nn.init.uniform_(tables[0].weight, -scale, scale)
        return model
    for part in model.patch_embed.modules():  # type: ignore[union-attr]
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.init.uniform_(part.weight, -scale, scale)
            if part.bias is not None:
                part.bias.zero_()
    return model


class PostNormBlock(Block):
    """timm's layer with its norms in the stream: x = norm1(x); x = x + attn(x); x = norm2(x); x = x + mlp(x)."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        x = self.norm1(x)
        x = x + self.drop_path1(self.ls1(self.attn(x, attn_mask=attn_mask, is_causal=is_causal)))
        x = self.norm2(x)
        return x + self.drop_path2(self.ls2(self.mlp(x)))


def post_norm(model: nn.Module) -> nn.Module:
    """Turn a pre-norm ViT into a post-norm one, with the same parameters; it is then another function.

    A timm directory cannot record that, so such a model can be compared in a benchmark but not stored.

    Raises:
        LearngeneError: its layers are not timm's plain ones.
    """
    for layer in get_blocks(model):
        if type(layer) is not Block:
            raise LearngeneError(
                f"the start 'post-norm' turns timm's plain layers, and {architecture_name(model)} has {type(layer).__name__}; use another"
            )
        layer.__class__ = PostNormBlock
    return model


def is_post_norm(model: nn.Module) -> bool:
    """Whether `post_norm` was applied."""
    return any(isinstance(module, PostNormBlock) for module in model.modules())
