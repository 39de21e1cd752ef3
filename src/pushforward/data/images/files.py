"""Images that lie in the files of a folder: finding them, and opening one."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import Counter
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from pushforward.core.errors import DataError
from pushforward.data.images.decode import EXTENSIONS, open_image
from pushforward.data.images.names import Names

METADATA = "metadata.jsonl"


class Source(Protocol):
    """Image files by number, wherever they lie. Any number of threads and processes may ask."""

    def __len__(self) -> int: ...

    def name(self, entry: int) -> str:
        """What to call it in a message."""

    def open(self, entry: int) -> Image.Image:
        """Its header; the pixels can be loaded until it is closed."""

    def select(self, rows: np.ndarray) -> Source:
        """Some of them, in this order."""

    def digest(self) -> str:
        """SHA-256 of what tells these files from others, without reading them."""


class Files:
    """The images called `names`, relative to the folder `root`. Each is opened when it is read, and then closed."""

    def __init__(self, root: Path, names: Names) -> None:
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    def name(self, entry: int) -> str:
        return str(self.root / self.names[entry])

    def open(self, entry: int) -> Image.Image:
        return open_image(self.root / self.names[entry])

    def select(self, rows: np.ndarray) -> Files:
        return Files(self.root, self.names.select(rows))

    def digest(self) -> str:
        """Of the names and the sizes in bytes, in order; -1 for a file that is gone."""
        digest = hashlib.sha256(self.names.buffer)
        digest.update(np.ascontiguousarray(self.names.ends, "<i8").data)
        root, sizes = str(self.root), array("q")
        for name in self.names:
            try:
                sizes.append(os.stat(f"{root}/{name}").st_size)
            except OSError:
                sizes.append(-1)
        digest.update(np.asarray(sizes, "<i8").data)
        return digest.hexdigest()


def scan(root: Path) -> Names:
    """Paths of all images in a folder and those within, relative to it, with slashes, sorted; see `survey`."""
    return survey(root)[0]


def survey(root: Path) -> tuple[Names, Counter[str], Names]:
    """Paths of all images in a folder and those within, relative to it, with slashes, sorted; how many other files
    there are, by suffix; and the paths of those that are text (.txt).

    No file is opened: a million names take seconds. Names that begin with a dot are not looked at. A link to a folder
    is followed, but not one that leads back to where it lies. Raises DataError without a folder or without images.
    """
    if not root.exists():
        raise DataError(f"there is no folder {root}")
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; load a .npy or .npz file with load_array")
    scanner = _Scanner()
    try:
        scanner.enter(str(root), "", (_identity(str(root)),))
    except OSError as error:
        raise DataError(
            f"the folder {error.filename or root} cannot be read: {error.strerror}"
        ) from error
    except RecursionError as error:
        raise DataError(f"the folders in {root} are nested too deeply to be read") from error
    if not scanner.lengths:
        found = (
            ", ".join(f"{n} x {suffix}" for suffix, n in scanner.other.most_common(5)) or "no files"
        )
        raise DataError(
            f"{root} has no images ({', '.join(e[1:] for e in EXTENSIONS)}); it holds {found}"
        )
    names = Names(bytes(scanner.buffer), np.cumsum(np.asarray(scanner.lengths, np.int64)))
    return names, scanner.other, Names.of(scanner.texts)


class _Scanner:
    def __init__(self) -> None:
        self.buffer, self.lengths = bytearray(), array("q")
        self.other: Counter[str] = Counter()
        self.texts: list[str] = []

    def enter(self, folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> None:
        """Add the images of a folder, called `prefix` in what is found; above: it and what it was reached through."""
        # Sorted with a slash behind the names of folders, entries are in the order of the paths that they lead to.
        keys: list[str] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                if _is_folder(entry):
                    if not entry.is_symlink() or not _leads_back(folder, entry.path, above):
                        keys.append(f"{name}/")
                elif name.lower().endswith(EXTENSIONS):
                    keys.append(name)
                elif name != METADATA:
                    self.other[Path(name).suffix.lower() or "no extension"] += 1
                    if name.endswith(".txt"):
                        self.texts.append(prefix + name)
        keys.sort()
        for key in keys:
            if key.endswith("/"):
                inner = f"{folder}/{key[:-1]}"
                self.enter(inner, prefix + key, (*above, _identity(inner)))
            else:
                path = (prefix + key).encode("utf-8", "surrogateescape")
                self.buffer += path
                self.lengths.append(len(path))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link to itself.
        return False


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _leads_back(folder: str, link: str, above: tuple[tuple[int, int], ...]) -> bool:
    """Whether a link to a folder closes a circle: by the way that was taken to it, or by where it really lies."""
    return _identity(link) in above or Path(folder).resolve().is_relative_to(Path(link).resolve())
