"""The data set inside the package: a stratified subset of Fashion-MNIST (Xiao et al. 2017, MIT licence).

Made by ``tools/make_embedded_data.py``. 28 x 28 grey images of ten kinds of clothing.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Literal

import numpy as np

EMBEDDED = "fashion-mnist"


@lru_cache(maxsize=2)
def load_embedded(split: Literal["train", "test"]) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images (N, 28, 28) uint8, labels (N,) and class names of one split.

    The test images come from the official test split.
    """
    with files("learngene").joinpath("assets", "fashion-mnist.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        return (
            arrays[f"{split}_images"],
            arrays[f"{split}_labels"].astype(np.int64),
            tuple(map(str, arrays["classes"])),
        )
