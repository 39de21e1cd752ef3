"""Samples of any shape as vectors that are short enough to compute with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d

from pushforward.core.errors import InputError
from pushforward.data.dataset import Dataset

POOL = {1: adaptive_avg_pool1d, 2: adaptive_avg_pool2d, 3: adaptive_avg_pool3d}
# Bytes of samples that are held at a time, as float32.
BYTES = 1 << 28


class Vectors:
    """Samples (B, *shape) as vectors (B, dim) float32, dim <= limit.

    Samples of up to `limit` numbers are flattened. Larger images, signals and volumes are averaged over equal cells.
    What has no sides to average over, or too many channels, is sketched: each number is added, with a random but fixed
    sign, to one of `limit` sums, which keeps inner products on average (Charikar, Chen & Farach-Colton 2002).
    """

    def __init__(self, shape: Sequence[int], limit: int = 1024) -> None:
        self.shape = tuple(shape)
        self.size = math.prod(self.shape)
        self.sides = pooled_sides(self.shape, limit)
        self.place: Tensor | None = None
        self.sign: Tensor | None = None
        if self.size <= limit:
            self.dim = self.size
        elif self.sides is not None:
            self.dim = self.shape[0] * math.prod(self.sides)
        else:
            self.dim = limit
            chance = torch.Generator().manual_seed(0)
            self.place = torch.randint(limit, (self.size,), generator=chance)
            self.sign = 2.0 * torch.randint(2, (self.size,), generator=chance) - 1

    @property
    def exact(self) -> bool:
        """Whether vectors are the samples themselves."""
        return self.dim == self.size and self.place is None

    @property
    def batch_size(self) -> int:
        """Samples that are held at a time."""
        return max(1, BYTES // (4 * self.size))

    def __call__(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise InputError(f"these are vectors of samples {self.shape}, got {tuple(x.shape)}")
        x = x.detach().float().cpu()
        if self.exact:
            return x.flatten(1)
        if self.place is not None and self.sign is not None:
            return x.new_zeros(len(x), self.dim).index_add(1, self.place, x.flatten(1) * self.sign)
        assert self.sides is not None
        pool: Any = POOL[len(self.sides)]
        pooled: Tensor = pool(x, self.sides)
        return pooled.flatten(1)

    def of_samples(self, x: Tensor) -> Tensor:
        """(N, dim) of samples (N, *shape), some at a time."""
        return torch.cat([self(part) for part in x.split(self.batch_size)])

    def blocks(self, data: Dataset) -> Iterator[Tensor]:
        """The vectors of a data set in its order, in blocks."""
        for part in torch.arange(len(data)).split(self.batch_size):
            yield self(data[part].x1)

    def of_data(self, data: Dataset) -> Tensor:
        """(N, dim) of all of a data set."""
        return torch.cat(list(self.blocks(data)))


def pooled_sides(shape: Sequence[int], limit: int) -> tuple[int, ...] | None:
    """The sides to which (C, *sides) is averaged so that C prod(sides) <= limit; None if there is no such way.

    No side is longer than the largest cap that fits.
    """
    channels, sides = shape[0], tuple(shape[1:])
    if not 1 <= len(sides) <= 3 or channels > limit:
        return None
    caps = range(max(sides), 0, -1)
    cap = next(c for c in caps if channels * math.prod(min(s, c) for s in sides) <= limit)
    return tuple(min(side, cap) for side in sides)
