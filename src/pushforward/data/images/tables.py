"""Tables beside images, metadata.jsonl, metadata.csv or captions.csv, one row an image; or a text file for each."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pushforward.core.errors import DataError
from pushforward.data.images.files import METADATA
from pushforward.data.images.names import Names
from pushforward.data.labels import some

# In the order in which they are looked for: the first one that is there is read.
TABLES = (METADATA, "metadata.csv", "captions.csv")
# Columns of a CSV file that may name the image.
FILE_NAMES = ("file_name", "filename", "file", "image", "image_path", "path")
# Text files that are no captions, whatever pictures lie beside them.
LISTS = ("labels.txt", "classes.txt")
# The largest caption in a file of its own, in bytes.
MAX_TEXT = 1 << 20
SHOWN = 5

Row = tuple[int, dict[str, Any] | str]


def find_table(root: Path) -> Path | None:
    """The table of a folder."""
    return next((root / name for name in TABLES if (root / name).is_file()), None)


def read_table(path: Path, columns: Sequence[str] = ()) -> Iterator[Row]:
    """(line, object) of every row of a table; (line, reason) where it is none.

    Of CSV, columns named `columns` hold numbers, and empty cells are nothing. Raises DataError for a file that is no
    UTF-8 text, or no table.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="strict")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from error
    return _json(text) if path.suffix == ".jsonl" else _csv(path, text, columns)


def _json(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            yield number, f"is not JSON: {error.msg} at column {error.colno}"
        except (ValueError, RecursionError) as error:
            yield number, str(error) or "is nested too deeply"
        else:
            yield number, item if isinstance(item, dict) else "is not a JSON object"


def _csv(path: Path, text: str, columns: Sequence[str]) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        key = next((name for name in FILE_NAMES if name in header), None)
        if key is None:
            raise DataError(
                f"{path}: its first row must name the columns, and one of them the images "
                f"({', '.join(FILE_NAMES[:3])}); it has {some(map(repr, header)) or 'nothing'}"
            )
        if len(set(header)) < len(header):
            raise DataError(f"{path}: two of its columns have one name: {some(map(repr, header))}")
        line = reader.line_num
        for cells in reader:
            start, line = line + 1, reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                yield start, f"has {len(cells)} cells, and there are {len(header)} columns"
                continue
            item: dict[str, Any] = {
                name: cell for name, cell in zip(header, cells, strict=True) if cell.strip()
            }
            item["file_name"] = item.pop(key, None)
            try:
                item |= {name: float(item[name]) for name in columns if name in item}
            except ValueError as error:
                yield start, f"has no number where one is needed: {error}"
                continue
            yield start, item
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num} is not CSV: {error}") from error


def read_captions(
    root: Path, names: Names, texts: Names, problems: list[tuple[str, str]]
) -> tuple[dict[str, str] | None, list[str]]:
    """The text files beside images, `x.txt` for `x.png`: captions by image, or None if there are none; and notes.

    What is wrong with one, or that an image has none, is added to `problems`.
    """
    there = {text for text in texts if text not in LISTS}
    wanted = {name: f"{name.rpartition('.')[0]}.txt" for name in names} if there else {}
    if not any(text in there for text in wanted.values()):
        return None, []
    captions: dict[str, str] = {}
    for name, text in wanted.items():
        if text not in there:
            problems.append((name, f"has no caption: there is no {text}, and others have one"))
            continue
        try:
            with (root / text).open("rb") as file:
                content = file.read(MAX_TEXT + 1)
            if len(content) > MAX_TEXT:
                raise ValueError(f"it has more than {MAX_TEXT} bytes")
            captions[name] = content.decode("utf-8-sig").strip()
        except (OSError, ValueError) as error:
            problems.append((name, f"has no caption: {text} cannot be read as UTF-8 text: {error}"))
    used = set(wanted.values())
    alone = sorted(there - used)
    notes = []
    if alone:
        more = f" and {len(alone) - SHOWN} more" if len(alone) > SHOWN else ""
        notes.append(
            f"{root}: not read, since no image of that name is beside: {some(alone[:SHOWN])}{more}"
        )
    return captions, notes
