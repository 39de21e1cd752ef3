"""Fashion-MNIST: 70 000 pictures of clothes, 28 x 28, in ten classes."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import math
import os
import struct
import tempfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np

from pushforward.core.errors import DataError
from pushforward.data.dataset import Dataset

HOME = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
# Where Debian's package dataset-fashion-mnist puts the files.
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
# SHA-256 of the files' content, which is the same however they were compressed.
FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
MAX_BYTES = 1 << 30
CHUNK = 1 << 20
# The largest of the four has 26 MB.
MAX_DOWNLOAD = 1 << 26


def load_fashion(path: str | Path | None = None, download: bool = False) -> tuple[Dataset, Dataset]:
    """60 000 pictures to train on and 10 000 that are held out, (1, 28, 28), with labels and the names of classes.

    The four IDX files, with .gz or without, come from `path`; left out, from the folder of Debian's package
    dataset-fashion-mnist or from the user's cache, into which `download` brings them from their public home. Files that
    the user has not named must be the published ones, by their SHA-256.

    Raises DataError if they are missing, damaged or something else. Xiao, Rasul & Vollgraf 2017 (arXiv 1708.07747).
    """
    folder = Path(path) if path is not None else _found(download)
    arrays = {name: _read(folder, name, known=path is None) for name in FILES}
    return tuple(_pair(arrays, part, folder) for part in ("train", "t10k"))  # type: ignore[return-value]


def read_idx(path: str | Path) -> np.ndarray:
    """The array in a file of the IDX format: magic number, sizes, bytes. Gzip is undone.

    No more is read than the sizes in its head announce, at most 1 GiB. Raises DataError for what is not such a file of
    unsigned bytes, is cut off, or goes on after its end.
    """
    return _parse(Path(path))[0]


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pushforward" / "fashion-mnist"


def _pair(arrays: dict[str, np.ndarray], part: str, folder: Path) -> Dataset:
    images, labels = arrays[f"{part}-images-idx3-ubyte"], arrays[f"{part}-labels-idx1-ubyte"]
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{folder}: the {part} files hold images of shape {images.shape} and labels of shape {labels.shape}; "
            f"expected (N, H, W) and (N,)"
        )
    return Dataset.from_arrays(images, labels, class_names=CLASSES, where=f"{folder}, {part}")


def _found(download: bool) -> Path:
    cache = cache_folder()
    for folder in (DEBIAN, cache):
        if all(_file(folder, name) is not None for name in FILES):
            return folder
    if not download:
        raise DataError(
            f"Fashion-MNIST is not on this machine. Name the folder of its four IDX files (--data), install Debian's "
            f"package dataset-fashion-mnist, or get them from {HOME} into {cache} (--download)"
        )
    for name in FILES:
        if _file(cache, name) is None:
            _fetch(name, cache)
    return cache


def _fetch(name: str, cache: Path) -> None:
    address = f"{HOME}{name}.gz"
    temporary: str | None = None
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(address, timeout=60) as answer:
            content = answer.read(MAX_DOWNLOAD + 1)
        with tempfile.NamedTemporaryFile(dir=cache, suffix=".tmp", delete=False) as file:
            temporary = file.name
            file.write(content)
        _check(_parse(Path(temporary))[1], name, address)
        os.replace(temporary, cache / f"{name}.gz")
        temporary = None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise DataError(
            f"cannot get {address}: {error}. Get the four files by other means, and name their folder (--data)"
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _file(folder: Path, name: str) -> Path | None:
    return next(
        (p for p in (folder / name, folder / f"{name}.gz") if p.is_file()),
        None,
    )


def _read(folder: Path, name: str, known: bool) -> np.ndarray:
    path = _file(folder, name)
    if path is None:
        raise DataError(f"{folder} has neither {name} nor {name}.gz: all four files are needed")
    values, digest = _parse(path)
    if known:
        _check(digest, name, str(path))
    return values


def _check(digest: str, name: str, where: str) -> None:
    if digest != FILES[name]:
        raise DataError(
            f"{where} is not the {name} of Fashion-MNIST: the SHA-256 of its content is {digest}. Remove it, and get "
            f"it anew"
        )


def _parse(path: Path) -> tuple[np.ndarray, str]:
    """The array, and the SHA-256 of the whole content."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            return _content(cast(IO[bytes], file), path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _content(file: IO[bytes], path: Path) -> tuple[np.ndarray, str]:
    head = file.read(4)
    if len(head) < 4 or head[:3] != b"\0\0\x08" or not 1 <= head[3] <= 4:
        raise DataError(f"{path} is not an IDX file of unsigned bytes")
    sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise DataError(f"{path} is cut off within its head")
    shape = struct.unpack(f">{head[3]}I", sizes)
    count = math.prod(shape)
    if count > MAX_BYTES:
        raise DataError(f"{path} announces an array of {shape}, more than the 1 GiB that is read")
    digest = hashlib.sha256(head + sizes)
    # Memory is taken as it is filled: a small file that announces much needs little.
    values = np.empty(count, np.uint8)
    filled = 0
    while part := file.read(min(CHUNK, count - filled)):
        values[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
        filled += len(part)
        digest.update(part)
    if filled < count or file.read(1):
        more = "is cut off" if filled < count else "goes on after its end"
        raise DataError(f"{path} announces an array of {shape} and {more}")
    return values.reshape(shape), digest.hexdigest()
