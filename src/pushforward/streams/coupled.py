"""Batches in which source and data are paired."""

from __future__ import annotations

from dataclasses import replace

import torch

from pushforward.core.errors import InputError
from pushforward.core.noise import SOURCE, Noise
from pushforward.couplings import Coupling
from pushforward.data.batch import Batch
from pushforward.laws.law import Law
from pushforward.streams.drawn import Sourced
from pushforward.streams.stream import Stream


class Coupled:
    """A stream of pairs: row k of a batch has x0 of row i_k and all else of row j_k, (i, j) being from the coupling.

    x0 are the stream's own, draws from `source`, or the Gaussian noise that an objective with the seed would draw at
    this step. Training on these batches equals training on the stream with the coupling in the objective, bit for bit,
    and the pairs can be computed ahead of the step. The model's path must have gaussian_source=False, as there.

    Samples of a padded batch are paired only if their masks are equal: InputError if not.
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
        noise = Noise.batch(len(batch), self.seed, step, device=x1.device).masked(batch.mask)
        x0 = noise.normal(x1.shape[1:], SOURCE, x1.dtype) if batch.x0 is None else batch.x0
        if batch.mask is not None:
            if not torch.equal(batch.mask, batch.mask[:1].expand_as(batch.mask)):
                raise InputError(
                    "samples of different lengths cannot be paired with each other's noise: use batches of one "
                    "length, or no coupling"
                )
            x0 = torch.where(batch.mask, x0, 0.0)
        i, j = self.coupling(x0, x1, noise, batch.cond)
        return replace(replace(batch, x0=None)[j], x0=x0[i])
