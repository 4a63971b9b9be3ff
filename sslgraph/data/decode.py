"""One image file to uint8 pixels of a stated size, whatever somebody's folder holds."""

from __future__ import annotations

import struct
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k"),
}
"""Formats that are tried, by what a file holds and not by its name, and the names that are listed.

Formats whose reader starts another program or renders a page (EPS, PDF, WMF) are left out.
"""

SUFFIXES = frozenset(suffix for group in FORMATS.values() for suffix in group)

_MODES = {1: ("L",), 2: ("LA",), 3: ("RGB",), 4: ("RGBA", "CMYK")}
_WIDE = 65535
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableError(ValueError):
    """A file that gives no pixels; the text says why in a few words."""


def channels() -> tuple[int, ...]:
    """The numbers of channels that `read` can give."""
    return tuple(_MODES)


def read(path: Path, *, canvas: int, channels: int) -> Tensor:
    """Pixels of one image, uint8 C canvas canvas.

    The image is turned as its EXIF data says, scaled with its aspect kept until the shorter side is
    `canvas` (antialiased bicubic; small images are enlarged) and cut to the middle square. Of an
    animation the first frame counts. Transparent parts lie on white. With 3 channels or 1 every
    image is converted; 2 (gray, alpha) and 4 (RGBA or CMYK, as they are) take only such images.

    Raises:
        UnreadableError: Not an image, damaged, too large, or not of the channels asked for.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_formats()) as image:
                # JPEG only: decode at a fraction of the size, still twice what is needed.
                image.draft(None, (2 * canvas, 2 * canvas))
                pixels = np.asarray(_fitted(_converted(image, channels), canvas))
    except UnreadableError:
        raise
    except Exception as error:
        # Decoders of damaged files raise nearly everything, so the kinds can't be listed.
        raise UnreadableError(_reason(error, path)) from error
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def header(path: Path) -> tuple[tuple[int, int], int, str]:
    """Width and height as shown, number of channels and format, without decoding pixels.

    Raises:
        UnreadableError: Not an image, or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_formats()) as image:
                width, height = image.size
                if _orientation(image) in _SIDEWAYS:
                    width, height = height, width
                bands = 3 if image.mode == "P" else len(image.getbands())
                return (width, height), bands, image.format or "?"
    except Exception as error:
        raise UnreadableError(_reason(error, path)) from error


@cache
def _formats() -> tuple[str, ...]:
    """Those of ours that this Pillow can open."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or the data is damaged.

    A PNG that has not shown any by its header is not searched further: that would decode it.
    """
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        # Damaged metadata raises nearly everything and says nothing about the pixels.
        return 1


def _converted(image: Image.Image, channels: int) -> Image.Image:
    """The turned image in a mode of 8-bit samples with so many channels."""
    image.load()
    orientation = _orientation(image)
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    if image.mode.startswith("I") or image.mode == "F":
        image = _narrowed(image)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if channels in (2, 4):
        if image.mode not in _MODES[channels]:
            found = len(image.getbands())
            raise UnreadableError(
                f"{image.mode} image of {found} channels, {channels} were asked for"
            )
        return image
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image.convert(_MODES[channels][0])


def _narrowed(image: Image.Image) -> Image.Image:
    """Gray of 16 bits or of fractions as 8 bits; Pillow itself would clip at 255."""
    values = np.asarray(image)
    if image.mode == "F":
        if not (values.size and values.min() >= 0 and values.max() <= 1):
            raise UnreadableError("floating-point pixels outside 0 to 1 have no 8-bit meaning")
        return Image.fromarray((values * 255).round().astype(np.uint8))
    wide = values.astype(np.int64).clip(0, _WIDE)
    return Image.fromarray(((wide * 255 + _WIDE // 2) // _WIDE).astype(np.uint8))


def _fitted(image: Image.Image, canvas: int) -> Image.Image:
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = (left, top, left + side, top + side)
    return image.resize((canvas, canvas), Image.Resampling.BICUBIC, box=square, reducing_gap=2.0)


def _reason(error: Exception, path: Path) -> str:
    """Why a file can't be read, without its path and on one line."""
    if isinstance(error, UnidentifiedImageError):
        return _unknown(path)
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, struct.error | EOFError | IndexError):
        return "damaged"
    return " ".join(str(error).split()) or type(error).__name__


def _unknown(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return f"no known image format, starts with {start!r}" if start else "empty file"
