"""Batches with hints of their pictures."""

from __future__ import annotations

from dataclasses import replace

from pushforward.data.batch import Batch
from pushforward.data.dataset import Dataset
from pushforward.streams.stream import Part, Stream


class Hinted:
    """A stream over a data set, whose samples have the hints of `data`: the same one with hints."""

    def __init__(self, stream: Stream, data: Dataset) -> None:
        self.stream, self.data, self.batch_size = stream, data, stream.batch_size

    def part(self, rows: slice) -> Stream:
        inner = getattr(self.stream, "part", None)
        return Hinted(Part(self.stream, rows) if inner is None else inner(rows), self.data)

    def at(self, step: int) -> Batch:
        batch = self.stream.at(step)
        assert batch.ids is not None
        return replace(batch, cond={**batch.cond, **self.data.hinted(batch.x1, batch.ids)})
