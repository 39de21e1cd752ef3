"""A data set as a law: every entry as often as any other, and a sample a function of its id."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import pushforward as pf
from pushforward.data import Dataset
from pushforward.data.resampled import Resampled


def law(n: int = 7) -> Resampled:
    return Resampled(Dataset.from_arrays(np.arange(2 * n, dtype=np.float32).reshape(n, 2)))


def test_every_entry_is_drawn_as_often_as_any_other() -> None:
    rows = law().indices(pf.Noise.batch(70_000, seed=1))
    counts = torch.bincount(rows, minlength=7)
    assert len(counts) == 7
    assert chisquare(counts.numpy()).pvalue > 1e-4


def test_a_sample_is_an_entry_and_does_not_depend_on_the_batch() -> None:
    noise = pf.Noise.batch(50, seed=3)
    x = law().draw(noise)
    assert torch.equal(x, law().data[law().indices(noise)].x1)
    assert torch.equal(law().draw(noise[20:30]), x[20:30])
    assert torch.equal(law().sample(50, seed=3), x)
    assert not torch.equal(law().sample(50, seed=4), x)


def test_it_has_no_density() -> None:
    with pytest.raises(pf.UndefinedError, match="no density"):
        law().log_prob(torch.zeros(1, 2))
