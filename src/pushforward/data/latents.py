"""Data sets whose pictures have been encoded: once, and kept in the user's cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import DataError
from pushforward.core.progress import tell
from pushforward.data.dataset import Dataset
from pushforward.data.fetch import cache_folder
from pushforward.data.partial import Encodings, Partial

BLOCK, BYTES = 4096, 1 << 23  # of them that are in memory at a time: so many, of no more bytes
ROWS = 64  # pictures that are encoded together
KEPT = 1024  # pictures after which what was encoded is safe on disk


@dataclass(frozen=True)
class Scaled:
    """(values - mean) / std by channel, computed when it is read: see `values.Stored`."""

    values: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        found: np.ndarray = (self.values[index] - self.mean[:, None, None]) / self.std[
            :, None, None
        ]
        return found


def encode_pictures(
    data: Dataset,
    encode: Callable[[Tensor], Tensor],
    key: str,
    folder: str | Path | None = None,
) -> Encodings:
    """What `encode` makes of each sample: (B, C, H, W) -> (B, c, h, w).

    key:    SHA-256 of all that `encode` depends on. With the data's fingerprint it names the file.
    folder: $PUSHFORWARD_CACHE/latents by default. Without a folder that can be written to they are kept in memory.

    In float32, bit for bit what `encode` gave: at a factor of 4 and 4 channels that is a third of the pictures' bytes.
    They are written as they come, and what is on disk is read where it is used, so that memory does not grow with the
    data. Work that was cut off goes on behind the last `KEPT` pictures. Of several processes that ask for the same ones
    one encodes, and the others wait.

    Raises DataError for what is not finite, before anything is kept, and where there is no room.
    """
    root = cache_folder() / "latents" if folder is None else Path(folder)
    partial = Partial(root, f"{key[:32]}-{data.fingerprint()[:32]}", len(data))
    if (found := partial.read()) is not None:
        return found
    with torch.no_grad():
        shape = tuple(encode(data[torch.arange(1)].x1).shape[1:])
    if not partial.can_begin():
        values = np.empty((len(data), *shape), np.float32)
        ids = np.empty(len(data), np.int64)
        for start, some, own in _encoded(data, encode, 0):
            values[start : start + len(some)], ids[start : start + len(some)] = some, own
        return Encodings(values, ids)
    with partial.locked() as file:
        if file is None:  # another process has made them meanwhile
            return partial.required()
        done = partial.begun(file, shape)
        try:
            for start, some, own in _encoded(data, encode, done):
                partial.append(file, some, own)
                if start + len(some) - done >= KEPT:
                    done = partial.mark(file, start + len(some), shape)
            partial.mark(file, len(data), shape)
            partial.finish()
        except NotFiniteError as error:
            partial.drop()
            raise DataError(str(error)) from None
        except OSError as error:
            raise DataError(
                f"the latents of {len(data)} pictures cannot be kept in {root}: {error.strerror or error}. Free some "
                f"room, or name another place by PUSHFORWARD_CACHE; what is there is kept"
            ) from error
    return partial.required()


class NotFiniteError(Exception):
    """An encoder's answers are not finite."""


def _encoded(
    data: Dataset, encode: Callable[[Tensor], Tensor], start: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first row, latents, ids) of all samples from `start` on, some at a time."""
    for first in range(start, len(data), ROWS):
        tell("latents", first, len(data))
        rows = torch.arange(first, min(first + ROWS, len(data)))
        batch = data[rows]
        with torch.no_grad():
            latents = encode(batch.x1).float().cpu()
        if not bool(latents.isfinite().all()):
            raise NotFiniteError(
                "the autoencoder makes latents of these pictures that are not finite: train it anew with a lower --lr"
            )
        yield first, latents.numpy(), (rows if batch.ids is None else batch.ids).numpy()
    tell("latents", len(data), len(data))


def statistics(*parts: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of all (N, c, h, w), in two passes over what may be in files."""
    count = sum(len(values) * values.shape[2] * values.shape[3] for values in parts)

    def total(of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        sums = [of(block.astype(np.float64)).sum((0, 2, 3)) for block in blocks(parts)]
        return np.sum(sums, axis=0) / count

    mean = total(lambda x: x)
    variance = total(lambda x: (x - mean[:, None, None]) ** 2)
    return mean.tolist(), np.sqrt(variance).tolist()


def blocks(parts: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """All rows, as many at a time as memory is meant for."""
    for values in parts:
        step = max(1, min(BLOCK, BYTES // max(1, values[:1].nbytes)))
        for k in range(0, len(values), step):
            yield values[k : k + step]


def latent_data(data: Dataset, found: Encodings, mean: Tensor, std: Tensor) -> Dataset:
    """The data set with (latents - mean) / std as its samples, and all else as it was."""
    own = bool((found.ids == np.arange(len(data))).all())
    base = data if own else data.subset(torch.from_numpy(np.array(found.ids)))
    values = Scaled(found.values, mean.cpu().float().numpy(), std.cpu().float().numpy())
    return replace(
        base,
        values=values,
        layout="as stored",
        rows=None,
        bin_width=None,
        augment=None,
        channels=None,
    )
