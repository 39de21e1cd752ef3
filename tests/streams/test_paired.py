"""Batches that bring their own source samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from pushforward.core.errors import InputError
from pushforward.core.noise import Noise
from pushforward.data import Batch, Dataset
from pushforward.data.images.coarse import Coarse, coarsen
from pushforward.streams.paired import Blurred, Bridged, Paired, Transformed
from pushforward.streams.shuffled import Shuffled


def numbers(n: int, start: float = 0.0) -> Dataset:
    return Dataset.from_arrays(start + np.arange(float(n))[:, None])


def test_each_data_set_is_gone_through_once_before_any_entry_comes_again() -> None:
    """x0 in epochs of 12 and x1 in epochs of 20, in batches of 4."""
    stream = Bridged(numbers(12), numbers(20, 100), 4, seed=3)
    batches = [stream.at(step) for step in range(15)]
    x0 = torch.cat([b.x0 for b in batches if b.x0 is not None]).flatten()
    x1 = torch.cat([b.x1 for b in batches]).flatten()
    for epoch in x0.split(12):
        assert epoch.sort().values.tolist() == list(range(12))
    for epoch in x1.split(20):
        assert epoch.sort().values.tolist() == list(range(100, 120))
    assert x0[:12].tolist() != x0[12:24].tolist()
    again = Bridged(numbers(12), numbers(20, 100), 4, seed=3).at(7)
    assert torch.equal(again.x1, batches[7].x1)
    assert again.x0 is not None
    assert torch.equal(again.x0, batches[7].x0)  # type: ignore[arg-type]
    assert not torch.equal(x1[:20], torch.cat([Bridged(numbers(12), numbers(20, 100), 4, 4).at(s).x1
                                               for s in range(5)]).flatten())  # fmt: skip


def test_source_and_data_are_in_orders_that_know_nothing_of_each_other() -> None:
    """Of two data sets of one size n, each pair comes as often as any other: chi-square over n^2 pairs."""
    n, epochs = 6, 600
    stream = Bridged(numbers(n), numbers(n), n, seed=0)
    count = torch.zeros(n, n)
    for step in range(epochs):
        batch = stream.at(step)
        assert batch.x0 is not None
        count[batch.x0.long().flatten(), batch.x1.long().flatten()] += 1
    # Each epoch adds a random permutation matrix, of variance 1/(n - 1) in each of its (n - 1)^2 degrees of freedom.
    chi2 = float(((count - epochs / n) ** 2).sum() / (epochs / (n - 1)))
    assert 1e-4 < stats.chi2.cdf(chi2, (n - 1) ** 2) < 1 - 1e-4


def test_samples_of_unequal_shape_are_refused() -> None:
    wide = Dataset.from_arrays(np.zeros((5, 2)))
    with pytest.raises(
        InputError, match=r"source has samples of shape \(2,\), the data of shape \(1,\)"
    ):
        Bridged(wide, numbers(5), 2, 0)
    with pytest.raises(InputError, match=r"source gives samples of shape \(2,\)"):
        Paired(numbers(5), lambda x: torch.cat((x, x), 1))[torch.arange(2)]


def test_a_pair_stays_together_in_any_order() -> None:
    data = Dataset.from_arrays(np.arange(30.0)[:, None], labels=np.arange(30) % 3)
    paired = Paired(data, lambda x: -2 * x)
    assert len(paired) == 30
    batch = Shuffled(paired, 7, seed=1).at(11)
    assert batch.x0 is not None
    assert torch.equal(batch.x0, -2 * batch.x1)
    assert torch.equal(batch.cond["label"], batch.x1.flatten().long() % 3)
    changed = Transformed(data, lambda x: x + 1)[torch.tensor([4, 2])]
    assert changed.x1.flatten().tolist() == [5, 3]
    assert changed.cond["label"].tolist() == [1, 2]
    assert len(Transformed(data, lambda x: x)) == 30


def test_blur_adds_noise_of_its_standard_deviation_to_the_source_alone() -> None:
    paired = Paired(Dataset.from_arrays(np.ones((400, 3))), lambda x: 5 * x)
    plain = Shuffled(paired, 400, seed=0)
    blurred = Blurred(plain, 0.3, seed=7)
    x0 = torch.cat([blurred.at(step).x0 for step in range(50)]) - 5  # type: ignore[misc]
    assert torch.equal(blurred.at(2).x1, plain.at(2).x1)
    # 60 000 numbers: five standard errors of mean and variance.
    assert abs(float(x0.mean())) < 5 * 0.3 / 60_000**0.5
    assert abs(float(x0.var()) / 0.09 - 1) < 5 * (2 / 60_000) ** 0.5
    assert torch.equal(blurred.at(3).x0, Blurred(plain, 0.3, seed=7).at(3).x0)  # type: ignore[arg-type]
    assert torch.equal(Blurred(plain, 0.0, 7).at(3).x0, plain.at(3).x0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="std is -1"):
        Blurred(plain, -1, 0)
    with pytest.raises(InputError, match="no source samples"):
        Blurred(Shuffled(numbers(4), 2, 0), 0.1, 0).at(0)


def test_coarse_images_keep_the_means_of_blocks_and_lose_all_else() -> None:
    x = torch.randn(3, 2, 6, 4, dtype=torch.float64)
    y = coarsen(x, 2)
    assert y.shape == x.shape
    for i, j in ((0, 0), (2, 1)):
        block = x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3))
        for a in range(2):
            for b in range(2):
                torch.testing.assert_close(y[:, :, 2 * i + a, 2 * j + b], block)
    torch.testing.assert_close(coarsen(y, 2), y)
    assert torch.equal(coarsen(x, 1), x)
    for bad, factor in ((x, 3), (x[0], 2), (x, 0)):
        with pytest.raises(InputError, match="multiples"):
            coarsen(bad, factor)


def test_a_coarse_law_gives_pairs_that_belong_together() -> None:
    data = Dataset.from_arrays(np.random.default_rng(0).normal(size=(9, 1, 4, 4)))
    law = Coarse(data, 2, 0.1)
    noise = Noise.batch(4000, seed=2)
    x0, x1 = law.pair(noise)
    left = x0 - coarsen(x1, 2)
    assert abs(float(left.std()) / 0.1 - 1) < 5 * (1 / 2 / left.numel()) ** 0.5
    assert torch.equal(law.sample(4000, seed=2), x0)
    # A sample does not depend on its batch.
    assert torch.equal(law.draw(noise[torch.tensor([17, 3])]), x0[[17, 3]])
    share = torch.stack(
        [(x1 == x).flatten(1).all(1).double().mean() for x in data[torch.arange(9)].x1]
    )
    assert float((share - 1 / 9).abs().max()) < 5 * (8 / 81 / 4000) ** 0.5


def test_a_batch_of_a_bridge_is_a_batch() -> None:
    batch = Bridged(numbers(3), numbers(4), 2, 0).at(0)
    assert isinstance(batch, Batch)
    assert batch.ids is not None
    assert torch.equal(batch.ids, batch.x1.flatten().long())
