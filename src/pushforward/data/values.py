"""What is stored of a data set, and how it becomes samples: the order of dimensions, the range, the bin width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import DataError
from pushforward.core.spec import Kind
from pushforward.data.grid import Grid
from pushforward.data.kinds import KINDS, require_known, usual_kind

# Numbers of channels by which images are recognised, and which of their axes is that of the channels.
CHANNELS = (1, 3, 4)
# Bytes that a pass over the whole data set holds at a time.
CHUNK = 1 << 24
# The distance of neighbouring bytes once they are scaled to [-1, 1].
BYTE_BIN = 2 / 255

# "grey": without an axis for the channels, of which there is one.
Layout = Literal["as stored", "grey", "channels last"]


class Stored(Protocol):
    """N samples in memory or elsewhere, read by rows: an array, or what can be indexed like one."""

    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...)"""

    @property
    def dtype(self) -> np.dtype: ...

    def __getitem__(self, index: Any) -> np.ndarray:
        """The rows of a slice or of an array (B,) of whole numbers."""


def layout_of(
    shape: tuple[int, ...], dtype: np.dtype, kind: Kind | None, masked: bool, where: str
) -> tuple[Layout, Kind]:
    """How samples are stored, and of which kind they are; `kind` is what the user says, or None.

    Raises DataError for arrays that hold no samples, or none of this kind.
    """
    if len(shape) < 2 or 0 in shape[1:]:
        raise DataError(f"{where} has shape {shape}; samples are expected as (N, ...)")
    if shape[0] == 0:
        raise DataError(f"{where} has no samples, its shape is {shape}")
    real = dtype.kind == "f" and dtype.itemsize <= 8
    if not real and dtype != np.uint8:
        raise DataError(
            f"{where} holds {dtype}; give uint8 for images, or float32 numbers that are taken as they are"
        )
    axes = len(shape) - 1
    if kind is None and not real and axes == 2 and not masked:
        kind = "image"
    if kind is not None:
        require_known(kind)
        want = len(KINDS[kind].axes)
        if KINDS[kind].channels_first and axes == want - 1:
            return "grey", kind
    if axes == 3 and (kind == "image" or (kind is None and not masked)):
        return _channels(shape, real, where), "image"
    layout: Layout = "as stored"
    return layout, usual_kind(shape[1:], masked) if kind is None else kind


def _channels(shape: tuple[int, ...], real: bool, where: str) -> Layout:
    """Which axis of (N, ., ., .) is that of the channels."""
    first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if first and last:
        # Floating numbers are kept as they are; of bytes the images with the longer short side are meant.
        last = not real and min(shape[1:3]) > min(shape[2:])
    elif not first and not last:
        first = real or shape[1] < min(shape[2:])
        last = not first and shape[3] < min(shape[1:3])
    if last:
        return "channels last"
    if first:
        return "as stored"
    raise DataError(
        f"{where} is uint8 of shape {shape}; images are (N, H, W), (N, H, W, C) or (N, C, H, W), and it is not clear "
        f"which of its axes is that of the channels. Give (N, C, H, W) as float32"
    )


def arranged(values: np.ndarray, layout: Layout) -> np.ndarray:
    """Stored values (B, ...) with the axes in the order that samples have."""
    match layout:
        case "grey":
            return values[:, None]
        case "channels last":
            return np.moveaxis(values, -1, 1)
        case _:
            return values


def arranged_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """The shape of one sample that is stored in this shape."""
    match layout:
        case "grey":
            return (1, *shape)
        case "channels last":
            return (shape[-1], *shape[:-1])
        case _:
            return shape


def native(values: np.ndarray) -> np.ndarray:
    """In the machine's own byte order."""
    return np.asarray(values, values.dtype.newbyteorder("="))


def as_samples(values: np.ndarray, layout: Layout) -> Tensor:
    """Stored values (B, ...) as samples x1 (B, *shape) float32; bytes are scaled to [-1, 1]."""
    x = torch.from_numpy(arranged(native(values), layout)).contiguous()
    return x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x.float()


@dataclass(frozen=True)
class Summary:
    """What all values together say: (lo, hi), and the bin width or None."""

    value_range: tuple[float, float]
    bin_width: float | None


def summarise(values: Stored, layout: Layout, mask: np.ndarray | None, where: str) -> Summary:
    """(-1, 1) or (0, 1) if all values lie in it, else from the least to the largest; and their bin width.

    mask: (N, ...) bool which of the entries, as samples have them, are data. Raises DataError unless these are finite.
    """
    if values.dtype == np.uint8:
        return Summary((-1.0, 1.0), BYTE_BIN)
    low, high = np.inf, -np.inf
    grid = Grid()
    bad: list[int] = []
    count = 0
    for start, part in chunks(values):
        part = arranged(native(part), layout)
        # Numbers beyond float32 become infinite here, as they would in a batch.
        with np.errstate(over="ignore"):
            finite = np.isfinite(part.astype(np.float32))
        data = part
        if mask is not None:
            here = np.broadcast_to(mask[start : start + len(part)], part.shape)
            finite, data = finite | ~here, part[here]
        rows = finite.reshape(len(part), -1).all(axis=1)
        if rows.all():
            low, high = min(low, float(data.min())), max(high, float(data.max()))
            grid.add(data)
        else:
            wrong = start + np.flatnonzero(~rows)
            count += len(wrong)
            bad.extend(int(row) for row in wrong[: 10 - len(bad)])
    if count:
        raise DataError(
            f"{where}: {count} of {len(values)} samples have values that are not finite in float32, "
            f"first rows {', '.join(map(str, bad))}; remove or mend them"
        )
    if low >= -1 and high <= 1:
        return Summary((0.0, 1.0) if low >= 0 else (-1.0, 1.0), grid.width())
    return Summary((low, high if high > low else low + 1), grid.width())


def chunk_rows(values: Stored) -> int:
    """How many rows a pass over all values holds at a time."""
    return max(1, CHUNK // max(1, values[:1].nbytes))


def chunks(values: Stored) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows) of all values, some at a time."""
    step = chunk_rows(values)
    for start in range(0, len(values), step):
        yield start, values[start : start + step]
