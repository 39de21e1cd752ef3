"""Batches of pictures with their low-resolution versions made worse at random levels."""

from __future__ import annotations

from dataclasses import replace

from pushforward.core.augmentation import Augmentation
from pushforward.core.errors import InputError
from pushforward.core.noise import LEVEL, Noise
from pushforward.data.batch import Batch
from pushforward.streams.stream import Part, Stream

CONTROL, COARSE, LEVEL_NAME = "control", "coarse", "augment_level"


class Augmented:
    """A stream whose condition `control.coarse` is augmented at a level s ~ U(0, most), the condition `augment_level`.

    Level and noise are functions of (seed, step, place in the batch).
    """

    def __init__(
        self, stream: Stream, augmentation: Augmentation, seed: int, rows: slice | None = None
    ) -> None:
        self.stream, self.augmentation, self.seed = stream, augmentation, seed
        self.batch_size = stream.batch_size
        self.rows = slice(0, self.batch_size) if rows is None else rows

    def part(self, rows: slice) -> Augmented:
        inner = getattr(self.stream, "part", None)
        stream = Part(self.stream, rows) if inner is None else inner(rows)
        return Augmented(stream, self.augmentation, self.seed, rows)

    def at(self, step: int) -> Batch:
        batch = self.stream.at(step)
        control = batch.cond.get(CONTROL)
        if not isinstance(control, dict) or COARSE not in control:
            raise InputError("the stream brings no low-resolution pictures that could be augmented")
        noise = Noise.batch(self.batch_size, self.seed, step)[self.rows]
        level = self.augmentation.most * noise.uniform((), LEVEL)
        coarse = self.augmentation(control[COARSE], level, noise)
        cond = {**batch.cond, CONTROL: {**control, COARSE: coarse}, LEVEL_NAME: level.float()}
        return replace(batch, cond=cond)
