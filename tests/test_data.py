import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import CLASSES, TINY_ARGS, write_folder
from conftest import IMAGES_28 as CONFIG
from PIL import Image

from learngene.data import EMBEDDED, ImageData, open_split, open_training
from learngene.data.splits import stratified_cut
from learngene.data.views import Views, ViewSampler, train_transform
from learngene.errors import LearngeneError
from learngene.recipe import DataOptions, Recipe

OPTIONS = DataOptions(workers=0)


def loader(train, val, recipe=None, options=OPTIONS, config=CONFIG):
    return ImageData(train, val, config, recipe or Recipe(batch_size=8), options)


def test_embedded_images_are_real_and_stratified():
    train, val = open_training(EMBEDDED, OPTIONS, "L")
    test = open_split(EMBEDDED, OPTIONS, "auto", "L")
    assert (len(train), len(val), len(test)) == (4500, 500, 2000)
    assert set(np.bincount(train.targets)) == {450}
    assert set(np.bincount(test.targets)) == {200}
    assert train.classes[0] == "T-shirt/top"
    assert train.read(0).size == (28, 28)


def test_folder_is_cut_for_validation_the_same_way_every_time(folder):
    train, val = open_training(str(folder), OPTIONS, "L")
    assert (len(train), len(val)) == (54, 6)
    assert set(np.bincount(val.targets)) == {2}
    assert train.classes == CLASSES
    names = {val.describe(i) for i in range(len(val))}
    assert names.isdisjoint(train.describe(i) for i in range(len(train)))
    again = open_training(str(folder), OPTIONS, "L")[1]
    assert names == {again.describe(i) for i in range(len(again))}
    other = open_training(str(folder), DataOptions(split_seed=1), "L")[1]
    assert names != {other.describe(i) for i in range(len(other))}


def test_stratified_cut_keeps_an_image_of_each_class_on_both_sides(folder):
    train, _ = open_training(str(folder), OPTIONS, "L")
    for fraction in (0.001, 0.999):
        kept, held = stratified_cut(train, fraction, 0)
        assert len(np.unique(train.targets[kept])) == len(np.unique(train.targets[held])) == 3


def test_validation_folder_is_used(tmp_path):
    write_folder(tmp_path / "train", 4)
    write_folder(tmp_path / "val", 2, offset=50)
    train, val = open_training(str(tmp_path), OPTIONS, "L")
    assert (len(train), len(val)) == (12, 6)
    assert len(open_split(str(tmp_path), OPTIONS, "auto", "L")) == 6
    with pytest.raises(LearngeneError, match="has no test split"):
        open_split(str(tmp_path), OPTIONS, "test", "L")


def test_plain_class_folders_and_rgb(tmp_path):
    root = write_folder(tmp_path / "data", 5, mode="RGB")
    train, val = open_training(str(root), OPTIONS, "RGB")
    assert len(train) + len(val) == 15
    assert train.read(0).mode == "RGB"


def test_tar_of_class_folders(folder, tmp_path):
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(folder / "train", ".")
    train, val = open_training(str(path), OPTIONS, "L")
    assert (len(train), len(val)) == (54, 6)
    assert train.classes == CLASSES
    data = loader(train, val, options=DataOptions(workers=2))
    assert next(iter(data.train_dataloader()))["image"].shape == (8, 1, 28, 28)


def test_torchvision_set_from_local_files(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 40), ("t10k", 20)):
        images = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in images.shape)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(
            bytes([0, 0, 8, 1]) + count.to_bytes(4, "big") + labels.tobytes()
        )
    options = DataOptions(data_root=str(tmp_path), workers=0)
    train, val = open_training("torch/fashion_mnist", options, "L")
    assert (len(train), len(val), len(open_split("torch/fashion_mnist", options, "auto", "L"))) == (
        30,
        10,
        20,
    )
    with pytest.raises(
        LearngeneError, match="label_column 'x': 'torch/fashion_mnist' has no columns; drop --label-column"
    ):
        open_training("torch/fashion_mnist", replace(options, label_column="x"), "L")
    (raw / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1]) + (30).to_bytes(4, "big") + bytes(30))
    with pytest.raises(LearngeneError, match="has 40 images and 30 labels"):
        open_training("torch/fashion_mnist", options, "L")
    with pytest.raises(LearngeneError, match=r"torch/fashion_mnist \(train\) cannot be opened under"):
        open_training("torch/fashion_mnist", DataOptions(data_root=str(tmp_path / "no")), "L")


