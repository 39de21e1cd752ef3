"""A folder of images, decoded by Pillow into one array."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pushforward.core.errors import DataError, InputError
from pushforward.data.arrays import Dataset

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
# The decoders that a file is handed to, whatever its name: none of them starts another program.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
MAX_PIXELS = 64_000_000
METADATA = "metadata.jsonl"
ORIENTATION = 0x0112
SHOWN = 10


def load_folder(
    path: str | Path,
    size: int | None = None,
    channels: int = 3,
    on_bad: Literal["error", "skip"] = "error",
) -> Dataset:
    """The images in a folder and in the folders within it, as uint8 (N, channels, H, W) in order of their paths.

    Files: png, jpg, jpeg, webp, bmp and gif, of which the first frame is taken; other files, and names that
    begin with a dot, are not looked at. A picture is turned as its EXIF orientation says, laid on white where
    it is transparent, and made RGB (channels 3) or grey (channels 1); 16-bit grey keeps its upper 8 bits, rounded.

    size: None wants all pictures to have one size. A number makes all of them size x size: the largest centred
    square, resampled by Lanczos with antialiasing.

    Labels and captions come from `metadata.jsonl` in the folder, one object a line with `file_name` and
    `text` (or `caption`), `label`, or both. Without labels there, and if all images lie in folders within this
    one, the first of these folders is the class.

    on_bad: what to do with files that are damaged, are no images, or declare more than 64 million pixels, and
    with metadata that does not match the files. "error" raises a DataError that lists them; "skip" leaves them
    out and lists them in `report` of the result.

    Raises DataError for a folder that is missing, unreadable or without usable images, for a file name in the
    metadata that leads out of the folder, and, without a size, for pictures of several sizes.
    """
    largest = math.isqrt(MAX_PIXELS)
    if size is not None and (type(size) is not int or not 1 <= size <= largest):
        raise InputError(
            f"size is {size!r}; it must be a whole number of pixels from 1 to {largest}, or None"
        )
    if channels not in (1, 3):
        raise InputError(f"channels is {channels!r}; it must be 3 (RGB) or 1 (grey)")
    if on_bad not in ("error", "skip"):
        raise InputError(f'on_bad is {on_bad!r}; it must be "error" or "skip"')
    root = Path(path)
    names = _list_images(root)
    problems: list[tuple[str, str]] = []
    described: dict[str, _Entry] | None = None
    if (root / METADATA).is_file():
        described = _read_metadata(root, set(names), problems)
        problems.extend(
            (name, f"has no line in {METADATA}") for name in names if name not in described
        )
        names = [name for name in names if name in described]

    kept, values = _decode_all(root, names, size, channels, problems)
    if problems and (on_bad == "error" or not kept):
        raise DataError(_list_problems(root, problems, len(kept)))
    assert values is not None
    labels, class_names = _labels(kept, names, described)
    captions = None
    if described is not None and any(entry.text is not None for entry in described.values()):
        captions = [described[name].text or "" for name in kept]
    return Dataset.from_arrays(
        values, labels, captions, class_names, where=str(root), report=problems
    )


class _Unusable(Exception):
    """Why a file that exists cannot be used."""


@dataclass(frozen=True)
class _Entry:
    """What one line of the metadata says of an image."""

    line: int
    text: str | None
    label: str | int | None


@dataclass
class _Sizes:
    """How many images have which size, and one image of each."""

    count: Counter[tuple[int, int]] = field(default_factory=Counter)
    example: dict[tuple[int, int], str] = field(default_factory=dict)

    def add(self, size: tuple[int, int], name: str) -> None:
        self.count[size] += 1
        self.example.setdefault(size, name)


def _list_images(root: Path) -> list[str]:
    """Paths of all images, relative to the folder, with slashes, sorted."""
    if not root.exists():
        raise DataError(f"there is no folder {root}")
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; load a .npy or .npz file with load_array")

    def refuse(error: OSError) -> None:
        raise DataError(f"the folder {error.filename} cannot be read: {error.strerror}") from error

    names: list[str] = []
    other: Counter[str] = Counter()
    for folder, inner, files in os.walk(root, onerror=refuse, followlinks=True):
        here = Path(folder).resolve()
        # A link to a folder is followed, but not one that leads back to where it lies.
        inner[:] = [
            name
            for name in inner
            if not name.startswith(".") and not here.is_relative_to((here / name).resolve())
        ]
        for file in files:
            if file.startswith(".") or file == METADATA:
                continue
            suffix = Path(file).suffix.lower()
            if suffix in EXTENSIONS:
                names.append((Path(folder) / file).relative_to(root).as_posix())
            else:
                other[suffix or "no extension"] += 1
    if not names:
        found = ", ".join(f"{n} x {suffix}" for suffix, n in other.most_common(5)) or "no files"
        raise DataError(
            f"{root} has no images ({', '.join(e[1:] for e in EXTENSIONS)}); it holds {found}"
        )
    return sorted(names)


def _read_metadata(
    root: Path, names: set[str], problems: list[tuple[str, str]]
) -> dict[str, _Entry]:
    """The lines of metadata.jsonl by image. What is wrong with them is added to `problems`."""
    try:
        lines = (root / METADATA).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{root / METADATA} cannot be read as UTF-8 text: {error}") from error
    entries: dict[str, _Entry] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{METADATA}, line {number}"
        try:
            name, entry = _parse_line(line, number)
        except (ValueError, RecursionError) as error:
            problems.append((where, str(error) or "is nested too deeply"))
            continue
        if _leads_out(name):
            raise DataError(
                f"{root / METADATA}, line {number}: file_name {name!r} leads out of the folder; "
                f"names must be relative to it and have no '..'"
            )
        name = PurePosixPath(name).as_posix()
        if name in entries:
            problems.append((where, f"{name} was described before, in line {entries[name].line}"))
        elif name in names:
            entries[name] = entry
        elif (root / name).is_file():
            problems.append((where, f"{name} is not one of the image types that are read"))
        else:
            problems.append((where, f"there is no file {name}"))
    for attribute in ("text", "label"):
        given = [name for name, e in entries.items() if getattr(e, attribute) is not None]
        if given and len(given) < len(entries):
            lacking = [name for name in entries if name not in set(given)]
            for name in lacking:
                where = f"{METADATA}, line {entries[name].line}"
                problems.append((where, f"{name} has no {attribute}, others have"))
                del entries[name]
    kinds = {type(e.label) for e in entries.values() if e.label is not None}
    if len(kinds) > 1:
        raise DataError(
            f"{root / METADATA}: some labels are numbers and some are texts; use one kind"
        )
    return entries


def _parse_line(line: str, number: int) -> tuple[str, _Entry]:
    """file_name and what is said of it. Raises ValueError with the reason."""
    try:
        item = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(item, dict):
        raise ValueError("is not a JSON object")
    name, label = item.get("file_name"), item.get("label")
    text = item.get("text", item.get("caption"))
    if not isinstance(name, str) or not name:
        raise ValueError("has no file_name")
    if text is not None and not isinstance(text, str):
        raise ValueError(f"the text is {text!r}, not a string")
    if label is not None and (isinstance(label, bool) or not isinstance(label, str | int)):
        raise ValueError(f"the label is {label!r}; it must be a string or a whole number")
    return name, _Entry(number, text, label)


def _leads_out(name: str) -> bool:
    """Whether a name is absolute or climbs, in the manner of any system."""
    return any(
        kind(name).anchor != "" or ".." in kind(name).parts
        for kind in (PurePosixPath, PureWindowsPath)
    )


def _decode_all(
    root: Path,
    names: Sequence[str],
    size: int | None,
    channels: int,
    problems: list[tuple[str, str]],
) -> tuple[list[str], np.ndarray | None]:
    """The images that could be decoded and their pixels (N, C, H, W). The others are added to `problems`.

    Once a second size has turned up the images cannot be used, and only the sizes of the rest are read.
    """
    kept: list[str] = []
    values: np.ndarray | None = None
    sizes = _Sizes()
    for name in names:
        try:
            with _open(root / name) as image:
                if len(sizes.count) > 1:
                    sizes.add(_upright_size(image), name)
                    continue
                pixels = _pixels(image, size, channels)
        # Pillow's decoders meet hostile input with errors of many types; each one is a reason to report.
        except Exception as error:
            problems.append((name, _reason(error)))
            continue
        height, width = pixels.shape[1:]
        sizes.add((width, height), name)
        if values is None:
            values = _allocate((len(names), *pixels.shape), root)
        if pixels.shape == values.shape[1:]:
            values[len(kept)] = pixels
            kept.append(name)
    if len(sizes.count) > 1:
        raise DataError(_list_sizes(root, sizes))
    return kept, None if values is None else values[: len(kept)]


def _open(path: Path) -> Image.Image:
    """Open an image and read its header, no pixels yet. Raises _Unusable for what is too large."""
    if not path.is_file():
        raise _Unusable("is not a file, or a link that leads nowhere")
    limit = f"more than the {MAX_PIXELS // 10**6} million pixels that are decoded"
    try:
        with warnings.catch_warnings():
            # Pillow's own limit lies higher: where it only warns, the one below decides.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _Unusable(f"declares {limit}") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise _Unusable(f"declares {width} x {height}, {limit}")
    return image


def _pixels(image: Image.Image, size: int | None, channels: int) -> np.ndarray:
    """(C, H, W) uint8 of the first frame: upright, on white, in the size asked for."""
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64)
        image = Image.fromarray(((deep.clip(0, 65535) + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None and image.size != (size, size):
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        image = image.resize(
            (size, size),
            Image.Resampling.LANCZOS,
            box=(left, top, left + side, top + side),
            reducing_gap=3.0,
        )
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) after the turn that the EXIF orientation asks for."""
    width, height = image.size
    return (height, width) if image.getexif().get(ORIENTATION, 1) >= 5 else (width, height)


