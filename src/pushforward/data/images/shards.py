"""Images in tar archives, read at any place.

What a sample is, see `grouping`. Beside archives, `classes.json` may name all classes, in the order of their numbers,
so that some of the archives have the same classes as all of them.

Readers of WebDataset go through an archive from its start. Here an index says where each image lies: any order is as
fast.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pushforward.core.errors import DataError
from pushforward.data.dataset import Dataset
from pushforward.data.images.classes import of_archive
from pushforward.data.images.decode import OnBad, check_options, open_image
from pushforward.data.images.index import Index, read_index
from pushforward.data.images.lazy import Crop, check_crop
from pushforward.data.images.listing import Listing
from pushforward.data.labels import encode

CLASSES = "classes.json"
# The largest list of classes.
MAX_CLASSES_FILE = 1 << 24
# Notes on archives that are printed one by one.
SHOWN = 10


def load_shards(
    paths: str | Path | Sequence[str | Path],
    size: int | None = None,
    channels: int = 3,
    on_bad: OnBad = "error",
    crop: Crop = "centre",
    zoom: float = 1.0,
) -> Dataset:
    """The images in tar archives, decoded when they are read; in the order of the archives, and within them.

    paths: an archive, a folder of archives (*.tar), a pattern such as "train-*.tar", or several of these. The other
    arguments are those of `load_folder`, and `Pictures` says what happens to images that turn out bad.

    Each archive is gone through once, header by header. What was found is kept beside it as NAME.index.npz, or else in
    the user's cache, and holds as long as the archive has the same size, time of change, first and last block.

    Raises DataError for an archive that is missing, cut off, damaged or compressed, that has sparse members, or members
    whose names lead out of a folder; on_bad is about single samples, such as those without an image.
    """
    check_options(size, channels, on_bad)
    check_crop(size, crop, zoom, lazy=True)
    return list_shards(find_shards(paths)).dataset(size, channels, on_bad, True, crop, zoom)


def find_shards(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """The archives that are meant; sorted where they were not named one by one."""
    if not isinstance(paths, str | Path):
        return [path for part in paths for path in find_shards(part)]
    path = Path(paths)
    if path.is_dir():
        found = sorted(
            p for p in path.iterdir() if p.suffix.lower() == ".tar" and not p.name.startswith(".")
        )
        if not found:
            raise DataError(f"{path} has no archives (.tar)")
        return found
    if path.exists():
        return [path]
    found = sorted(Path(p) for p in glob.glob(str(path)))
    if not found:
        raise DataError(f"there is no archive {path}")
    return found


class Shards:
    """The images of archives. Each is read from its place; no archive is kept open."""

    def __init__(
        self, paths: Sequence[Path], indexes: Sequence[Index], rows: np.ndarray | None = None
    ) -> None:
        self.paths, self.indexes, self.rows = paths, indexes, rows
        self.ends = np.cumsum([len(index.names) for index in indexes])

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.rows is None else len(self.rows)

    def _place(self, entry: int) -> tuple[int, int]:
        """Which archive, and which image in it."""
        entry = entry if self.rows is None else int(self.rows[entry])
        shard = int(np.searchsorted(self.ends, entry, side="right"))
        return shard, entry - (int(self.ends[shard - 1]) if shard else 0)

    def name(self, entry: int) -> str:
        shard, place = self._place(entry)
        return f"{self.paths[shard]}: {self.indexes[shard].names[place]}"

    def open(self, entry: int) -> Image.Image:
        return open_image(io.BytesIO(self.read(entry)))

    def read(self, entry: int) -> bytes:
        """The bytes of an image file."""
        shard, place = self._place(entry)
        path, index = self.paths[shard], self.indexes[shard]
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if os.fstat(descriptor).st_size != index.total:
                    raise DataError(f"{path} has changed since its images were listed: start again")
                size, offset = int(index.sizes[place]), int(index.offsets[place])
                content = os.pread(descriptor, size, offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        if len(content) != size:
            raise DataError(f"{path} cannot be read at byte {offset}: it was cut off meanwhile")
        return content

    def select(self, rows: np.ndarray) -> Shards:
        return Shards(self.paths, self.indexes, rows if self.rows is None else self.rows[rows])

    def digest(self) -> str:
        """Of the indexes and of which of their images are meant; names of archives play no part."""
        digest = hashlib.sha256()
        for index in self.indexes:
            digest.update(index.digest())
        if self.rows is not None:
            digest.update(np.ascontiguousarray(self.rows, "<i8").data)
        return digest.hexdigest()


class _ShardNames(Sequence[str]):
    """What the images of archives are called in messages."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, entry: Any) -> Any:
        return self.shards.name(entry)


