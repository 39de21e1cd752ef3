"""What an archive of images holds and where, found once and kept beside it."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pushforward.core.errors import DataError
from pushforward.data.images.grouping import MAX_FILE, Unread, samples
from pushforward.data.images.metadata import notes_on_fields
from pushforward.data.images.names import Names
from pushforward.data.images.tar import BLOCK

# Of what is stored; another one is not believed.
VERSION = 2
TEXTS = ("names", "annotations", "problems", "notes")


@dataclass(frozen=True)
class Index:
    """What is in an archive.

    names:   of the images' members. offsets, sizes: (N,) int64, where their content lies.
    annotations:    JSON of [label or null, text or null] for each.
    problems: JSON of [name, reason] for samples that cannot be used.
    notes:   JSON of lines about what is not read.
    total, ends: bytes of the archive, and SHA-256 of its first and its last block.
    """

    names: Names
    offsets: np.ndarray
    sizes: np.ndarray
    annotations: Names
    problems: Names
    notes: Names
    total: int
    ends: str

    def digest(self) -> bytes:
        """SHA-256 of all but the problems and notes."""
        digest = hashlib.sha256(json.dumps([self.total, self.ends]).encode())
        for part in (self.names, self.annotations):
            digest.update(np.ascontiguousarray(part.ends, "<i8").data)
            digest.update(part.buffer)
        for numbers in (self.offsets, self.sizes):
            digest.update(np.ascontiguousarray(numbers, "<i8").data)
        return digest.digest()


def read_index(path: Path) -> Index:
    """The stored index of an archive if it is that of the archive as it is now, or else a new one.

    It holds as long as the archive has the same size, time of change, first and last block.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        last = max(0, (status.st_size - 1) // BLOCK * BLOCK)
        ends = os.pread(descriptor, BLOCK, 0) + os.pread(descriptor, BLOCK, last)
        mark = {
            "version": VERSION,
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "ends": hashlib.sha256(ends).hexdigest(),
        }
        for place in _places(path):
            index = _stored(place, mark)
            if index is not None:
                return index
        index = make_index(descriptor, path, mark)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    for place in _places(path):
        if _store(place, index, mark):
            break
    return index


def make_index(descriptor: int, path: Path, mark: dict[str, Any]) -> Index:
    """Go through an archive, header by header."""
    images: list[tuple[str, int, int]] = []
    annotations: list[str] = []
    problems: list[str] = []
    seen: set[str] = set()
    fields: dict[str | None, None] = {}
    others: dict[str, None] = {}
    unread = Unread()
    for sample in samples(descriptor, str(path), unread):
        if sample.key in seen:
            sample.wrong.insert(0, "its members do not follow each other")
        seen.add(sample.key)
        try:
            about = sample.described()
        except (ValueError, RecursionError) as error:
            sample.wrong.append(f"{error or 'its .json is nested too deeply'}")
        if sample.wrong:
            problems.append(json.dumps([sample.key, "; ".join(sample.wrong)]))
        else:
            images.append(sample.images[0])
            annotations.append(json.dumps([about.label, about.text]))
            fields[about.field] = None
            others |= dict.fromkeys(about.others)
    named = [field for field in fields if field not in (None, "label")]
    notes = unread.notes() + notes_on_fields("its .json", named[0] if named else None, list(others))
    return Index(
        Names.of(name for name, _, _ in images),
        np.array([offset for _, offset, _ in images], np.int64),
        np.array([size for _, _, size in images], np.int64),
        Names.of(annotations),
        Names.of(problems),
        Names.of(map(json.dumps, notes)),
        mark["size"],
        mark["ends"],
    )


def _places(path: Path) -> tuple[Path, Path]:
    """Where the index of an archive may be kept: beside it as NAME.index.npz, or else in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    cache = (Path(base) if base else Path.home() / ".cache") / "pushforward" / "indexes"
    whole = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    return path.with_name(f"{path.name}.index.npz"), cache / f"{whole}.index.npz"


def _stored(place: Path, mark: dict[str, Any]) -> Index | None:
    """What is kept there, or None if that is missing, out of date, or not what is written here."""
    try:
        # An index is far smaller than its archive: what would unpack to more is none.
        with zipfile.ZipFile(place) as archive:
            if sum(part.file_size for part in archive.infolist()) > mark["size"] + (1 << 16):
                return None
        with np.load(place, allow_pickle=False) as stored:
            if json.loads(str(stored["mark"])) != mark:
                return None
            offsets, sizes = stored["offsets"], stored["sizes"]
            texts = {part: Names(stored[part].tobytes(), stored[f"{part}_ends"]) for part in TEXTS}
        for names in texts.values():
            ends = names.ends
            steps = np.diff(ends, prepend=0)
            if ends.dtype != np.int64 or ends.ndim != 1 or (steps < 0).any():
                return None
            if int(ends[-1] if len(ends) else 0) != len(names.buffer):
                return None
        for numbers in (offsets, sizes):
            if numbers.dtype != np.int64 or numbers.shape != (len(texts["names"]),):
                return None
        inside = (offsets >= 0) & (sizes >= 0) & (sizes <= MAX_FILE)
        inside &= offsets <= mark["size"] - sizes
        if len(texts["annotations"]) != len(offsets) or not inside.all():
            return None
        for part in ("annotations", "problems", "notes"):
            if not all(_is_entry(json.loads(text), part) for text in texts[part]):
                return None
        return Index(**texts, offsets=offsets, sizes=sizes, total=mark["size"], ends=mark["ends"])
    # Anybody may have written it: whatever is wrong with it, the index can be computed again.
    except Exception:
        return None


def _is_entry(value: Any, part: str) -> bool:
    if part == "notes":
        return isinstance(value, str)
    if not isinstance(value, list) or len(value) != 2:
        return False
    if part == "problems":
        return all(isinstance(one, str) for one in value)
    label, text = value
    return type(label) in (int, str, type(None)) and isinstance(text, str | None)


def _store(place: Path, index: Index, mark: dict[str, Any]) -> bool:
    """Whether it could be written there."""
    arrays: dict[str, Any] = {
        "mark": np.array(json.dumps(mark)),
        "offsets": index.offsets,
        "sizes": index.sizes,
    }
    for part in TEXTS:
        texts: Names = getattr(index, part)
        arrays[part] = np.frombuffer(texts.buffer, np.uint8)
        arrays[f"{part}_ends"] = texts.ends
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(temporary, place)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        return False
    return True
