"""Samples as vectors: exact if they are small, averaged over cells if not, and never all in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.data import Dataset
from pushforward.evaluate.metrics import vectors as module
from pushforward.evaluate.metrics.vectors import Vectors, pooled_sides


def test_small_samples_are_the_numbers_themselves() -> None:
    x = torch.randn(5, 3, 4, 4)
    assert torch.equal(Vectors((3, 4, 4), 48)(x), x.flatten(1))
    assert Vectors((3, 4, 4), 48).exact
    assert not Vectors((3, 4, 4), 47).exact
    with pytest.raises(pf.InputError, match="vectors of samples"):
        Vectors((3, 4, 4))(x[:, :1])


@pytest.mark.parametrize(
    ("shape", "limit", "sides"),
    [
        ((3, 256, 256), 1024, (18, 18)), ((1, 64, 16), 512, (32, 16)), ((2, 500), 100, (50,)),
        ((1, 8, 64, 64), 2048, (8, 16, 16)), ((5000, 4), 1000, None), ((9000,), 100, None),
    ],
)  # fmt: skip
def test_sides_are_cut_to_the_largest_cap_that_fits(shape, limit, sides) -> None:
    assert pooled_sides(shape, limit) == sides
    assert Vectors(shape, limit).dim <= limit


def test_large_images_are_averaged_over_equal_cells() -> None:
    x = torch.randn(2, 3, 24, 36)
    want = x.reshape(2, 3, 12, 2, 12, 3).mean((3, 5)).flatten(1)
    torch.testing.assert_close(Vectors((3, 24, 36), 3 * 12 * 12)(x), want)
    signals = torch.randn(2, 2, 40)
    want = signals.reshape(2, 2, 10, 4).mean(3).flatten(1)
    torch.testing.assert_close(Vectors((2, 40), 20)(signals), want)


def test_a_sketch_keeps_inner_products_on_average_and_is_the_same_every_time() -> None:
    """The sketch of x and y has E <Sx, Sy> = <x, y> over signs and places, spread by about |x||y|/sqrt(limit)."""
    x = torch.randn(40, 6000, generator=torch.Generator().manual_seed(0))
    x[20:] += x[:20]  # pairs that are far from orthogonal
    short = Vectors((6000,), 2000)(x).double()
    assert short.shape == (40, 2000)
    assert torch.equal(Vectors((6000,), 2000)(x).double(), short)
    exact, found = x.double() @ x.double().T, short @ short.T
    scale = exact.diagonal().sqrt()
    error = (found - exact) / (scale[:, None] * scale)
    # 820 pairs, each spread by at most sqrt(2/2000).
    assert float(error.abs().max()) < 5 * (2 / 2000) ** 0.5
    assert abs(float(error.mean())) < 0.01


def test_a_data_set_is_read_in_blocks_of_bounded_size(monkeypatch) -> None:
    data = Dataset.from_arrays(np.random.default_rng(0).random((23, 3, 8, 8)).astype(np.float32))
    seen: list[int] = []
    read = Dataset.__getitem__
    monkeypatch.setattr(Dataset, "__getitem__", lambda s, i: seen.append(len(i)) or read(s, i))
    monkeypatch.setattr(module, "BYTES", 5 * 4 * 192)
    short = Vectors((3, 8, 8), 12)
    got = short.of_data(data)
    assert seen == [5, 5, 5, 5, 3]
    assert torch.equal(got, torch.cat(list(short.blocks(data))))
    torch.testing.assert_close(got, short(read(data, torch.arange(23)).x1))
    torch.testing.assert_close(short.of_samples(read(data, torch.arange(23)).x1), got)