def test_options_that_contradict_or_mean_nothing_are_refused(folder, tmp_path):
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(folder / "train", ".")
    for data, count in ((str(folder), 3), (str(tmp_path / "images.tar"), 3), (EMBEDDED, 10)):
        assert open_training(data, replace(OPTIONS, num_classes=count), "L")[0].num_classes == count
        with pytest.raises(
            LearngeneError, match=f"num_classes 7: .* names {count} classes itself; drop --num-classes"
        ):
            open_training(data, replace(OPTIONS, num_classes=7), "L")
        with pytest.raises(
            LearngeneError, match=r"image_column 'img': .* has no columns; drop --image-column"
        ):
            open_training(data, replace(OPTIONS, image_column="img"), "L")


def test_a_folder_of_the_embedded_sets_name_is_ambiguous(tmp_path, monkeypatch):
    write_folder(tmp_path / EMBEDDED, 4)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LearngeneError, match=f"write ./{EMBEDDED} for the folder, or rename it"):
        open_training(EMBEDDED, OPTIONS, "L")
    assert open_training(f"./{EMBEDDED}", OPTIONS, "L")[0].classes == CLASSES


def test_in_memory_is_the_same(folder):
    train, _ = open_training(str(folder), OPTIONS, "L")
    held = train.in_memory()
    assert all(
        np.array_equal(np.asarray(train.read(i)), np.asarray(held.read(i))) for i in range(0, len(train), 7)
    )
    assert held.in_memory() is held


def test_a_view_depends_on_its_seed_alone(folder):
    train, _ = open_training(str(folder), OPTIONS, "L")
    recipe = Recipe(auto_augment="rand-m9-mstd0.5-inc1", random_erasing=0.5)
    views = Views(train, train_transform(CONFIG, recipe))
    first = views[(3, 77)]["image"]
    _ = views[(4, 5)]
    assert torch.equal(views[(3, 77)]["image"], first)
    assert not torch.equal(views[(3, 78)]["image"], first)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_strong_augmentation_never_fails(folder, mode):
    train, _ = open_training(str(folder), OPTIONS, mode)
    channels = len(mode)
    config = CONFIG | {"input_size": [channels, 28, 28], "mean": [0.5] * channels, "std": [0.5] * channels}
    views = Views(
        train,
        train_transform(
            config, Recipe(auto_augment="rand-m9-mstd2-inc1", random_erasing=1.0, color_jitter=0.4)
        ),
    )
    for seed in range(300):
        assert views[(seed % len(views), seed)]["image"].shape == (channels, 28, 28)


