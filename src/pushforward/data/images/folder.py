"""A folder of images, decoded by Pillow: at once into one array, or each when it is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pushforward.core.errors import DataError
from pushforward.data.dataset import Dataset
from pushforward.data.images.classes import of_folder
from pushforward.data.images.decode import OTHER_EXTENSIONS, OnBad, check_options
from pushforward.data.images.files import METADATA, Files, survey
from pushforward.data.images.lazy import Crop, check_crop
from pushforward.data.images.listing import Listing
from pushforward.data.images.metadata import Described, described, notes_on_fields
from pushforward.data.images.names import Names, leads_out
from pushforward.data.images.tables import TABLES, find_table, read_captions, read_table
from pushforward.data.labels import encode, some

# Files in which others keep labels.
LISTS = (*TABLES[1:], "labels.csv", "labels.txt", "labels.json", "classes.txt")


def load_folder(
    path: str | Path,
    size: int | None = None,
    channels: int = 3,
    on_bad: OnBad = "error",
    lazy: bool = False,
    crop: Crop = "centre",
    zoom: float = 1.0,
    columns: Sequence[str] = (),
) -> Dataset:
    """The images in a folder and its subfolders as uint8 (N, channels, H, W), in the order of their paths.

    Files: png, jpg, jpeg, webp, bmp and gif, of which the first frame is taken; other files, and names that begin with
    a dot, are ignored. An image is rotated as its EXIF orientation says, composited on white where it is transparent,
    and converted to RGB (channels 3) or grey (channels 1); 16-bit grey keeps its upper 8 bits, rounded.

    size: None requires all images to have one size. A number scales all of them to size x size: the largest centred
    square, resampled by Lanczos with antialiasing.

    Labels and captions come from `metadata.jsonl` in the folder, one object a line with `file_name` and `text` (or
    `caption`, `prompt`), `label` (or `class`, `class_name`, `category`, `target`), or both; or else from `metadata.csv`
    or `captions.csv`, with a first row that has these names. `columns` names fields with numbers, or lists of numbers,
    that become conditions. Without any of these files, the caption of `x.png` is the text in `x.txt` beside it. Without
    labels, the first folder within this one is the class; a few images that lie beside such folders are problems.

    on_bad: what to do with files that are damaged, are no images, or declare more than 64 million pixels, and with
    metadata that does not match the files. "error" raises a DataError that lists them; "skip" goes on without them and
    lists them in `report` of the result.

    lazy: leave the pixels in the files, and decode those of each batch when it is read, however many there are. With a
    size no file is opened here; without one, only their headers. Bad files are then found later, see `Pictures`, which
    also explains `crop` and `zoom`.

    Raises DataError for a folder that is missing, unreadable or without usable images, for a file name in the metadata
    that leads out of the folder, and, without a size, for images of several sizes.
    """
    check_options(size, channels, on_bad)
    check_crop(size, crop, zoom, lazy)
    return list_folder(Path(path), columns).dataset(size, channels, on_bad, lazy, crop, zoom)


def list_folder(root: Path, columns: Sequence[str] = ()) -> Listing:
    """The images of a folder, with labels and captions; none of them is opened."""
    names, other, texts = survey(root)
    problems: list[tuple[str, str]] = []
    table = find_table(root)
    notes = notes_on_files(root, other, table)
    entries: dict[str, _Entry] | None = None
    beside: dict[str, str] | None = None
    if table is not None:
        entries = _read_metadata(table, set(names), problems, columns)
        problems.extend(
            (name, f"has no line in {table.name}") for name in names if name not in entries
        )
        names = Names.of(name for name in names if name in entries)
        fields = {entry.about.field for entry in entries.values()} - {None, "label"}
        others = dict.fromkeys(name for entry in entries.values() for name in entry.about.others)
        unused = [name for name in others if name not in columns]
        notes += notes_on_fields(table.name, next(iter(fields), None), unused)
    elif columns:
        raise DataError(
            f"{root} has no {METADATA}, which the conditions {some(columns)} could come from"
        )
    else:
        beside, more = read_captions(root, names, texts, problems)
        notes += more
        if beside is not None:
            names = Names.of(name for name in names if name in beside)
    labels, class_names = _labels(names, entries)
    if labels is None:
        found = of_folder(names)
        notes += [found.note] if found.note else []
        labels, class_names = found.labels, found.class_names
        if found.strays:
            why = f"lies beside the class folders {some(class_names or (), 5)}"
            problems.extend((names[i], why) for i in found.strays)
            lost = set(found.strays)
            names = Names.of(name for i, name in enumerate(names) if i not in lost)
    captions = None if beside is None else [beside[name] for name in names]
    if entries is not None and any(entry.about.text is not None for entry in entries.values()):
        captions = [entries[name].about.text or "" for name in names]
    given = {}
    if entries is not None:
        assert table is not None
        given = {
            column: _column(
                f"{table.name}: the condition {column!r}", column, [entries[n] for n in names]
            )
            for column in columns
        }
    source = Files(root, names)
    return Listing(str(root), source, names, labels, class_names, captions, problems, notes, given)


@dataclass(frozen=True)
class _Entry:
    """One line of the metadata: annotations of an image, and its numbers by name."""

    line: int
    about: Described
    columns: Mapping[str, Any]


def _read_metadata(
    table: Path, names: set[str], problems: list[tuple[str, str]], columns: Sequence[str]
) -> dict[str, _Entry]:
    """The rows of a table by image. What is wrong with them is added to `problems`."""
    root = table.parent
    entries: dict[str, _Entry] = {}
    for number, item in read_table(table, columns):
        where = f"{table.name}, line {number}"
        try:
            if isinstance(item, str):
                raise ValueError(item)
            name, entry = _parse(item, number, columns)
        except ValueError as error:
            problems.append((where, str(error)))
            continue
        if leads_out(name):
            raise DataError(
                f"{table}, line {number}: file_name {name!r} leads out of the folder; "
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
        given = [name for name, e in entries.items() if getattr(e.about, attribute) is not None]
        if given and len(given) < len(entries):
            lacking = [name for name in entries if name not in set(given)]
            for name in lacking:
                where = f"{table.name}, line {entries[name].line}"
                problems.append((where, f"{name} has no {attribute}, others have"))
                del entries[name]
    kinds = {type(e.about.label) for e in entries.values() if e.about.label is not None}
    if len(kinds) > 1:
        raise DataError(f"{table}: some labels are numbers and some are texts; use one kind")
    return entries


def _parse(item: Mapping[str, Any], number: int, columns: Sequence[str]) -> tuple[str, _Entry]:
    """file_name and its annotations. Raises ValueError with the reason."""
    name = item.get("file_name")
    if not isinstance(name, str) or not name:
        raise ValueError("has no file_name")
    numbers = {}
    for column in columns:
        value = item.get(column)
        flat = value if isinstance(value, list) else [value]
        if not all(
            v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in flat
        ):
            raise ValueError(f"its {column} is {value!r}, not a number or a list of numbers")
        numbers[column] = np.array(value, np.float32) if value is not None else None
    return name, _Entry(number, described(item), numbers)


def _column(what: str, name: str, entries: Sequence[_Entry]) -> np.ndarray:
    """The numbers of all images, NaN where a line has none. Raises DataError if they differ in length."""
    shapes = {value.shape for entry in entries if (value := entry.columns[name]) is not None}
    if len(shapes) != 1:
        found = (
            "no line has one"
            if not shapes
            else f"some are {' and some '.join(map(str, sorted(shapes)))}"
        )
        raise DataError(f"{what} needs a number, or as many, for each image; {found}")
    unknown = np.full(shapes.pop(), np.nan, np.float32)
    return np.stack(
        [unknown if entry.columns[name] is None else entry.columns[name] for entry in entries]
    )


def _labels(
    names: Sequence[str], entries: dict[str, _Entry] | None
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Labels from the metadata, where all have one or none."""
    given = [
        label for name in names if entries and (label := entries[name].about.label) is not None
    ]
    if not given:
        return None, None
    if isinstance(given[0], int):
        return np.array(given), None
    return encode(str(label) for label in given)


def notes_on_files(root: Path, other: Counter[str], table: Path | None) -> list[str]:
    """Notes on files that are not read: images of other formats, lists of labels beside the table that is read."""
    notes = []
    formats = {suffix: n for suffix, n in other.items() if suffix in OTHER_EXTENSIONS}
    if formats:
        found = ", ".join(f"{n} x {suffix}" for suffix, n in formats.items())
        notes.append(f"{root}: not read: {found}, which are formats that are not decoded")
    for name in LISTS:
        if (root / name).is_file() and root / name != table:
            source = METADATA if table is None else table.name
            notes.append(f"{root / name} is not read; labels and captions come from {source}")
    return notes
