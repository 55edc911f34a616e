"""Streams, by counting: every image exactly once in an epoch over all ranks and workers.

An image's class is its number here.
"""

import io
import json
import subprocess
import sys
import tarfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from conftest import IMAGES_28 as CONFIG
from conftest import TINY_ARGS
from PIL import Image

from learngene.data import ImageData, open_training
from learngene.data.embedded import load_embedded
from learngene.data.hugging_face import builder_of, hugging_face_shards
from learngene.errors import LearngeneError
from learngene.recipe import DataOptions, Recipe

SIZES = {"train": (17, 5, 31), "validation": (4, 9)}  # images in each shard
IMAGES = load_embedded("train")[0]
BATCH = 4


def encoded(number):
    png = io.BytesIO()
    Image.fromarray(IMAGES[number]).save(png, "PNG")
    return png.getvalue()


def add(tar, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def write_webdataset(root):
    splits = {}
    for split, sizes in SIZES.items():
        names = [f"set-{split}-{shard:04d}.tar" for shard in range(len(sizes))]
        for name, numbers in zip(names, np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1]), strict=True):
            with tarfile.open(root / name, "w") as tar:
                for number in numbers:
                    add(tar, f"{number:04d}.png", encoded(number))
                    add(tar, f"{number:04d}.cls", str(number).encode())
        splits[split] = {"name": split, "num_samples": sum(sizes), "filenames": names, "shard_lengths": sizes}
    (root / "_info.json").write_text(json.dumps({"splits": splits}))
    return "wds/set"


def write_parquet(root):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    for split, sizes in SIZES.items():
        for shard, numbers in enumerate(np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])):
            rows = {
                "image": [{"bytes": encoded(n), "path": None} for n in numbers],
                "label": numbers.tolist(),
            }
            path = root / f"{split}-{shard:05d}-of-{len(sizes):05d}.parquet"
            datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return f"hfids/{root}"


@pytest.fixture(scope="module", params=[write_webdataset, write_parquet], ids=["wds", "hfids"])
def stream(request, tmp_path_factory):
    pytest.importorskip("webdataset")
    root = tmp_path_factory.mktemp("stream")
    return request.param(root), root


def options(data, root, **more):
    cache = root if data.startswith("wds") else root.with_name("cache")
    return DataOptions(
        **{"data_root": str(cache), "num_classes": 60, "val_split": "validation", "workers": 0, **more}
    )


def classes(loader):
    return [batch["target"].tolist() for batch in loader]


def flat(batches):
    return [number for batch in batches for number in batch]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("download", [False, True])
