"""Batches of one shape each, and every sample once an epoch."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from pushforward.core.errors import InputError
from pushforward.data import Augment, Dataset, Mixed
from pushforward.streams import Bucketed, Prefetch, Shuffled


def dataset(n, width, first=0):
    """n images of 4 x width, each filled with its number in the whole."""
    values = np.broadcast_to(
        np.arange(first, first + n, dtype=np.float32)[:, None, None, None], (n, 1, 4, width)
    )
    return Dataset.from_arrays(values.copy(), layout="as stored", kind="image")


def mixed(*sizes):
    parts, rows, first = [], [], 0
    for k, n in enumerate(sizes):
        parts.append(dataset(n, 4 + k, first))
        rows.append(torch.arange(first, first + n))
        first += n
    return Mixed(tuple(parts), tuple(rows))


def steps_of(stream, sizes, epochs):
    return sum(epochs * n // stream.batch_size for n in sizes)


@pytest.mark.parametrize("sizes", [(64, 32, 16), (50, 37, 13), (3, 101), (2, 2, 2)])
def test_every_sample_comes_once_an_epoch_and_batches_have_one_shape(sizes):
    stream = Bucketed.of(mixed(*sizes), 8, seed=5)
    seen = Counter()
    for epoch in range(1, 7):
        for step in range(steps_of(stream, sizes, epoch - 1), steps_of(stream, sizes, epoch)):
            batch = stream.at(step)
            assert len(batch) == 8
            # Its ids are those of the whole, and the pixels those of its ids.
            assert torch.equal(batch.x1.mean((1, 2, 3)), batch.ids.float())
            seen.update(batch.ids.tolist())
        first = 0
        for n in sizes:
            counts = [seen[i] for i in range(first, first + n)]
            done = epoch * n // 8 * 8  # drawn of this shape so far
            assert set(counts) <= {done // n, -(-done // n)}
            assert sum(counts) == done
            if n * epoch % 8 == 0:
                assert set(counts) == {epoch}
            first += n


def test_the_order_of_shapes_and_samples_differs_by_epoch_and_seed():
    sizes = (40, 40)
    one, two = (Bucketed.of(mixed(*sizes), 4, seed) for seed in (0, 1))
    turns = [[one.place(s)[0] for s in range(20 * e, 20 * e + 20)] for e in range(3)]
    assert len(set(map(tuple, turns))) == 3
    assert all(sum(t) == 10 for t in turns)
    assert turns[0] != [two.place(s)[0] for s in range(20)]
    # Two data sets of one size go in orders of their own.
    orders = {0: [], 1: []}
    for step in range(20):
        which, _ = one.place(step)
        orders[which] += [i % 40 for i in one.at(step).ids.tolist()]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(40))


def test_of_one_shape_it_is_the_plain_shuffle():
    data = dataset(30, 5)
    whole = Mixed((data,), (torch.arange(30),))
    for step in range(12):
        a, b = (s.at(step) for s in (Bucketed.of(whole, 8, 3), Shuffled(data, 8, 3)))
        assert torch.equal(a.x1, b.x1)
        assert torch.equal(a.ids, b.ids)


def test_any_step_can_be_asked_for_first():
    sizes, steps = (50, 37, 13), [0, 3, 77, 12345, 10**7]
    forward = Bucketed.of(mixed(*sizes), 8, 2)
    ahead = [forward.at(s).ids for s in steps]
    for step, ids in zip(reversed(steps), reversed(ahead), strict=True):
        assert torch.equal(Bucketed.of(mixed(*sizes), 8, 2).at(step).ids, ids)
    with Prefetch(Bucketed.of(mixed(*sizes), 8, 2), 4, 2) as threads:
        for step in range(30):
            assert torch.equal(threads.at(step).x1, forward.at(step).x1)


def test_processes_share_each_batch_and_so_its_shape():
    stream = Bucketed.of(mixed(50, 37, 13), 8, 2)
    for step in range(25):
        shares = [stream.part(rows).at(step) for rows in (slice(0, 3), slice(3, 6), slice(6, 8))]
        whole = stream.at(step)
        assert torch.equal(torch.cat([s.x1 for s in shares]), whole.x1)
        assert torch.equal(torch.cat([s.ids for s in shares]), whole.ids)


def test_mirrors_are_drawn_for_each_sample_of_each_step():
    values = np.arange(2 * 4 * 6, dtype=np.float32).reshape(2, 1, 4, 6)
    data = replace(
        Dataset.from_arrays(values, layout="as stored", kind="image"), augment=Augment(True, 0)
    )
    stream = Bucketed.of(Mixed((data,), (torch.arange(2),)), 2, 0)
    turned = [
        bool(torch.equal(row, torch.from_numpy(values[i]).flip(2)))
        for step in range(20)
        for row, i in zip(stream.at(step).x1, stream.at(step).ids.tolist(), strict=True)
    ]
    assert 5 < sum(turned) < 35
    assert torch.equal(stream.part(slice(1, 2)).at(3).x1, stream.at(3).x1[1:])


def test_no_data_sets_make_no_batches():
    with pytest.raises(InputError, match="no data set"):
        Bucketed([], 4, 0)
