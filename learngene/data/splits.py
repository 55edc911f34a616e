"""Training, validation and test images of a data set, kept apart."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from learngene.data.images import Mode
from learngene.data.names import SPLIT_FOLDERS
from learngene.data.opening import open_role, present_split, root_of
from learngene.data.source import Source, pixels_of
from learngene.errors import LearngeneError
from learngene.recipe import DataOptions

log = logging.getLogger(__name__)


def open_training(data: str, options: DataOptions, mode: Mode) -> tuple[Source, Source]:
    """The training and validation images; the latter are cut from train, stratified and seeded, if need be.

    Raises:
        LearngeneError: missing, empty, one class only, a stream without a validation split, or training
            images among the others.
    """
    name = options.val_split or present_split(data, "val", options)
    train = open_role(data, options, "train", options.train_split, mode)
    _check_classes(train, options)
    if name:
        val = _aligned(open_role(data, options, "val", name, mode), train)
        check_apart(train, val)
        return training_share(train, options), val
    if train.stream is not None:
        raise LearngeneError(
            f"{data} is streamed, so no validation split can be cut from it; name one with --val-split"
        )
    kept, held = stratified_cut(train, options.val_fraction, options.split_seed)
    kept = _without_copies(train, kept, held)
    return training_share(train.subset(kept, train.name), options), train.subset(
        held, f"{train.name} (validation cut)"
    )


def _aligned(source: Source, train: Source) -> Source:
    """A split with the labels of the training images."""
    return source if train.classes is None else source.arranged(train.classes)


def _without_copies(train: Source, kept: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Indices to train on, without those that are links to an image that is held out."""
    if train.files is None:
        return kept
    places = train.files.places()
    out = {places[i] for i in held}
    apart = np.array([i for i in kept if places[i] not in out], dtype=np.int64)
    if not len(apart):
        raise LearngeneError(
            f"all images of '{train.name}' are links to the few that are held out for validation; add images"
        )
    if len(apart) < len(kept):
        log.warning(
            "%d images of '%s' are links to images that are held out; not trained on",
            len(kept) - len(apart),
            train.name,
        )
    return apart


def check_apart(train: Source, other: Source) -> None:
    """Raise if images of another split are files that are trained on; warn if they look like copies of those.

    Raises:
        LearngeneError: some files are in both, through links or folders that lie in each other.
    """
    if train.files is not None and other.files is not None:
        trained, names = set(train.files.places()), other.files.names
        both = [name for name, place in zip(names, other.files.places(), strict=True) if place in trained]
        if both:
            raise LearngeneError(
                f"{len(both)} of the {len(names)} files of '{other.name}' are files that '{train.name}' "
                f"trains on, e.g. {both[0]}; "
                f"keep them apart, or leave the split out (validation images are cut from train then)"
            )
    if train.stream is None and other.stream is None and len(train) == len(other) > 0:
        some = np.unique(np.linspace(0, len(train) - 1, 16).astype(int)).tolist()
        if all(pixels_of(train, i) == pixels_of(other, i) != b"" for i in some):
            same = "the images of '%s' look like copies of those of '%s', which are trained on"
            log.warning(same, other.name, train.name)


def training_share(train: Source, options: DataOptions) -> Source:
    """The first ``train_fraction`` of every class in a seeded order: smaller shares lie inside larger ones.

    Raises:
        LearngeneError: the images are streamed.
    """
    if options.train_fraction == 1:
        return train
    if train.stream is not None:
        raise LearngeneError(
            f"train_fraction {options.train_fraction}: {train.name} is streamed; leave it at 1"
        )
    targets = train.targets if train.targets is not None else np.zeros(len(train), dtype=np.int64)
    order = np.random.default_rng(options.split_seed).permutation(len(train))
    members = [order[targets[order] == label] for label in np.unique(targets)]
    kept = np.concatenate([m[: max(1, round(len(m) * options.train_fraction))] for m in members])
    return train.subset(np.sort(kept), train.name)


def has_test_split(data: str, options: DataOptions) -> bool:
    """Whether there are test images: a split that was named, a test folder, or the test part of a set."""
    return bool(options.test_split or present_split(data, "test", options))


def open_split(
    data: str, options: DataOptions, split: str, mode: Mode, classes: Sequence[str] | None = None
) -> Source:
    """The images to evaluate on: ``train``, ``val``, ``test``, or ``auto`` (test if there is one, else val).

    Args:
        classes: names of the classes in the order of the labels; by default those of the training images. The
            data may lack some of them, but have no other.

    Raises:
        LearngeneError: as `open_training`, or there is no test split.
    """
    test = options.test_split or present_split(data, "test", options)
    if split == "auto":
        split = "test" if test else "val"
    if split not in ("train", "val", "test"):
        raise LearngeneError(f"split '{split}': use auto, train, val or test")
    if split == "test":
        source = _open_test(data, options, test, mode, alone=classes is not None)
    else:
        source = open_training(data, options, mode)[split == "val"]
    return source if classes is None else source.arranged(classes)


def _open_test(data: str, options: DataOptions, split: str | None, mode: Mode, *, alone: bool) -> Source:
    """The test images, with the labels of the training images, from which they are kept apart.

    Args:
        alone: there may be no training images.
    """
    if split is None:
        looked = ", ".join(SPLIT_FOLDERS["test"])
        raise LearngeneError(
            f"{data} has no test split (looked for {looked}); name it with --test-split, or use --split val"
        )
    test = open_role(data, options, "test", split, mode)
    if not root_of(data, options).is_dir() and (alone or not data.startswith("hfds/")):
        return test
    try:
        train = open_role(data, options, "train", options.train_split, mode, quiet=True)
    except LearngeneError:
        if alone:
            return test
        raise
    check_apart(train, test)
    return test if alone else _aligned(test, train)


def stratified_cut(source: Source, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices to keep and to hold out: the same share of every class, at least one image on both sides.

    Raises:
        LearngeneError: there are too few images.
    """
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
            f"{source.name} has {len(source)} images, too few to hold out {fraction:.0%} for validation; "
            f"add images or a val folder"
        )
    return np.setdiff1d(np.arange(len(source)), out), out


def _check_classes(source: Source, options: DataOptions) -> None:
    if len(source) == 0:
        raise LearngeneError(f"{source.name} holds no images; check the path")
    if options.unlabeled or source.stream is not None:
        return
    found = len(np.unique(source.targets)) if source.targets is not None else 0
    if found < 2:
        raise LearngeneError(
            f"{source.name} has {found} class with images, training needs at least 2; "
            f"add class folders, or pass --unlabeled to distil without labels"
        )
