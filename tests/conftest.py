"""Small models and real images (from the embedded data set) for all tests. Everything runs offline, on one
thread.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from learngene.data.embedded import load_embedded
from learngene.families.architecture import Architecture
from learngene.families.records import data_config_of
from learngene.formats.timm_directory import save_timm_directory
from learngene.gene import Learngene
from learngene.plan import StagePlan
from learngene.sharing import build_auxnet

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

torch.set_num_threads(1)

TINY_ARGS = {
    "img_size": 28,
    "patch_size": 7,
    "in_chans": 1,
    "embed_dim": 16,
    "num_heads": 2,
    "num_classes": 3,
    "class_token": False,
    "global_pool": "avg",
}
CLASSES = ("bag", "boot", "shirt")
IMAGES_28 = {
    "input_size": [1, 28, 28],
    "mean": [0.5],
    "std": [0.5],
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "crop_mode": "center",
}
FAST = {"epochs": 1, "batch_size": 16, "workers": 0, "precision": "32-true", "compile": False}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs --slow"))


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give everything that is saved a random value, so that no two layers can agree by accident."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2 + (tensor.ndim == 1))
    return model


@pytest.fixture
def architecture() -> Architecture:
    return Architecture("vit_tiny_patch16_224", TINY_ARGS)


@pytest.fixture
def gene(architecture: Architecture) -> Learngene:
    plan = StagePlan((2, 1, 2))
    auxnet = randomize(build_auxnet(architecture, plan))
    config = data_config_of(auxnet)
    return Learngene.extract(
        auxnet, plan, class_names=CLASSES, data_config=config, ancestor={"name": "test", "license": "mit"}
    )


def write_folder(root: Path, per_class: int, *, offset: int = 0, mode: str = "L") -> Path:
    """Class folders of real images: PNG, one class of them JPEG."""
    images, labels, _ = load_embedded("train")
    for name, label in zip(CLASSES, (8, 9, 6), strict=True):
        (root / name).mkdir(parents=True)
        for i, index in enumerate(np.flatnonzero(labels == label)[offset : offset + per_class]):
            suffix = "jpg" if name == "boot" else "png"
            Image.fromarray(images[index]).convert(mode).save(root / name / f"{i:03d}.{suffix}")
    return root


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 training and 24 test images in class folders; no validation split."""
    root = tmp_path_factory.mktemp("photos")
    write_folder(root / "train", 20)
    write_folder(root / "test", 8, offset=100)
    return root


@pytest.fixture(scope="session")
def ancestor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A timm directory with random weights, 4 layers, the folder's classes, and another normalisation than
    the default.
    """
    torch.manual_seed(0)
    model = Architecture("vit_tiny_patch16_224", TINY_ARGS).build(4)
    model.pretrained_cfg = dict(model.pretrained_cfg, mean=(0.3,), std=(0.35,))
    return save_timm_directory(model, tmp_path_factory.mktemp("models") / "ancestor", class_names=CLASSES)
