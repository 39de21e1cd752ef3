"""Tar archives of images, as those of WebDataset, read at any place.

A sample is the members, one after the other, whose names agree up to the first dot of the last part. One of them is the
image, by its extension; `.cls` has a class as a number, `.txt` a caption, and `.json` an object with "label" (number or
text), "text" or "caption". Other members are not looked at. Beside archives, `classes.json` may name all classes, in
the order of their numbers, so that some of the archives have the same classes as all of them.

The convention: Aizman, Maltby & Breuel 2019, "High performance I/O for large scale deep learning" (arXiv 2001.01858),
whose readers go through an archive from its start. Here an index says where each image lies: any order is as good.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image

from pushforward.core.errors import DataError, InputError
from pushforward.data.dataset import Dataset
from pushforward.data.images.decode import (
    EXTENSIONS,
    OnBad,
    check_options,
    is_exhaustion,
    open_image,
    reason,
)
from pushforward.data.images.folder import list_folder
from pushforward.data.images.lazy import Crop, check_crop
from pushforward.data.images.listing import Listing, leads_out
from pushforward.data.images.names import Names
from pushforward.data.images.tar import BLOCK, members
from pushforward.data.labels import encode

VERSION = 1
CLASSES = "classes.json"
# The largest image file that is read: 64 million pixels of four bytes, uncompressed.
MAX_FILE = 1 << 28
# The largest list of classes.
MAX_CLASSES_FILE = 1 << 24
# The largest caption or label.
MAX_TEXT = 1 << 20


def load_shards(
    paths: str | Path | Sequence[str | Path],
    size: int | None = None,
    channels: int = 3,
    on_bad: OnBad = "error",
    crop: Crop = "centre",
    zoom: float = 1.0,
) -> Dataset:
    """The images in tar archives, decoded when they are wanted; in the order of the archives, and within them.

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


@dataclass(frozen=True)
class Index:
    """What is in an archive.

    names:   of the images' members. offsets, sizes: (N,) int64, where their content lies.
    said:    JSON of [label or null, text or null] for each.
    problems: JSON of [name, reason] for what was left out.
    total, ends: bytes of the archive, and SHA-256 of its first and its last block.
    """

    names: Names
    offsets: np.ndarray
    sizes: np.ndarray
    said: Names
    problems: Names
    total: int
    ends: str

    def digest(self) -> bytes:
        """SHA-256 of all but the problems."""
        digest = hashlib.sha256(json.dumps([self.total, self.ends]).encode())
        for part in (self.names, self.said):
            digest.update(np.ascontiguousarray(part.ends, "<i8").data)
            digest.update(part.buffer)
        for numbers in (self.offsets, self.sizes):
            digest.update(np.ascontiguousarray(numbers, "<i8").data)
        return digest.digest()


class Shards:
    """The images of archives. Each is read from its place when it is wanted; no archive is kept open."""

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
    for path, index in zip(paths, indexes, strict=True):
        for name, why in map(json.loads, index.problems):
            problems.append((f"{path}: {name}", why))
    said = [json.loads(text) for index in indexes for text in index.said]
    kept = np.ones(len(said), bool)
    for place, what in enumerate(("label", "text")):
        has = np.array([pair[place] is not None for pair in said], bool)
        if has.any() and not has.all():
            problems.extend((names[i], f"has no {what}, others have") for i in np.flatnonzero(~has))
            kept &= has
    if not kept.all():
        rows = np.flatnonzero(kept)
        shards = shards.select(rows)
        names, said = _ShardNames(shards), [said[i] for i in rows]
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    captions: list[str] | None = None
    if said and said[0][0] is not None:
        kinds = {type(label) for label, _ in said}
        if len(kinds) > 1:
            raise DataError(f"{where}: some labels are numbers and some are texts; use one kind")
        named = _classes(paths)
        if kinds == {str}:
            labels, class_names = encode(label for label, _ in said)
            if named is not None and set(class_names) <= set(named):
                labels = np.array([named.index(name) for name in class_names])[labels]
                class_names = named
        else:
            labels = np.array([label for label, _ in said])
            if named is not None and int(labels.max()) < len(named):
                class_names = named
    if said and said[0][1] is not None:
        captions = [text for _, text in said]
    return Listing(where, shards, names, labels, class_names, captions, problems)


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