def test_every_image_comes_once(stream, monkeypatch, world, workers, download):
    data, root = stream
    if download and (data.startswith("wds") or world == 3):
        pytest.skip("nothing to download, or seen already")
    choice = options(data, root, workers=workers, download=download)
    train, val = open_training(data, choice, "L")
    assert (len(train), len(val)) == (53, 13)
    orders = []
    for epoch in (0, 1):
        trained, validated = [], []
        for rank in range(world):
            monkeypatch.setattr(ImageData, "_world", (rank, world))
            images = ImageData(train, val, CONFIG, Recipe(batch_size=BATCH), choice)
            loader = images.train_dataloader()
            loader.sampler.set_epoch(epoch)
            found = classes(loader)
            assert (
                [len(batch) for batch in found] == [BATCH] * len(loader) == [BATCH] * (53 // (BATCH * world))
            )
            assert images.train_batches == len(loader)
            trained += flat(found)
            found = classes(images.val_dataloader())
            assert len(found) == len(images.val_dataloader())
            validated += flat(found)
        assert (
            len(trained) == len(set(trained)) == 53 // (BATCH * world) * BATCH * world
        )  # all but less than a batch of all
        assert set(trained) <= set(range(53))
        assert sorted(validated) == list(range(13))
        orders.append(trained)
    assert orders[0] != orders[1]
    assert sorted(orders[0]) != orders[0]


def test_an_epoch_is_repeated_exactly(stream):
    data, root = stream
    choice = options(data, root, workers=2)
    runs = []
    for _ in range(2):
        train, val = open_training(data, choice, "L")
        runs.append(
            [
                batch["image"]
                for batch in ImageData(
                    train, val, CONFIG, Recipe(batch_size=BATCH), choice
                ).train_dataloader()
            ]
        )
    assert all((a == b).all() for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_an_epoch_goes_on_behind_some_batches(stream, workers):
    data, root = stream
    choice = options(data, root, workers=workers)
    train, val = open_training(data, choice, "L")
    images = ImageData(train, val, CONFIG, Recipe(batch_size=BATCH), choice)
    whole = [batch["image"] for batch in images.train_dataloader()]
    for done in (1, 5, 12):
        loader = images.train_dataloader()
        loader.dataset.first_batch = done
        rest = [batch["image"] for batch in loader]
        assert len(rest) == len(whole) - done
        assert all((a == b).all() for a, b in zip(rest, whole[done:], strict=True))


COUNT = """
import sys
from learngene.cli import main
from learngene.training import TrainingModule
step = TrainingModule.training_step
def counting(self, batch, number):
    with open(f"seen-{self.current_epoch}-{self.global_rank}", "a") as file:
        file.write("".join(f"{n} " for n in batch["target"].tolist()))
    return step(self, batch, number)
TrainingModule.training_step = counting
sys.exit(main(sys.argv[1:]))
"""


def test_two_processes_share_a_stream(tmp_path):
    """The sources are opened before the processes know each other, and yet no image is seen twice."""
    pytest.importorskip("webdataset")
    data = write_webdataset(tmp_path)
    (tmp_path / "count.py").write_text(COUNT)
    arch = json.dumps({k: v for k, v in TINY_ARGS.items() if k != "num_classes"})
    words = [
        "finetune",
        "vit_tiny_patch16_224",
        "--depth",
        "1",
        "--arch-args",
        arch,
        "--data",
        data,
        "--data-root",
        str(tmp_path),
    ]
    words += [
        "--num-classes",
        "60",
        "--val-split",
        "validation",
        "--workers",
        "1",
        "--epochs",
        "2",
        "--batch-size",
        "4",
    ]
    words += [
        "--devices",
        "2",
        "--accelerator",
        "cpu",
        "--precision",
        "32-true",
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(
        [sys.executable, "count.py", *words], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    seen = {path.name: path.read_text().split() for path in tmp_path.glob("seen-*")}
    assert {name: len(numbers) for name, numbers in seen.items()} == {
        f"seen-{e}-{r}": 24 for e in (0, 1) for r in (0, 1)
    }
    for epoch in "01":
        assert set(Counter(seen[f"seen-{epoch}-0"] + seen[f"seen-{epoch}-1"]).values()) == {1}
    assert seen["seen-0-0"] != seen["seen-1-0"]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["results"]["images"] == 96


def test_shards_of_unknown_length_are_one(tmp_path, monkeypatch):
    pytest.importorskip("webdataset")
    write_webdataset(tmp_path)
    (tmp_path / "_info.json").unlink()
    choice = options(
        "wds/set",
        tmp_path,
        train_split="set-train-{0000..0002}.tar|53",
        val_split="set-validation-{0000..0001}.tar|13",
    )
    train, val = open_training("wds/set", choice, "L")
    seen = []
    for rank in (0, 1):
        monkeypatch.setattr(ImageData, "_world", (rank, 2))
        images = ImageData(train, val, CONFIG, Recipe(batch_size=BATCH), choice)
        seen += flat(classes(images.train_dataloader()))
    assert len(seen) == len(set(seen)) == 48


def test_files_that_do_not_say_how_many_rows_they_have(tmp_path, monkeypatch):
    monkeypatch.setattr("learngene.data.hugging_face._ends", lambda files: {})
    data = write_parquet(tmp_path)
    with pytest.raises(
        LearngeneError,
        match="does not say how many images it has; give the number of training images with --num-s",
    ):
        open_training(data, options(data, tmp_path), "L")
    choice = options(data, tmp_path)
    shards, _ = hugging_face_shards(builder_of(data, choice), "train", data, "L", choice, 53)
    assert shards.lengths == (53,)
    assert [shards.decode(sample)[1] for _, sample in shards.walk([0], 15, 30)] == list(range(15, 30))


def test_wrong_numbers_are_refused(tmp_path):
    pytest.importorskip("webdataset")
    data = write_webdataset(tmp_path)
    info = json.loads((tmp_path / "_info.json").read_text())
    info["splits"]["train"]["shard_lengths"][1] = 9
    (tmp_path / "_info.json").write_text(json.dumps(info))
    choice = options(data, tmp_path)
    train, val = open_training(data, choice, "L")
    with pytest.raises(
        LearngeneError, match=r"set-train-0001.tar' holds 5 images, not 9; .* mend the data set's info file"
    ):
        classes(ImageData(train, val, CONFIG, Recipe(batch_size=BATCH), choice).train_dataloader())
    with pytest.raises(
        LearngeneError, match="has 57 images, fewer than one batch of 64 x 1; lower --batch-size"
    ):
        ImageData(train, val, CONFIG, Recipe(batch_size=64), choice).train_dataloader()


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("at", ["missing", "within a file", "within a header"])
def test_a_cut_or_missing_shard_is_named(tmp_path, split, at):
    pytest.importorskip("webdataset")
    data = write_webdataset(tmp_path)
    shard = tmp_path / f"set-{split}-0001.tar"
    whole = shard.read_bytes()
    with tarfile.open(shard) as tar:
        offset = tar.getmembers()[2].offset
    shard.unlink()
    if at != "missing":
        shard.write_bytes(whole[: offset + (600 if at == "within a file" else 100)])
    choice = options(data, tmp_path)
    message = rf"wds/set \({split}\): '{shard}' is missing, cut or damaged \(.*; fetch or make it again"
    if at == "within a header" and split == "train":  # where a tar reader stops without a word
        message = rf"wds/set \(train\): '{shard}' holds 1 images, not 5; make it again if it was cut"
    with pytest.raises(LearngeneError, match=message):
        classes(
            ImageData(
                *open_training(data, choice, "L"), CONFIG, Recipe(batch_size=BATCH), choice
            ).train_dataloader()
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_are_not_counted_are_said(tmp_path, monkeypatch, workers):
    pytest.importorskip("webdataset")
    data = write_webdataset(tmp_path)
    info = json.loads((tmp_path / "_info.json").read_text())
    info["splits"]["train"]["shard_lengths"][0] = 15
    (tmp_path / "_info.json").write_text(json.dumps(info))
    choice = options(data, tmp_path, workers=workers)
    images = ImageData(*open_training(data, choice, "L"), CONFIG, Recipe(batch_size=3), choice)
    said = tmp_path / "said"
    said.touch()
    monkeypatch.setattr(
        "learngene.data.stream.log.warning", lambda text: said.open("a").write(text)
    )  # in the workers, too
    for _ in range(2):
        assert len(flat(classes(images.train_dataloader()))) == 51
    assert said.read_text().count("set-train-0000.tar' holds more images than the 15 that are read") == 1


def test_hidden_files_in_shards_are_left_out(tmp_path, caplog):
    pytest.importorskip("webdataset")
    data = write_webdataset(tmp_path)
    for split, first in (("train", 0), ("validation", 0)):
        with tarfile.open(tmp_path / f"set-{split}-0000.tar", "w") as tar:
            for name in ("__MACOSX/a.png", "__MACOSX/._0000.png", "._0000.png", ".DS_Store"):
                add(tar, name, b"junk")
            for number in range(first, SIZES[split][0]):
                add(tar, f"./{number:04d}.png", encoded(number))
                add(tar, f"./{number:04d}.cls", str(number).encode())
    choice = options(data, tmp_path)
    images = ImageData(*open_training(data, choice, "L"), CONFIG, Recipe(batch_size=BATCH), choice)
    seen = flat(classes(images.val_dataloader()))
    assert len(seen) == len(set(seen)) == sum(SIZES["validation"])
    assert "set-validation-0000.tar': 3 hidden images and folders, or a system's own" in caplog.text


def write_broken_image(folder):
    """`write_webdataset`, with one image of its second shard broken."""
    data = write_webdataset(folder)
    with tarfile.open(folder / "set-train-0001.tar", "w") as tar:
        for number in range(17, 22):
            add(tar, f"{number:04d}.png", b"broken" if number == 19 else encoded(number))
            add(tar, f"{number:04d}.cls", str(number).encode())
    return data


def test_broken_images_of_a_stream_are_replaced(tmp_path):
    pytest.importorskip("webdataset")
    data = write_broken_image(tmp_path)
    choice = options(data, tmp_path)
    train, val = open_training(data, choice, "L")
    batches = list(ImageData(train, val, CONFIG, Recipe(batch_size=BATCH), choice).train_dataloader())
    assert [len(batch["target"]) for batch in batches] == [BATCH] * 13
    assert sum(len(batch["bad"]) for batch in batches) <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_a_stream_are_numbered_and_its_broken_image_counts_once(tmp_path, caplog, workers):
    """In whatever order an epoch shows the shards, and from wherever it goes on."""
    pytest.importorskip("webdataset")
    data = write_broken_image(tmp_path)
    choice = replace(options(data, tmp_path), max_bad_images=1, workers=workers)
    images = ImageData(*open_training(data, choice, "L"), CONFIG, Recipe(batch_size=BATCH), choice)
    loader = images.train_dataloader()
    loader.dataset.first_batch = loader.order.first_batch = 9
    for epoch, first in ((0, 9), (1, 0), (2, 0), (3, 0)):
        loader.sampler.set_epoch(epoch)
        found = [(batch["epoch"], batch["number"]) for batch in loader]
        assert found == [(epoch, number) for number in range(first, 13)]
    assert caplog.text.count("skipped an image that cannot be read") == 1
    assert "image 2 of '" in caplog.text
    assert "set-train-0001.tar' (" in caplog.text
    assert not any("number" in batch for batch in images.val_dataloader())
