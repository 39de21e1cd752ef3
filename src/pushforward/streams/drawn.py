"""Batches drawn from laws: of data, and of source samples."""

from __future__ import annotations

from dataclasses import replace

from pushforward.core.errors import InputError
from pushforward.core.noise import Noise
from pushforward.data.batch import Batch
from pushforward.laws.law import Law
from pushforward.streams.stream import Stream

# Source laws draw from the same streams of numbers as laws of data, keyed by seed, id and step: theirs are other steps.
# Training stays below 2^31 of them, and Noise below 2^32.
SOURCE_STEPS = 2**31


class Drawn:
    """Fresh draws from a law, keyed by (seed, step, place in the batch)."""

    def __init__(self, law: Law, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be positive")
        self.law, self.batch_size, self.seed = law, batch_size, seed

    def at(self, step: int) -> Batch:
        noise = Noise.batch(self.batch_size, self.seed, step)
        return Batch(self.law.draw(noise).float(), ids=noise.ids)


class Sourced:
    """A stream with source samples x0 from a law, independent of the data, keyed as those of `Drawn`."""

    def __init__(self, stream: Stream, law: Law, seed: int) -> None:
        self.stream, self.law, self.seed = stream, law, seed
        self.batch_size = stream.batch_size

    def at(self, step: int) -> Batch:
        batch = self.stream.at(step)
        if batch.x0 is not None:
            raise InputError("the stream has source samples of its own: give no source law")
        noise = Noise.batch(len(batch), self.seed, SOURCE_STEPS + step, device=batch.x1.device)
        x0 = self.law.draw(noise).to(batch.x1.dtype)
        if x0.shape != batch.x1.shape:
            raise InputError(
                f"the source law draws samples of shape {tuple(x0.shape[1:])}, and the data have "
                f"{tuple(batch.x1.shape[1:])}"
            )
        return replace(batch, x0=x0)