def list_shards(paths: Sequence[Path]) -> Listing:
    """The images of archives, with labels and captions."""
    indexes = [read_index(path) for path in paths]
    shards = Shards(paths, indexes)
    names = _ShardNames(shards)
    where = str(paths[0]) if len(paths) == 1 else f"{paths[0]} to {paths[-1].name}"
    problems: list[tuple[str, str]] = []
    notes: list[str] = []
    for path, index in zip(paths, indexes, strict=True):
        for name, why in map(json.loads, index.problems):
            problems.append((f"{path}: {name}", why))
        notes.extend(f"{path}: {json.loads(note)}" for note in index.notes)
    if len(notes) > SHOWN:
        notes = [
            *notes[:SHOWN],
            f"and {len(notes) - SHOWN} more archives where something is not read",
        ]
    annotations = [json.loads(text) for index in indexes for text in index.annotations]
    members = [name for index in indexes for name in index.names]
    kept = np.ones(len(annotations), bool)
    for place, what in enumerate(("label", "text")):
        has = np.array([pair[place] is not None for pair in annotations], bool)
        if has.any() and not has.all():
            problems.extend((names[i], f"has no {what}, others have") for i in np.flatnonzero(~has))
            kept &= has
    if not kept.all():
        rows = np.flatnonzero(kept)
        shards = shards.select(rows)
        names, annotations = _ShardNames(shards), [annotations[i] for i in rows]
        members = [members[i] for i in rows]
    captions = (
        [text for _, text in annotations] if annotations and annotations[0][1] is not None else None
    )
    labels, class_names, note = _labels([label for label, _ in annotations], members, paths, where)
    notes.extend([note] if note else [])
    return Listing(where, shards, names, labels, class_names, captions, problems, notes)


def _labels(
    annotations: Sequence[int | str | None],
    members: Sequence[str],
    paths: Sequence[Path],
    where: str,
) -> tuple[np.ndarray | None, tuple[str, ...] | None, str | None]:
    """Labels as numbers, the names of their classes, and a note: as the archives say, or by folders within them."""
    if not annotations:
        return None, None, None
    named = _classes(paths)
    note = None
    if annotations[0] is None:
        found = of_archive(members)
        if found.labels is None or found.class_names is None:
            return None, None, found.note
        labels, class_names, note = found.labels, found.class_names, found.note
    else:
        kinds = {type(label) for label in annotations}
        if len(kinds) > 1:
            raise DataError(f"{where}: some labels are numbers and some are texts; use one kind")
        if kinds == {int}:
            labels = np.array(annotations)
            fits = named is not None and int(labels.max()) < len(named)
            return labels, named if fits else None, None
        labels, class_names = encode(str(label) for label in annotations)
    if named is not None and set(class_names) <= set(named):
        labels = np.array([named.index(name) for name in class_names])[labels]
        class_names = named
    return labels, class_names, note


def _classes(paths: Sequence[Path]) -> tuple[str, ...] | None:
    """The names of classes that lie beside archives; None unless there is one list of different names."""
    found: set[tuple[str, ...] | None] = set()
    for folder in {path.parent for path in paths}:
        try:
            with (folder / CLASSES).open("rb") as file:
                names = json.loads(file.read(MAX_CLASSES_FILE))
        except (OSError, ValueError, RecursionError):
            return None
        good = isinstance(names, list) and all(isinstance(name, str) for name in names)
        found.add(tuple(names) if good and len(set(names)) == len(names) else None)
    return found.pop() if len(found) == 1 else None
