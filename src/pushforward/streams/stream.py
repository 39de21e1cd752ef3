"""Batches as a function of the step, so that a run can go on from anywhere."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pushforward.core.errors import InputError
from pushforward.data.batch import Batch
from pushforward.runtime.processes import Processes


class Stream(Protocol):
    """An endless sequence of batches; `at` is pure."""

    batch_size: int

    def at(self, step: int) -> Batch: ...


@runtime_checkable
class Divisible(Protocol):
    """A stream that can make some rows of its batches without the others."""

    def part(self, rows: slice) -> Stream: ...


class Part:
    """Rows of another stream's batches, which are computed whole first, as pairs within a batch must be."""

    def __init__(self, stream: Stream, rows: slice) -> None:
        self.stream, self.rows, self.batch_size = stream, rows, stream.batch_size

    def at(self, step: int) -> Batch:
        return self.stream.at(step)[self.rows]


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
