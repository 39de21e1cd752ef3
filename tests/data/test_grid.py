"""Bin widths: the distance of neighbouring values, from all of them."""

from __future__ import annotations

import numpy as np
import pytest

from pushforward.data import Dataset, load_digits
from pushforward.data.grid import Grid

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (400, 30))


def width(values: np.ndarray) -> float | None:
    return Dataset.from_arrays(values).bin_width


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (BYTES / 255, 1 / 255),
        (BYTES / 127.5 - 1, 2 / 255),
        (RNG.integers(-3, 9, (50, 4)), 1),
        (RNG.integers(0, 2, (50, 4)) * 0.5, 0.5),
        (1000 + RNG.integers(0, 16, (50, 9)) / 4, 0.25),
        # Grey levels that are seldom used: 0, 3, 10 and 250 of 255.
        (np.array([0, 3, 10, 250])[BYTES % 4] / 255, 1 / 255),
    ],
)
def test_numbers_on_a_grid_have_its_width(values: np.ndarray, expected: float, dtype: type) -> None:
    assert width(values.astype(dtype)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "values",
    [
        RNG.normal(size=(400, 30)),
        RNG.random((3, 2)),
        np.ones((9, 2)),
        # Zeros, as in counts of genes or transparent images, and densities beside them.
        np.where(RNG.random((400, 30)) < 0.5, 0, RNG.random((400, 30))),
        np.concatenate((BYTES / 255, RNG.random((1, 30)))),
        # Each value once: two points are always on a grid.
        np.array([[0.3, 0.9]]),
    ],
)
def test_other_numbers_have_none(values: np.ndarray) -> None:
    assert width(values) is None


def test_bytes_have_the_width_of_bytes_however_few_of_them_occur() -> None:
    assert width(np.zeros((3, 8, 8), np.uint8)) == 2 / 255
    assert width(np.full((3, 5), 128, np.uint8)) == 2 / 255


def test_all_values_count_and_not_the_first_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dark images first: the first chunks have every other level only."""
    monkeypatch.setattr("pushforward.data.values.CHUNK", 4000)
    values = np.concatenate((BYTES % 4 * 2, BYTES)).astype(np.float32) / 255
    assert width(values) == pytest.approx(1 / 255, rel=1e-6)
    assert width(np.concatenate((values, [[0.123] * 30]))) is None


def test_a_part_keeps_the_width_of_the_whole() -> None:
    digits = load_digits()
    assert digits.bin_width == digits.sample(1).bin_width == digits.spec.bin_width == 1 / 8


def test_padding_plays_no_part() -> None:
    values = np.where(np.arange(30) < 20, BYTES / 255, 0.123)[..., None]
    mask = np.broadcast_to(np.arange(30) < 20, (400, 30))
    masked = Dataset.from_arrays(values, mask=mask)
    assert masked.bin_width == pytest.approx(1 / 255, rel=1e-6)
    assert Dataset.from_arrays(values, kind="sequence").bin_width is None


def test_sixteen_bits_are_a_grid_and_more_are_none() -> None:
    for bits, expected in ((16, 2.0**-16), (18, None)):
        grid = Grid()
        for _ in range(4):
            grid.add(RNG.integers(0, 2**bits, 200_000) / 2**bits)
        assert grid.width() == expected
