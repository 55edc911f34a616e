"""What an image is: which files count as one, which are passed over, and how one is opened.

No other room opens images.
"""

from __future__ import annotations

import struct
from pathlib import PurePath
from typing import IO, Literal

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

Mode = Literal["RGB", "L"]
# A file is opened by what it holds, not by its name, and for some formats PIL would run a program (for EPS
# it is Ghostscript). These are the raster formats that it decodes by itself.
_RASTER = (
    "PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM",
    "JPEG2000", "AVIF", "TGA", "PCX", "SGI", "ICO", "DDS", "QOI",
)  # fmt: skip
Image.init()
# An older Pillow, or a smaller build, has fewer.
FORMATS = tuple(name for name in _RASTER if name in Image.OPEN)
# MPO is what phones call a JPEG with a second picture; PIL's JPEG reader opens it.
SUFFIXES = frozenset(suffix for suffix, name in Image.EXTENSION.items() if name in (*FORMATS, "MPO"))
# PIL's words for a file it cannot read.
BROKEN_IMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
# Folders and files that systems leave among a user's images; names that begin with a dot are passed over too.
LEFTOVERS = {
    "__macosx",
    "@eadir",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "thumbs.db",
    "desktop.ini",
}


def is_image(name: str) -> bool:
    """Whether a file of this name is an image, by its ending."""
    return PurePath(name).suffix.lower() in SUFFIXES


def is_passed_over(name: str) -> bool:
    """Whether a file or folder is hidden or a system's leftover, by its name (``._a.jpg``, ``__MACOSX``)."""
    return name.startswith(".") or name.lower() in LEFTOVERS


def decode(file: str | PurePath | IO[bytes], mode: Mode) -> Image.Image:
    """The image in a file.

    Raises:
        BROKEN_IMAGE: it cannot be read, or is of a format that is not in `FORMATS`.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            image.load()
    except (RuntimeError, EOFError, LookupError, ArithmeticError, TypeError, struct.error) as error:
        raise OSError(f"it is damaged ({error})") from error  # PIL lets some errors of its decoders through
    return to_mode(image, mode)


def to_mode(image: Image.Image, mode: Mode) -> Image.Image:
    """A PIL image as grey or RGB in 8 bits.

    16 bits are scaled to 8; PIL's own ``convert`` clips them, which makes them white.

    Raises:
        ValueError: pixels of 32 bits whose range no file states.
    """
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        # 32 bits; other formats have at most 16, whatever the mode says
        wide = image.format == "TIFF" and image.mode == "I"
        if wide or (levels.size and not (levels.min() >= 0 and levels.max() <= 65_535)):
            raise ValueError(
                "its pixels are integers of 32 bits without a stated range; store it with 8 or 16 bits"
            )
        grey = (levels / (_brightest(image) / 255)).round().clip(0, 255).astype(np.uint8)
        image = Image.fromarray(255 - grey if _white_is_zero(image) else grey)
    elif image.mode == "F":
        raise ValueError(
            "its pixels are floating point numbers without a stated range; store it with 8 or 16 bits"
        )
    return image.convert(mode)


def _brightest(image: Image.Image) -> int:
    """The highest level of a grey image; PIL widens all but TIFF's to 16 bits."""
    bits = image.tag_v2.get(BITSPERSAMPLE, (16,))[0] if isinstance(image, TiffImageFile) else 16
    return 2 ** min(bits, 16) - 1


def _white_is_zero(image: Image.Image) -> bool:
    """Whether a TIFF counts from white; PIL turns that round in up to 8 bits only."""
    return isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0