def test_workers_change_nothing(folder):
    train, val = open_training(str(folder), OPTIONS, "L")
    batches = [
        [b["image"] for b in loader(train, val, options=DataOptions(workers=w)).train_dataloader()]
        for w in (0, 2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_sampler_covers_all_and_repeats():
    sampler = ViewSampler(20, 5, seed=0)
    epochs = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    assert all(sorted(i for i, _ in pairs) == list(range(20)) for pairs in epochs)
    assert epochs[0] != epochs[1]
    repeated = [i for i, _ in ViewSampler(20, 5, seed=0, repeats=4)]
    assert len(repeated) == 20
    assert len(set(repeated)) == 5
    assert len(list(ViewSampler(3, 8, seed=0))) == 8  # fewer images than a batch


def test_ranks_share_an_epoch_without_overlap():
    parts = [list(ViewSampler(32, 4, seed=3, rank=r, world=2)) for r in (0, 1)]
    assert sorted(i for part in parts for i, _ in part) == list(range(32))
    whole = list(ViewSampler(32, 8, seed=3))
    assert [pair for pairs in zip(*parts, strict=True) for pair in pairs] == whole


def test_corrupt_images_are_skipped_with_their_names(tmp_path, caplog):
    root = write_folder(tmp_path / "data", 12)
    broken = root / "bag" / "005.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (root / "boot" / "003.jpg").write_text("not an image")
    train, val = open_training(str(root), OPTIONS, "L")
    data = loader(train, val)
    with caplog.at_level(logging.WARNING):
        for batches in (data.train_dataloader(), data.val_dataloader()):
            for batch in batches:
                assert len(batch["image"]) == len(batch["target"])
    assert str(broken) in caplog.text
    assert "003.jpg" in caplog.text


def test_validation_needs_an_image_that_can_be_read(tmp_path, caplog):
    write_folder(tmp_path / "train", 4)
    broken = write_folder(tmp_path / "val", 2)
    with suppress(OSError):  # a file system of text only
        (broken / "bag" / "000.png").rename(broken / "bag" / os.fsdecode(b"\xff.png"))
    for path in broken.rglob("*.*g"):
        path.write_bytes(b"broken")
    data = loader(*open_training(str(tmp_path), OPTIONS, "L"), recipe=Recipe(batch_size=4))

    def validate():
        return list(data.val_dataloader())

    with pytest.raises(
        LearngeneError, match=r"none of the images of .*val can be read; check the data set and the disk"
    ):
        validate()
    caplog.text.encode()  # names that are no text, too
    shutil.copy(tmp_path / "train" / "bag" / "000.png", broken / "bag" / "001.png")
    assert sum(len(batch["image"]) for batch in validate()) == 1


def test_too_many_corrupt_images_stop(tmp_path):
    root = write_folder(tmp_path / "data", 12)
    for path in list(root.rglob("*.png"))[:6]:
        path.write_bytes(b"broken")
    train, val = open_training(str(root), OPTIONS, "L")
    data = loader(train, val, options=DataOptions(workers=0, max_bad_images=2))

    with pytest.raises(
        LearngeneError, match=r"3 images cannot be read, more than the 2 allowed.*--max-bad-images"
    ):
        list(data.train_dataloader())


def test_a_corrupt_image_counts_once(tmp_path, caplog):
    """In whatever epoch, and although PIL names a member of a .tar by where in memory it has it."""
    root = write_folder(tmp_path / "data", 12)
    (root / "bag" / "005.png").write_bytes(b"broken")
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        tar.add(root, ".")
    options = DataOptions(workers=0, max_bad_images=1)
    data = loader(*open_training(str(tmp_path / "data.tar"), options, "L"), options=options)
    held = []
    for _ in range(4):
        held.append(list(data.train_dataloader()))  # so that its place in memory is not used again
        held.append(list(data.val_dataloader()))
    assert caplog.text.count("skipped an image that cannot be read") == 1


def test_workers_end_with_the_error(tmp_path):
    """Nothing that the error drags along holds them."""
    root = write_folder(tmp_path / "data", 12)
    for path in list(root.rglob("*.png"))[:6]:
        path.write_bytes(b"broken")
    options = DataOptions(workers=2, max_bad_images=0)
    batches = loader(*open_training(str(root), options, "L"), options=options).train_dataloader()
    iterator = iter(batches)
    workers = list(batches._iterator._workers)
    del batches
    with pytest.raises(LearngeneError, match="more than the 0 allowed") as error:
        list(iterator)
    assert len(workers) == 2
    assert error.traceback  # still held
    assert not any(worker.is_alive() for worker in workers)


def test_a_rank_that_can_read_nothing_says_so(tmp_path):
    """Instead of leaving the others waiting for its metrics."""
    write_folder(tmp_path / "train", 4)
    for path in sorted(write_folder(tmp_path / "val", 2).rglob("*.*g"))[1::2]:
        path.write_bytes(b"broken")
    arch = json.dumps({k: v for k, v in TINY_ARGS.items() if k != "num_classes"})
    words = ["finetune", "vit_tiny_patch16_224", "--depth=1", f"--arch-args={arch}", f"--data={tmp_path}"]
    words += [
        "--workers=0",
        "--epochs=1",
        "--batch-size=4",
        "--precision=32-true",
        f"--out={tmp_path / 'run'}",
    ]
    words += ["--devices=2", "--accelerator=cpu"]
    command = [sys.executable, "-m", "learngene", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert f"none of the images of {tmp_path / 'val'} that rank 1 sees can be read" in done.stderr


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "there is no data at"),
        (lambda p: p.mkdir(), "no images in class folders"),
        (
            lambda p: (p / "only").mkdir(parents=True) or Image.new("L", (8, 8)).save(p / "only" / "a.png"),
            "1 class with images, training needs at least 2",
        ),
        (
            lambda p: p.mkdir() or Image.new("L", (8, 8)).save(p / "a.png"),
            "1 images but no class folders.*--unlabeled",
        ),
        (lambda p: [(p / c).mkdir(parents=True) for c in "ab"], "no images in class folders"),
        (lambda p: p.write_text("x"), "is a file but not a .tar"),
    ],
)
def test_bad_data_is_named(tmp_path, make, message):
    make(tmp_path / "data")
    with pytest.raises(LearngeneError, match=message):
        open_training(str(tmp_path / "data"), OPTIONS, "L")


def test_another_class_in_validation_or_test_is_refused(tmp_path):
    for split in ("train", "val", "test"):
        write_folder(tmp_path / split, 3)
    for split in ("val", "test"):
        (tmp_path / split / "shirt").rename(tmp_path / split / "coat")
    with pytest.raises(LearngeneError, match=r"val' has a class 'coat' that is not among the 3 classes"):
        open_training(str(tmp_path), OPTIONS, "L")
    with pytest.raises(LearngeneError, match=r"test' has a class 'coat'"):
        open_split(str(tmp_path), OPTIONS, "test", "L")


def test_a_class_missing_from_the_test_split_shifts_no_label(tmp_path):
    write_folder(tmp_path / "train", 3)
    write_folder(tmp_path / "test", 2)
    for path in (tmp_path / "test" / "bag").iterdir():
        path.unlink()
    test = open_split(str(tmp_path), OPTIONS, "auto", "L")
    assert test.classes == CLASSES
    assert sorted(set(test.targets)) == [1, 2]


