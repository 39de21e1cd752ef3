"""How stored values become samples: order of axes, range, bin width, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pushforward.core.errors import DataError, InputError
from pushforward.data import Dataset

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)


def all_of(dataset: Dataset) -> torch.Tensor:
    return dataset[torch.arange(len(dataset))].x1


def test_every_order_of_dimensions_gives_the_same_pictures() -> None:
    last = Dataset.from_arrays(PIXELS)
    first = Dataset.from_arrays(np.ascontiguousarray(PIXELS.transpose(0, 3, 1, 2)))
    assert last.shape == first.shape == (3, 5, 7)
    assert torch.equal(all_of(last), all_of(first))
    expected = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).double() / 127.5 - 1
    torch.testing.assert_close(all_of(last).double(), expected, rtol=0, atol=1e-7)
    assert all_of(last).is_contiguous()

    grey = Dataset.from_arrays(PIXELS[..., 0])
    assert grey.shape == (1, 5, 7)
    assert torch.equal(all_of(grey)[:, 0], all_of(last)[:, 0])
    assert all(dataset.images for dataset in (last, first, grey))
    assert last.value_range == (-1, 1)


@pytest.mark.parametrize(
    ("stored", "seen"),
    [
        ((2, 1, 4, 4), (1, 4, 4)),
        ((2, 4, 4, 3), (3, 4, 4)),
        ((2, 3, 3, 3), (3, 3, 3)),
        ((2, 9, 8, 4), (4, 9, 8)),
        ((2, 8, 8, 1), (1, 8, 8)),
        ((2, 784), (784,)),
    ],
)
def test_the_shape_says_where_the_channels_are(
    stored: tuple[int, ...], seen: tuple[int, ...]
) -> None:
    dataset = Dataset.from_arrays(np.zeros(stored, np.uint8))
    assert dataset.shape == seen == tuple(all_of(dataset).shape[1:])


def test_black_and_white_are_the_ends_of_the_range() -> None:
    ends = np.array([[[0, 255]]], np.uint8)
    assert all_of(Dataset.from_arrays(ends)).flatten().tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("values", "value_range"),
    [([[0.0, 0.5]], (0, 1)), ([[-0.1, 1.0]], (-1, 1)), ([[-3.0, 7.0]], (-3, 7)), ([[5.0]], (5, 6))],
)
def test_floating_numbers_are_kept_as_they_are(
    values: list[list[float]], value_range: tuple[float, float]
) -> None:
    dataset = Dataset.from_arrays(np.array(values))
    assert all_of(dataset).tolist() == torch.tensor(values).tolist()
    assert dataset.value_range == value_range
    assert not dataset.images
    assert dataset.classes is None
    assert dataset[torch.tensor([0])].cond == {}


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.zeros((3, 4), np.int64), "int64"),
        (np.zeros((3, 4), np.complex64), "complex64"),
        (np.zeros((3, 4), bool), "bool"),
        (np.zeros(3), r"\(3,\)"),
        (np.zeros(()), r"\(\)"),
        (np.zeros((3, 0)), r"\(3, 0\)"),
        (np.zeros((3, 8, 8, 8), np.uint8), "which of its axes is that of the channels"),
    ],
)
def test_arrays_that_are_no_samples_are_refused(values: np.ndarray, match: str) -> None:
    with pytest.raises(DataError, match=match):
        Dataset.from_arrays(values)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e39])
def test_rows_that_are_not_finite_are_named(wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushforward.data.values.CHUNK", 100)
    values = np.zeros((50, 4))
    values[[7, 31], [0, 3]] = wrong
    with pytest.raises(DataError, match=r"2 of 50 samples .* first rows 7, 31;"):
        Dataset.from_arrays(values)


@pytest.mark.parametrize(
    ("shape", "kind", "seen", "named"),
    [
        ((4, 3), None, (3,), "vector"),
        ((4, 2), None, (2,), "plane"),
        ((4, 5, 16), None, (5, 16), "signal"),
        ((4, 16), "signal", (1, 16), "signal"),
        ((4, 16, 16), "image", (1, 16, 16), "image"),
        ((4, 5, 8, 8), None, (5, 8, 8), "image"),
        ((4, 8, 8, 3), None, (3, 8, 8), "image"),
        ((4, 3, 8, 8), None, (3, 8, 8), "image"),
        ((4, 2, 6, 8, 8), None, (2, 6, 8, 8), "volume"),
        ((4, 6, 8, 8), "volume", (1, 6, 8, 8), "volume"),
        ((4, 7, 3), "sequence", (7, 3), "sequence"),
        ((4, 2, 3, 4, 5, 6), None, (2, 3, 4, 5, 6), "unknown"),
    ],
)
def test_the_axes_say_of_which_kind_samples_are(
    shape: tuple[int, ...], kind: Any, seen: tuple[int, ...], named: str
) -> None:
    values = RNG.normal(size=shape).astype(np.float32)
    dataset = Dataset.from_arrays(values, kind=kind)
    assert (dataset.shape, dataset.kind) == (seen, named)
    x1 = all_of(dataset)
    assert tuple(x1.shape[1:]) == seen
    assert x1.is_contiguous()
    # Nothing but the place of the channels has changed.
    last = (
        values if seen[0] == shape[1] or len(seen) > len(shape) - 1 else np.moveaxis(values, -1, 1)
    )
    assert torch.equal(x1, torch.from_numpy(last.copy()).reshape(x1.shape))


@pytest.mark.parametrize(
    ("shape", "seen"),
    [((4, 2, 8, 8), (2, 8, 8)), ((4, 8, 8, 5), (5, 8, 8)), ((4, 12, 64, 64), (12, 64, 64))],
)
def test_bytes_may_have_any_number_of_channels(
    shape: tuple[int, ...], seen: tuple[int, ...]
) -> None:
    dataset = Dataset.from_arrays(np.zeros(shape, np.uint8))
    assert (dataset.shape, dataset.kind) == (seen, "image")
    assert not dataset.images, "these cannot be shown as they are"


def test_volumes_and_signals_of_bytes_are_scaled_like_images() -> None:
    volume = RNG.integers(0, 256, (2, 1, 3, 4, 5), dtype=np.uint8)
    signal = RNG.integers(0, 256, (2, 3, 6), dtype=np.uint8)
    for values, kind in ((volume, None), (signal, "signal")):
        dataset = Dataset.from_arrays(values, kind=kind)
        assert dataset.shape == values.shape[1:]
        assert torch.equal(all_of(dataset), torch.from_numpy(values).float() / 127.5 - 1)
        assert dataset.bin_width == 2 / 255


def test_a_kind_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"volumes have the axes \(channels, depth, height, width"):
        Dataset.from_arrays(np.zeros((3, 8)), kind="volume")
    with pytest.raises(InputError, match="2 coordinates"):
        Dataset.from_arrays(np.zeros((3, 8)), kind="plane")


def test_channels_that_come_last_are_said() -> None:
    (note,) = Dataset.from_arrays(np.zeros((2, 8, 8, 3))).notes
    assert "last of the axes (2, 8, 8, 3) is taken for the channels" in note
