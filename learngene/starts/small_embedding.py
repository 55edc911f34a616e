"""LayerNorm(SmallInit(embedding)): tiny embeddings and a LayerNorm behind them (Peng Bo, 'SmallInitEmb')."""

from __future__ import annotations

import torch
from torch import nn

from learngene.errors import LearngeneError
from learngene.families.records import architecture_name
from learngene.families.variants import is_post_norm
from learngene.starts.parts import embeddings


@torch.no_grad()
def small_embedding(model: nn.Module, *, scale: float = 1e-4) -> nn.Module:
    """U(-scale, scale) for the patch embedding (or the embedding table); position embedding and tokens 0.

    An embedding moves slowly when one step changes it by a small share of itself. Tiny ones turn at the first
    step, and the LayerNorm behind them makes that turn felt. The author's claim goes on: a post-norm model
    can then be trained without warm-up (see `learngene.families.variants.post_norm`).

    Args:
        scale: limit of the uniform distribution.

    Raises:
        LearngeneError: there is no LayerNorm between the embedding and the first layer, or a scale that is
            not above 0.
    """
    if not scale > 0:
        raise LearngeneError(f"scale {scale}: it must be above 0")
    if isinstance(getattr(model, "norm_pre", nn.Identity()), nn.Identity) and not is_post_norm(model):
        raise LearngeneError(
            "the start 'small-embedding' needs a LayerNorm behind the embedding, and "
            f"{architecture_name(model)} has none; build it with the architecture argument pre_norm: true"
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
