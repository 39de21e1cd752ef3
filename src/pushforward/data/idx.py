"""The IDX format, in which MNIST and its relatives come: one array in a file, of any dtype and number of axes."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np

from pushforward.core.errors import DataError
from pushforward.core.spec import Kind
from pushforward.data.dataset import Dataset

# The third byte says how numbers are stored, always in big-endian order.
DTYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
MAX_BYTES = 1 << 30
MAX_AXES = 32
CHUNK = 1 << 20
# Whole numbers beyond are not exact in float32.
EXACT = 1 << 24


def load_idx(
    path: str | Path, labels: str | Path | None = None, kind: Kind | None = None
) -> Dataset:
    """A data set from an IDX file of samples (N, ...), with or without .gz.

    labels: an IDX file (N,) of whole numbers; by default the one beside it whose name says so, as
    train-labels-idx1-ubyte does beside train-images-idx3-ubyte. Bytes are scaled to [-1, 1], other numbers keep their
    values. kind: what the samples are, see `Dataset.from_arrays`.

    Raises DataError for what is no such file, and for files that do not fit together.
    """
    path, notes = Path(path), []
    values = read_idx(path)
    if values.ndim < 2:
        raise DataError(
            f"{path} holds {values.shape}, one number a sample: these are labels. Name the file of the samples"
        )
    place = Path(labels) if labels is not None else _labels_beside(path)
    codes = None
    if place is not None:
        codes = read_idx(place)
        if labels is None and codes.shape != (len(values),):
            notes.append(f"{place} does not fit {path}, and is not read")
            codes = None
        elif labels is None:
            notes.append(f"labels from {place}")
    if values.dtype.kind == "i":
        if np.abs(values.astype(np.int64)).max(initial=0) > EXACT:
            raise DataError(f"{path} has whole numbers beyond 2^24, which float32 does not hold")
        values = values.astype(np.float32)
    return Dataset.from_arrays(values, codes, where=str(path), kind=kind, notes=notes)


def read_idx(path: str | Path) -> np.ndarray:
    """The array in a file of the IDX format: magic number, sizes, numbers. Gzip is undone.

    No more is read than the sizes in its head announce, at most 1 GiB. Raises DataError for what is not such a file, is
    cut off, or goes on after its end.
    """
    return parse_idx(Path(path))[0]


def is_idx(path: Path) -> bool:
    """Whether a file begins as IDX files do."""
    try:
        with _opened(path) as file:
            head = file.read(4)
    except (OSError, EOFError, zlib.error):
        return False
    return len(head) == 4 and head[:2] == b"\0\0" and head[2] in DTYPES and 1 <= head[3] <= MAX_AXES


def parse_idx(path: Path) -> tuple[np.ndarray, str]:
    """The array, and the SHA-256 of the whole content."""
    try:
        with _opened(path) as file:
            return _content(file, path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path, "rb") if packed else path.open("rb"))


def _content(file: IO[bytes], path: Path) -> tuple[np.ndarray, str]:
    head = file.read(4)
    if (
        len(head) < 4
        or head[:2] != b"\0\0"
        or head[2] not in DTYPES
        or not 1 <= head[3] <= MAX_AXES
    ):
        raise DataError(f"{path} is not an IDX file")
    sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise DataError(f"{path} is cut off within its head")
    shape, dtype = struct.unpack(f">{head[3]}I", sizes), np.dtype(DTYPES[head[2]])
    count = math.prod(shape) * dtype.itemsize
    if count > MAX_BYTES:
        raise DataError(f"{path} announces an array of {shape}, more than the 1 GiB that is read")
    digest = hashlib.sha256(head + sizes)
    # Memory is taken as it is filled: a small file that announces much needs little.
    content = np.empty(count, np.uint8)
    filled = 0
    while part := file.read(min(CHUNK, count - filled)):
        content[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
        filled += len(part)
        digest.update(part)
    if filled < count or file.read(1):
        more = "is cut off" if filled < count else "goes on after its end"
        raise DataError(f"{path} announces an array of {shape} and {more}")
    values = content.view(dtype).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False), digest.hexdigest()


def _labels_beside(path: Path) -> Path | None:
    """The file beside one of samples that is called like it, with labels for images."""
    name = path.name.removesuffix(".gz")
    if "images" not in name:
        return None
    stem = name.replace("images", "labels")
    for wanted in (stem, stem.replace("idx3", "idx1").replace("idx4", "idx1")):
        for suffix in ("", ".gz"):
            if (place := path.with_name(wanted + suffix)).is_file() and place != path:
                return place
    return None
