#!/usr/bin/env python3
"""Make learngene/assets/fashion-mnist.npz, a stratified subset of Fashion-MNIST.

    apt-get update && apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb fashion
    python tools/make_embedded_data.py fashion/usr/share/datasets/fashion-mnist
    python tools/make_embedded_data.py fashion/usr/share/datasets/fashion-mnist --torchvision ROOT

The last line lays all 70,000 images out for torchvision instead: --data torch/fashion_mnist --data-root ROOT.

Fashion-MNIST: H. Xiao, K. Rasul, R. Vollgraf, arXiv 1708.07747; MIT licence. The subset keeps 500 images a
class of the official training split and 200 a class of the official test split, picked by a seeded
permutation. Classes have torchvision's names and order.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np

CLASSES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]
PER_CLASS = {"train": 500, "test": 200}
FILES = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> np.ndarray:
    """An array from a gzipped IDX file: 4 magic bytes (the last is the rank), the sizes, the data."""
    data = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def pick(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Indices of `per_class` images of every class, shuffled."""
    generator = np.random.default_rng(seed)
    chosen = [generator.permutation(np.flatnonzero(labels == c))[:per_class] for c in range(len(CLASSES))]
    return generator.permutation(np.concatenate(chosen))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder with the four idx .gz files")
    parser.add_argument(
        "--torchvision", type=Path, metavar="ROOT", help="unpack all images for torchvision here instead"
    )
    args = parser.parse_args()
    if args.torchvision:
        unpack(args.source, args.torchvision / "FashionMNIST" / "raw")
        return

    arrays: dict[str, np.ndarray] = {"classes": np.array(CLASSES)}
    for split, prefix in FILES.items():
        images = read_idx(args.source / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(args.source / f"{prefix}-labels-idx1-ubyte.gz")
        chosen = pick(labels, PER_CLASS[split], seed=0)
        arrays |= {f"{split}_images": images[chosen], f"{split}_labels": labels[chosen]}
    out = Path(__file__).resolve().parent.parent / "learngene" / "assets" / "fashion-mnist.npz"
    out.parent.mkdir(exist_ok=True)
    np.savez_compressed(out, **arrays)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def unpack(source: Path, raw: Path) -> None:
    """Gunzip the four idx files into the folder where torchvision looks for them."""
    raw.mkdir(parents=True, exist_ok=True)
    for file in source.glob("*-ubyte.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))


if __name__ == "__main__":
    main()
