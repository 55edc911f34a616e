"""Where images come from. A source is a list of PIL images with optional labels; streams are kept apart.

timm's ``create_dataset`` opens folders, tar files, ``torch/...``, ``hfds/...`` and the streams ``wds/...``, ``hfids/...``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from timm.data import create_dataset
from timm.data.readers.img_extensions import get_img_extensions

from learngene.data.embedded import EMBEDDED, load_embedded
from learngene.errors import LearngeneError
from learngene.recipe import DataOptions

log = logging.getLogger(__name__)
Mode = Literal["RGB", "L"]
STREAMS = ("wds/", "hfids/", "tfds/")
_SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Source:
    """A list of images.

    Attributes:
        name: for messages, e.g. ``photos/train``.
        length: number of images.
        read: image by index, as PIL; raises OSError for one that cannot be read.
        describe: file name (or the like) of an image, for messages.
        targets: (N,) class indices, or none.
        classes: class names by index, when known.
        stream: timm's iterable data set instead, for sources without random access.
        held: whether the images are decoded and in memory.
    """

    name: str
    length: int
    read: Callable[[int], Image.Image]
    describe: Callable[[int], str]
    targets: np.ndarray | None
    classes: tuple[str, ...] | None
    stream: Any = None
    held: bool = False

    def __len__(self) -> int:
        return self.length

    @property
    def num_classes(self) -> int | None:
        """Number of classes, from the names or else the labels."""
        if self.classes is not None:
            return len(self.classes)
        return int(self.targets.max()) + 1 if self.targets is not None and len(self.targets) else None

    def subset(self, indices: Sequence[int] | np.ndarray, name: str) -> Source:
        """Some of the images."""
        picked = np.asarray(indices)
        return Source(
            name,
            len(picked),
            lambda i: self.read(int(picked[i])),
            lambda i: self.describe(int(picked[i])),
            None if self.targets is None else self.targets[picked],
            self.classes,
            held=self.held,
        )

    def in_memory(self) -> Source:
        """The same images, decoded once; those that cannot be read stay unreadable."""
        if self.stream is not None:
            raise LearngeneError(f"{self.name} is streamed and cannot be held in memory; drop --in-memory")
        if self.held:
            return self

        def decode(index: int) -> np.ndarray | OSError:
            try:
                return np.asarray(self.read(index))
            except OSError as error:
                return error

        with ThreadPoolExecutor() as pool:
            kept = list(pool.map(decode, range(len(self))))
        return Source(self.name, len(self), lambda i: _from_memory(kept[i]), self.describe, self.targets, self.classes, held=True)


def _from_memory(kept: np.ndarray | OSError) -> Image.Image:
    if isinstance(kept, OSError):
        raise kept
    return Image.fromarray(kept)


def open_training(data: str, options: DataOptions, mode: Mode) -> tuple[Source, Source]:
    """The training and validation images. Validation is cut from train, stratified and seeded, if there is none.

    Raises:
        LearngeneError: missing, empty, one class only, or a stream without a validation split.
    """
    train = _open(data, options, "train", options.train_split, mode)
    _check_classes(train, options)
    name = options.val_split or _present_split(data, "val")
    if name:
        return train, _same_classes(train, _open(data, options, "val", name, mode, train.classes))
    if train.stream is not None:
        raise LearngeneError(f"{data} is streamed, so no validation split can be cut from it; name one with --val-split")
    kept, held = stratified_cut(train, options.val_fraction, options.split_seed)
    return train.subset(kept, train.name), train.subset(held, f"{train.name} (validation cut)")


def has_test_split(data: str, options: DataOptions) -> bool:
    """Whether there are test images: a split that was named, a test folder, or the test part of a named data set."""
    return bool(options.test_split or _present_split(data, "test"))


def open_split(data: str, options: DataOptions, split: str, mode: Mode) -> Source:
    """The images to evaluate on: ``train``, ``val``, ``test``, or ``auto`` (test if there is one, else val).

    Raises:
        LearngeneError: as `open_training`, or there is no test split.
    """
    test = options.test_split or _present_split(data, "test")
    if split == "auto":
        split = "test" if test else "val"
    if split == "test":
        if test is None:
            raise LearngeneError(
                f"{data} has no test split (looked for {', '.join(_SPLIT_FOLDERS['test'])}); name it with --test-split, or use --split val"
            )
        return _open(data, options, "test", test, mode)
    if split not in ("train", "val"):
        raise LearngeneError(f"split '{split}': use auto, train, val or test")
    return open_training(data, options, mode)[split == "val"]


def stratified_cut(source: Source, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices to keep and to hold out: the same share of every class, at least one image of each on both sides."""
    generator = np.random.default_rng(seed)
    targets = source.targets if source.targets is not None else np.zeros(len(source), dtype=np.int64)
    held = []
    for label in np.unique(targets):
        members = generator.permutation(np.flatnonzero(targets == label))
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        held.append(members[:count])
    out = np.sort(np.concatenate(held))
    if not len(out):
        raise LearngeneError(
            f"{source.name} has {len(source)} images, too few to hold out {fraction:.0%} for validation; add images or a val folder"
        )
    return np.setdiff1d(np.arange(len(source)), out), out


