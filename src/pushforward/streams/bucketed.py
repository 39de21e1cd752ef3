"""Epochs of data sets of different shapes, each batch of one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import DATA, SOURCE, Noise
from pushforward.data.batch import Batch
from pushforward.data.mixed import Mixed
from pushforward.data.shares import SPLIT_STEP
from pushforward.streams.shuffled import Altered, Indexed, Shuffled


class Numbered:
    """A data set whose samples have the ids that they have in a larger one. rows: (N,) int64, these."""

    def __init__(self, data: Indexed, rows: Tensor) -> None:
        self.data, self.rows = data, rows

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, indices: Tensor) -> Batch:
        return self._numbered(self.data[indices], indices)

    def drawn(self, indices: Tensor, noise: Noise) -> Batch:
        altered = isinstance(self.data, Altered)
        batch = self.data.drawn(indices, noise) if altered else self.data[indices]  # type: ignore[attr-defined]
        return self._numbered(batch, indices)

    def _numbered(self, batch: Batch, indices: Tensor) -> Batch:
        return replace(batch, ids=self.rows[indices if batch.ids is None else batch.ids])


class Bucketed:
    """Epoch after epoch of several data sets, each batch being of one, and each entry coming once in each epoch.

    Batches number k of data set b, of n_b entries, are those of `Shuffled`: its entries in an order of each of its
    epochs, which batches run on over. With batches of B entries, epoch e of the whole has batches

        floor(e n_b / B) <= k < floor((e + 1) n_b / B)

    of each data set, as many as fit, in an order keyed by (seed, e): after e epochs less than a batch of any data set
    is behind. Of one data set they are those of `Shuffled` with this seed.

    Which data set a batch is of depends on the step alone, so that all processes that share batches agree.
    """

    def __init__(
        self, parts: Sequence[Indexed], batch_size: int, seed: int, rows: slice | None = None
    ) -> None:
        if not parts:
            raise InputError("there is no data set to take batches of")
        self.data, self.batch_size, self.seed, self.rows = list(parts), batch_size, seed, rows
        # With one key, data sets of one size would go side by side in one order.
        words = Noise.batch(len(parts), seed, SPLIT_STEP).words(2, SOURCE).tolist()
        keys = [seed, *(high << 32 | low for high, low in words[1:])]
        self._streams = [
            Shuffled(part, batch_size, key, rows) for part, key in zip(parts, keys, strict=True)
        ]
        self._order = lru_cache(maxsize=2)(self._turns)

    @classmethod
    def of(cls, mixed: Mixed, batch_size: int, seed: int) -> Bucketed:
        """Batches of pictures by frame, with the ids that these have in the whole."""
        parts = [Numbered(part, rows) for part, rows in zip(mixed.parts, mixed.rows, strict=True)]
        return cls(parts, batch_size, seed)

    def _begun(self, epoch: int) -> list[int]:
        """Batches of each data set before an epoch."""
        return [epoch * len(part) // self.batch_size for part in self.data]

    def _turns(self, epoch: int) -> Tensor:
        """Which data set each batch of an epoch is of."""
        counts = [b - a for a, b in zip(self._begun(epoch), self._begun(epoch + 1), strict=True)]
        turns = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        return turns[Noise.batch(0, self.seed, step=epoch).permutation(len(turns), DATA)]

    def place(self, step: int) -> tuple[int, int]:
        """Which data set the batch of a step is of, and its number there."""
        # No later than the epoch of the step, since floors are not above what they are of.
        epoch = step * self.batch_size // sum(map(len, self.data))
        while sum(self._begun(epoch + 1)) <= step:
            epoch += 1
        begun, turns = self._begun(epoch), self._order(epoch)
        at = step - sum(begun)
        which = int(turns[at])
        return which, begun[which] + int((turns[:at] == which).sum())

    def part(self, rows: slice) -> Bucketed:
        return Bucketed(self.data, self.batch_size, self.seed, rows)

    def at(self, step: int) -> Batch:
        which, number = self.place(step)
        return self._streams[which].at(number)