def read_index(path: Path) -> Index:
    """The index that is kept of an archive if it is that of the archive as it is now, or else a new one."""
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
        for place in _index_places(path):
            index = _stored_index(place, mark)
            if index is not None:
                return index
        index = _make_index(descriptor, path, mark)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    for place in _index_places(path):
        if _store_index(place, index, mark):
            break
    return index


def _index_places(path: Path) -> tuple[Path, Path]:
    base = os.environ.get("XDG_CACHE_HOME")
    cache = (Path(base) if base else Path.home() / ".cache") / "pushforward" / "indexes"
    whole = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    return path.with_name(f"{path.name}.index.npz"), cache / f"{whole}.index.npz"


def _stored_index(place: Path, mark: dict[str, Any]) -> Index | None:
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
            texts = {
                part: Names(stored[part].tobytes(), stored[f"{part}_ends"])
                for part in ("names", "said", "problems")
            }
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
        if (
            len(texts["said"]) != len(offsets)
            or not (
                (offsets >= 0)
                & (sizes >= 0)
                & (sizes <= MAX_FILE)
                & (offsets <= mark["size"] - sizes)
            ).all()
        ):
            return None
        for part in ("said", "problems"):
            if not all(_is_pair(json.loads(text), part) for text in texts[part]):
                return None
        return Index(**texts, offsets=offsets, sizes=sizes, total=mark["size"], ends=mark["ends"])
    # Anybody may have written it: whatever is wrong with it, another one can be made.
    except Exception:
        return None


def _is_pair(value: Any, part: str) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    if part == "problems":
        return all(isinstance(one, str) for one in value)
    label, text = value
    return type(label) in (int, str, type(None)) and isinstance(text, str | None)


def _store_index(place: Path, index: Index, mark: dict[str, Any]) -> bool:
    """Whether it could be written there."""
    arrays: dict[str, Any] = {
        "mark": np.array(json.dumps(mark)),
        "offsets": index.offsets,
        "sizes": index.sizes,
    }
    for part in ("names", "said", "problems"):
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


@dataclass
class _Sample:
    """The members found for one key."""

    key: str
    images: list[tuple[str, int, int]] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not (self.images or self.texts or self.wrong)

    def said(self) -> tuple[int | str | None, str | None]:
        """Label and caption. Raises ValueError with the reason."""
        item = json.loads(self.texts["json"]) if "json" in self.texts else {}
        if not isinstance(item, dict):
            raise ValueError("its .json is no object")
        label, text = item.get("label"), item.get("text", item.get("caption"))
        if "cls" in self.texts:
            number = int(self.texts["cls"])
            if isinstance(label, int) and label != number:
                raise ValueError(f"its .cls says {number}, its .json {label}")
            label = number if label is None else label
        if "txt" in self.texts:
            text = self.texts["txt"].decode("utf-8").strip("\n") if text is None else text
        if label is not None and (isinstance(label, bool) or not isinstance(label, str | int)):
            raise ValueError(f"its label is {label!r}; it must be a string or a whole number")
        if isinstance(label, int) and not 0 <= label < 2**63:
            raise ValueError(f"its label is {label}; it must not be negative")
        if text is not None and not isinstance(text, str):
            raise ValueError(f"its text is {text!r}, not a string")
        return label, text


