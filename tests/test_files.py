"""Files are written whole or not at all, to stay, and a disk that will not take them is one sentence."""

import errno
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from learngene import LearngeneError
from learngene.files import atomic_directory, atomic_file, write_text
from learngene.formats.timm_directory import save_timm_directory

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB; `remount` makes it read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("mounting needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def write_bytes(path):
    path.write_bytes(b"\0" * 2**21)


def write_safetensors(path):
    save_file({"x": torch.zeros(2**19)}, path)


def write_checkpoint(path):
    torch.save({"x": torch.zeros(2**19)}, path)


@pytest.mark.parametrize("write", [write_bytes, write_safetensors, write_checkpoint])
def test_a_full_disk_leaves_the_earlier_file(small_disk, write):
    write_text(small_disk / "kept", "earlier")
    with (
        pytest.raises(
            LearngeneError,
            match=r"disk/kept' cannot be written \(.*(No space|full).*; free some space or choose another",
        ),
        atomic_file(small_disk / "kept") as scratch,
    ):
        write(scratch)
    assert (small_disk / "kept").read_text() == "earlier"
    assert [p.name for p in small_disk.iterdir()] == ["kept"]


def test_a_full_disk_leaves_the_earlier_directory(small_disk, architecture, gene):
    save_timm_directory(architecture.build(1), small_disk / "d")
    before = (small_disk / "d" / "model.safetensors").read_bytes()
    with pytest.raises(LearngeneError, match="No space left on device"):
        save_timm_directory(architecture.build(200), small_disk / "d", overwrite=True)
    assert (small_disk / "d" / "model.safetensors").read_bytes() == before
    with pytest.raises(LearngeneError, match="No space left on device"):
        write_text(small_disk / "big", "x" * 2**21)
    assert [p.name for p in small_disk.iterdir()] == ["d"]
    gene.save(small_disk / "learngene.safetensors")


def test_a_read_only_disk(small_disk):
    write_text(small_disk / "kept", "earlier")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(LearngeneError, match=r"kept' cannot be written \(Read-only file system"):
        write_text(small_disk / "kept", "later")
    with (
        pytest.raises(LearngeneError, match=r"cannot be written \(Read-only"),
        atomic_directory(small_disk / "d"),
    ):
        pass
    with pytest.raises(LearngeneError, match=r"cannot be made \(Read-only"):
        write_text(small_disk / "new" / "file", "later")
    assert (small_disk / "kept").read_text() == "earlier"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("step", ["fsync", "replace", "mkstemp"])
def test_every_step_may_fail(tmp_path, monkeypatch, number, step):
    write_text(tmp_path / "kept", "earlier")

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(
        {"fsync": "os.fsync", "replace": "pathlib.Path.replace", "mkstemp": "tempfile.mkstemp"}[step], refuse
    )
    with pytest.raises(LearngeneError, match=os.strerror(number)):
        write_text(tmp_path / "kept", "later")
    assert (tmp_path / "kept").read_text() == "earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_a_directory_comes_back_when_the_new_one_cannot_take_its_name(tmp_path, monkeypatch):
    with atomic_directory(tmp_path / "d") as scratch:
        (scratch / "file").write_text("earlier")

    def refuse(*_):
        raise FULL

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    with (
        pytest.raises(LearngeneError, match="No space"),
        atomic_directory(tmp_path / "d", overwrite=True) as scratch,
    ):
        (scratch / "file").write_text("later")
    assert (tmp_path / "d" / "file").read_text() == "earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_going_on(tmp_path, monkeypatch):
    flushed = []
    fsync = os.fsync

    def note(descriptor):
        flushed.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", note)
    write_text(tmp_path / "file", "text")
    assert [Path(f).name.startswith(".file.") for f in flushed] == [True, False]
    assert flushed[1] == str(tmp_path)
    flushed.clear()
    with atomic_directory(tmp_path / "d") as scratch:
        (scratch / "inner").mkdir()
        (scratch / "inner" / "file").write_text("text")
    assert {f.removeprefix(str(scratch)) for f in flushed[:-1]} == {"", "/inner", "/inner/file"}
    assert flushed[-1] == str(tmp_path)


def test_errors_of_other_kinds_stay_what_they_are(tmp_path):
    with pytest.raises(KeyError), atomic_file(tmp_path / "x"):
        raise KeyError("mine")
    assert not list(tmp_path.iterdir())
