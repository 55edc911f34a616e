"""Accuracy and loss of a model on images."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from learngene.data.module import ImageData
from learngene.devices import chosen_device
from learngene.errors import LearngeneError
from learngene.families.modes import evaluating
from learngene.training.progress import watched


def predict_batches(
    model: nn.Module, data: ImageData, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Logits (B, K) and labels (B,) of every validation batch, without gradients."""
    model.to(device)
    with evaluating(model), torch.inference_mode():
        for batch in watched(data.val_dataloader(), "evaluating"):
            yield model(batch["image"].to(device)).float(), batch["target"].to(device)


def evaluate_model(model: nn.Module, data: ImageData, *, device: str = "auto") -> dict[str, float]:
    """Top-1, top-5 (shares), loss, number of images, and images per second, reading them included.

    Accuracies are exact over all images that can be read, in fp32.
    """
    totals: dict[str, float] = {}
    images = 0
    start = time.perf_counter()
    for logits, targets in predict_batches(model, data, chosen_device(device)):
        for name, value in score(logits, targets).items():
            totals[name] = totals.get(name, 0.0) + float(value) * len(targets)
        images += len(targets)
    seconds = time.perf_counter() - start
    if not images:
        raise LearngeneError(
            f"none of the images of {data.val.name} can be read; check the data set and the disk"
        )
    means = {name: total / images for name, total in totals.items()}
    return {**means, "images": images, "images_per_second": images / seconds}


def score(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Cross-entropy, top-1 and top-5 accuracy (shares, not percent) of a batch of logits (B, K) and labels
    (B,).
    """
    classes = logits.shape[1]
    accuracy = {
        f"top{k}": multiclass_accuracy(logits, targets, classes, average="micro", top_k=min(k, classes))
        for k in (1, 5)
    }
    return {"loss": nn.functional.cross_entropy(logits, targets), **accuracy}
