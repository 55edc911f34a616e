"""A cache and a resumed run notice that images are others than before."""

import json
import os
import re
import shutil
import tarfile

import numpy as np
import pytest
from conftest import FAST, TINY_ARGS, write_folder
from PIL import Image

from learngene import LearngeneError, cache, distill, finetune
from learngene.data import open_training
from learngene.fingerprints import way_out, what_differs
from learngene.recipe import DataOptions
from learngene.training.module import TrainingModule

ARGS = {k: v for k, v in TINY_ARGS.items() if k != "num_classes"}
OPTIONS = DataOptions(workers=0)


@pytest.fixture
def photos(tmp_path):
    """162 images, of which a digest of 64 would miss most; bitmaps, which are all of one size."""
    write_folder(tmp_path / "photos", 54)
    for path in [p for p in (tmp_path / "photos").rglob("*") if p.is_file()]:
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    return tmp_path / "photos"


def taken(data, **options):
    return open_training(str(data), DataOptions(workers=0, **options), "L")[0].fingerprint


def replace_one(root, place=7):
    """By an image of the same size, as soon as that may be."""
    files = sorted(root.rglob("*.bmp"))
    shutil.copyfile(files[place - 1], files[place])
    return files[place]


def rename_one(root):
    path = min(root.rglob("*.bmp"))
    path.rename(path.with_name("zzz.bmp"))


def touch(root):
    for path in root.rglob("*.bmp"):
        os.utime(path, (10, 10))


CHANGES = [
    (replace_one, r"replaced by others|written again"),
    (
        lambda root: shutil.copy(min(root.rglob("*.bmp")), root / "bag" / "new.bmp"),
        "files were added, removed or renamed",
    ),
    (lambda root: min(root.rglob("*.bmp")).unlink(), "files were added, removed or renamed"),
    (rename_one, "files were added, removed or renamed"),
    (lambda root: (root / "bag").rename(root / "bags"), "files were added, removed or renamed"),
    (touch, r"written again, with the same names and sizes.*'cp -a'"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=range(len(CHANGES)))
def test_a_change_of_files_is_noticed_and_named(photos, change, message):
    before = taken(photos, val_fraction=0.01)
    assert what_differs(json.loads(json.dumps(before)), taken(photos, val_fraction=0.01)) is None
    change(photos)
    after = taken(photos, val_fraction=0.01)
    what = what_differs(before, after)
    assert what is not None
    assert re.search(message, what + way_out(before, after))


def test_every_single_image_counts(photos):
    """With one that is replaced by one of the same size."""
    before = taken(photos)
    for place in range(1, 162, 20):
        path = sorted(photos.rglob("*.bmp"))[place]
        old, times = path.read_bytes(), path.stat()
        train, val = open_training(str(photos), OPTIONS, "L")
        held_out = str(path) in {val.describe(i) for i in range(len(val))}
        replace_one(photos, place)
        assert held_out == (what_differs(before, taken(photos)) is None)
        path.write_bytes(old)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert what_differs(before, taken(photos)) is None
    assert len(train) + len(val) == 162


def test_a_copy_with_its_times_is_the_same(photos, tmp_path):
    before = taken(photos)
    shutil.copytree(photos, tmp_path / "copy")  # keeps times
    assert what_differs(before, taken(tmp_path / "copy")) is None


def test_the_newest_file_is_named(photos):
    before = taken(photos, val_fraction=0.01)
    path = replace_one(photos)
    os.utime(path, (4e9, 4e9))
    assert f"('{path.relative_to(photos)}')" in what_differs(before, taken(photos, val_fraction=0.01))


def test_tars_and_images_without_files(photos, tmp_path):
    def pack(name):
        with tarfile.open(tmp_path / name, "w") as tar:
            tar.add(photos, ".")
        return taken(tmp_path / name)

    before = pack("a.tar")
    os.utime(tmp_path / "a.tar", (10, 10))
    assert "written again" in what_differs(before, taken(tmp_path / "a.tar"))
    replace_one(photos)
    packed = what_differs(before, pack("a.tar"))
    assert "replaced" in packed or "written again" in packed
    train = open_training("fashion-mnist", OPTIONS, "L")[0]
    other = train.subset(np.arange(len(train)), train.name)
    changed = 1000  # a single one, of 4500
    read = other.read
    object.__setattr__(other, "read", lambda i: read(i - (i == changed)))
    assert what_differs(train.fingerprint, taken("fashion-mnist")) is None
    assert "replaced" in what_differs(train.fingerprint, other.fingerprint)


@pytest.mark.parametrize("download", [False, True])
def test_replaced_files_of_a_hugging_face_stream_are_noticed(tmp_path, download):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    columns = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])}
    )

    def write(order):
        rows = {"image": [Image.new("L", (8, 8), 9 * k) for k in order], "label": [k % 2 for k in order]}
        for split in ("train", "test"):
            datasets.Dataset.from_dict(rows, features=columns).to_parquet(
                tmp_path / "set" / f"{split}-00000-of-00001.parquet"
            )

    def look(**more):
        choice = DataOptions(
            **{
                "data_root": str(tmp_path / "cache"),
                "workers": 0,
                "val_split": "test",
                "download": download,
                **more,
            }
        )
        return open_training(f"hfids/{tmp_path / 'set'}", choice, "L")[0]

    write(range(12))
    then = look().fingerprint
    assert what_differs(then, look().fingerprint) is None
    assert (
        what_differs({k: then[k] for k in ("images", "classes", "labels", "sample")}, then) is None
    )  # of an earlier version
    write(range(11, -1, -1))
    assert what_differs(then, look().fingerprint) is not None
    if download:
        parts = [look(train_split=f"train[:{n}]", val_split="test").fingerprint for n in (8, 8)]
        assert what_differs(*parts) is None
        assert "version" in parts[0]


