"""Small embeddings and mimetic attention where they were proposed: in a decoder-only model, of characters.

    python tools/char_lm.py --out docs/results/char-lm

The text is the Python standard library's own source, so that nothing is downloaded. All settings have the
same layers, steps and batches; the table gives validation bits per character, mean and spread over seeds.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
import sys
import sysconfig
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from learngene.families.variants import post_norm
from learngene.files import write_text
from learngene.provenance import commit, hardware, versions
from learngene.starts import begin

VOCABULARY = 128  # ASCII; anything else counts as "?"


@dataclass(frozen=True)
class Setting:
    """One row of the table: a start (see learngene.starts), where the norms are, warm-up or not."""

    name: str
    start: str = "trunc-normal"
    norm_pre: bool = False  # one behind the embedding
    post_norm: bool = False  # those of the layers in the stream
    warmup: bool = True


SETTINGS = (
    Setting("pre-norm"),
    Setting("pre-norm, norm after embedding", norm_pre=True),
    Setting("pre-norm, small embedding", "trunc-normal+small-embedding", norm_pre=True),
    Setting("pre-norm, mimetic", "trunc-normal+mimetic"),
    Setting("post-norm, warm-up", post_norm=True),
    Setting("post-norm, no warm-up", post_norm=True, warmup=False),
    Setting(
        "post-norm, small embedding, no warm-up", "trunc-normal+small-embedding", post_norm=True, warmup=False
    ),
    Setting("pre-norm, no warm-up", warmup=False),
)


class CharLM(nn.Module):
    """A decoder-only transformer of timm's layers, made causal: logits (B, T, 128) from characters (B, T)."""

    def __init__(self, *, width: int, depth: int, heads: int, context: int, norm_pre: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, context, width))
        self.norm_pre = nn.LayerNorm(width) if norm_pre else nn.Identity()
        self.blocks = nn.ModuleList(Block(width, heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, text: Tensor) -> Tensor:
        x = self.norm_pre(self.embed(text) + self.pos_embed[:, : text.shape[1]])
        for block in self.blocks:
            x = block(x, is_causal=True)
        return self.head(self.norm(x))


def build(setting: Setting, **sizes: int) -> nn.Module:
    """The model of a setting, as it begins; seed torch before."""
    model = CharLM(**sizes, norm_pre=setting.norm_pre)
    return begin(post_norm(model) if setting.post_norm else model, setting.start)


class Windows(Dataset[Tensor]):
    """Stretches of context + 1 characters, drawn by (seed, index) or side by side."""

    def __init__(self, text: Tensor, context: int, count: int, seed: int | None = None) -> None:
        self.text, self.context = text, context
        last = len(text) - context - 1
        generator = torch.Generator().manual_seed(seed or 0)
        self.starts = (
            torch.randint(last, (count,), generator=generator)
            if seed is not None
            else torch.linspace(0, last, count).long()
        )

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Tensor:
        start = int(self.starts[index])
        return self.text[start : start + self.context + 1].long()


class LanguageModelling(L.LightningModule):
    """Next-character cross-entropy by AdamW; the learning rate is constant, after a linear warm-up if any."""

    def __init__(self, model: nn.Module, lr: float, warmup: int) -> None:
        super().__init__()
        self.model, self.lr, self.warmup = model, lr, warmup
        self.curve: list[list[float]] = []  # step, bits per character

    def loss(self, batch: Tensor) -> Tensor:
        return F.cross_entropy(self.model(batch[:, :-1]).flatten(0, 1).float(), batch[:, 1:].flatten())

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", self.loss(batch), batch_size=len(batch))

    def on_validation_epoch_end(self) -> None:
        self.curve.append(
            [self.trainer.global_step, float(self.trainer.callback_metrics["val"]) / math.log(2)]
        )

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.1, betas=(0.9, 0.95))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / max(1, self.warmup))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def standard_library() -> Tensor:
    """The Python standard library's top-level modules as characters (N,) uint8, in order of their names."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
    return torch.tensor(
        [code if (code := ord(c)) < VOCABULARY else ord("?") for c in text], dtype=torch.uint8
    )


def train(
    setting: Setting,
    text: Tensor,
    seed: int,
    *,
    width: int,
    depth: int,
    heads: int,
    context: int,
    batch: int,
    steps: int,
    lr: float,
) -> dict[str, Any]:
    """One run: validation bits per character at ten points and at the end."""
    cut = len(text) * 9 // 10
    torch.manual_seed(seed)
    model = build(setting, width=width, depth=depth, heads=heads, context=context)
    module = LanguageModelling(model, lr, steps // 10 if setting.warmup else 0)
    windows = Windows(text[:cut], context, steps * batch, seed)
    held = Windows(text[cut:], context, 8 * batch)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = L.Trainer(
        max_steps=steps, accelerator="auto", devices=1,
        val_check_interval=max(1, steps // 10), gradient_clip_val=1.0,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, DataLoader(windows, batch), DataLoader(held, batch))
    return {
        "setting": setting.name,
        "seed": seed,
        "bits": module.curve[-1][1],
        "curve": module.curve,
        "seconds": time.perf_counter() - started,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Bits per character at the end and half way, mean and spread over seeds.

    The difference from plain pre-norm is paired by seed.
    """
    lines = [
        "| setting | seeds | bits per character | half way | minus pre-norm |",
        "|---|---:|---:|---:|---:|",
    ]
    first = {row["seed"]: row["bits"] for row in rows if row["setting"] == rows[0]["setting"]}
    for name in dict.fromkeys(row["setting"] for row in rows):
        own = [row for row in rows if row["setting"] == name]
        bits = [row["bits"] for row in own]
        half = statistics.fmean(row["curve"][len(row["curve"]) // 2 - 1][1] for row in own)
        spread = f" ± {statistics.stdev(bits):.3f}" if len(bits) > 1 else ""
        gaps = [row["bits"] - first[row["seed"]] for row in own]
        gap = f"{statistics.fmean(gaps):+.3f}" + (f" ± {statistics.stdev(gaps):.3f}" if len(gaps) > 1 else "")
        lines.append(f"| {name} | {len(own)} | {statistics.fmean(bits):.3f}{spread} | {half:.3f} | {gap} |")
    return "\n".join(lines)


def main(
    out: Path,
    *,
    width: int = 64,
    depth: int = 6,
    heads: int = 4,
    context: int = 64,
    batch: int = 32,
    steps: int = 600,
    lr: float = 2e-3,
    seeds: Sequence[int] = (0, 1, 2),
) -> list[dict[str, Any]]:
    """Train every setting with every seed; write OUT/char-lm.md and results.jsonl.

    Runs that are in it are not run again.

    Args:
        out: directory to write.
        width: of the model.
        depth: layers.
        heads: per layer.
        context: characters seen.
        batch: windows per step.
        steps: of training.
        lr: of AdamW.
        seeds: each setting is run with each.
    """
    text = standard_library()
    sizes = {
        "width": width,
        "depth": depth,
        "heads": heads,
        "context": context,
        "batch": batch,
        "steps": steps,
        "lr": lr,
    }
    file = Path(out) / "results.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if rows and any(row["sizes"] != sizes for row in rows):
        sys.exit(f"'{file}' was made with {rows[0]['sizes']}, not {sizes}; choose another --out")
    for seed in seeds:
        for setting in SETTINGS:
            if any((row["setting"], row["seed"]) == (setting.name, seed) for row in rows):
                continue
            rows.append(train(setting, text, seed, **sizes) | {"sizes": sizes})  # type: ignore[arg-type]
            print(
                f"{setting.name}, seed {seed}: {rows[-1]['bits']:.3f} bits per character, "
                f"{rows[-1]['seconds']:.0f} s",
                flush=True,
            )
            write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
    head = [
        "# A character model: small embeddings, post-norm without warm-up, mimetic attention",
        f"- text: the standard library of Python {sys.version.split()[0]}, {len(text):,} characters, "
        "the last tenth for validation\n"
        f"- model: {depth} layers, width {width}, {heads} heads, context {context}; "
        f"{steps} steps of {batch} windows, AdamW, lr {lr}\n"
        f"- hardware: {hardware()}; {', '.join(f'{k} {v}' for k, v in versions().items())}; "
        f"commit {commit()}\n"
        f"- command: `python tools/char_lm.py --out {out}`; validation only, nothing was chosen by it",
    ]
    write_text(Path(out) / "char-lm.md", "\n\n".join([*head, table(rows)]) + "\n")
    return rows


if __name__ == "__main__":
    from jsonargparse import CLI

    CLI(main, as_positional=False)
