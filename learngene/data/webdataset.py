"""Streams of webdataset's tar files."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from learngene.data.folders import LeftOut
from learngene.data.images import Mode, decode, is_image, is_passed_over
from learngene.data.labels import Labels
from learngene.data.names import first_names
from learngene.data.stream import Once, Shards
from learngene.data.trees import check_end
from learngene.errors import LearngeneError
from learngene.recipe import DataOptions


def webdataset_shards(
    reader: Any, name: str, mode: Mode, options: DataOptions, *, ahead: bool = False
) -> Shards:
    """The tar files that timm's webdataset reader has found.

    Args:
        ahead: look at the labels now, where that takes no reading of images, instead of while they are read.

    Raises:
        LearngeneError: the number of images is not known, or a label is out of range.
    """
    info = reader.split_info
    files = [f"{reader.root}/{file}" for file in info.filenames]
    lengths = tuple(info.shard_lengths)
    missing = [file for file in files if not re.match(r"\w\w+:", file) and not Path(file).exists()]
    if missing:
        cause = FileNotFoundError(f"{len(missing)} of {len(files)} shards are not there")
        raise _unreadable(name, missing[0], cause)
    groups = [[file] for file in files]
    if len(lengths) != len(files):
        lengths, groups = (reader.num_samples,), [files]
    if not sum(lengths):
        raise LearngeneError(
            f"{name} does not say how many images it has; write the number behind the split, "
            f"e.g. '{{split}}|1000'"
        )
    labels = None if options.unlabeled else Labels(name, options.num_classes)
    sample = _Sample(name, mode, labels, options.label_column or info.alt_label, options.image_column)
    if ahead and labels is not None and labels.count is not None:
        for file in files:
            sample.check_shard(Path(file))
    places = tuple(first_names(group, 3) for group in groups)
    said = [Once() for _ in groups]

    def read(shard: int, first: int) -> Iterator[Any]:
        return _read(name, groups[shard], places[shard], first, said[shard])

    return Shards(name, lengths, read, sample, places=places)


def _read(name: str, files: list[str], place: str, first: int, say: Once) -> Iterator[Any]:
    """The samples of some tar files, from a number on.

    Args:
        place: name of the files, for messages.
        say: warn of what is left out.
    """
    import webdataset

    left = LeftOut(place)
    wanted = webdataset.tarfile_to_samples(select_files=partial(_is_wanted, left))
    try:
        yield from islice(webdataset.DataPipeline(webdataset.SimpleShardList(files), wanted), first, None)
    except Exception as error:  # readers raise anything: ReadError, OSError, EOFError, HTTP's, gzip's, ...
        raise _unreadable(name, place, error) from error
    if left:
        say(left.text())


def _is_wanted(left: LeftOut, name: str) -> bool:
    """Whether a file of a shard is not hidden; those that are go among what is left out."""
    if any(is_passed_over(part) for part in name.split("/") if part not in (".", "..")):
        left.hidden += [name] if is_image(name) else []
        return False
    return True


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))


def _unreadable(name: str, shard: str, error: Exception) -> LearngeneError:
    # webdataset puts objects behind the cause
    cause = error.args[0] if error.args and not isinstance(error, OSError) else error
    return LearngeneError(f"{name}: '{shard}' is missing, cut or damaged ({cause}); fetch or make it again")


@dataclass(frozen=True)
class _Sample:
    """How a sample of webdataset is read: files of one name, an image and its class.

    The class is in a .cls file or a field of a .json file.

    Attributes:
        name: of the data set, for messages.
        labels: that are allowed; none leaves them unread.
        key: the field of the .json file, or nothing for .cls.
        suffix: of the image file, if there are several.
    """

    name: str
    mode: Mode
    labels: Labels | None
    key: str
    suffix: str | None

    def __call__(self, sample: dict[str, Any]) -> tuple[Image.Image, int]:
        """Image and class."""
        place = f"sample {sample.get('__key__')} of {sample.get('__url__')}"
        files = {suffix: content for suffix, content in sample.items() if not suffix.startswith("__")}
        image = self._image(files, place)
        target = -1 if self.labels is None else self.labels.index(self._label(files, place), place)
        return decode(BytesIO(files[image]), self.mode), target

    def _image(self, files: dict[str, Any], place: str) -> str:
        """The suffix of the image: the one that was asked for, else a usual one, else the only one."""
        usual = [self.suffix] if self.suffix else ["jpg", "jpeg", "png", "webp"]
        found = next((suffix for suffix in usual if suffix in files), None)
        images = [] if self.suffix else [suffix for suffix in files if is_image(f"image.{suffix}")]
        if found is None and len(images) != 1:
            wrong = "several images; name one with --image-column SUFFIX" if images else "no image"
            raise LearngeneError(f"{self.name}: {place} has the files {sorted(files)}: {wrong}")
        return found or images[0]

    def _label(self, files: dict[str, Any], place: str) -> Any:
        if not self.key:
            if "cls" in files:
                return files["cls"]
            raise LearngeneError(
                f"{self.name}: {place} has the files {sorted(files)}: no class in a .cls file; "
                f"name a field of .json with --label-column, or pass --unlabeled to distil without labels"
            )
        try:
            return json.loads(files["json"])[self.key]
        except (KeyError, ValueError, TypeError, RecursionError):
            raise LearngeneError(
                f"{self.name}: {place} has the files {sorted(files)}: no class in a field '{self.key}' of a "
                f".json file; name another with --label-column, or pass --unlabeled to distil without labels"
            ) from None

    def check_shard(self, path: Path) -> None:
        """Raise if a label in a local tar file is missing or out of range. Its images are jumped over."""
        from webdataset.tariterators import base_plus_ext

        wanted = "json" if self.key else "cls"
        if self.labels is None or not path.is_file():
            return
        unlabelled: dict[str, str] = {}  # the suffixes of the images by their keys
        left = LeftOut(str(path))
        try:
            if _is_compressed(path):
                return  # it would have to be read in full
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    if not _is_wanted(left, member.name):
                        continue
                    key, suffix = base_plus_ext(member.name)
                    place = f"sample {key} of {path}"
                    content = tar.extractfile(member) if key and suffix.lower() == wanted else None
                    if content is not None:
                        self.labels.index(self._label({wanted: content.read()}, place), place)
                        unlabelled[key] = ""
                    elif key and is_image(f"image.{suffix}"):
                        unlabelled.setdefault(key, suffix)
                end = tar.offset
            check_end(path, end)
        except (tarfile.TarError, OSError) as error:
            raise _unreadable(self.name, str(path), error) from error
        for key, suffix in unlabelled.items():
            if suffix:
                self._label({suffix: b""}, f"sample {key} of {path}")
