"""Batches as a function of the step, so that a run can go on from anywhere."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import Noise
from pushforward.core.oracle import Law
from pushforward.data.batch import Batch


class Stream(Protocol):
    """An endless sequence of batches; `at` is pure."""

    batch_size: int

    def at(self, step: int) -> Batch: ...


class Indexed(Protocol):
    """A finite data set: entries by their indices (B,)."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Batch: ...


class Shuffled:
    """Epoch after epoch of a finite data set, each in an order of its own.

    Sample number n of the run is entry perm_e[n mod N] of epoch e = n div N, perm_e being keyed by (seed, e): each
    entry comes exactly once in each epoch, and batches run on over the border of two.
    """

    def __init__(self, data: Indexed, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be positive")
        if len(data) == 0:
            raise InputError("the data set is empty")
        self.data, self.batch_size, self.seed = data, batch_size, seed
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

    def at(self, step: int) -> Batch:
        return self.data[self.indices(step)]


class Drawn:
    """Fresh draws from a law, keyed by (seed, step, place in the batch)."""

    def __init__(self, law: Law, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be positive")
        self.law, self.batch_size, self.seed = law, batch_size, seed

    def at(self, step: int) -> Batch:
        noise = Noise.batch(self.batch_size, self.seed, step)
        return Batch(self.law.draw(noise).float(), ids=noise.ids)
