"""Batches with source samples from another data set, or from what is left of the data themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import AUGMENT, SOURCE, Noise
from pushforward.data.batch import Batch
from pushforward.data.shares import SPLIT_STEP
from pushforward.streams.shuffled import Indexed, Shuffled
from pushforward.streams.stream import Stream


class Bridged:
    """Two data sets that are not paired: x1 from `data`, x0 from `source`, each shuffled with a key of its own.

    The pairs of a batch are independent; `Coupled` pairs them anew. Samples have one shape: InputError if not.
    """

    def __init__(self, source: Indexed, data: Indexed, batch_size: int, seed: int) -> None:
        self.batch_size = batch_size
        self._data = Shuffled(data, batch_size, seed)
        # With one key, data sets of one size would go side by side in one order: always the same pairs.
        high, low = Noise.batch(1, seed, SPLIT_STEP).words(2, SOURCE)[0].tolist()
        self._source = Shuffled(source, batch_size, high << 32 | low)
        first = torch.zeros(1, dtype=torch.int64)
        shapes = [tuple(part[first].x1.shape[1:]) for part in (source, data)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"the source has samples of shape {shapes[0]}, the data of shape {shapes[1]}; they must be equal"
            )

    def at(self, step: int) -> Batch:
        batch, source = self._data.at(step), self._source.at(step)
        if batch.mask is not None or source.mask is not None:
            raise InputError(
                "samples of different lengths cannot be joined by pairs: use data sets of one length"
            )
        return replace(batch, x0=source.x1)


class Transformed:
    """A data set seen through a function: `x1 <- change(x1)`."""

    def __init__(self, data: Indexed, change: Callable[[Tensor], Tensor]) -> None:
        self.data, self.change = data, change

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, indices: Tensor) -> Batch:
        batch = self.data[indices]
        return replace(batch, x1=self.change(batch.x1))


class Paired:
    """A data set whose source samples are a function of its data: `x0 = source(x1)`, the pairing being the coupling.

    A data-dependent coupling (Albergo et al. 2023, arXiv 2310.03725). A source that has lost part of x1 leads
    to one x1 alone unless it is blurred (`Blurred`).
    """

    def __init__(self, data: Indexed, source: Callable[[Tensor], Tensor]) -> None:
        self.data, self.source = data, source

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, indices: Tensor) -> Batch:
        batch = self.data[indices]
        x0 = self.source(batch.x1)
        if x0.shape != batch.x1.shape:
            raise InputError(
                f"the source gives samples of shape {tuple(x0.shape[1:])} for data of shape "
                f"{tuple(batch.x1.shape[1:])}; they must be equal"
            )
        return replace(batch, x0=x0)


class Blurred:
    """A stream whose source samples get noise: `x0 + std z`, z ~ N(0, I) being a function of (seed, step, place).

    Albergo et al. 2023 (arXiv 2310.03725): with none, the flow is a function of what is left of the data.
    """

    def __init__(self, stream: Stream, std: float, seed: int) -> None:
        if not 0 <= std < float("inf"):
            raise InputError(f"std is {std}; it must be finite and not negative")
        self.batch_size = stream.batch_size
        self._stream, self._std, self._seed = stream, std, seed

    def at(self, step: int) -> Batch:
        batch = self._stream.at(step)
        if batch.x0 is None:
            raise InputError("the stream brings no source samples that could be blurred")
        noise = Noise.batch(len(batch), self._seed, step)
        z = noise.normal(batch.x0.shape[1:], AUGMENT, batch.x0.dtype)
        return replace(batch, x0=batch.x0 + self._std * z)
