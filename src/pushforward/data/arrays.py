"""Data sets from .npy and .npz files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pushforward.core.errors import DataError, Error
from pushforward.core.spec import Kind
from pushforward.data.dataset import Dataset
from pushforward.data.labels import some
from pushforward.data.ragged import Ragged

IMAGE_KEYS = ("image", "images", "x", "X", "data", "arr_0")
LABEL_KEYS = ("label", "labels", "y")
# Taken for labels if they can be: whole numbers or strings, one a sample.
OTHER_LABEL_KEYS = ("target", "targets", "class", "classes")
TEXT_KEYS = ("caption", "captions", "text", "texts")
NAME_KEYS = ("class_names", "label_names")
CHANNEL_KEYS = ("channels", "channel", "channel_names")
LENGTH_KEYS = ("length", "lengths")


def load_array(
    path: str | Path,
    image_key: str | None = None,
    label_key: str | None = None,
    *,
    columns: Sequence[str] | None = (),
    kind: Kind | None = None,
) -> Dataset:
    """A data set from a .npy file, which is mapped and not read, or from an .npz file with or without labels.

    In an .npz file, by the usual names of arrays, N being the number of samples:

        samples      image, images, x, X, data or arr_0; else the only array that can be samples. `image_key`: another
        labels       label, labels or y; else target, targets, class, classes, or arr_1 beside arr_0, if they can be.
                     `label_key`: another
        class names  class_names, label_names, as many as there are classes
        captions     caption, captions, text, texts
        channels     channels, channel, channel_names: a name for each
        mask         (N, L) bool; length, lengths: (N,) of padded samples (N, L, ...), or of sequences that lie one
                     after the other in one array (sum of lengths, ...)

    columns: names of further arrays with N rows that are taken, numbers as conditions and strings as texts; None for
    all there are. What is not taken is listed in `notes`. kind: what the samples are, where `Dataset.from_arrays` would
    take them for something else. Nothing is ever unpickled.

    Raises DataError for what is missing, is no such file, or does not fit together.
    """
    path = Path(path)
    if _format(path) == "npy":
        if image_key is not None or label_key is not None or columns:
            raise DataError(
                f"{path} holds one array without a name, so image_key, label_key and columns "
                f"cannot be used; save samples and labels together with numpy.savez"
            )
        return Dataset.from_arrays(_mapped(path), where=str(path), kind=kind)
    with _readable(path), np.load(path, allow_pickle=False) as archive:
        arrays = _Archive(path, archive).arrays(image_key, label_key, columns)
    return Dataset.from_arrays(**arrays, kind=kind)


def _mapped(path: Path) -> np.ndarray:
    with _readable(path):
        return np.load(path, mmap_mode="r", allow_pickle=False)


@dataclass(frozen=True)
class _Head:
    """Shape and dtype of an array that has not been read."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def samples(self) -> bool:
        """Whether it could be samples: numbers (N, ...)."""
        return len(self.shape) >= 2 and (self.dtype.kind == "f" or self.dtype == np.uint8)

    def rows(self, n: int) -> bool:
        return self.shape[:1] == (n,)

    def labels(self, n: int) -> bool:
        """Whether it could be labels of n samples: whole numbers or strings, one each."""
        return self.shape in ((n,), (n, 1)) and self.dtype.kind in "iubUS"


