"""Images of an array in another size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from pushforward.core.errors import InputError
from pushforward.data.dataset import Dataset
from pushforward.data.images.decode import centre
from pushforward.data.values import Layout, Stored, arranged, arranged_shape, chunk_rows, native


@dataclass(frozen=True, eq=False)
class Resized:
    """An array (N, C, size, size): of each image the largest centred square, resampled by Lanczos with antialiasing.

    values: images stored in `layout`, of bytes or floating numbers. Channels are resampled one by one, in bytes as
    image files are; floating ones stay within `value_range`. Rows are resampled each time they are read.
    """

    values: np.ndarray | Stored
    layout: Layout
    size: int
    value_range: tuple[float, float]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        channels = arranged_shape(tuple(self.values.shape[1:]), self.layout)[0]
        return len(self), channels, self.size, self.size

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if self.values.dtype == np.uint8 else np.float32)

    def __getitem__(self, index: Any) -> np.ndarray:
        images = arranged(native(self.values[index]), self.layout)
        images = np.ascontiguousarray(images, self.dtype)
        out = np.empty((len(images), *self.shape[1:]), self.dtype)
        box = centre(images.shape[3], images.shape[2])
        for channels, resized in zip(images, out, strict=True):
            for channel, to in zip(channels, resized, strict=True):
                to[:] = Image.fromarray(channel).resize(
                    (self.size, self.size), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0
                )
        return out if out.dtype == np.uint8 else out.clip(*self.value_range)


def resize(data: Dataset, size: int, memory: int) -> Dataset:
    """Images of an array as size x size: at once if they take no more than `memory` bytes, else when they are read.

    Raises InputError for what is no image. Floating values lie on no grid afterwards: `bin_width` is None.
    """
    if data.kind != "image":
        raise InputError(f"--size is for images, and the data are {data}")
    if data.shape[1:] == (size, size):
        return data
    lazy = Resized(data.values, data.layout, size, data.value_range)
    values: np.ndarray | Resized = lazy
    if lazy.dtype.itemsize * np.prod(lazy.shape, dtype=float) <= memory:
        values = np.empty(lazy.shape, lazy.dtype)
        step = chunk_rows(data.values)
        for start in range(0, len(lazy), step):
            values[start : start + step] = lazy[start : start + step]
    grid = data.bin_width if lazy.dtype == np.uint8 else None
    return replace(data, values=values, layout="as stored", bin_width=grid)
