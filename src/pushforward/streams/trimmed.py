"""Batches without padding that no text of them needs."""

from __future__ import annotations

from dataclasses import replace

from pushforward.core import conditions
from pushforward.data.batch import Batch
from pushforward.streams.stream import Part, Stream


class Trimmed:
    """A stream whose Tokens are cut to the longest sequence of each batch."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.batch_size = stream, stream.batch_size

    def part(self, rows: slice) -> Stream:
        inner = getattr(self.stream, "part", None)
        return Trimmed(Part(self.stream, rows) if inner is None else inner(rows))

    def at(self, step: int) -> Batch:
        batch = self.stream.at(step)
        return replace(batch, cond=conditions.trimmed(batch.cond))
