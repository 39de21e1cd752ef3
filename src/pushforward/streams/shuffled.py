"""Epochs of a finite data set."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import Noise
from pushforward.data.batch import Batch


class Indexed(Protocol):
    """A finite data set: entries by their indices (B,)."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Batch: ...


@runtime_checkable
class Altered(Protocol):
    """A data set that alters its entries at random, as flips and crops do."""

    def drawn(self, indices: Tensor, noise: Noise) -> Batch: ...


class Shuffled:
    """Epoch after epoch of a finite data set, each in an order of its own.

    Sample number n of the run is entry perm_e[n mod N] of epoch e = n div N, perm_e being keyed by (seed, e): each
    entry comes exactly once in each epoch, and batches run on over the border of two. rows: which rows of each batch
    are computed; all of them by default.
    """

    def __init__(
        self, data: Indexed, batch_size: int, seed: int, rows: slice | None = None
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be positive")
        if len(data) == 0:
            raise InputError("the data set is empty")
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.rows = slice(0, batch_size) if rows is None else rows
        self._order = lru_cache(maxsize=2)(self._permutation)

    def _permutation(self, epoch: int) -> Tensor:
        return Noise.batch(0, self.seed, step=epoch).permutation(len(self.data))

    def indices(self, step: int) -> Tensor:
        first, size = step * self.batch_size, len(self.data)
        parts: list[Tensor] = []
        number, end = first, first + self.batch_size
        while number < end:
            epoch, place = divmod(number, size)
            stop = min(size, place + end - number)
            parts.append(self._order(epoch)[place:stop])
            number += stop - place
        return torch.cat(parts)

    def part(self, rows: slice) -> Shuffled:
        return Shuffled(self.data, self.batch_size, self.seed, rows)

    def at(self, step: int) -> Batch:
        indices = self.indices(step)[self.rows]
        if isinstance(self.data, Altered):
            return self.data.drawn(
                indices, Noise.batch(self.batch_size, self.seed, step)[self.rows]
            )
        return self.data[indices]
