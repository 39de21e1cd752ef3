"""A folder of images, decoded by Pillow: at once into one array, or each when it is wanted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from pushforward.core.errors import DataError
from pushforward.data.dataset import Dataset
from pushforward.data.images.decode import OnBad, check_options
from pushforward.data.images.files import METADATA, Files, scan
from pushforward.data.images.lazy import Crop, check_crop
from pushforward.data.images.listing import Listing, leads_out
from pushforward.data.images.names import Names
from pushforward.data.labels import encode


def load_folder(
    path: str | Path,
    size: int | None = None,
    channels: int = 3,
    on_bad: OnBad = "error",
    lazy: bool = False,
    crop: Crop = "centre",
    zoom: float = 1.0,
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

    lazy: leave the pixels in the files, and decode those of each batch when it is made, however many there are. With a
    size no file is opened here; without one, only their headers. What is bad then turns up later, see `Pictures`, which
    also says what `crop` and `zoom` do.

    Raises DataError for a folder that is missing, unreadable or without usable images, for a file name in the
    metadata that leads out of the folder, and, without a size, for pictures of several sizes.
    """
    check_options(size, channels, on_bad)
    check_crop(size, crop, zoom, lazy)
    return list_folder(Path(path)).dataset(size, channels, on_bad, lazy, crop, zoom)


def list_folder(root: Path) -> Listing:
    """The images of a folder, with labels and captions; none of them is opened."""
    names = scan(root)
    problems: list[tuple[str, str]] = []
    described: dict[str, _Entry] | None = None
    if (root / METADATA).is_file():
        described = _read_metadata(root, set(names), problems)
        problems.extend(
            (name, f"has no line in {METADATA}") for name in names if name not in described
        )
        names = Names.of(name for name in names if name in described)
    labels, class_names = _labels(names, described)
    captions = None
    if described is not None and any(entry.text is not None for entry in described.values()):
        captions = [described[name].text or "" for name in names]
    source = Files(root, names)
    return Listing(str(root), source, names, labels, class_names, captions, problems)


@dataclass(frozen=True)
class _Entry:
    """What one line of the metadata says of an image."""

    line: int
    text: str | None
    label: str | int | None


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
        if leads_out(name):
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


def _labels(
    names: Sequence[str], described: dict[str, _Entry] | None
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Labels from the metadata, where all have one or none, or else from the folders."""
    if described is not None:
        given = [label for name in names if (label := described[name].label) is not None]
        if given and isinstance(given[0], int):
            return np.array(given), None
        if given:
            return encode(str(label) for label in given)
    if all("/" in name for name in names):
        return encode(name.split("/", 1)[0] for name in names)
    return None, None
