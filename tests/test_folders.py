"""What counts as an image, a class and a split: the same for folders, tars and torchvision's data sets."""

import io
import os
import shutil
import struct
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from learngene.data import ImageData, Source, open_split, open_training
from learngene.data.folders import list_classes
from learngene.data.images import BROKEN_IMAGE, decode
from learngene.data.names import is_same_split, natural
from learngene.data.splits import check_apart
from learngene.data.stream import Shards
from learngene.errors import LearngeneError
from learngene.recipe import DataOptions, Recipe

OPTIONS = DataOptions(workers=0)


def write(folder, count=6, suffix="png", seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = np.random.default_rng((seed, i)).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.{suffix}")


def pack(root, path, top="."):
    with tarfile.open(path, "w") as tar:
        tar.add(root, top)
    return path


def both(root, tmp_path):
    """A folder, and the same in a .tar."""
    return [str(root), str(pack(root, tmp_path / "packed.tar"))]


def names(*sources):
    return sorted(
        "/".join(source.describe(i).split("/")[-2:]) for source in sources for i in range(len(source))
    )


def per_class(*sources):
    return np.bincount(np.concatenate([source.targets for source in sources])).tolist()


# order of classes


def test_natural_order_is_total():
    given = ["10", "2", "02", "b", "B", "a2", "a10", "A2", "²", "x²1", "1" * 5000, "é"]
    order = sorted(given, key=natural)
    assert sorted(set(given), key=natural) == order  # a set has an order of its own
    assert order[:3] == ["02", "2", "10"]
    assert order.index("A2") < order.index("a2") < order.index("a10") < order.index("B") < order.index("b")


def test_classes_have_one_order_in_every_process(tmp_path):
    for name in ("Cat", "cat", "dog", "1", "01"):
        write(tmp_path / "data" / name, 2)
    sets = both(tmp_path / "data", tmp_path)
    code = (
        "import sys; from pathlib import Path; from learngene.data.folders import list_classes\n"
        "for data in sys.argv[1:]: print(list_classes(Path(data)).classes)"
    )
    command = [sys.executable, "-c", code, *sets]
    environment = os.environ | {"PYTHONHASHSEED": "1"}  # this process has another
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seen = {*done.stdout.splitlines(), *(str(list_classes(Path(data)).classes) for data in sets)}
    assert seen == {"('01', '1', 'Cat', 'cat', 'dog')"}


# what is an image, what is left out


def test_every_raster_format_counts_in_folders_and_tars(tmp_path, caplog):
    for name, suffix, count in (
        ("ant", "png", 3),
        ("ant", "tif", 3),
        ("bee", "webp", 6),
        ("cow", "bmp", 5),
        ("cow", "JPEG", 1),
    ):
        write(tmp_path / "data" / name, count, suffix)
    for data in both(tmp_path / "data", tmp_path):
        train, val = open_training(data, OPTIONS, "RGB")
        assert per_class(train, val) == [6, 6, 6]
        assert {train.read(i).size for i in range(len(train))} == {(16, 16)}
        assert len(open_training(data, replace(OPTIONS, unlabeled=True), "RGB")[0]) == 16
    assert not caplog.records


def test_what_is_left_out_is_left_out_and_said(tmp_path, caplog):
    root = tmp_path / "data"
    for name in ("cat", "dog", "dog/cat", ".trash/cat", "augmented/cat", "__MACOSX/cat", "@eaDir", "empty"):
        write(root / name, 0 if name == "empty" else 6)
    for name in ("loose.png", "cat/._0.png"):
        shutil.copy(root / "cat" / "0.png", root / name)
    for name in ("notes.txt", "cat/x.svg", "cat/y.svg", "cat/.DS_Store", "cat/Thumbs.db"):
        (root / name).write_text("no image")
    for data in both(root, tmp_path):
        caplog.clear()
        train, val = open_training(data, OPTIONS, "RGB")
        assert train.classes == ("cat", "dog")
        assert names(train, val) == sorted(f"{c}/{i}.png" for c in ("cat", "dog") for i in range(6))
        (record,) = caplog.records
        said = record.getMessage()
        assert "13 images in no class folder (e.g. augmented/cat/0.png)" in said
        assert "3 files of other kinds (.svg 2, .txt 1) (e.g. cat/x.svg)" in said
        assert "4 hidden images and folders" in said  # .trash, __MACOSX, @eaDir, ._0.png
        assert "2 folders without images of their own, which are no classes (e.g. augmented)" in said


def test_without_labels_all_depths_are_used_but_nothing_hidden(tmp_path, caplog):
    for name in ("cat", "dog/puppies/small", ".trash", "dog/.cache"):
        write(tmp_path / "data" / name, 5)
    (tmp_path / "data" / "readme.md").write_text("hello")
    for data in both(tmp_path / "data", tmp_path):
        caplog.clear()
        train, val = open_training(data, replace(OPTIONS, unlabeled=True), "RGB")
        assert len(train) + len(val) == 10
        assert not any(part.startswith(".") for name in names(train, val) for part in name.split("/"))
        assert "1 files of other kinds (.md 1)" in caplog.text
        assert "2 hidden images and folders" in caplog.text


def test_files_of_other_kinds_only_are_named(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.heic").write_bytes(b"..")
    for options in (OPTIONS, replace(OPTIONS, unlabeled=True)):
        with pytest.raises(LearngeneError, match=r"no images.*2 files of other kinds \(\.heic 2\)"):
            open_training(str(tmp_path), options, "RGB")


# links


def test_linked_classes_and_images_count(tmp_path, caplog):
    write(tmp_path / "data" / "ant")
    write(tmp_path / "data" / "cow", 5)
    write(tmp_path / "data" / ".store" / "bee", seed=1)
    (tmp_path / "data" / "bee").symlink_to(".store/bee")
    write(tmp_path / "data" / ".store" / "more", seed=2)
    (tmp_path / "data" / "cow" / "linked.png").symlink_to("../.store/more/0.png")
    for data in both(tmp_path / "data", tmp_path):
        train, val = open_training(data, OPTIONS, "RGB")
        assert train.classes == ("ant", "bee", "cow")
        assert per_class(train, val) == [6, 6, 6]
        assert train.read(0).size == (16, 16)
    assert "lead" not in caplog.text


def test_a_class_folder_elsewhere(tmp_path):
    write(tmp_path / "data" / "ant")
    write(tmp_path / "elsewhere" / "bee")
    (tmp_path / "data" / "bee").symlink_to(tmp_path / "elsewhere" / "bee")
    assert list_classes(tmp_path / "data").classes == ("ant", "bee")
    unlabelled = open_training(str(tmp_path / "data"), replace(OPTIONS, unlabeled=True), "RGB")
    assert sum(map(len, unlabelled)) == 12


@pytest.mark.parametrize("labelled", [True, False])
def test_loops_and_dead_links_are_noticed(tmp_path, caplog, labelled):
    root = tmp_path / "data"
    write(root / "ant")
    write(root / "bee")
    (root / "ant" / "again").symlink_to("..")
    (root / "bee" / "self").symlink_to("self")
    (root / "loop").symlink_to(".")
    (root / "up").symlink_to("..")
    (root / "bee" / "gone.png").symlink_to("nowhere.png")
    for data in both(root, tmp_path):
        caplog.clear()
        parts = open_training(data, replace(OPTIONS, unlabeled=not labelled), "RGB")
        assert sum(map(len, parts)) == 12
        in_tar = data.endswith(".tar")  # where .. of the root leads out
        assert f"{2 if in_tar else 3} links to folders that are read already (e.g. ant/again)" in caplog.text
        assert f"{3 if in_tar else 2} links that lead nowhere" in caplog.text


def test_a_held_out_image_is_not_trained_on_through_a_link(tmp_path, caplog):
    root = tmp_path / "data"
    write(root / "ant", 10)
    write(root / "bee", 10, seed=1)
    for i in range(10):
        (root / "ant" / f"copy{i}.png").symlink_to(f"{i}.png")
    train, val = open_training(str(root), OPTIONS, "RGB")
    held = {os.path.realpath(val.describe(i)) for i in range(len(val))}
    assert not held & {os.path.realpath(train.describe(i)) for i in range(len(train))}
    assert "links to images that are held out; not trained on" in caplog.text


def test_two_classes_of_an_image_are_said(tmp_path, caplog):
    write(tmp_path / "data" / "ant")
    write(tmp_path / "data" / "bee", seed=1)
    (tmp_path / "data" / "insect").symlink_to("bee")
    for data in both(tmp_path / "data", tmp_path):
        caplog.clear()
        assert open_training(data, OPTIONS, "RGB")[0].classes == ("ant", "bee", "insect")
        assert "6 images of" in caplog.text
        assert "have two classes, by links (e.g. insect/0.png)" in caplog.text


def test_file_names_that_are_no_text(tmp_path, caplog):
    for i, name in enumerate(("ant", "bee")):
        write(tmp_path / "data" / name, seed=i)
    try:
        (tmp_path / "data" / "ant" / os.fsdecode(b"\xff.txt")).write_text("x")
        shutil.copy(tmp_path / "data" / "ant" / "0.png", tmp_path / "data" / "ant" / os.fsdecode(b"\xfe.png"))
    except OSError:
        pytest.skip("a file system of text only")
    for data in both(tmp_path / "data", tmp_path):
        train, val = open_training(data, OPTIONS, "RGB")
        assert per_class(train, val) == [7, 6]
        assert train.fingerprint
        caplog.text.encode()


@pytest.mark.parametrize("split", ["train", "val"])
def test_names_that_print_alike(tmp_path, split):
    for part in ("train", "val"):
        for i, name in enumerate(("ant", "caf\u00e9")):
            write(tmp_path / "data" / part / name, seed=i)
    other = tmp_path / "data" / split / "cafe\u0301"
    message = (
        r"has the classes '(cafe\\u0301|caf\\xe9)' and '(cafe\\u0301|caf\\xe9)', "
        r"which are one text in two Unicode forms"
    )
    if split == "val":
        shutil.rmtree(tmp_path / "data" / "val" / "caf\u00e9")
        message = (
            r"has a class 'cafe\\u0301' that is not among .* "
            r"\('caf\\xe9', the same text in another Unicode form, is\)"
        )
    write(other, seed=2)
    if len(list(other.parent.iterdir())) == 1:
        pytest.skip("a file system that knows one form only")
    with pytest.raises(LearngeneError, match=message):
        open_training(str(tmp_path / "data"), OPTIONS, "RGB")


# splits


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("how", ["folder", "class", "file", "hard link"])
def test_training_images_are_not_called_another_split(tmp_path, split, how):
    for i, name in enumerate(("ant", "bee")):
        write(tmp_path / "train" / name, seed=i)
    other = tmp_path / split
    if how == "folder":
        other.symlink_to("train")
    else:
        for i, name in enumerate(("ant", "bee")):
            write(other / name, 2, seed=10 + i)
        if how == "hard link":
            os.link(tmp_path / "train" / "bee" / "0.png", other / "bee" / "x.png")
        elif how == "file":
            (other / "bee" / "x.png").symlink_to(tmp_path / "train" / "bee" / "0.png")
        else:
            shutil.rmtree(other / "bee")
            (other / "bee").symlink_to(tmp_path / "train" / "bee")
    looks = [lambda: open_split(str(tmp_path), OPTIONS, split, "RGB")]
    looks += [lambda: open_split(str(tmp_path), OPTIONS, split, "RGB", ["ant", "bee"])]
    for look in looks:
        with pytest.raises(
            LearngeneError, match=r"are files that '.*train' trains on, e\.g\. .*keep them apart"
        ):
            look()


@pytest.mark.parametrize("role", ["val", "test"])
def test_the_training_split_by_name_is_no_other(tmp_path, role):
    for split in ("train", "val"):
        for i, name in enumerate(("ant", "bee")):
            write(tmp_path / split / name, seed=i)
    for data in (str(tmp_path), "fashion-mnist"):
        with pytest.raises(LearngeneError, match="'train' is the one that is trained on"):
            open_split(data, replace(OPTIONS, **{f"{role}_split": "train"}), role, "RGB")


def test_slices_of_a_split():
    pairs = {
        ("a", "a"): 1,
        ("a", "b"): 0,
        ("a", "a[:80%]"): 1,
        ("a[80%:]", "a[:80%]"): 0,
        ("a+b", "b[:9]"): 1,
        ("a+b", "c"): 0,
    }
    assert {pair: int(is_same_split(*pair)) for pair in pairs} == pairs


def test_copies_of_the_training_images_are_noticed(tmp_path, caplog):
    for i, name in enumerate(("ant", "bee")):
        write(tmp_path / "train" / name, seed=i)
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    open_training(str(tmp_path), OPTIONS, "RGB")
    assert "look like copies of those of" in caplog.text
    caplog.clear()
    write(tmp_path / "val" / "ant", seed=5)
    open_training(str(tmp_path), OPTIONS, "RGB")
    assert not caplog.records


def test_splits_that_a_data_set_lacks_are_refused(tmp_path):
    write(tmp_path / "data" / "ant")
    write(tmp_path / "data" / "bee", seed=1)
    packed = str(pack(tmp_path / "data", tmp_path / "packed.tar"))
    with pytest.raises(LearngeneError, match=r"is a \.tar, which has no split 'val'"):
        open_training(packed, replace(OPTIONS, val_split="val"), "RGB")
    with pytest.raises(LearngeneError, match=r"is a \.tar, which has no split 'test'"):
        open_split(packed, replace(OPTIONS, test_split="test"), "test", "RGB")
    with pytest.raises(LearngeneError, match="fashion-mnist has no split 'valid'; it has train and test"):
        open_training("fashion-mnist", replace(OPTIONS, val_split="valid"), "L")


def test_two_folders_for_one_split_are_said(tmp_path, caplog):
    for split in ("train", "val", "validation"):
        for i, name in enumerate(("ant", "bee")):
            write(tmp_path / split / name, 2, seed=len(split) + i)
    _, val = open_training(str(tmp_path), OPTIONS, "RGB")
    assert val.name.endswith("/val")
    assert "has the folders validation beside 'val'; only the latter is used" in caplog.text


# tars


def test_a_tar_with_one_folder_above_its_classes(tmp_path):
    write(tmp_path / "data" / "ant", 4)
    write(tmp_path / "data" / "bee", 4, seed=1)
    (tmp_path / "data" / "readme.txt").write_text("hello")
    path = pack(tmp_path / "data", tmp_path / "packed.tar", "photos/train")
    train, val = open_training(str(path), OPTIONS, "RGB")
    assert train.classes == ("ant", "bee")
    assert train.describe(0).endswith("packed.tar/photos/train/ant/0.png")
    data = ImageData(train, val, CONFIG, Recipe(batch_size=4), DataOptions(workers=2))
    assert torch.equal(next(iter(data.val_dataloader()))["target"], torch.tensor(val.targets))
    assert all(
        np.array_equal(np.asarray(train.in_memory().read(i)), np.asarray(train.read(i)))
        for i in range(len(train))
    )


CONFIG = {
    "input_size": [3, 16, 16],
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "interpolation": "bicubic",
    "crop_pct": 1.0,
}


def test_hard_links_and_later_members_of_a_tar(tmp_path):
    write(tmp_path / "data" / "ant", 4)
    write(tmp_path / "data" / "bee", 4, seed=1)
    os.link(tmp_path / "data" / "ant" / "0.png", tmp_path / "data" / "ant" / "same.png")
    path = pack(tmp_path / "data", tmp_path / "packed.tar")
    with tarfile.open(path, "a") as tar:
        tar.add(tmp_path / "data" / "bee" / "3.png", "./ant/1.png")  # takes the place of the first one
    found = list_classes(path)
    assert np.bincount(found.targets).tolist() == [5, 4]
    index = list(found.files.names).index("ant/1.png")
    assert found.files.read(index, "RGB") == decode(tmp_path / "data" / "bee" / "3.png", "RGB")


def test_a_cut_or_damaged_tar_loses_nothing_in_silence(tmp_path, caplog):
    write(tmp_path / "data" / "ant", 4)
    write(tmp_path / "data" / "bee", 4, seed=1)
    path = pack(tmp_path / "data", tmp_path / "packed.tar")
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[-2].offset
    for content, message in (
        (whole[: offset + 100], "damaged or cut at byte"),
        (whole[:offset] + b"junk" * 128 + whole[offset + 512 :], "damaged or cut at byte"),
        (whole + whole, "another archive follows"),
        (whole[: offset + 700], "cannot be listed"),
    ):
        path.write_bytes(content)
        with pytest.raises(LearngeneError, match=message):
            open_training(str(path), OPTIONS, "RGB")
    path.write_bytes(whole[:offset])
    open_training(str(path), OPTIONS, "RGB")
    assert "has no end mark" in caplog.text


def test_a_tar_of_splits_is_refused_without_labels_too(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / "data" / split)
    with pytest.raises(LearngeneError, match="holds several splits"):
        open_training(
            str(pack(tmp_path / "data", tmp_path / "packed.tar")), replace(OPTIONS, unlabeled=True), "RGB"
        )


@pytest.mark.parametrize("top", ["test", "photos/Val"])
@pytest.mark.parametrize("unlabeled", [False, True])
def test_a_tar_of_held_out_images_is_not_trained_on(tmp_path, top, unlabeled):
    for i, name in enumerate(("ant", "bee")):
        write(tmp_path / "data" / name, seed=i)
    path = pack(tmp_path / "data", tmp_path / "packed.tar", top)
    with pytest.raises(
        LearngeneError, match=rf"holds a folder '{top.split('/')[-1]}' and none to train on; .*--train-split"
    ):
        open_training(str(path), replace(OPTIONS, unlabeled=unlabeled), "RGB")


# decoding


def test_every_error_of_a_decoder_is_a_broken_image(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def fail(self):
        raise RuntimeError("Failed to decode frame 0")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(BROKEN_IMAGE, match=r"it is damaged \(Failed to decode frame 0"):
        decode(tmp_path / "0.png", "L")


def tiff(pixels, bits, white_is_zero):
    """A grey TIFF as it is written by hand: PIL does not write these kinds."""
    height, width = 2, 2
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: int(not white_is_zero),
        273: 8,
        277: 1,
        278: height,
        279: len(pixels),
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(pixels))
        + pixels
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )


@pytest.mark.parametrize(
    ("pixels", "bits", "white_is_zero", "grey"),
    [
        (np.array([0, 128, 255, 64], np.uint8).tobytes(), 8, True, [255, 127, 0, 191]),
        (np.array([0, 128, 255, 64], np.uint16).tobytes(), 16, False, [0, 0, 1, 0]),
        (np.array([0, 0x8080, 0xFFFF, 0x4040], "<u2").tobytes(), 16, True, [255, 127, 0, 191]),
        (bytes.fromhex("000800fff400"), 12, False, [0, 128, 255, 64]),
    ],
)
def test_grey_of_any_depth_keeps_its_range(pixels, bits, white_is_zero, grey):
    found = np.asarray(decode(io.BytesIO(tiff(pixels, bits, white_is_zero)), "L"))
    assert found.ravel().tolist() == grey


# 16 bits


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_keeps_its_range(tmp_path, suffix):
    for name, level in (("dark", 8_000), ("light", 50_000)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(4):
            grey = np.random.default_rng(i).integers(level - 4_000, level + 4_000, (16, 16)).astype(np.uint16)
            Image.fromarray(grey).save(tmp_path / "data" / name / f"{i}.{suffix}")
    sources = [open_training(data, OPTIONS, "L")[0] for data in both(tmp_path / "data", tmp_path)]
    for source in [*sources, sources[0].in_memory()]:
        for i in (0, len(source) - 1):
            assert np.asarray(source.read(i)).mean() == pytest.approx(
                (8_000, 50_000)[source.targets[i]] / 257, abs=2
            )
    data = ImageData(
        sources[0],
        sources[0],
        CONFIG | {"input_size": [1, 16, 16]},
        Recipe(),
        DataOptions(on_device=True, workers=0),
    )
    assert data.pixels().float().mean() == pytest.approx(29_000 / 257, abs=2)


def test_numbers_without_a_range_are_refused(tmp_path):
    for pixels in (np.full((4, 4), 200, np.int32), np.ones((4, 4), np.float32)):
        Image.fromarray(pixels).save(tmp_path / "x.tif")
        with pytest.raises(BROKEN_IMAGE, match="without a stated range"):
            decode(tmp_path / "x.tif", "L")


# labels in another order


def source_of(classes, targets):
    def read(i):
        return Image.new("L", (8, 8), int(targets[i]))

    return Source("shoes/test", len(targets), read, str, np.array(targets), tuple(classes))


def test_arranged_changes_labels_only():
    source = source_of("abc", [0, 2, 2, 0])
    assert source.arranged("abc") is source
    other = source.arranged(["d", "c", "b", "a"])
    assert other.targets.tolist() == [3, 1, 1, 3]
    assert (other.classes, other.num_classes) == (("d", "c", "b", "a"), 4)
    assert other.read(1) == source.read(1)
    assert source.arranged("ca").targets.tolist() == [1, 0, 0, 1]  # no image of b
    with pytest.raises(
        LearngeneError, match="'shoes/test' has a class 'c' that is not among the 2 classes trained on"
    ):
        source.arranged("ab")
    with pytest.raises(LearngeneError, match="'c' that is twice among"):
        source.arranged("abcc")
    unnamed = replace(source, classes=None)
    assert unnamed.arranged("xyz") is unnamed
    assert replace(source, targets=None).arranged("cba").targets is None


def test_a_stream_is_arranged_as_it_is_read():
    shards = Shards(
        "s", (2,), lambda shard, first: iter(range(first, 2)), lambda sample: (Image.new("L", (4, 4)), sample)
    )
    stream = replace(source_of("ab", [0, 1]), targets=None, stream=shards, class_count=2)
    other = stream.arranged("cba")
    assert [other.stream.decode(sample)[1] for sample in other.stream.read(0, 0)] == [2, 1]
    assert other.num_classes == 3
    with pytest.raises(LearngeneError, match="'b' that is not among"):
        stream.arranged("ac")


def test_a_models_classes_order_the_labels_of_every_split(tmp_path):
    for split in ("train", "val", "test"):
        for i, name in enumerate(("ant", "bee")):
            write(tmp_path / split / name, 3, seed=len(split) + 7 * i)
    for split in ("train", "val", "test"):
        source = open_split(str(tmp_path), OPTIONS, split, "RGB", ["cow", "bee", "ant"])
        assert source.classes == ("cow", "bee", "ant")
        assert [source.describe(i).split("/")[-2] for i in range(6)] == [
            source.classes[t] for t in source.targets
        ]
        with pytest.raises(LearngeneError, match="'bee' that is not among the 2"):
            open_split(str(tmp_path), OPTIONS, split, "RGB", ["cow", "ant"])


# torchvision's data sets


def test_torch_image_folder_has_no_test_part_of_its_own(tmp_path, caplog):
    for i, name in enumerate(("2", "10")):
        write(tmp_path / name, 10, seed=i)
    options = DataOptions(data_root=str(tmp_path), workers=0)
    for data in ("torch/image_folder", "torch/folder"):
        train, val = open_training(data, options, "RGB")
        assert train.classes == ("10", "2")  # in torchvision's order
        assert open_split(data, options, "auto", "RGB").length == len(val) == 2
        with pytest.raises(LearngeneError, match="has no test split"):
            open_split(data, options, "test", "RGB")
    with pytest.raises(LearngeneError, match="name it with --data-root"):
        open_training("torch/image_folder", OPTIONS, "RGB")


def inaturalist(root):
    for n, version in enumerate(("2021_train", "2021_valid")):
        for k in range(2):
            folder = root / version / f"0000{k}_Animalia_Chordata_Aves_Piciformes_Family{k}_Genus_kind{k}"
            write(folder, 4 - n, "jpg", seed=10 * n + k)
            (folder / ".DS_Store").write_text("x")
            (folder / "notes.txt").write_text("x")


def test_inaturalist_is_read(tmp_path, caplog):
    inaturalist(tmp_path)
    options = DataOptions(data_root=str(tmp_path), workers=0)
    for data in ("torch/inaturalist", "torch/INat"):
        train, val = open_training(data, options, "RGB")
        assert (per_class(train), per_class(val)) == ([4, 4], [3, 3])
        assert train.classes[1].endswith("kind1")
        assert train.read(0).size == (16, 16)
        assert open_split(data, options, "auto", "RGB").name == f"{data} (val)"
        with pytest.raises(LearngeneError, match="has no test split"):
            open_split(data, options, "test", "RGB")
    assert "2 files of other kinds (.txt 2)" in caplog.text
    train, val = open_training("torch/inaturalist", replace(options, train_split="family/train"), "RGB")
    assert train.classes == val.classes == ("Family0", "Family1")


def test_postscript_is_refused_through_torchvision_too(tmp_path):
    inaturalist(tmp_path)
    (
        tmp_path / "2021_train" / "00000_Animalia_Chordata_Aves_Piciformes_Family0_Genus_kind0" / "0.jpg"
    ).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    train, _ = open_training("torch/inaturalist", DataOptions(data_root=str(tmp_path), workers=0), "RGB")
    with pytest.raises(BROKEN_IMAGE, match="cannot identify"):
        train.read(0)


@pytest.mark.parametrize("data", ["torch/ImageNet", "torch/places365"])
def test_imagenet_and_places_are_validated_on_validation(tmp_path, monkeypatch, data):
    from learngene.data import torch_sets

    class Fake:
        """What torchvision gives: ImageNet has WordNet ids beside class names that are not unique."""

        def __init__(self, split):
            self.root, ids = str(tmp_path / split), ["n01", "n02"]
            self.class_to_idx = {"n02": 1, "n01": 0}
            if data == "torch/ImageNet":
                self.wnids, self.class_to_idx = ids, {"crane": 1, "bird": 0}
            self.imgs = [(f"{self.root}/{name}/{i}.png", ids.index(name)) for name in ids for i in range(3)]

    for split in ("train", "validation"):
        for i, name in enumerate(("n01", "n02")):
            write(tmp_path / split / name, 3, seed=len(split) + 3 * i)
    monkeypatch.setattr(torch_sets, "create_dataset", lambda data, root, split, download: Fake(split))
    options = DataOptions(data_root=str(tmp_path), workers=0)
    train, val = open_training(data, options, "RGB")
    assert (train.classes, len(train), len(val)) == (("n01", "n02"), 6, 6)
    assert val.describe(0) == str(tmp_path / "validation" / "n01" / "0.png")
    assert val.read(5) == decode(tmp_path / "validation" / "n02" / "2.png", "RGB")
    assert open_split(data, options, "auto", "RGB").name == f"{data} (val)"


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("torch/nothing", {}, "there is no 'torch/nothing'; of torchvision's data sets timm opens cifar10"),
        ("torch/mnist", {"train_split": "trian"}, "torch/mnist has no split 'trian'; it has train and test"),
        ("torch/mnist", {"val_split": "training"}, "is the one that is trained on"),
        *[
            (f"torch/{name}", {}, "cannot be opened under")
            for name in ("cifar10", "cifar100", "mnist", "kmnist", "qmnist")
        ],
        *[
            (f"torch/{name}", {}, "cannot be opened under")
            for name in ("fashion_mnist", "imagenet", "places365", "inaturalist")
        ],
    ],
)
def test_every_torchvision_set_ends_in_a_sentence(tmp_path, monkeypatch, data, options, message):
    if "val_split" in options:
        from learngene.data import torch_sets

        found = torch_sets.TorchSet(2, None, np.array([0, 1]), None, None)
        monkeypatch.setattr(torch_sets, "open_torch", lambda *_: found)
    with pytest.raises(LearngeneError, match=message):
        open_training(data, DataOptions(data_root=str(tmp_path), workers=0, **options), "RGB")


def test_streams_of_the_same_shards_are_noticed(tmp_path):
    from learngene.data.folders import shards_on_disk

    (tmp_path / "a.tar").write_bytes(b"x")
    stream = replace(
        source_of("ab", [0, 1]), stream=object(), files=shards_on_disk([str(tmp_path / "a.tar")])
    )
    with pytest.raises(
        LearngeneError, match=r"1 of the 1 files of 'shoes/test' are files that .* trains on, e\.g\. a\.tar"
    ):
        check_apart(stream, stream)
