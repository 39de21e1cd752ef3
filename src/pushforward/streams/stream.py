"""Batches as a function of the step, so that a run can go on from anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import SOURCE, Noise
from pushforward.couplings import Coupling
from pushforward.data.batch import Batch
from pushforward.laws.law import Law
from pushforward.runtime.processes import Processes


class Stream(Protocol):
    """An endless sequence of batches; `at` is pure."""

    batch_size: int

    def at(self, step: int) -> Batch: ...


class Indexed(Protocol):
    """A finite data set: entries by their indices (B,)."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Batch: ...


@runtime_checkable
class Altered(Protocol):
    """A data set that alters its entries at random, as flips and crops do."""

    def drawn(self, indices: Tensor, noise: Noise) -> Batch: ...


def part(stream: Stream, processes: Processes) -> Stream:
    """The rows of a stream's batches that are this process's; its batch_size stays that of all."""
    if processes.count == 1:
        return stream
    if stream.batch_size < processes.count:
        raise InputError(
            f"a batch of {stream.batch_size} is shared by {processes.count} processes: each needs a sample, so raise "
            f"--batch-size or start fewer"
        )
    rows = processes.share(stream.batch_size)
    if isinstance(stream, Divisible):
        return stream.part(rows)
    return Part(stream, rows)


@runtime_checkable
class Divisible(Protocol):
    """A stream that can make some rows of its batches without the others."""

    def part(self, rows: slice) -> Stream: ...


class Part:
    """Rows of another stream's batches, which it makes whole first, as pairs within a batch must be."""

    def __init__(self, stream: Stream, rows: slice) -> None:
        self.stream, self.rows, self.batch_size = stream, rows, stream.batch_size

    def at(self, step: int) -> Batch:
        return self.stream.at(step)[self.rows]


class Shuffled:
    """Epoch after epoch of a finite data set, each in an order of its own.

    Sample number n of the run is entry perm_e[n mod N] of epoch e = n div N, perm_e being keyed by (seed, e): each
    entry comes exactly once in each epoch, and batches run on over the border of two. rows: of each batch, the places
    that are made; all of them if left out.
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


class Drawn:
    """Fresh draws from a law, keyed by (seed, step, place in the batch)."""

    def __init__(self, law: Law, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be positive")
        self.law, self.batch_size, self.seed = law, batch_size, seed

    def at(self, step: int) -> Batch:
        noise = Noise.batch(self.batch_size, self.seed, step)
        return Batch(self.law.draw(noise).float(), ids=noise.ids)


class Lazy:
    """A stream that is made when its first batch is asked for, from data that are not there before."""

    def __init__(self, make: Callable[[], Stream], batch_size: int) -> None:
        self.make, self.batch_size = lru_cache(maxsize=1)(make), batch_size

    def at(self, step: int) -> Batch:
        return self.make().at(step)


# Source laws draw from the same streams of numbers as laws of data, keyed by seed, id and step: theirs are other steps.
# Training stays below 2^31 of them, and Noise below 2^32.
SOURCE_STEPS = 2**31


class Sourced:
    """A stream with source samples x0 from a law, independent of the data, keyed as those of `Drawn`."""

    def __init__(self, stream: Stream, law: Law, seed: int) -> None:
        self.stream, self.law, self.seed = stream, law, seed
        self.batch_size = stream.batch_size

    def at(self, step: int) -> Batch:
        batch = self.stream.at(step)
        if batch.x0 is not None:
            raise InputError(
                "the stream brings source samples of its own; leave the source law out"
            )
        noise = Noise.batch(len(batch), self.seed, SOURCE_STEPS + step, device=batch.x1.device)
        x0 = self.law.draw(noise).to(batch.x1.dtype)
        if x0.shape != batch.x1.shape:
            raise InputError(
                f"the source law draws samples of shape {tuple(x0.shape[1:])}, and the data have "
                f"{tuple(batch.x1.shape[1:])}"
            )
        return replace(batch, x0=x0)


class Coupled:
    """A stream of pairs: batches in which x0 and x1, cond and ids stand as the coupling put them together.

    x0 are the stream's own, draws from `source`, or the Gaussian noise that an objective with the seed would draw at
    this step. Training on these batches equals training on the stream with the coupling in the objective, bit for bit,
    and the coupling can be worked out ahead of the step. The model's path must have gaussian_source=False, as there.
    """

    def __init__(
        self, stream: Stream, coupling: Coupling, seed: int, source: Law | None = None
    ) -> None:
        self.stream = stream if source is None else Sourced(stream, source, seed)
        self.coupling, self.seed = coupling, seed
        self.batch_size = stream.batch_size

    def at(self, step: int) -> Batch:
        batch = self.stream.at(step)
        x1 = batch.x1
        noise = Noise.batch(len(batch), self.seed, step, device=x1.device)
        x0 = noise.normal(x1.shape[1:], SOURCE, x1.dtype) if batch.x0 is None else batch.x0
        i, j = self.coupling(x0, x1, noise, batch.cond)
        return Batch(
            x1[j],
            {name: value[j] for name, value in batch.cond.items()},
            x0[i],
            None if batch.ids is None else batch.ids[j.to(batch.ids.device)],
        )