def test_what_an_earlier_version_stored():
    now = taken("fashion-mnist")
    assert what_differs(now["sample"], now) is None
    assert what_differs("0" * 64, now) == "other images or labels"
    for garbled in (
        None,
        3,
        [],
        {},
        {"images": [1], "newest": "x"},
        {**now, "sizes": 3, "newest": [1]},
        {**now, "newest": [1, {}]},
    ):
        assert what_differs(garbled, now)


def test_a_cache_of_replaced_images_is_refused(photos, ancestor, tmp_path):
    cache(ancestor, str(photos), out=tmp_path / "cache", **FAST)
    gene = {"plan": "2,1", "cache": tmp_path / "cache", **FAST}
    record = tmp_path / "cache" / "cache.json"
    content = json.loads(record.read_text())
    content["key"]["data"] = content["key"]["data"]["sample"]  # as an earlier version wrote it
    distill(ancestor, str(photos), out=tmp_path / "new", **gene)
    kept = record.read_text()
    record.write_text(json.dumps(content))
    distill(ancestor, str(photos), out=tmp_path / "old", **gene)
    record.write_text(kept)
    shutil.copy(min(photos.rglob("*.bmp")), photos / "bag" / "new.bmp")
    with pytest.raises(
        LearngeneError,
        match=r"is of another data \(files were added.*write another one with 'learngene cache'",
    ):
        distill(ancestor, str(photos), out=tmp_path / "refused", **gene)
    with pytest.raises(LearngeneError, match="is of another data"):
        cache(ancestor, str(photos), out=tmp_path / "cache", resume=True, **FAST)


class Stop(Exception):
    """The power goes out."""


@pytest.mark.parametrize("job", ["finetune", "distill"])
def test_a_run_is_not_resumed_with_other_images(photos, ancestor, tmp_path, monkeypatch, job):
    out = tmp_path / "run"

    def run(**options):
        if job == "distill":
            return distill(ancestor, str(photos), out=out, plan="2,1", **FAST, **options)
        return finetune(
            "vit_tiny_patch16_224", str(photos), out=out, depth=2, arch_args=ARGS, **FAST, **options
        )

    def stop(self, *_):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", stop)
        with pytest.raises(Stop):
            run()
    record = json.loads((out / "run.json").read_text())
    assert set(record["images"]) == {"train", "val"}
    path = min(p for p in photos.rglob("*.bmp"))
    old, times = path.read_bytes(), path.stat()
    path.write_bytes(max(photos.rglob("*.bmp")).read_bytes())
    with pytest.raises(
        LearngeneError, match=r"was begun with other (train|val) images: .*choose another --out"
    ):
        run(resume=True)
    assert json.loads((out / "run.json").read_text()) == record  # nothing is lost
    path.write_bytes(old)
    with pytest.raises(LearngeneError, match=r"written again, with the same names and sizes.*'cp -a'"):
        run(resume=True)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", stop)
        with pytest.raises(Stop):
            run(resume=True)
    del record["images"]  # as an earlier version wrote it
    (out / "run.json").write_text(json.dumps(record))
    path.unlink()
    run(resume=True)
    assert json.loads((out / "run.json").read_text())["images"]["train"]["images"] < 162