def _allocate(shape: tuple[int, ...], root: Path) -> np.ndarray:
    try:
        return np.empty(shape, np.uint8)
    except (MemoryError, ValueError) as error:
        raise DataError(
            f"the {shape[0]} images of {root} at {shape[3]} x {shape[2]} need "
            f"{np.prod(shape, dtype=float) / 2**30:.0f} GiB of memory; pass a smaller size (--size)"
        ) from error


def _labels(
    kept: Sequence[str], names: Sequence[str], described: dict[str, _Entry] | None
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Labels of the images kept, from the metadata or the folders. The classes are those of all images."""
    keys: dict[str, Any] = {}
    if described is not None:
        keys = {n: described[n].label for n in names if described[n].label is not None}
    if not keys and all("/" in name for name in names):
        keys = {name: name.split("/", 1)[0] for name in names}
    if not keys:
        return None, None
    if isinstance(next(iter(keys.values())), int):
        return np.array([keys[name] for name in kept]), None
    classes = sorted(set(keys.values()))
    code = {name: i for i, name in enumerate(classes)}
    return np.array([code[keys[name]] for name in kept]), tuple(classes)


def _reason(error: Exception) -> str:
    match error:
        case _Unusable():
            return str(error)
        case UnidentifiedImageError():
            return f"is none of {', '.join(FORMATS)}"
        case OSError(strerror=str()):
            return f"cannot be opened: {error.strerror}"
        case _:
            return f"cannot be decoded: {error or type(error).__name__}"


def _list_problems(root: Path, problems: Sequence[tuple[str, str]], good: int) -> str:
    lines = [f"  {name}: {reason}" for name, reason in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"  and {len(problems) - SHOWN} more")
    if good:
        advice = (
            f'Mend or remove these, or pass on_bad="skip" to go on with the other {good} images'
        )
    else:
        advice = "No image is left"
    return "\n".join([f"{root} has {len(problems)} problems:", *lines, advice])


def _list_sizes(root: Path, sizes: _Sizes) -> str:
    lines = [
        f"  {width} x {height}: {count} images, for example {sizes.example[width, height]}"
        for (width, height), count in sizes.count.most_common(SHOWN)
    ]
    if len(sizes.count) > SHOWN:
        lines.append(f"  and {len(sizes.count) - SHOWN} more sizes")
    return "\n".join(
        [
            f"the images of {root} have {len(sizes.count)} sizes:",
            *lines,
            "Pass --size K (size=K) to make all of them K x K",
        ]
    )
