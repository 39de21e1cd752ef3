"""A finite data set: arrays in memory or mapped from a file, or pictures that are decoded when they are wanted."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import DataError, InputError
from pushforward.core.noise import Noise
from pushforward.core.spec import DataSpec, Kind
from pushforward.data.batch import Batch
from pushforward.data.images.augment import Augment
from pushforward.data.images.lazy import Pictures
from pushforward.data.shares import SAMPLE_STEP, SPLIT_STEP, stratified
from pushforward.data.shares import balanced as balanced_rows

IMAGE_KEYS = ("image", "images", "x", "data", "arr_0")
LABEL_KEYS = ("label", "labels", "y")
CHANNELS = (1, 3, 4)
# More classes than this are taken for a mistake: identifiers or measurements given as labels.
MAX_CLASSES = 1 << 16
# Bytes that a pass over the whole data set holds at a time.
CHUNK = 1 << 24

Layout = Literal["as stored", "grey", "channels last"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """N samples of one shape with, if there are any, their labels and captions. Make one with `from_arrays`.

        batch = dataset[torch.tensor([3, 1, 4])]      # Batch: x1 (3, *shape) float32, cond["label"] (3,) int64

    values:      what is stored, in an array or, as `Pictures`, in files. It is never copied as a whole, so that it may
                 be larger than memory.
    labels:      (N,) int64 in [0, classes), or None.
    classes:     how many classes there are, also those without a sample in this part of the data.
    class_names: one name for each class, or None if the labels came as numbers.
    captions:    one text for each sample, or None.
    images:      whether samples are pictures (C, H, W).
    value_range: (lo, hi) of black and white, to turn x1 back into pictures.
    report:      (file, reason) of everything that was left out when the data was read. Print it. Pictures that turn
                 out bad later are in `values.report`.
    augment:     how `drawn` alters pictures, or None.
    notes:       what was decided for the user when the data was read. Print them.
    """

    values: np.ndarray | Pictures
    layout: Layout
    rows: np.ndarray | None
    labels: Tensor | None
    classes: int | None
    class_names: tuple[str, ...] | None
    captions: tuple[str, ...] | None
    images: bool
    value_range: tuple[float, float]
    report: tuple[tuple[str, str], ...] = ()
    augment: Augment | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def from_arrays(
        cls,
        values: np.ndarray | Pictures,
        labels: np.ndarray | Sequence[str] | Sequence[int] | None = None,
        captions: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
        where: str = "the array",
        report: Sequence[tuple[str, str]] = (),
        layout: Layout | None = None,
    ) -> Dataset:
        """Check arrays and make them a data set.

        uint8 is scaled to [-1, 1] by x / 127.5 - 1. It is a picture if its shape is (N, H, W), (N, C, H, W) or
        (N, H, W, C) with 1, 3 or 4 channels; where the last two both fit, the one whose pictures have the longer
        short side is meant, and (N, C, H, W) if they are equal. uint8 (N, D) are vectors.

        Floating numbers are kept as they are, in value and in order of dimensions: (N, ...). They count as
        pictures if their shape is (N, C, H, W) with 1, 3 or 4 channels; `value_range` is then (-1, 1) or (0, 1)
        if all values lie in it, else their own.

        labels: (N,) integers from 0 on, or strings, which become classes in the order of their names.
        where: what the values are called in errors. layout: how pictures are stored, if the shape need not be asked.

        Raises DataError for any other dtype or shape, no samples, values that are not finite in float32, and
        labels or captions that do not fit.
        """
        guessed, images = _layout(values, where)
        layout = guessed if layout is None else layout
        value_range = (-1.0, 1.0)
        if isinstance(values, np.ndarray) and values.dtype != np.uint8:
            value_range = _range(values, where)
        codes: Tensor | None = None
        classes: int | None = None
        names: tuple[str, ...] | None = None
        if labels is not None:
            codes, names = encode_labels(labels, len(values), where)
            if names is None and class_names is not None:
                names = tuple(class_names)
            top = int(codes.max())
            classes = top + 1 if names is None else len(names)
            if top >= classes:
                raise DataError(
                    f"{where}: label {top} has no name; there are {classes} class names"
                )
        if captions is not None and len(captions) != len(values):
            raise DataError(f"{where}: {len(values)} samples, but {len(captions)} captions")
        return cls(
            values,
            layout,
            None,
            codes,
            classes,
            names,
            None if captions is None else tuple(captions),
            images,
            value_range,
            tuple(report),
        )

    def __len__(self) -> int:
        return len(self.values) if self.rows is None else len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample of x1; (C, H, W) for pictures."""
        shape = self.values.shape[1:]
        match self.layout:
            case "grey":
                return (1, *shape)
            case "channels last":
                return (shape[2], *shape[:2])
            case _:
                return shape

    def __getitem__(self, indices: Tensor) -> Batch:
        """The samples at `indices` (B,) int64, in that order. Their indices are the batch's ids.

        Where another picture has taken the place of a bad one (see `Pictures`), label and id are its own.
        """
        return self._batch(indices, None)

    def _batch(self, indices: Tensor, noise: Noise | None) -> Batch:
        self._check(indices)
        places = indices.cpu()
        if isinstance(self.values, Pictures):
            stored, found = self.values.read(places.numpy(), self.rows, noise)
            places = torch.from_numpy(found)
        else:
            stored = self._stored(places.numpy())
        x = torch.from_numpy(stored)
        if self.layout == "grey":
            x = x[:, None]
        elif self.layout == "channels last":
            x = x.movedim(3, 1).contiguous()
        x1 = x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x.float()
        cond = {} if self.labels is None else {"label": self.labels[places]}
        return Batch(x1, cond, ids=places)

    def drawn(self, indices: Tensor, noise: Noise) -> Batch:
        """The samples at `indices`, cropped and altered by `augment` as the noise of each says."""
        batch = self._batch(indices, noise)
        return batch if self.augment is None else replace(batch, x1=self.augment(batch.x1, noise))

    def subset(self, indices: Tensor) -> Dataset:
        """The data set of the samples at `indices` (M,) int64. Values are shared, not copied."""
        self._check(indices)
        if len(indices) == 0:
            raise DataError("a subset of no samples is no data set")
        index = indices.cpu()
        rows = index.numpy().copy()
        return replace(
            self,
            rows=rows if self.rows is None else self.rows[rows],
            labels=None if self.labels is None else self.labels[index],
            captions=None if self.captions is None else tuple(self.captions[i] for i in rows),
        )

    def split(self, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
        """A random part with `fraction` of the samples, and the rest; each class is divided alike.

        The two are disjoint and cover the data; each keeps its order. The first has k = round(fraction N)
        samples, but at least one, and leaves at least one; of a class of n it gets n k / N, rounded up or down.
        The shares follow from (fraction, seed) and the labels alone.
        """
        n = len(self)
        if not 0 < fraction < 1:
            raise InputError(f"fraction is {fraction}; it must lie strictly between 0 and 1")
        if n < 2:
            raise DataError(f"{n} sample cannot be split in two; more are needed")
        k = min(max(round(fraction * n), 1), n - 1)
        first, rest = stratified(self.labels, n, k, Noise.batch(1, seed, SPLIT_STEP))
        return self.subset(first), self.subset(rest)

    def sample(self, n: int, seed: int = 0, balanced: bool = False) -> Dataset:
        """n of the samples, or all if there are no more, in the order of the data; a function of (n, seed, labels).

        Each class has its own share among them, rounded up or down; balanced: equally many of each class, as far as
        it has so many. Without labels it is a uniformly random subset. Figures of a part of the data take this part,
        never the first rows, which may be all of one class.
        """
        if n < 1:
            raise InputError(f"a sample of {n} was asked for; it takes at least 1")
        if n >= len(self):
            return self
        noise = Noise.batch(1, seed, SAMPLE_STEP)
        if balanced and self.labels is not None:
            return self.subset(balanced_rows(self.labels, n, noise))
        return self.subset(stratified(self.labels, len(self), n, noise)[0])

    @property
    def class_counts(self) -> tuple[int, ...] | None:
        """How many samples each class has here, 0 for classes without any; None without labels."""
        if self.labels is None or self.classes is None:
            return None
        return tuple(torch.bincount(self.labels, minlength=self.classes).tolist())

    @cached_property
    def spec(self) -> DataSpec:
        """What is known of the data, as it is kept with a model."""
        kind: Kind = "image" if self.images else "vector" if len(self.shape) == 1 else "unknown"
        return DataSpec(
            shape=self.shape,
            kind=kind,
            value_range=self.value_range,
            bin_width=2 / 255 if self.values.dtype == np.uint8 else None,
            classes=self.classes,
            class_names=self.class_names,
            class_counts=self.class_counts,
            fingerprint=self.fingerprint(),
        )

    def halves(self, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Two random halves, of equal size or the first one smaller by one, each class divided alike."""
        n = len(self)
        return self.split(n // 2 / n if n > 1 else 0.5, seed)

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the values as the model sees them stored, their shape, labels and captions.

        Data sets with one fingerprint give equal batches for equal indices, whatever files they come from. Of pictures
        that stay in files it is what `Pictures.fingerprint` says in place of values: the pixels are not read.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        names = {
            "dtype": self.values.dtype.newbyteorder("<").str,
            "stored": [len(self), *self.values.shape[1:]],
            "layout": self.layout,
            "classes": self.classes,
            "class_names": self.class_names,
            "captions": self.captions,
            "labels": None if self.labels is None else self.labels.tolist(),
        }
        digest = hashlib.sha256(json.dumps(names, sort_keys=True).encode())
        if isinstance(self.values, Pictures):
            digest.update(self.values.fingerprint().encode())
            rows = np.arange(len(self)) if self.rows is None else self.rows
            digest.update(np.ascontiguousarray(rows, "<i8").data)
            return digest.hexdigest()
        row_bytes = max(1, self.values[:1].nbytes)
        step = max(1, CHUNK // row_bytes)
        for start in range(0, len(self), step):
            part = self._stored(np.arange(start, min(start + step, len(self))))
            digest.update(np.ascontiguousarray(part, part.dtype.newbyteorder("<")).data)
        return digest.hexdigest()

    def _stored(self, index: np.ndarray) -> np.ndarray:
        """A copy of the stored values at these places, in the machine's own byte order."""
        part = self.values[index if self.rows is None else self.rows[index]]
        return np.asarray(part, part.dtype.newbyteorder("="))

    def _check(self, indices: Tensor) -> None:
        if indices.ndim != 1 or indices.dtype != torch.int64:
            raise InputError(
                f"indices must be an int64 tensor (B,), got {indices.dtype} {tuple(indices.shape)}"
            )
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise InputError(
                f"indices from {int(indices.min())} to {int(indices.max())} were asked for; "
                f"the data set has 0 to {len(self) - 1}"
            )


def load_array(
    path: str | Path, image_key: str | None = None, label_key: str | None = None
) -> Dataset:
    """A data set from a .npy file, which is mapped and not read, or from an .npz file with or without labels.

    In an .npz file the samples are the array called image, images, x, data or arr_0, the labels the one called
    label, labels or y; `image_key` and `label_key` name others. Nothing is ever unpickled. What arrays may
    hold is said in `Dataset.from_arrays`.

    Raises DataError for what is missing, is no such file, or does not fit together.
    """
    path = Path(path)
    kind = _kind(path)
    try:
        if kind == "npy":
            if image_key is not None or label_key is not None:
                raise DataError(
                    f"{path} holds one array without a name, so image_key and label_key "
                    f"cannot be used; save samples and labels together with numpy.savez"
                )
            values: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
            return Dataset.from_arrays(values, where=str(path))
        with np.load(path, allow_pickle=False) as archive:
            image = _find_key(path, archive.files, image_key, IMAGE_KEYS, "image_key")
            label = _find_key(path, archive.files, label_key, LABEL_KEYS, "label_key")
            if image is None:
                raise DataError(
                    f"{path} has no array called {_any_of(IMAGE_KEYS)}; it has {_any_of(archive.files)}. "
                    f"Pass the name of the samples as image_key"
                )
            values = archive[image]
            labels = None if label is None else archive[label]
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "objects" in str(error) or "allow_pickle" in str(error):
            raise DataError(
                f"{path} holds Python objects, which are not loaded because they can run code; "
                f"save it again as an array of numbers of one shape"
            ) from error
        raise DataError(
            f"{path} cannot be read as a NumPy file, it is damaged: {error}; save it again"
        ) from error
    return Dataset.from_arrays(values, labels, where=f"{path}, array {image!r}")


def encode_labels(
    labels: np.ndarray | Sequence[str] | Sequence[int], count: int, where: str
) -> tuple[Tensor, tuple[str, ...] | None]:
    """Labels as int64 (N,) from 0 on; strings become classes sorted by name, and the names are returned too."""
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (count,):
        raise DataError(
            f"{where}: {count} samples, but labels of shape {array.shape}; give one label for each sample"
        )
    if array.dtype.kind in "US":
        text = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
        names, codes = np.unique(text, return_inverse=True)
        return torch.from_numpy(codes.astype(np.int64)), tuple(str(name) for name in names)
    if array.dtype.kind not in "iub":
        raise DataError(f"{where}: labels are {array.dtype}; they must be integers or strings")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= MAX_CLASSES:
        bad = low if low < 0 else high
        raise DataError(
            f"{where}: sample {int(np.argmax(array == bad))} has label {bad}; classes are numbered from 0, "
            f"and there are at most {MAX_CLASSES}. Labels that are names may be given as strings"
        )
    return torch.from_numpy(array.astype(np.int64)), None


def _layout(values: np.ndarray | Pictures, where: str) -> tuple[Layout, bool]:
    """How samples are stored, and whether they are pictures."""
    shape = values.shape
    if values.ndim < 2 or 0 in shape[1:]:
        raise DataError(f"{where} has shape {shape}; samples are expected as (N, ...)")
    if len(values) == 0:
        raise DataError(f"{where} has no samples, its shape is {shape}")
    if isinstance(values, Pictures):
        return "as stored", True
    first, last = (
        values.ndim == 4 and shape[1] in CHANNELS,
        values.ndim == 4 and shape[3] in CHANNELS,
    )
    if values.dtype.kind == "f" and values.dtype.itemsize <= 8:
        return "as stored", first
    if values.dtype != np.uint8:
        raise DataError(
            f"{where} holds {values.dtype}; give uint8 for pictures, or float32 numbers that are taken as they are"
        )
    if values.ndim == 2:
        return "as stored", False
    if values.ndim == 3:
        return "grey", True
    if first and last:
        last = min(shape[1:3]) > min(shape[2:])
    if last:
        return "channels last", True
    if first:
        return "as stored", True
    raise DataError(
        f"{where} is uint8 of shape {shape}; pictures are (N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or "
        f"4 channels. Give anything else as float32"
    )


def _range(values: np.ndarray, where: str) -> tuple[float, float]:
    """(-1, 1) or (0, 1) if all values lie in it, else from the least to the largest. All must be finite."""
    low, high = np.inf, -np.inf
    bad: list[int] = []
    count = 0
    for start, part in _chunks(values):
        flat = part.reshape(len(part), -1)
        # Numbers beyond float32 become infinite here, as they would in a batch.
        with np.errstate(over="ignore"):
            finite = np.isfinite(flat.astype(np.float32)).all(axis=1)
        if finite.all():
            low, high = min(low, float(flat.min())), max(high, float(flat.max()))
        else:
            wrong = start + np.flatnonzero(~finite)
            count += len(wrong)
            bad.extend(int(row) for row in wrong[: 10 - len(bad)])
    if count:
        raise DataError(
            f"{where}: {count} of {len(values)} samples have values that are not finite in float32, "
            f"first rows {', '.join(map(str, bad))}; remove or mend them"
        )
    if low >= -1 and high <= 1:
        return (0.0, 1.0) if low >= 0 else (-1.0, 1.0)
    return low, high if high > low else low + 1


def _chunks(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    step = max(1, CHUNK // max(1, values[:1].nbytes))
    for start in range(0, len(values), step):
        yield start, values[start : start + step]


def _kind(path: Path) -> Literal["npy", "npz"]:
    if path.is_dir():
        raise DataError(f"{path} is a folder; load a folder of images with load_folder")
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
    raise DataError(
        f"{path} is not a NumPy file; save arrays with numpy.save (.npy) or numpy.savez (.npz)"
    )


def _find_key(
    path: Path, keys: Sequence[str], wanted: str | None, usual: Sequence[str], option: str
) -> str | None:
    """The wanted key, or the only one of the usual keys that is there."""
    if wanted is not None:
        if wanted not in keys:
            raise DataError(f"{path} has no array called {wanted!r}; it has {_any_of(keys)}")
        return wanted
    found = [key for key in usual if key in keys]
    if len(found) > 1:
        raise DataError(f"{path} has both {_any_of(found, ' and ')}; pass one of them as {option}")
    return found[0] if found else None


def _any_of(names: Sequence[Any], join: str = ", ") -> str:
    return join.join(repr(name) for name in names) if names else "no arrays"
