"""Sums and means over the data of a sample, padding left alone."""

from __future__ import annotations

import torch

from contracts.members import randn
from pushforward.core.fields import breaks_of
from pushforward.core.shapes import count_data, mean_data, sum_data


def test_sums_means_and_counts_are_those_of_the_entries_that_are_data():
    x = randn(3, 4, 2)
    mask = (torch.arange(4) < torch.tensor([[4], [2], [1]]))[..., None]
    for row, length in enumerate((4, 2, 1)):
        part = x[row, :length]
        assert torch.allclose(sum_data(x, mask)[row], part.sum(), rtol=1e-12)
        assert torch.allclose(mean_data(x, mask)[row], part.mean(), rtol=1e-12)
        assert int(count_data(x, mask)[row]) == 2 * length
    assert torch.allclose(mean_data(x), x.mean((1, 2)), rtol=1e-12)
    assert torch.allclose(sum_data(x), x.sum((1, 2)), rtol=1e-12)
    assert count_data(x).tolist() == [8, 8, 8]
    assert count_data(x[:0]).shape == (0,)
    # What padding holds does not matter, not even where it is not finite.
    filled = torch.where(mask, x, torch.inf)
    assert torch.equal(mean_data(filled, mask), mean_data(x, mask))


def test_breaks_are_within_the_path():
    class Broken:
        breaks = (0.0, 0.25, 0.999, 1.0, 1.5)

    assert breaks_of(Broken()) == (0.25, 0.999)
    assert breaks_of(object()) == ()
