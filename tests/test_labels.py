"""Labels are whole numbers from 0 to K-1, or end in one sentence; columns are found; no PostScript is run."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import IMAGES_28 as CONFIG
from conftest import TINY_ARGS
from PIL import EpsImagePlugin, Image

from learngene.cli import main
from learngene.data import ImageData, has_test_split, open_split, open_training
from learngene.data.columns import decode_cell
from learngene.data.embedded import load_embedded
from learngene.data.images import BROKEN_IMAGE
from learngene.data.labels import Labels, count_from, names_from_text, whole_number
from learngene.data.names import natural
from learngene.errors import LearngeneError
from learngene.recipe import DataOptions, Recipe

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()
PICTURES = [Image.fromarray(image) for image in load_embedded("train")[0][:12]]
NAMES = datasets.ClassLabel(names=["ant", "bee", "cat"])
INTEGER, TEXT, FLOAT = (datasets.Value(kind) for kind in ("int64", "string", "float64"))
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"


def encoded(picture, kind="PNG"):
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def write_table(root, splits, kind=INTEGER, image="image", label="label", pictures=None, further=None):
    """A folder of parquet files: ``splits`` has the labels of each."""
    more = {} if further is None else {further[0]: further[1]}
    for split, labels in splits.items():
        found = pictures or PICTURES
        rows = {image: [found[k % len(found)] for k in range(len(labels))], label: labels}
        rows |= {name: [0] * len(labels) for name in more}
        table = datasets.Dataset.from_dict(
            rows, features=datasets.Features({image: datasets.Image(), label: kind, **more})
        )
        table.to_parquet(root / "set" / f"{split}-00000-of-00001.parquet")
    return str(root / "set")


def write_shards(root, splits, image_suffix="png", label_suffix="cls", shard=1000):
    """Tar files for webdataset.

    ``splits`` has the contents of the label files, and a picture's bytes beside them where it is a pair.
    """
    info = {}
    for split, labels in splits.items():
        parts = [labels[i : i + shard] for i in range(0, len(labels), shard)]
        files = [f"set-{split}-{n:04d}.tar" for n in range(len(parts))]
        for file, part in zip(files, parts, strict=True):
            with tarfile.open(root / file, "w") as tar:
                for k, label in enumerate(part):
                    content, label = (
                        label if isinstance(label, tuple) else (encoded(PICTURES[k % len(PICTURES)]), label)
                    )
                    for suffix, data in ((image_suffix, content), (label_suffix, label)):
                        if data is not None:
                            entry = tarfile.TarInfo(f"{k:03d}.{suffix}")
                            entry.size = len(data)
                            tar.addfile(entry, io.BytesIO(data))
        info[split] = {
            "name": split,
            "num_samples": len(labels),
            "filenames": files,
            "shard_lengths": [len(p) for p in parts],
        }
    (root / "_info.json").write_text(json.dumps({"splits": info}))


def options(root, **more):
    return DataOptions(**{"data_root": str(root / "cache"), "val_split": "test", "workers": 0, **more})


def shard_options(root, **more):
    return DataOptions(
        **{"data_root": str(root), "val_split": "test", "workers": 0, "num_classes": 3, **more}
    )


def all_batches(source, val, choice):
    images = ImageData(source, val, CONFIG, Recipe(batch_size=4), choice)
    return list(images.train_dataloader()), list(images.val_dataloader())


@pytest.mark.parametrize(
    ("label", "number"),
    [(3, 3), (np.int64(3), 3), (np.array(3), 3), (torch.tensor(3), 3), (True, 1), (b"3", 3), (b" 3\n", 3)]
    + [("3", 3), (2.0, 2), (-1, -1)]
    + [(label, None) for label in (2.5, float("nan"), float("inf"), None, "ant", b"", "1_0", b"2.5")]
    + [(label, None) for label in ([1], {}, np.array([1, 2]))],
)
def test_whole_numbers(label, number):
    assert whole_number(label) == number


@pytest.mark.parametrize("label", [-1, 3, 4, "ant", b"ant", 2.5, None, float("nan"), b"", np.int64(-1)])
def test_what_is_no_label(label):
    with pytest.raises(
        LearngeneError,
        match=r"^photos: row 7 has (the|no) label .*whole numbers from 0 to 2\. Mend the labels.*--unlabeled",
    ):
        Labels("photos", 3).index(label, "row 7")
    with pytest.raises(LearngeneError, match="row 2 has"):
        Labels("photos", 3).indices([0, 1, label], "row {}".format)


def test_ways_out_are_those_that_lead_out():
    with pytest.raises(LearngeneError, match=r"the label 7;.*raise --num-classes \(to 8 or more\)"):
        Labels("photos", 3).index(7, "row 0")
    for labels, label in ((Labels("photos", 2, ("ant", "bee")), 7), (Labels("photos", 3), -1)):
        with pytest.raises(LearngeneError) as caught:
            labels.index(label, "row 0")
        assert "--num-classes" not in str(caught.value)
    with pytest.raises(
        LearngeneError, match=r"the label 'cow'; the labels of the training images are ant, bee\. "
    ):
        Labels("photos", 2, ("ant", "bee"), text=True).index("cow", "row 0")


def test_classes_from_a_column():
    assert names_from_text(["b10", "b9", None, "a", "b9"], "x") == ("a", "b9", "b10")
    rows = ["x²", "²", "01", "1", "Cat", "cat"]
    assert names_from_text(rows, "x") == names_from_text(rows[::-1], "x") == tuple(sorted(rows, key=natural))
    assert count_from([0, 2, None], "photos") == 3
    for labels in ([1, 2, 3], [0, 10**12]):
        with pytest.raises(LearngeneError, match=r"names no classes; .* give K with --num-classes"):
            count_from(labels, "photos")


# Hugging Face -----------------------------------------------------------------------------------------------

GOOD = [0, 1, 2] * 3
BAD = {
    "unlabelled rows": (NAMES, [0, 1, -1] * 3, "the label -1"),
    "missing": (NAMES, [0, 1, None] * 3, "no label"),
    "from 1 to K": (INTEGER, [1, 2, 3] * 3, "the label 3"),
    "negative": (INTEGER, [0, 1, -1] * 3, "the label -1"),
    "fractions": (FLOAT, [0.0, 1.0, 2.5] * 3, "the label 2.5"),
    "not a number": (FLOAT, [0.0, 1.0, float("nan")] * 3, "no label"),
}


@pytest.mark.parametrize("kind", ["hfds", "hfids", "hfids downloaded"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("fault", BAD)
def test_labels_of_tables(tmp_path, fault, split, kind):
    feature, labels, said = BAD[fault]
    good = [float(x) for x in GOOD] if feature is FLOAT else GOOD
    data = write_table(
        tmp_path,
        {name: labels if name == split else good for name in ("train", "validation", "test")},
        feature,
    )
    choice = options(
        tmp_path,
        num_classes=3,
        val_split="validation",
        test_split="test",
        download=kind.endswith("downloaded"),
    )
    with pytest.raises(LearngeneError, match=rf"\({split}\): row \d.* has {said}.*whole numbers from 0 to 2"):
        open_split(f"{kind.split()[0]}/{data}", choice, "test" if split == "test" else "train", "L")


@pytest.mark.parametrize("kind", ["hfds", "hfids"])
def test_labels_are_not_looked_at_without_need(tmp_path, kind):
    data = write_table(tmp_path, {"train": ["?", None, "x", "y"], "test": [None] * 4}, TEXT)
    choice = options(tmp_path, unlabeled=True)
    for batches in all_batches(*open_training(f"{kind}/{data}", choice, "L"), choice):
        assert [batch["target"].tolist() for batch in batches] == [[-1] * 4]


@pytest.mark.parametrize("kind", ["hfds", "hfids"])
@pytest.mark.parametrize(
    ("image", "label"), [("img", "label"), ("image", "labels"), ("photo", "kind"), ("img", "fine_label")]
)
def test_columns_are_found(tmp_path, kind, image, label):
    further = (
        ("coarse_label", datasets.ClassLabel(names=["x"])) if label == "fine_label" else ("extra", INTEGER)
    )
    data = write_table(
        tmp_path, {"train": [2, 1, 0] * 4, "test": [2, 0, 1]}, NAMES, image, label, further=further
    )
    choice = options(tmp_path)
    train, val = open_training(f"{kind}/{data}", choice, "L")
    assert train.classes == val.classes == ("ant", "bee", "cat")
    trained, validated = all_batches(train, val, choice)
    assert sorted(n for batch in trained for n in batch["target"].tolist()) == [0] * 4 + [1] * 4 + [2] * 4
    assert [batch["target"].tolist() for batch in validated] == [[2, 0, 1]]


@pytest.mark.parametrize("kind", ["hfds", "hfids"])
def test_columns_that_are_not_found_are_listed(tmp_path, kind):
    columns = {
        "front": datasets.Image(),
        "back": datasets.Image(),
        "species": NAMES,
        "age": NAMES,
        "words": TEXT,
    }
    rows = {
        "front": PICTURES[:4],
        "back": PICTURES[4:8],
        "species": [0, 1] * 2,
        "age": [2, 0, 0, 0],
        "words": ["a", "b"] * 2,
    }
    for split in ("train", "test"):
        table = datasets.Dataset.from_dict(rows, features=datasets.Features(columns))
        table.to_parquet(tmp_path / "set" / f"{split}-00000-of-00001.parquet")
    data = f"{kind}/{tmp_path / 'set'}"
    listed = (
        r"its columns are front \(Image\), back \(Image\), "
        r"species \(ClassLabel\), age \(ClassLabel\), words \(string\)"
    )
    with pytest.raises(
        LearngeneError, match=rf"2 columns could have the images; {listed}\..*--image-column NAME"
    ):
        open_training(data, options(tmp_path), "L")
    with pytest.raises(
        LearngeneError,
        match=rf"2 columns could have the labels; {listed}\..*--label-column NAME.*--unlabeled",
    ):
        open_training(data, options(tmp_path, image_column="back"), "L")
    with pytest.raises(LearngeneError, match=rf"has no column 'x'; {listed}"):
        open_training(data, options(tmp_path, image_column="x"), "L")
    with pytest.raises(LearngeneError, match="column 'front' holds no labels"):
        open_training(data, options(tmp_path, image_column="back", label_column="front"), "L")
    choice = options(tmp_path, image_column="back", label_column="age")
    _, val = open_training(data, choice, "L")
    (batch,) = ImageData(None, val, CONFIG, Recipe(batch_size=4), choice).val_dataloader()
    assert batch["target"].tolist() == [2, 0, 0, 0]
    assert np.allclose(batch["image"][1, 0].numpy() * 0.5 + 0.5, np.asarray(PICTURES[5]) / 255, atol=0.01)


@pytest.mark.parametrize("kind", ["hfds", "hfids"])
def test_text_becomes_classes_in_one_order(tmp_path, kind):
    """Of the training images: validation lacks one, and would count otherwise by itself."""
    data = write_table(tmp_path, {"train": ["cow", "ant", "bee", "cow"], "test": ["cow", "bee"]}, TEXT)
    choice = options(tmp_path, test_split="test")
    train, val = open_training(f"{kind}/{data}", choice, "L")
    test = open_split(f"{kind}/{data}", choice, "test", "L")
    assert train.classes == val.classes == test.classes == ("ant", "bee", "cow")
    for source in (val, test):
        (batch,) = ImageData(None, source, CONFIG, Recipe(batch_size=4), choice).val_dataloader()
        assert batch["target"].tolist() == [2, 1]
    write_table(tmp_path / "more", {"train": ["cow", "ant", "bee", "cow"], "test": ["cow", "dog"]}, TEXT)
    with pytest.raises(
        LearngeneError,
        match=r"\(test\): row 1.* has the label 'dog'; the labels of the training images are ant",
    ):
        open_training(f"{kind}/{tmp_path / 'more' / 'set'}", choice, "L")


@pytest.mark.parametrize("kind", ["hfds", "hfids"])
def test_splits_that_are_there_are_used(tmp_path, kind):
    data = f"{kind}/" + write_table(tmp_path, {"train": GOOD, "validation": [2, 1], "test": [0, 0, 1]}, NAMES)
    choice = options(tmp_path, val_split=None)
    train, val = open_training(data, choice, "L")
    test = open_split(data, choice, "auto", "L")
    assert (len(train), len(val), len(test)) == (9, 2, 3)
    assert (val.name, test.name) == (f"{data} (validation)", f"{data} (test)")
    assert has_test_split(data, choice)
    assert not has_test_split(data, options(tmp_path, train_split="test"))
    alone = f"{kind}/" + write_table(tmp_path / "alone", {"train": GOOD}, NAMES)
    with pytest.raises(LearngeneError, match="has no test split"):
        open_split(alone, choice, "test", "L")


@pytest.mark.parametrize("kind", ["hfds", "hfids"])
def test_another_order_of_class_names_in_a_split_is_refused(tmp_path, kind):
    data = f"{kind}/" + write_table(tmp_path, {"train": GOOD}, NAMES)
    write_table(tmp_path, {"validation": [1, 0]}, datasets.ClassLabel(names=["ant", "bee"]))
    write_table(tmp_path, {"test": [2, 0]}, datasets.ClassLabel(names=["cat", "bee", "ant"]))
    assert len(open_training(data, options(tmp_path, val_split="validation"), "L")[1]) == 2
    with pytest.raises(
        LearngeneError,
        match=r"\(test\): '.*test-.*' has the classes cat, bee, ant in .*train-.*' has ant, bee, cat, so",
    ):
        open_training(data, options(tmp_path), "L")


def test_cells_that_lead_nowhere_are_broken_images(tmp_path):
    for path in ("s3-without-a-plug-in://bucket/x.png", f"zip://x.png::{tmp_path}/none.zip", str(tmp_path)):
        with pytest.raises(BROKEN_IMAGE, match="cannot be read"):
            decode_cell({"bytes": None, "path": path}, "L")


def test_numbers_without_names(tmp_path):
    data = "hfds/" + write_table(tmp_path, {"train": [0, 1, 2, 2], "test": [1, 1], "validation": [3]})
    train, val = open_training(data, options(tmp_path), "L")
    assert train.num_classes == val.num_classes == 3  # validation's own highest is 1
    assert open_training(data, options(tmp_path, num_classes=5), "L")[0].num_classes == 5
    with pytest.raises(
        LearngeneError, match=r"\(validation\): row 0 has the label 3; labels are whole numbers from 0 to 2"
    ):
        open_training(data, options(tmp_path, val_split="validation"), "L")
    named = "hfds/" + write_table(tmp_path / "named", {"train": [0, 1, 2], "test": [0]}, NAMES)
    with pytest.raises(LearngeneError, match=r"num_classes 5: .* names 3 classes itself"):
        open_training(named, options(tmp_path, num_classes=5), "L")


# webdataset -------------------------------------------------------------------------------------------------


def write_model(root):
    import timm

    timm.models.save_for_hf(
        timm.create_model("vit_tiny_patch16_224", depth=2, **TINY_ARGS),
        root / "ancestor",
        safe_serialization=True,
    )
    return str(root / "ancestor")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("wrong", [b"3", b"-1", b"ant", b"", b"2.5", None])
def test_labels_of_shards_end_in_the_sentence(tmp_path, wrong, workers):
    pytest.importorskip("webdataset")
    write_shards(
        tmp_path, {"train": [b"0", b"1", b"2", b"1", wrong, b"0", b"1", b"2"], "test": [b"0", b"1", b"2"]}
    )
    choice = shard_options(tmp_path, workers=workers)
    train, val = open_training("wds/set", choice, "L")
    said = "no class in a .cls file" if wrong is None else "whole numbers from 0 to 2"
    with pytest.raises(
        LearngeneError,
        match=rf"^wds/set \(train\): sample 004 of .*{said}.*--unlabeled to distil without [a-z]+$",
    ):
        all_batches(train, val, choice)
    assert (
        len(all_batches(*open_training("wds/set", shard_options(tmp_path, unlabeled=True), "L"), choice)[0])
        == 2
    )


def test_wrong_labels_of_validation_are_found_before_an_epoch(tmp_path):
    pytest.importorskip("webdataset")
    write_shards(
        tmp_path, {"train": [b"0", b"1", b"2", b"1"], "test": [b"0", b"1", b"3"]}, label_suffix="CLS"
    )
    with pytest.raises(
        LearngeneError, match=r"^wds/set \(test\): sample 002 of .*test-0000.tar has the label '3'"
    ):
        open_training("wds/set", shard_options(tmp_path), "L")
    write_shards(tmp_path, {"train": [b"0", b"1", b"2", b"1"], "test": [b"0", None, b"2"]})
    with pytest.raises(
        LearngeneError, match=r"^wds/set \(test\): sample 001 of .*\['png'\]: no class in a \.cls file"
    ):
        open_training("wds/set", shard_options(tmp_path), "L")


@pytest.mark.parametrize("job", ["finetune", "finetune --mixup 0.8", "distill", "distill --unlabeled true"])
def test_shards_from_1_to_k_at_the_command_line(tmp_path, capsys, job):
    pytest.importorskip("webdataset")
    write_shards(tmp_path, {"train": [b"1", b"2", b"3", b"3"] * 4, "test": [b"0", b"1", b"2"]})
    name, *more = job.split()
    words = (
        [name, "vit_tiny_patch16_224", "--depth", "2"]
        if name == "finetune"
        else [name, "--ancestor", write_model(tmp_path), "--plan", "1,1"]
    )
    if name == "finetune":
        words += ["--arch-args", json.dumps({k: v for k, v in TINY_ARGS.items() if k != "num_classes"})]
    words += [
        "--data",
        "wds/set",
        "--data-root",
        str(tmp_path),
        "--num-classes",
        "3",
        "--val-split",
        "test",
        "--workers",
        "2",
    ]
    words += [
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--accelerator",
        "cpu",
        "--precision",
        "32-true",
        "--out",
        str(tmp_path / "run"),
    ]
    status = main([*words, *more])
    error = capsys.readouterr().err
    assert "Traceback" not in error
    if "--unlabeled" in more:
        assert status == 0
    else:
        assert status == 2
        assert "wds/set (train): sample " in error
        assert "has the label '3'; labels are whole numbers from 0 to 2" in error.replace("\n", " ")


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [("bmp", "BMP"), ("TIF", "TIFF"), ("gif", "GIF"), ("JPG", "JPEG"), ("ppm", "PPM"), ("front.png", "PNG")],
)
def test_every_image_format_in_shards(tmp_path, suffix, kind):
    pytest.importorskip("webdataset")
    labels = [
        (encoded(picture, kind), json.dumps({"kind": str(k % 3)}).encode())
        for k, picture in enumerate(PICTURES)
    ]
    write_shards(tmp_path, {"train": labels, "test": labels}, suffix, "json")
    choice = shard_options(tmp_path, label_column="kind")
    trained, validated = all_batches(*open_training("wds/set", choice, "L"), choice)
    assert not any(batch["bad"] for batch in [*trained, *validated])
    assert [n for batch in validated for n in batch["target"].tolist()] == [0, 1, 2] * 4
    with pytest.raises(
        LearngeneError,
        match=r"no class in a field 'colour' of a \.json file; name another with --label-column",
    ):
        open_training("wds/set", shard_options(tmp_path, label_column="colour"), "L")


# torchvision ------------------------------------------------------------------------------------------------


def write_inaturalist(root, content=None):
    for version in ("2021_train", "2021_valid"):
        for k in range(2):
            folder = root / version / f"0000{k}_Animalia_Chordata_Aves_Piciformes_Picidae_Genus_kind{k}"
            folder.mkdir(parents=True)
            for i in range(4):
                (folder / f"{i}.png").write_bytes(
                    content if content and i == 1 else encoded(PICTURES[4 * k + i])
                )


def test_inaturalist(tmp_path):
    write_inaturalist(tmp_path)
    choice = DataOptions(data_root=str(tmp_path), val_split="validation", workers=0)
    for source in open_training("torch/inaturalist", choice, "L"):
        assert source.num_classes == 2
        assert source.targets.tolist() == [0] * 4 + [1] * 4
        assert np.array_equal(source.read(6), PICTURES[6])
        assert Path(source.describe(6)).name == "2.png"


# files of another kind than their names say -----------------------------------------------------------------


def readers_of(root, content):
    """Every reader, over images of which the second one has this content."""
    contents = [content if k == 1 else encoded(PICTURES[k]) for k in range(4)]
    for name in ("ant", "bee"):
        (root / "folder" / name).mkdir(parents=True)
        for k, one in enumerate(contents):
            (root / "folder" / name / f"{k}.png").write_bytes(one)
    with tarfile.open(root / "set.tar", "w") as tar:
        for name in ("ant", "bee"):
            tar.add(root / "folder" / name, name)
    write_inaturalist(root / "naturalist", content)
    write_shards(
        root,
        {split: [(one, b"%d" % (k % 2)) for k, one in enumerate(contents)] for split in ("train", "test")},
    )
    cells = [{"bytes": one, "path": None} for one in contents]
    table = write_table(root, {"train": [0, 1, 0, 1], "test": [0, 1, 0, 1]}, INTEGER, pictures=cells)
    choice = {"val_split": "test", "num_classes": 2}
    yield "folder", str(root / "folder"), {}
    yield "tar", str(root / "set.tar"), {}
    yield "torch/image_folder", "torch/image_folder", {"data_root": str(root / "folder")}
    yield "torch/inaturalist", "torch/inaturalist", {"data_root": str(root / "naturalist")}
    yield "wds", "wds/set", {"data_root": str(root), **choice}
    for kind in ("hfds", "hfids"):
        yield kind, f"{kind}/{table}", {"data_root": str(root / "cache"), **choice}
    yield "hfids downloaded", f"hfids/{table}", {"data_root": str(root / "cache"), "download": True, **choice}


def pictures_of(source, mode="L"):
    """Each image of a source, or none where it cannot be read."""
    if source.stream is None:
        for i in range(len(source)):
            try:
                yield source.read(i)
            except BROKEN_IMAGE:
                yield None
    else:
        for sample in source.stream.read(0, 0):
            try:
                yield source.stream.decode(sample)[0]
            except BROKEN_IMAGE:
                yield None


def test_postscript_is_given_to_no_program(tmp_path, monkeypatch):
    """By whatever reader: PIL would run Ghostscript for a file of that content, be its name ``.png``."""
    pytest.importorskip("webdataset")
    ran = []
    monkeypatch.setattr(
        EpsImagePlugin, "Ghostscript", lambda *args, **kwargs: ran.append(1) or Image.new("RGB", (32, 32)).im
    )
    Image.open(io.BytesIO(EPS)).load()
    assert ran == [1]
    for name, data, more in readers_of(tmp_path, EPS):
        train, val = open_training(data, DataOptions(workers=0, **more), "L")
        broken = [picture for source in (train, val) for picture in pictures_of(source) if picture is None]
        assert ran == [1], name
        assert broken, name


def test_16_bits_keep_their_range_in_every_reader(tmp_path):
    pytest.importorskip("webdataset")
    deep = encoded(Image.fromarray(np.full((28, 28), 32_896, np.uint16)))  # 128 x 257
    for name, data, more in readers_of(tmp_path, deep):
        train, val = open_training(data, DataOptions(workers=0, **more), "L")
        found = [np.asarray(picture) for source in (train, val) for picture in pictures_of(source)]
        assert any((picture == 128).all() for picture in found), name


def test_labels_that_are_kept_secret_have_a_way_out():
    with pytest.raises(
        LearngeneError,
        match=r"the label -1; .*use another split where -1 stands for labels that are kept secret",
    ):
        Labels("imagenet (test)", 3).index(-1, "row 0")