def _make_index(descriptor: int, path: Path, mark: dict[str, Any]) -> Index:
    images: list[tuple[str, int, int]] = []
    said: list[str] = []
    problems: list[str] = []
    seen: set[str] = set()
    for sample in _samples(descriptor, path):
        if sample.key in seen:
            sample.wrong.append("its members do not follow each other")
        seen.add(sample.key)
        if len(sample.images) != 1:
            sample.wrong.append("has no image" if not sample.images else "has several images")
        try:
            words = json.dumps(sample.said())
        except (ValueError, RecursionError) as error:
            sample.wrong.append(f"{error or 'its .json is nested too deeply'}")
        if sample.wrong:
            problems.append(json.dumps([sample.key, "; ".join(sample.wrong)]))
        else:
            images.append(sample.images[0])
            said.append(words)
    return Index(
        Names.of(name for name, _, _ in images),
        np.array([offset for _, offset, _ in images], np.int64),
        np.array([size for _, _, size in images], np.int64),
        Names.of(said),
        Names.of(problems),
        mark["size"],
        mark["ends"],
    )


def _samples(descriptor: int, path: Path) -> Iterator[_Sample]:
    sample: _Sample | None = None
    for member in members(descriptor, str(path)):
        if leads_out(member.name):
            raise DataError(f"{path}: the member {member.name!r} leads out of the folder")
        folder, _, base = member.name.rpartition("/")
        stem, _, extension = base.partition(".")
        if not stem:
            continue
        key = f"{folder}/{stem}" if folder else stem
        if sample is None or key != sample.key:
            if sample is not None and not sample.empty:
                yield sample
            sample = _Sample(key)
        kind = extension.lower()
        is_text = kind in ("cls", "json", "txt")
        if not is_text and f".{kind}" not in EXTENSIONS:
            continue
        limit = MAX_TEXT if is_text else MAX_FILE
        if member.size is None:
            sample.wrong.append(f"its .{kind} is a link or no file")
        elif member.size > limit:
            sample.wrong.append(f"its .{kind} has {member.size} bytes, more than {limit}")
        elif is_text:
            sample.texts[kind] = os.pread(descriptor, member.size, member.offset)
        else:
            sample.images.append((member.name, member.offset, member.size))
    if sample is not None and not sample.empty:
        yield sample


@dataclass(frozen=True)
class Packed:
    """What was written: the archives, how many images they hold, and (file, reason) of those left out."""

    shards: tuple[Path, ...]
    count: int
    report: tuple[tuple[str, str], ...] = ()


def write_shards(
    data: Dataset | str | Path, out: str | Path, per_shard: int = 10_000, on_bad: OnBad = "error"
) -> Packed:
    """Write a folder `out` of archives shard-00000.tar, ..., of `per_shard` images each, that `load_shards` reads.

    data: a folder of images, as `load_folder` takes them: their files are packed as they are, once it was seen that
    they can be decoded. Or pictures stored as uint8 in one or three channels, which become PNG. Each has a .json with
    its label, by name if there is one, its text, and the name of its file.

    The names of all classes are in `classes.json` beside. The same data give the same bytes: names are numbers, and
    times and owners 0. Nobody ever sees `out` with fewer archives than in the end.

    Raises InputError if `out` is there and is not an empty folder, and for data that PNG would change; DataError for
    images that cannot be decoded, unless on_bad is "skip", and what cannot be written.
    """
    check_options(None, 3, on_bad)
    if per_shard < 1:
        raise InputError(f"per_shard is {per_shard}; it must be at least 1")
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is there already: name a folder that is new or empty")
    problems: list[tuple[str, str]] = []
    if isinstance(data, Dataset):
        samples, where = _dataset_samples(data, problems), "the data set"
        class_names = data.class_names
    else:
        listing = list_folder(Path(data))
        listing.refuse(listing.problems, on_bad, len(listing.source))
        problems.extend(listing.problems)
        samples, where = _folder_samples(listing, on_bad, problems), listing.where
        class_names = listing.class_names
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        names: list[str] = []
        count = 0
        while (part := _write_shard(temporary, len(names), samples, per_shard, count)) > 0:
            names.append(_shard_name(len(names)))
            count += part
        if count == 0:
            raise DataError(f"{where} has no image that can be packed")
        if class_names is not None:
            (temporary / CLASSES).write_bytes(json.dumps(class_names).encode())
        os.replace(temporary, target)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Packed(tuple(target / name for name in names), count, tuple(problems))


