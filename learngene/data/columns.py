"""Tables of the Hugging Face kind: which column has the images, which the labels, and what is in them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from learngene.data.images import Mode, decode
from learngene.data.labels import Labels, check_count, count_from, names_from_text
from learngene.errors import LearngeneError
from learngene.recipe import DataOptions

log = logging.getLogger(__name__)
_IMAGES, _LABELS = ("image", "img"), ("label", "labels", "fine_label")


@dataclass(frozen=True)
class Columns:
    """The columns that are read; no labels for distilling without them."""

    image: str
    label: str | None


def find_columns(features: Mapping[str, Any], options: DataOptions, name: str) -> Columns:
    """The columns of images and labels: those that were named, the usual names, or the only one of its kind.

    Args:
        features: the columns with their types (``datasets.Features``).

    Raises:
        LearngeneError: there is none, or more than one to choose from.
    """
    image = _find(
        features,
        options.image_column,
        _IMAGES,
        _holds_images,
        _is_a("Image"),
        "images",
        "--image-column NAME",
        name,
    )
    if options.unlabeled:
        return Columns(image, None)
    way = "--label-column NAME, or pass --unlabeled to distil without labels"
    label = _find(
        features, options.label_column, _LABELS, _holds_labels, _is_a("ClassLabel"), "labels", way, name
    )
    if (image, label) != (_IMAGES[0], _LABELS[0]):
        log.info("%s: images from column '%s', labels from '%s'", name, image, label)
    return Columns(image, label)


def _find(
    features: Mapping[str, Any],
    wanted: str | None,
    usual: Sequence[str],
    fits: Callable[[Any], bool],
    is_kind: Callable[[Any], bool],
    what: str,
    way: str,
    name: str,
) -> str:
    listed = ", ".join(f"{column} ({_type_name(feature)})" for column, feature in features.items())
    if wanted is not None:
        if wanted in features and fits(features[wanted]):
            return wanted
        problem = (
            f"its column '{wanted}' holds no {what}" if wanted in features else f"it has no column '{wanted}'"
        )
        raise LearngeneError(f"{name}: {problem}; its columns are {listed}. Name the one with {what}: {way}")
    found = next((column for column in usual if column in features and fits(features[column])), None)
    if found is not None:
        return found
    of_kind = [column for column, feature in features.items() if is_kind(feature)]
    if len(of_kind) == 1:
        return of_kind[0]
    problem = (
        f"{len(of_kind)} columns could have the {what}" if of_kind else f"no column is known to have {what}"
    )
    raise LearngeneError(f"{name}: {problem}; its columns are {listed}. Name the one with {what}: {way}")


def _type_name(feature: Any) -> str:
    dtype = getattr(feature, "dtype", None) if _is_a("Value")(feature) else None
    return str(dtype or type(feature).__name__)


def _is_a(kind: str) -> Callable[[Any], bool]:
    return lambda feature: type(feature).__name__ == kind


def _holds_images(feature: Any) -> bool:
    """Images, or the bytes of their files, as tables have them that were written without ``datasets``."""
    packed = isinstance(feature, Mapping) and "bytes" in feature
    plain = _is_a("Value")(feature) and feature.dtype in ("binary", "large_binary")
    return _is_a("Image")(feature) or packed or plain


def _holds_labels(feature: Any) -> bool:
    return _is_a("ClassLabel")(feature) or (_is_a("Value")(feature) and "binary" not in feature.dtype)


def undecoded(rows: Any, image: str) -> Any:
    """The same table, with files instead of images: ``datasets`` would let PIL open a file of any format."""
    import datasets

    if not _is_a("Image")(rows.features[image]):
        return rows
    return rows.cast_column(image, datasets.Image(decode=False))


def decode_cell(cell: Any, mode: Mode) -> Image.Image:
    """The image in a cell of an undecoded column.

    Raises:
        BROKEN_IMAGE: as `decode`, or the cell is empty.
    """
    import fsspec

    content = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if isinstance(content, bytes) and content:
        return decode(BytesIO(content), mode)
    path = cell.get("path") if isinstance(cell, Mapping) else None
    if not path:
        raise OSError("the row has no image")
    try:
        with fsspec.open(path, "rb") as file:
            content = file.read()
    except Exception as error:  # file systems raise anything: ImportError, BadZipFile, HTTP errors, ...
        raise OSError(f"{path} cannot be read: {error}") from error
    return decode(BytesIO(content), mode)


def labels_of(
    feature: Any, name: str, options: DataOptions, column: Callable[[], Sequence[Any]] | None
) -> Labels:
    """The labels that a column may have: by the names in its type, the text in it, or the numbers.

    Args:
        column: all labels of the training images, where they can be had without reading images.

    Raises:
        LearngeneError: text whose classes cannot be known, or ``--num-classes`` contradicts the names.
    """
    names: tuple[str, ...] | None = tuple(getattr(feature, "names", None) or ()) or None
    text = names is None and "string" in str(getattr(feature, "dtype", ""))
    if text:
        if column is None:
            raise LearngeneError(
                f"{name} has text as labels and is streamed, so its classes are not known before all of it "
                f"is read; pass --download, name a column of numbers with --label-column, or pass "
                f"--unlabeled to distil without labels"
            )
        names = names_from_text(column(), name)
        log.info("%s: %d classes from the text in its labels", name, len(names))
    if names is not None:
        check_count(name, names, options.num_classes)
        return Labels(name, len(names), names, text)
    if options.num_classes is None and column is not None:
        count = count_from(column(), name)
        log.info("%s: %d classes, by the highest label (--num-classes says otherwise)", name, count)
        return Labels(name, count)
    return Labels(name, options.num_classes)
