"""Subsets and labels in the shares of the classes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from pushforward.core.errors import InputError
from pushforward.data import Dataset, labels_in_shares

SORTED = np.repeat([0, 1, 3], [600, 300, 100])


def dataset(labels: np.ndarray | None = SORTED) -> Dataset:
    return Dataset.from_arrays(np.arange(1000.0)[:, None], labels)


@pytest.mark.parametrize("n", [1, 7, 10, 333, 999])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_sample_of_sorted_data_has_each_class_in_its_own_share(n: int, seed: int) -> None:
    part = dataset().sample(n, seed)
    assert len(part) == n
    assert part.class_counts is not None
    for count, whole in zip(part.class_counts, (600, 300, 0, 100), strict=True):
        assert abs(count - whole * n / 1000) < 1
    # The rows are those of their labels, each once, and in order.
    rows = part[torch.arange(n)].x1.flatten().long()
    assert (rows.diff() > 0).all()
    assert torch.equal(torch.from_numpy(SORTED)[rows], part[torch.arange(n)].cond["label"])


def test_a_sample_depends_on_the_seed_alone_and_takes_each_row_equally_often() -> None:
    same = dataset().sample(10, 3).fingerprint()
    assert same == dataset().sample(10, 3).fingerprint() != dataset().sample(10, 4).fingerprint()
    whole = dataset()
    assert whole.sample(1000) is whole
    count = torch.zeros(1000)
    seeds = 300
    for seed in range(seeds):
        count[whole.sample(100, seed)[torch.arange(100)].x1.flatten().long()] += 1
    # Binomial, p = 1/10 at each row: the sum of squares is chi-square with about 1000 degrees of freedom.
    square = ((count - seeds * 0.1) ** 2 / (seeds * 0.1 * 0.9)).sum()
    assert abs(square - 1000) < 5 * 2000**0.5


def test_without_labels_a_sample_is_no_leading_slice() -> None:
    rows = dataset(None).sample(100)[torch.arange(100)].x1.flatten()
    # The mean of 100 of 0..999 without replacement: 499.5 with standard deviation 27.4.
    assert abs(rows.mean() - 499.5) < 5 * 27.4


def test_a_balanced_sample_has_equally_many_of_each_class_that_has_any() -> None:
    assert dataset().sample(90, balanced=True).class_counts == (30, 30, 0, 30)
    counts = dataset().sample(31, balanced=True).class_counts
    assert counts is not None
    assert sorted(counts) == [0, 10, 10, 11]
    # The rare class has 100: the others share what is left.
    assert dataset().sample(500, balanced=True).class_counts == (200, 200, 0, 100)
    assert dataset().sample(900, balanced=True).class_counts == (500, 300, 0, 100)
    more = Counter(
        max(range(4), key=c.__getitem__)
        for c in (dataset().sample(1, s, True).class_counts or () for s in range(300))
    )
    assert set(more) == {0, 1, 3}
    assert max(more.values()) < 100 + 5 * (300 * 2 / 9) ** 0.5


def test_a_sample_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="sample of 0"):
        dataset().sample(0)


@pytest.mark.parametrize("num", [0, 1, 9, 1000, 12_345])
@pytest.mark.parametrize("counts", [(1900, 100), (1, 0, 7, 3), (5,), tuple(range(1000))])
def test_labels_have_the_shares_of_the_counts_to_within_one(
    num: int, counts: tuple[int, ...]
) -> None:
    labels = labels_in_shares(num, counts)
    assert labels.shape == (num,)
    assert labels.dtype == torch.int64
    found = torch.bincount(labels, minlength=len(counts)).double()
    exact = num * torch.tensor(counts).double() / sum(counts)
    assert len(found) == len(counts)
    assert ((found - exact).abs() < 1).all()
    assert torch.equal(labels, labels_in_shares(num, counts))


def test_labels_are_in_random_order_and_unbiased_over_seeds() -> None:
    labels = labels_in_shares(10_000, (1, 1))
    # The first half would be all of one class if they stood in order.
    assert abs(labels[:5000].double().mean() - 0.5) < 5 * 0.5 / 10_000**0.5
    assert not torch.equal(labels, labels_in_shares(10_000, (1, 1), seed=1))
    ones = sum(int(labels_in_shares(1, (70, 30), seed)) for seed in range(1000))
    assert abs(ones - 300) < 5 * (1000 * 0.21) ** 0.5


@pytest.mark.parametrize("counts", [(), (0, 0), (3, -1)])
def test_counts_without_samples_are_refused(counts: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="counts"):
        labels_in_shares(5, counts)