def _shard_name(number: int) -> str:
    return f"shard-{number:05}.tar"


def _write_shard(
    folder: Path, number: int, samples: Iterator[tuple[str, bytes, dict]], most: int, first: int
) -> int:
    """Write the next samples, at most so many, to an archive; returns how many there were."""
    sample = next(samples, None)
    if sample is None:
        return 0
    count = 0
    with (folder / _shard_name(number)).open("wb") as file:
        while sample is not None:
            suffix, content, said = sample
            key = f"{first + count:09}"
            _add(file, f"{key}{suffix}", content)
            if said:
                _add(
                    file,
                    f"{key}.json",
                    json.dumps(said, ensure_ascii=False).encode("utf-8", "surrogateescape"),
                )
            count += 1
            sample = next(samples, None) if count < most else None
        file.write(bytes(2 * BLOCK))
        file.flush()
        os.fsync(file.fileno())
    return count


def _add(file: IO[bytes], name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    file.write(info.tobuf(tarfile.USTAR_FORMAT))
    file.write(content)
    file.write(bytes(-len(content) % BLOCK))


def _described(
    i: int, labels: Any, class_names: Sequence[str] | None, captions: Sequence[str] | None
) -> dict[str, Any]:
    said: dict[str, Any] = {}
    if labels is not None:
        said["label"] = int(labels[i]) if class_names is None else class_names[int(labels[i])]
    if captions is not None:
        said["text"] = captions[i]
    return said


def _folder_samples(
    listing: Listing, on_bad: OnBad, problems: list[tuple[str, str]]
) -> Iterator[tuple[str, bytes, dict]]:
    for i, name in enumerate(listing.names):
        path = Path(listing.source.name(i))
        try:
            with path.open("rb") as file:
                content = file.read(MAX_FILE + 1)
            if len(content) > MAX_FILE:
                raise DataError(f"{path} has more than {MAX_FILE} bytes")
            with open_image(io.BytesIO(content)) as image:
                image.load()
        except DataError:
            raise
        except Exception as error:
            if is_exhaustion(error):
                raise
            if on_bad == "error":
                raise DataError(
                    f'{path} {reason(error)}. Mend or remove it, or pass --on-bad skip (on_bad="skip")'
                ) from error
            problems.append((name, reason(error)))
            continue
        said = _described(i, listing.labels, listing.class_names, listing.captions)
        yield path.suffix.lower(), content, {"file_name": name, **said}


def _dataset_samples(
    data: Dataset, problems: list[tuple[str, str]]
) -> Iterator[tuple[str, bytes, dict]]:
    if data.values.dtype != np.uint8 or not data.images or data.shape[0] not in (1, 3):
        raise InputError(
            "only pictures stored as uint8 in one or three channels can be packed: PNG would change others"
        )

    def samples() -> Iterator[tuple[str, bytes, dict]]:
        for i in range(len(data)):
            batch = data[torch.tensor([i])]
            if batch.ids is None or int(batch.ids[0]) != i:
                problems.append((f"sample {i}", "cannot be decoded"))
                continue
            grey = ((batch.x1[0] + 1) * 127.5).round().byte().movedim(0, 2).numpy()
            image = Image.fromarray(grey[..., 0] if grey.shape[2] == 1 else grey)
            file = io.BytesIO()
            image.save(file, "PNG")
            said = _described(i, data.labels, data.class_names, data.captions)
            yield ".png", file.getvalue(), said

    return samples()
