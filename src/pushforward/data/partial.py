"""An array that is written row by row, goes on where it was cut off, and is read from its file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

import numpy as np

from pushforward.core.errors import DataError

try:
    import fcntl
except ImportError:  # no such locks on this system: two processes may then do the same work
    fcntl = None  # type: ignore[assignment]

FORMAT = "pushforward rows 1"


@dataclass(frozen=True)
class Encodings:
    """What was made of the samples of a data set.

    values: (N, c, h, w) float32, in a file that is read where it is used, or in memory where none could be written.
    ids:    (N,) the samples that they are of: another than its own where a bad picture was replaced.
    """

    values: np.ndarray
    ids: np.ndarray


@dataclass(frozen=True)
class Partial:
    """The files of (number, ...) float32 rows and their ids in a folder.

        NAME.npy, NAME.ids.npy      whole
        .NAME.part, .NAME.ids       what was written so far: an .npy file that is too short, and ids one after the other
        .NAME.json                  how many of these rows are safe

    Rows are appended by plain writes, which say that a disk is full: through a map that would end the process. Only
    rows that are on disk are counted, and what lies behind them is cut off. The whole gets its name last.
    """

    root: Path
    name: str
    number: int

    @property
    def whole(self) -> Path:
        return self.root / f"{self.name}.npy"

    @property
    def part(self) -> Path:
        return self.root / f".{self.name}.part"

    @property
    def ids(self) -> Path:
        return self.root / f".{self.name}.ids"

    @property
    def count(self) -> Path:
        return self.root / f".{self.name}.json"

    def read(self) -> Encodings | None:
        """The whole, if it is there and can be read."""
        try:
            values = np.load(self.whole, mmap_mode="r")
            ids = np.load(self.root / f"{self.name}.ids.npy")
        except (OSError, ValueError, EOFError):
            return None
        fits = values.ndim > 1 and len(values) == len(ids) == self.number
        return Encodings(values, ids) if fits and values.dtype == np.float32 else None

    def required(self) -> Encodings:
        found = self.read()
        if found is None:
            raise DataError(f"{self.whole} was written, and cannot be read: try again")
        return found

    def can_begin(self) -> bool:
        """Whether the folder can be written to."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with self.part.open("ab"):
                return True
        except OSError:
            return False

    @contextmanager
    def locked(self) -> Iterator[FileIO | None]:
        """The part, for this process alone; None if the whole is there once others have let it go."""
        while True:
            # Without a buffer, which would fail once more when it is closed.
            with self.part.open("a+b", buffering=0) as file:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX)
                if self.read() is not None:
                    # It was renamed while this one waited, and opening it has made it anew.
                    if self._is_here(file):
                        self.part.unlink(missing_ok=True)
                    yield None
                    return
                if self._is_here(file):
                    yield file
                    return

    def _is_here(self, file: FileIO) -> bool:
        """Whether the part still is this file, and no other has its name."""
        try:
            here, there = os.fstat(file.fileno()), os.stat(self.part)
        except OSError:
            return False
        return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)

    def begun(self, file: FileIO, shape: tuple[int, ...]) -> int:
        """How many rows are safe; what lies behind them is cut off."""
        header = self._header(shape)
        done = 0
        with suppress(OSError, ValueError, KeyError, TypeError):
            about = json.loads(self.count.read_text())
            if about["format"] == FORMAT and about["shape"] == [self.number, *shape]:
                done = int(about["rows"])
        row = 4 * int(np.prod(shape))
        file.seek(0)
        sizes = os.fstat(file.fileno()).st_size, self.ids.stat().st_size if self.ids.exists() else 0
        safe = sizes[0] >= len(header) + done * row and sizes[1] >= 8 * done
        if not done or not safe or file.read(len(header)) != header:
            done = 0
            file.truncate(0)
            _write_all(file, header)
            self.ids.write_bytes(b"")
        file.truncate(len(header) + done * row)
        os.truncate(self.ids, 8 * done)
        file.seek(0, os.SEEK_END)
        return done

    def _header(self, shape: tuple[int, ...]) -> bytes:
        out = BytesIO()
        about: dict[str, Any] = {"descr": "<f4", "fortran_order": False}
        np.lib.format.write_array_header_1_0(out, about | {"shape": (self.number, *shape)})
        return out.getvalue()

    def append(self, file: FileIO, values: np.ndarray, ids: np.ndarray) -> None:
        _write_all(file, np.ascontiguousarray(values, "<f4").tobytes())
        with self.ids.open("ab") as there:
            there.write(np.ascontiguousarray(ids, "<i8").tobytes())

    def mark(self, file: FileIO, rows: int, shape: tuple[int, ...]) -> int:
        """Say that so many rows are safe, once they are."""
        os.fsync(file.fileno())
        with self.ids.open("rb") as there:
            os.fsync(there.fileno())
        about = {"format": FORMAT, "shape": [self.number, *shape], "rows": rows}
        self._write(self.count, json.dumps(about).encode())
        return rows

    def finish(self) -> None:
        """Give the whole its name, after that of the ids."""
        out = BytesIO()
        np.save(out, np.fromfile(self.ids, "<i8"))
        self._write(self.root / f"{self.name}.ids.npy", out.getvalue())
        os.replace(self.part, self.whole)
        for left in (self.ids, self.count):
            left.unlink(missing_ok=True)

    def drop(self) -> None:
        """Delete what was written so far."""
        for left in (self.count, self.ids, self.part):
            left.unlink(missing_ok=True)

    def _write(self, path: Path, content: bytes) -> None:
        """A file, whole or not at all."""
        handle, temporary = tempfile.mkstemp(".tmp", ".", self.root)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise


def _write_all(file: FileIO, content: bytes) -> None:
    """All bytes of it: a file without a buffer may take a part of them before it says why not more."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
