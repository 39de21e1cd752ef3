"""Labels: from names or numbers to classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import DataError

# More classes than this are taken for a mistake: identifiers or measurements given as labels.
MAX_CLASSES = 1 << 16
SHOWN = 10


def in_order(names: Iterable[str]) -> list[str]:
    """Names of classes, each once: as numbers if all are numbers, "2" before "10", else by their letters."""
    every = sorted(set(names))
    if all(name.isdecimal() for name in every):
        every.sort(key=lambda name: (int(name), name))
    return every


def encode(names: Iterable[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Names as numbers (N,) int64, and the classes in the order of these numbers."""
    seen: dict[str, int] = {}
    codes = np.fromiter((seen.setdefault(name, len(seen)) for name in names), np.int64)
    classes = in_order(seen)
    place = np.zeros(len(classes), np.int64)
    place[[seen[name] for name in classes]] = np.arange(len(classes))
    return place[codes], tuple(classes)


def encode_labels(
    labels: np.ndarray | Sequence[str] | Sequence[int],
    count: int,
    where: str,
    class_names: Sequence[str] | None = None,
) -> tuple[Tensor, tuple[str, ...] | None]:
    """Labels as int64 (N,) from 0 on, and the names of the classes, if there are any.

    Strings become classes in the order of their names, or in that of `class_names`. Raises DataError for labels that
    do not fit the samples, the names, or what labels may be.
    """
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (count,):
        raise DataError(
            f"{where}: {count} samples, but labels of shape {array.shape}; give one label for each sample"
        )
    if array.dtype.kind in "UST":
        text = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
        codes, found = encode(map(str, text.tolist()))
        if class_names is None:
            return torch.from_numpy(codes), found
        number = {name: label for label, name in enumerate(class_names)}
        unknown = [name for name in found if name not in number]
        if unknown:
            raise DataError(
                f"{where}: the label {unknown[0]!r} is none of the classes {some(class_names)}"
            )
        return torch.from_numpy(np.array([number[name] for name in found])[codes]), tuple(
            class_names
        )
    if array.dtype.kind not in "iub":
        raise DataError(f"{where}: labels are {array.dtype}; they must be integers or strings")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= MAX_CLASSES:
        bad = low if low < 0 else high
        raise DataError(
            f"{where}: sample {int(np.argmax(array == bad))} has label {bad}; classes are numbered from 0, "
            f"and there are at most {MAX_CLASSES}. Labels that are names may be given as strings"
        )
    names = None if class_names is None else tuple(class_names)
    if names is not None and high >= len(names):
        raise DataError(f"{where}: label {high} has no name; there are {len(names)} class names")
    return torch.from_numpy(array.astype(np.int64)), names


def note_on_empty(counts: Sequence[int], class_names: Sequence[str] | None) -> str | None:
    """A note on classes without samples; None where every class has some."""
    empty = [label for label, count in enumerate(counts) if count == 0]
    if not empty:
        return None
    names = [repr(class_names[label]) if class_names is not None else str(label) for label in empty]
    used = [label for label, count in enumerate(counts) if count > 0]
    found = "" if class_names is not None else f" (labels run from {used[0]} to {used[-1]})"
    verb = "class has" if len(empty) == 1 else "classes have"
    return (
        f"{len(empty)} of {len(counts)} {verb} no samples, and will be neither drawn nor judged: "
        f"{some(names)}{found}"
    )


def some(names: Iterable[str], shown: int = SHOWN) -> str:
    """The first few of a list."""
    every = list(names)
    return ", ".join(every[:shown]) + (", ..." if len(every) > shown else "")
