"""From an image file, which nobody vouches for, to pixels."""

from __future__ import annotations

import errno
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pushforward.core.errors import InputError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
# The decoders that a file is handed to, whatever its name: none of them starts another program.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
# Images too, of formats that are not decoded.
OTHER_EXTENSIONS = (
    ".tif", ".tiff", ".avif", ".heic", ".heif", ".jp2", ".jxl", ".ppm", ".pgm", ".tga", ".svg", ".ico", ".exr",
)  # fmt: skip
MAX_PIXELS = 64_000_000
ORIENTATION = 0x0112
# Where Pillow keeps what can turn a picture.
TURNS = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")

OnBad = Literal["error", "skip"]
Box = tuple[float, float, float, float]


class UnusableError(Exception):
    """Why a file that exists cannot be used."""


def check_options(size: int | None, channels: int, on_bad: str) -> None:
    """InputError unless these say how to make pixels."""
    largest = math.isqrt(MAX_PIXELS)
    if size is not None and (type(size) is not int or not 1 <= size <= largest):
        raise InputError(
            f"size is {size!r}; it must be a whole number of pixels from 1 to {largest}, or None"
        )
    if channels not in (1, 3):
        raise InputError(f"channels is {channels!r}; it must be 3 (RGB) or 1 (grey)")
    if on_bad not in ("error", "skip"):
        raise InputError(f'on_bad is {on_bad!r}; it must be "error" or "skip"')


def open_image(file: Path | IO[bytes]) -> Image.Image:
    """Open an image and read its header, no pixels yet. Raises UnusableError for what is too large."""
    if isinstance(file, Path) and not file.is_file():
        raise UnusableError("is not a file, or a link that leads nowhere")
    limit = f"more than the {MAX_PIXELS // 10**6} million pixels that are decoded"
    try:
        with warnings.catch_warnings():
            # Pillow's own limit lies higher: where it only warns, the one below decides.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise UnusableError(f"declares {limit}") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise UnusableError(f"declares {width} x {height}, {limit}")
    return image


def largest(width: int, height: int, frame: tuple[int, int]) -> tuple[float, float]:
    """Width and height of the largest part of a picture that has the shape of a frame (H, W)."""
    if width * frame[0] <= height * frame[1]:
        return width, width * frame[0] / frame[1]
    return height * frame[1] / frame[0], height


def centre(width: int, height: int, frame: tuple[int, int] = (1, 1)) -> Box:
    """The largest centred part that has the shape of a frame (H, W), by default a square."""
    across, down = largest(width, height, frame)
    left, top = (width - across) / 2, (height - down) / 2
    return left, top, left + across, top + down


def pixels(
    image: Image.Image,
    frame: tuple[int, int] | None,
    channels: int,
    cut: Callable[[int, int, tuple[int, int]], Box] = centre,
) -> np.ndarray:
    """(C, H, W) uint8 of the first frame: upright, on white, in the size asked for.

    cut: which part (left, top, right, bottom) of the upright picture (width, height, frame) is scaled to the frame
    (H, W).
    """
    image.load()
    # Without copies that nobody needs, which take as long as decoding does.
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((deep.clip(0, 65535) + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if frame is not None:
        height, width = frame
        box = cut(*image.size, frame)
        if image.size != (width, height) or box != (0, 0, width, height):
            image = image.resize(
                (width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0
            )
    values = np.asarray(image)
    return values[None] if channels == 1 else values.transpose(2, 0, 1)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) after the turn that the EXIF orientation asks for."""
    width, height = image.size
    # Asked for what is not in the head of a PNG, Pillow would decode all of it.
    if image.format == "PNG" and not any(key in image.info for key in TURNS):
        return width, height
    return (height, width) if image.getexif().get(ORIENTATION, 1) >= 5 else (width, height)


def is_exhaustion(error: Exception) -> bool:
    """Whether the machine has run out of something: no fault of the file that was being read."""
    return isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    )


def reason(error: Exception) -> str:
    """Why a file cannot be used, from what opening or decoding it raised."""
    match error:
        case UnusableError():
            return str(error)
        case UnidentifiedImageError():
            return f"is none of {', '.join(FORMATS)}"
        case OSError(strerror=str()):
            return f"cannot be opened: {error.strerror}"
        case _:
            return f"cannot be decoded: {error or type(error).__name__}"