def _open(data: str, options: DataOptions, role: str, split: str, mode: Mode, classes: Sequence[str] | None = None) -> Source:
    if data == EMBEDDED:
        return _embedded(role, mode)
    if "/" in data and data.split("/")[0] in ("torch", "hfds", "hfids", "tfds", "wds") and not Path(data).exists():
        return _named(data, options, role, split, mode)
    return _folder(Path(data), options, role, split, mode, classes)


def _embedded(role: str, mode: Mode) -> Source:
    images, targets, classes = load_embedded("test" if role == "test" else "train")
    return Source(
        f"{EMBEDDED} ({role})",
        len(images),
        lambda i: Image.fromarray(images[i]).convert(mode),
        lambda i: f"{EMBEDDED} image {i}",
        targets,
        classes,
        held=True,
    )


def _folder(root: Path, options: DataOptions, role: str, split: str, mode: Mode, classes: Sequence[str] | None) -> Source:
    if not root.exists():
        raise LearngeneError(
            f"there is no data at '{root}'; give a folder of class folders, a .tar file, '{EMBEDDED}', or torch/..., hfds/..., wds/..."
        )
    if root.is_dir():
        found = _split_folder(root, role, split)
        if found is None:
            raise LearngeneError(f"there is no folder '{split}' in '{root}'; name the {role} split with --{role}-split")
        root = found
        if options.unlabeled:
            return _unlabeled(root, mode)
        _check_folder(root)
    elif root.suffix != ".tar":
        raise LearngeneError(f"'{root}' is a file but not a .tar; give a folder of class folders or a .tar of them")
    class_map = {name: index for index, name in enumerate(classes)} if classes and root.is_dir() else None
    try:
        kwargs = {"class_map": class_map} if root.is_dir() else {"cache_tarfiles": False}  # one open tar breaks across processes
        reader = create_dataset("", str(root), search_split=False, **kwargs).reader
    except (RuntimeError, OSError, AssertionError) as error:
        raise LearngeneError(f"the images in '{root}' cannot be listed: {error}") from None
    tar = hasattr(reader, "targets")
    targets = np.array(reader.targets if tar else [target for _, target in reader.samples], dtype=np.int64)
    indices = reader.class_name_to_idx if tar else reader.class_to_idx
    return _from_reader(reader, str(root), mode, None if options.unlabeled else targets, tuple(sorted(indices, key=indices.get)))


def _split_folder(root: Path, role: str, split: str) -> Path | None:
    for name in dict.fromkeys((split, *(_SPLIT_FOLDERS[role] if split in _SPLIT_FOLDERS[role] else ()))):
        if (root / name).is_dir():
            return root / name
    return root if role == "train" and split == "train" else None


def _present_split(data: str, role: str) -> str | None:
    """A split that is there without being named: a folder by one of its usual names, or the test part of a named set."""
    if data == EMBEDDED:
        return "test" if role == "test" else None
    if data.startswith("torch/"):
        return "validation" if role == "test" or data in ("torch/imagenet", "torch/places365") else None
    root = Path(data)
    return next((name for name in _SPLIT_FOLDERS[role] if (root / name).is_dir()), None)


