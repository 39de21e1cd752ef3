"""Data sets whose pictures have been encoded: once, and kept in the user's cache."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
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

BLOCK = 4096  # of them that are in memory at a time
ROWS = 64  # pictures that are encoded together


@dataclass(frozen=True)
class Encodings:
    """What was made of the samples of a data set.

    values: (N, c, h, w) float32, in a file that is read where it is used, or in memory where none could be written.
    ids:    (N,) the samples that they are of: another than its own where a bad picture was replaced.
    """

    values: np.ndarray
    ids: np.ndarray


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
    folder: $PUSHFORWARD_CACHE/latents by default. What cannot be written there is kept in memory.

    In float32, bit for bit what `encode` gave: at a factor of 4 and 4 channels that is a third of the pictures' bytes.
    Raises DataError for what is not finite, and before anything is kept.
    """
    root = cache_folder() / "latents" if folder is None else Path(folder)
    name = f"{key[:32]}-{data.fingerprint()[:32]}"
    found = _read(root, name, len(data))
    if found is not None:
        return found
    with torch.no_grad():
        shape = (len(data), *encode(data[torch.arange(1)].x1).shape[1:])
    ids = np.empty(len(data), np.int64)
    temporary: Path | None = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(".tmp", ".", root)
        os.close(handle)
        temporary = Path(path)
        values: np.ndarray = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    except OSError:
        values = np.empty(shape, np.float32)
    try:
        with torch.no_grad():
            for start in range(0, len(data), ROWS):
                tell("latents", start, len(data))
                batch = data[torch.arange(start, min(start + ROWS, len(data)))]
                latents = encode(batch.x1).float().cpu()
                if not bool(latents.isfinite().all()):
                    raise DataError(
                        "the autoencoder makes latents of these pictures that are not finite: train it anew with a "
                        "lower --lr"
                    )
                rows = slice(start, start + len(latents))
                values[rows] = latents.numpy()
                ids[rows] = np.arange(start, rows.stop) if batch.ids is None else batch.ids.numpy()
        tell("latents", len(data), len(data))
        if temporary is not None and isinstance(values, np.memmap):
            values.flush()
            _keep(root, name, temporary, ids)
            return _read(root, name, len(data)) or Encodings(np.array(values), ids)
        return Encodings(values, ids)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _keep(root: Path, name: str, temporary: Path, ids: np.ndarray) -> None:
    """Give a whole file its name, after that of the ids."""
    with suppress(OSError):
        handle, path = tempfile.mkstemp(".tmp", ".", root)
        with os.fdopen(handle, "wb") as file:
            np.save(file, ids)
        os.replace(path, root / f"{name}.ids.npy")
        os.replace(temporary, root / f"{name}.npy")


def _read(root: Path, name: str, number: int) -> Encodings | None:
    try:
        values = np.load(root / f"{name}.npy", mmap_mode="r")
        ids = np.load(root / f"{name}.ids.npy")
    except (OSError, ValueError, EOFError):
        return None
    fits = values.ndim == 4 and len(values) == len(ids) == number and values.dtype == np.float32
    return Encodings(values, ids) if fits else None


def statistics(*parts: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of all (N, c, h, w), in two passes over what may be in files."""
    count = sum(len(values) * values.shape[2] * values.shape[3] for values in parts)

    def total(of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        sums = [
            of(values[k : k + BLOCK].astype(np.float64)).sum((0, 2, 3))
            for values in parts
            for k in range(0, len(values), BLOCK)
        ]
        return np.sum(sums, axis=0) / count

    mean = total(lambda x: x)
    variance = total(lambda x: (x - mean[:, None, None]) ** 2)
    return mean.tolist(), np.sqrt(variance).tolist()


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
