"""Stages of a run that train on different data, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from pushforward.core.errors import InputError
from pushforward.data.batch import Batch
from pushforward.streams.stream import Divisible, Part, Stream


class Staged:
    """Batches of the last of the stages that has begun: `stages[k]` from the step `starts[k]` on.

    starts: ascending, the first one 0; stages that begin at one step but for the last of them have no batch. All have
    one batch size. A stage is asked at the steps of the run, so that a run that is resumed has the batches of one that
    was not interrupted.
    """

    def __init__(self, stages: Sequence[Stream], starts: Sequence[int]) -> None:
        if len(stages) != len(starts) or not stages or starts[0] != 0:
            raise InputError("every stage has a step at which it begins, the first one 0")
        if list(starts) != sorted(starts):
            raise InputError(f"stages begin one after the other, not at the steps {starts}")
        if len({stage.batch_size for stage in stages}) > 1:
            raise InputError("all stages have one batch size")
        self.stages, self.starts = tuple(stages), tuple(starts)
        self.batch_size = stages[0].batch_size

    def stage(self, step: int) -> int:
        """The number of the stage that this step is of."""
        return max(k for k, start in enumerate(self.starts) if start <= step)

    def at(self, step: int) -> Batch:
        return self.stages[self.stage(step)].at(step)

    def part(self, rows: slice) -> Staged:
        return Staged(tuple(_part(stage, rows) for stage in self.stages), self.starts)


def _part(stage: Stream, rows: slice) -> Stream:
    return stage.part(rows) if isinstance(stage, Divisible) else Part(stage, rows)