@pytest.mark.parametrize("names", [("bags", "test"), ("bags", "Test"), ("Train", "Test")])
def test_test_images_never_leak_into_training(tmp_path, names):
    for name in names:
        write_folder(tmp_path / name, 3)
    if names[0] == "Train":
        train, val = open_training(str(tmp_path), OPTIONS, "L")
        assert len(train) + len(val) == 9
        assert len(open_split(str(tmp_path), OPTIONS, "auto", "L")) == 9
    else:
        for options in (OPTIONS, DataOptions(unlabeled=True)):
            with pytest.raises(LearngeneError, match="there is no folder 'train' beside test"):
                open_training(str(tmp_path), options, "L")


def test_a_tar_of_several_splits_is_refused(folder, tmp_path):
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(folder, ".")
    with pytest.raises(LearngeneError, match=r"holds several splits \(test, train\), which would be mixed"):
        open_training(str(tmp_path / "all.tar"), OPTIONS, "L")
    (tmp_path / "bad.tar").write_bytes(b"junk" * 300)
    with pytest.raises(LearngeneError, match="cannot be listed"):
        open_training(str(tmp_path / "bad.tar"), OPTIONS, "L")


def test_odd_folders_are_no_classes(tmp_path, caplog):
    root = write_folder(tmp_path / "data", 6)
    image = (root / "bag" / "000.png").read_bytes()
    (root / "loose.png").write_bytes(image)
    for odd in (root / ".ipynb_checkpoints", root / "bag" / "raw"):
        odd.mkdir()
        (odd / "x.png").write_bytes(image)
    train, val = open_training(str(root), OPTIONS, "L")
    assert train.classes == CLASSES
    assert len(train) + len(val) == 18
    assert "2 images in no class folder (e.g. bag/raw/x.png)" in caplog.text
    assert "1 hidden images and folders" in caplog.text


def test_a_corrupt_image_alone_in_its_batch_is_skipped(tmp_path):
    from learngene.training import evaluate_model

    write_folder(tmp_path / "train", 2)
    root = write_folder(tmp_path / "test", 3)
    (root / "shirt" / "002.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\x04IHDR")
    data = loader(None, open_split(str(tmp_path), OPTIONS, "test", "L"), Recipe(batch_size=1))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 3))
    assert evaluate_model(model, data)["images"] == 8


def test_unlabeled_takes_any_images(tmp_path):
    root = write_folder(tmp_path / "data", 4)
    Image.new("L", (30, 20)).save(root / "loose.png")
    train, val = open_training(str(root), DataOptions(unlabeled=True), "L")
    assert len(train) + len(val) == 13
    assert train.targets is None


def test_hugging_face_folder(tmp_path):
    datasets = pytest.importorskip("datasets")
    write_folder(tmp_path / "train", 6)
    datasets.disable_progress_bars()
    options = DataOptions(data_root=str(tmp_path / "cache"), workers=0)
    train, val = open_training(f"hfds/{tmp_path}", options, "L")
    assert len(train) + len(val) == 18
    assert train.classes == CLASSES
    assert train.read(0).size == (28, 28)


def test_webdataset_stream(tmp_path):
    pytest.importorskip("webdataset")
    import io
    import json

    for split, count in (("train", 24), ("validation", 8)):
        with tarfile.open(tmp_path / f"set-{split}-0000.tar", "w") as tar:
            for i in range(count):
                png = io.BytesIO()
                Image.new("L", (28, 28), i).save(png, "PNG")
                for suffix, content in (("png", png.getvalue()), ("cls", str(i % 3).encode())):
                    entry = tarfile.TarInfo(f"{i:04d}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    info = {
        s: {"num_samples": n, "filenames": [f"set-{s}-0000.tar"], "shard_lengths": [n]}
        for s, n in (("train", 24), ("validation", 8))
    }
    (tmp_path / "_info.json").write_text(
        json.dumps({"splits": {k: {"name": k, **v} for k, v in info.items()}})
    )
    options = DataOptions(data_root=str(tmp_path), val_split="validation", workers=1, num_classes=3)
    train, val = open_training("wds/set", options, "L")
    data = loader(train, val, options=options)
    assert next(iter(data.train_dataloader()))["image"].shape == (8, 1, 28, 28)
    assert sum(len(b["target"]) for b in data.val_dataloader()) == 8
    found = DataOptions(data_root=str(tmp_path), num_classes=3)
    assert len(open_training("wds/set", found, "L")[1]) == 8  # the one that is there
    with pytest.raises(LearngeneError, match="--val-split"):
        open_training("wds/set", replace(found, train_split="validation"), "L")
    with pytest.raises(LearngeneError, match="--num-classes"):
        open_training("wds/set", DataOptions(data_root=str(tmp_path)), "L")