class _Archive:
    """An .npz file, its arrays' headers read."""

    def __init__(self, path: Path, archive: Any) -> None:
        self.path, self.archive = path, archive
        self.heads = {key: self._head(key) for key in archive.files}
        self.notes: list[str] = []
        self.used: set[str] = set()

    def _head(self, key: str) -> _Head:
        stored = self.archive.zip.namelist()
        with self.archive.zip.open(f"{key}.npy" if f"{key}.npy" in stored else key) as file:
            version = np.lib.format.read_magic(file)
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            else:
                shape, _, dtype = np.lib.format.read_array_header_2_0(file)
        return _Head(shape, dtype)

    def take(self, key: str) -> np.ndarray:
        self.used.add(key)
        return self.archive[key]

    def arrays(
        self, image_key: str | None, label_key: str | None, columns: Sequence[str] | None
    ) -> dict[str, Any]:
        """The arguments of `Dataset.from_arrays`."""
        key = self._find(image_key, IMAGE_KEYS, "image_key") or self._only()
        values: Any = self.take(key)
        mask = None
        length = self._find(None, LENGTH_KEYS, "the lengths")
        if length is not None and self.heads[length].dtype.kind in "iu":
            lengths = self.take(length)
            if lengths.shape == (len(values),) and values.ndim > 1:
                mask = np.arange(values.shape[1]) < lengths[:, None]
            else:
                values = Ragged(values, lengths, f"{self.path}, array {key!r} by {length!r}")
        elif "mask" in self.heads:
            mask = self.take("mask")
        n = len(values)
        label = self._label(label_key, key, n)
        labels = None if label is None else self.take(label)
        names = self._names(NAME_KEYS)
        texts: dict[str, list[str]] = {}
        for text in self._present(TEXT_KEYS):
            if self.heads[text].rows(n) and self.heads[text].dtype.kind in "US" and not texts:
                texts["caption"] = _strings(self.take(text))
        channels = self._names(CHANNEL_KEYS)
        conditions = {}
        for name in self._columns(columns, n):
            column = self.take(name)
            if column.dtype.kind in "US":
                texts[name] = _strings(column)
            else:
                conditions[name] = column
        self._rest(n)
        return {
            "values": values,
            "labels": labels,
            "class_names": names,
            "where": f"{self.path}, array {key!r}",
            "columns": conditions,
            "texts": texts,
            "mask": mask,
            "channels": channels,
            "notes": self.notes,
        }

    def _present(self, keys: Sequence[str]) -> list[str]:
        return [key for key in keys if key in self.heads]

    def _find(self, wanted: str | None, usual: Sequence[str], option: str) -> str | None:
        """The wanted array, or the only one of the usual ones that is there."""
        if wanted is not None:
            if wanted not in self.heads:
                raise DataError(
                    f"{self.path} has no array called {wanted!r}; it has {_any_of(list(self.heads))}"
                )
            return wanted
        found = self._present(usual)
        if len(found) > 1:
            raise DataError(
                f"{self.path} has both {_any_of(found, ' and ')}; pass one of them as {option}"
            )
        return found[0] if found else None

    def _only(self) -> str:
        found = [key for key, head in self.heads.items() if head.samples]
        if len(found) != 1:
            raise DataError(
                f"{self.path} has no array called {_any_of(IMAGE_KEYS)}; it has {_any_of(list(self.heads))}. "
                f"Pass the name of the samples as image_key"
            )
        self.notes.append(f"{self.path}: the array {found[0]!r} is taken for the samples")
        return found[0]

    def _label(self, wanted: str | None, samples: str, n: int) -> str | None:
        label = self._find(wanted, LABEL_KEYS, "label_key")
        if label is not None:
            return label
        others = [*OTHER_LABEL_KEYS, *(["arr_1"] if samples == "arr_0" else [])]
        for key in self._present(others):
            if self.heads[key].labels(n):
                self.notes.append(f"{self.path}: the array {key!r} is taken for the labels")
                return key
        return None

    def _names(self, keys: Sequence[str]) -> tuple[str, ...] | None:
        for key in self._present(keys):
            if self.heads[key].dtype.kind in "US" and len(self.heads[key].shape) == 1:
                return tuple(_strings(self.take(key)))
        return None

    def _columns(self, columns: Sequence[str] | None, n: int) -> list[str]:
        free = [key for key in self.heads if key not in self.used]
        if columns is None:
            return [
                key for key in free if self.heads[key].rows(n) and self.heads[key].dtype.kind != "O"
            ]
        for name in columns:
            self._find(name, (), "columns")
            if not self.heads[name].rows(n):
                raise DataError(
                    f"{self.path}: the array {name!r} has shape {self.heads[name].shape}; a condition has one row "
                    f"for each of the {n} samples"
                )
        return list(columns)

    def _rest(self, n: int) -> None:
        """Say which arrays are not used."""
        rest = [key for key in self.heads if key not in self.used]
        rows = [key for key in rest if self.heads[key].rows(n)]
        other = [key for key in rest if key not in rows]
        if rows:
            self.notes.append(
                f"{self.path}: not used: {some(map(repr, rows))}, with a row for each sample. Name one of them as the "
                f"label (label_key, --label-key), or some as conditions (columns, --columns)"
            )
        if other:
            self.notes.append(
                f"{self.path}: not used: {some(map(repr, other))}, without a row for each sample"
            )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what NumPy raises about a file into a DataError."""
    try:
        yield
    except Error:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if "objects" in str(error) or "allow_pickle" in str(error):
            raise DataError(
                f"{path} holds Python objects, which are not loaded because they can run code; "
                f"save it again as an array of numbers of one shape"
            ) from error
        raise DataError(
            f"{path} cannot be read as a NumPy file, it is damaged: {error}; save it again"
        ) from error


def _format(path: Path) -> Literal["npy", "npz"]:
    if path.is_dir():
        raise DataError(
            f"{path} is a folder; folders of images are read by load_folder, or pushforward train images"
        )
    try:
        with path.open("rb") as file:
            magic = file.read(6)
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}") from error
    if magic == b"\x93NUMPY":
        return "npy"
    if magic[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "npz"
    is_table = Path(path).suffix in (".csv", ".tsv", ".txt")
    raise DataError(
        f"{path} is not a NumPy file; save arrays with numpy.save (.npy) or numpy.savez (.npz)"
        + (
            ", a table of text by numpy.save(name, numpy.loadtxt(file, delimiter=...))"
            if is_table
            else ""
        )
    )


def _strings(array: np.ndarray) -> list[str]:
    return (np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array).tolist()


def _any_of(names: Sequence[Any], join: str = ", ") -> str:
    return join.join(repr(name) for name in names) if names else "no arrays"