def _check_folder(root: Path) -> None:
    """A clear word before timm's reader labels everything with one class."""
    extensions = get_img_extensions(as_set=True)
    folders = [child for child in sorted(root.iterdir()) if child.is_dir()]
    if not folders:
        loose = sum(child.suffix.lower() in extensions for child in root.iterdir())
        what = f"{loose} images but no class folders" if loose else "no images and no class folders"
        raise LearngeneError(
            f"'{root}' holds {what}; put each class's images in a folder of its own, or pass --unlabeled to distil without labels"
        )


def _unlabeled(root: Path, mode: Mode) -> Source:
    extensions = get_img_extensions(as_set=True)
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in extensions and path.is_file())
    if not files:
        raise LearngeneError(f"there are no images under '{root}' (looked for {', '.join(sorted(extensions))}); check the path")
    return Source(str(root), len(files), lambda i: _decode(files[i], mode), lambda i: str(files[i]), None, None)


def _decode(file: Any, mode: Mode) -> Image.Image:
    with Image.open(file) as image:
        return image.convert(mode)


def _from_reader(reader: Any, name: str, mode: Mode, targets: np.ndarray | None, classes: tuple[str, ...] | None) -> Source:
    def read(index: int) -> Image.Image:
        file = reader[index][0]
        if isinstance(file, Image.Image):
            return file.convert(mode)
        with file:
            return _decode(file, mode)

    return Source(name, len(reader), read, lambda i: str(reader.filename(i, absolute=True)), targets, classes)


def _named(data: str, options: DataOptions, role: str, split: str, mode: Mode) -> Source:
    streamed = data.startswith(STREAMS)
    if data.startswith("torch/") and role == "test" and split == "test":
        split = "validation"  # timm's word for torchvision's train=False
    try:
        dataset = create_dataset(
            data,
            options.data_root,
            split=split,
            download=options.download,
            is_training=role == "train",
            input_img_mode=mode,
            seed=options.split_seed,
            num_samples=options.num_samples if streamed and role == "train" else None,
        )
    except Exception as error:  # readers raise anything: ImportError, HTTP errors, RuntimeError, ...
        root = f" under '{options.data_root}'" if options.data_root else "; name its folder with --data-root"
        raise LearngeneError(f"{data} ({split}) cannot be opened{root} ({type(error).__name__}: {error})") from error
    name = f"{data} ({split})"
    if streamed:
        classes = getattr(dataset.reader, "class_to_idx", None)
        names = tuple(sorted(classes, key=classes.get)) if classes else None
        return Source(name, len(dataset), _no_access, str, None, names, stream=dataset)
    if hasattr(dataset, "reader"):
        targets = None if options.unlabeled else np.array(list(dataset.reader.iter_targets()), dtype=np.int64)
        names = getattr(dataset.reader, "class_to_idx", None)
        return _from_reader(dataset.reader, name, mode, targets, tuple(sorted(names, key=names.get)) if names else None)
    targets = None if options.unlabeled else np.asarray(_torchvision_targets(dataset), dtype=np.int64)
    names = tuple(map(str, getattr(dataset, "classes", None) or ())) or None
    return Source(name, len(dataset), lambda i: dataset[i][0].convert(mode), lambda i: f"{name} image {i}", targets, names)


def _no_access(index: int) -> Image.Image:
    raise TypeError("a stream has no images by index")


def _torchvision_targets(dataset: Any) -> Any:
    return dataset.targets if hasattr(dataset, "targets") else [target for _, target in dataset.samples]


def _check_classes(source: Source, options: DataOptions) -> None:
    if len(source) == 0:
        raise LearngeneError(f"{source.name} holds no images; check the path")
    if options.unlabeled or source.stream is not None:
        return
    found = len(np.unique(source.targets)) if source.targets is not None else 0
    if found < 2:
        raise LearngeneError(
            f"{source.name} has {found} class with images, training needs at least 2; add class folders, or pass --unlabeled to distil without labels"
        )


def _same_classes(train: Source, val: Source) -> Source:
    if train.classes and val.classes and train.classes != val.classes:
        odd = sorted(set(train.classes) ^ set(val.classes))[:3]
        raise LearngeneError(
            f"{val.name} has other classes than {train.name} (for one, {', '.join(odd)}); use the same class folders in both"
        )
    return val
