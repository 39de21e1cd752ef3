"""Epochs of a data set: each entry once, in an order that the seed and the epoch say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pushforward.core.errors import InputError
from pushforward.data import Dataset
from pushforward.streams import Shuffled


def dataset() -> Dataset:
    numbers = np.random.default_rng(0)
    return Dataset.from_arrays(
        numbers.normal(size=(20, 2)).astype(np.float32), numbers.integers(0, 3, 20)
    )


@pytest.mark.parametrize("batch_size", [1, 3, 8, 20, 33, 50])
def test_every_entry_comes_exactly_once_in_each_epoch(batch_size: int) -> None:
    stream = Shuffled(dataset(), batch_size, seed=3)
    drawn = torch.cat([stream.indices(step) for step in range(-(-100 // batch_size))])
    for epoch in range(5):
        assert drawn[20 * epoch : 20 * epoch + 20].sort().values.tolist() == list(range(20))


def test_the_order_of_the_data_does_not_depend_on_the_batch_size() -> None:
    def order(batch_size: int) -> list[int]:
        stream = Shuffled(dataset(), batch_size, seed=3)
        return torch.cat([stream.indices(s) for s in range(120 // batch_size)]).tolist()

    assert order(1) == order(8) == order(24) == order(60)


def test_a_batch_is_a_pure_function_of_the_step_and_brings_its_data_and_labels() -> None:
    data = dataset()
    stream = Shuffled(data, 8, seed=3)
    first = [stream.at(step) for step in range(30)]
    for step in (29, 0, 17, 3, 28):
        again = Shuffled(data, 8, seed=3).at(step)
        assert again.ids is not None
        assert torch.equal(again.ids, first[step].ids)
        assert torch.equal(stream.at(step).x1, first[step].x1)
        assert torch.equal(again.x1, torch.from_numpy(data.values)[again.ids])
        assert torch.equal(again.cond["label"], data.labels[again.ids])


def test_the_order_differs_from_epoch_to_epoch_and_from_seed_to_seed() -> None:
    def epoch(number: int, seed: int) -> list[int]:
        return Shuffled(dataset(), 20, seed).indices(number).tolist()

    orders = [epoch(number, seed) for number in range(3) for seed in range(3)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_no_samples_is_refused(size: int) -> None:
    with pytest.raises(InputError, match="batch_size"):
        Shuffled(dataset(), size, 0)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        Shuffled([], 4, 0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="empty"):
        Shuffled(dataset().split(1.0)[1], 4, 0)
