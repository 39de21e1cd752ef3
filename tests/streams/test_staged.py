"""Stages of a stream: which batch a step has, alone and shared, and after an interruption."""

from __future__ import annotations

import pytest
import torch

from pushforward.core.errors import InputError
from pushforward.data import Dataset
from pushforward.runtime.processes import Processes
from pushforward.streams.shuffled import Shuffled
from pushforward.streams.staged import Staged
from pushforward.streams.stream import part


def stage(shift: float, size: int = 4) -> Shuffled:
    data = Dataset.from_arrays((torch.arange(10.0)[:, None] + shift).repeat(1, 3))
    return Shuffled(data, size, 0)


def test_each_step_has_the_batch_of_its_stage_at_that_step() -> None:
    stages = (stage(0), stage(100), stage(200))
    found = Staged(stages, (0, 3, 5))
    for step in range(8):
        want = stages[0 if step < 3 else 1 if step < 5 else 2].at(step)
        assert torch.equal(found.at(step).x1, want.x1)
    assert [found.stage(step) for step in (0, 2, 3, 4, 5, 99)] == [0, 0, 1, 1, 2, 2]
    assert Staged(stages[:2], (0, 0)).stage(0) == 1


def test_processes_have_the_rows_of_the_whole_batch() -> None:
    whole = Staged((stage(0), stage(100)), (0, 2))
    parts = [part(whole, Processes(rank, 3)) for rank in range(3)]
    assert all(one.batch_size == 4 for one in parts)
    for step in range(4):
        joined = torch.cat([one.at(step).x1 for one in parts])
        assert torch.equal(joined, whole.at(step).x1)


def test_what_is_no_sequence_of_stages_is_refused() -> None:
    for stages, starts in (((), ()), ((stage(0),), (1,)), ((stage(0), stage(1)), (0,))):
        with pytest.raises(InputError, match="the first one 0"):
            Staged(stages, starts)
    with pytest.raises(InputError, match="one after the other"):
        Staged((stage(0),) * 3, (0, 5, 3))
    with pytest.raises(InputError, match="one batch size"):
        Staged((stage(0), stage(0, 2)), (0, 1))
