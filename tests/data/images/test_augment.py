"""Flips and shifts as a function of the noise: their laws, and that a sample does not depend on its batch."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pushforward.core.errors import InputError
from pushforward.core.noise import AUGMENT, Noise
from pushforward.data import Augment, Dataset


def numbered(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Images of which no two pixels are alike."""
    return torch.arange(float(count * channels * height * width)).reshape(
        count, channels, height, width
    )


@given(
    st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.booleans(), st.integers(0, 6),
    st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_it_is_numpy_s_flip_and_reflected_border_at_the_drawn_places(
    channels: int, height: int, width: int, flip: bool, shift: int, seed: int, step: int
) -> None:
    shift = min(shift, height - 1, width - 1)
    x1, noise = (
        numbered(5, channels, height, width),
        Noise(seed, torch.tensor([0, 7, 1, 2**40, 3]), step),
    )
    found = Augment(flip, shift)(x1, noise)
    for x, y, u in zip(
        x1.numpy(), found.numpy(), noise.uniform((3,), AUGMENT).numpy(), strict=True
    ):
        if flip and u[0] < 0.5:
            x = x[:, :, ::-1]
        wide = np.pad(x, ((0, 0), (shift, shift), (shift, shift)), mode="reflect")
        top, left = (math.floor((2 * shift + 1) * v) for v in u[1:])
        assert np.array_equal(y, wide[:, top : top + height, left : left + width])


def test_half_of_the_images_are_mirrored_and_each_shift_is_as_likely_as_any_other() -> None:
    n, shift = 20_000, 2
    x1 = numbered(1, 1, 9, 9).expand(n, 1, 9, 9)
    y = Augment(True, shift)(x1, Noise.batch(n, seed=3))
    left_of_centre, centre = y[:, 0, 4, 3], y[:, 0, 4, 4].long()
    mirrored = left_of_centre > centre
    # Four standard deviations of a binomial law.
    assert abs(mirrored.float().mean() - 0.5) < 4 * 0.5 / math.sqrt(n)
    # The centre, (4, 4), stays in place when mirrored: where it came from tells the shift.
    row, column = centre // 9 - 4, centre % 9 - 4
    column = torch.where(mirrored, -column, column)
    counts = torch.bincount((row + shift) * 5 + column + shift, minlength=25)
    assert len(counts) == 25
    expected = n / 25
    assert (counts - expected).abs().max() < 4.5 * math.sqrt(expected * 24 / 25)
    # Mirroring and moving have nothing to do with each other.
    for part in (row, column):
        for value in range(-shift, shift + 1):
            share = mirrored[part == value].float().mean()
            assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(n / 5)


@given(st.permutations(range(8)), st.integers(1, 8))
def test_an_image_is_altered_alike_in_any_batch(order: list[int], size: int) -> None:
    x1, noise, augment = numbered(8, 2, 5, 6), Noise.batch(8, 11, 4), Augment(True, 3)
    whole = augment(x1, noise)
    rows = torch.tensor(order)
    for part in rows.split(size):
        assert torch.equal(augment(x1[part], noise[part]), whole[part])


def test_steps_and_seeds_alter_anew() -> None:
    x1 = numbered(1, 1, 16, 16).expand(64, 1, 16, 16)
    augment = Augment(True, 5)
    first = augment(x1, Noise.batch(64, 0, 0))
    for other in (Noise.batch(64, 0, 1), Noise.batch(64, 1, 0)):
        assert (augment(x1, other) == first).flatten(1).all(1).float().mean() < 0.2


def test_nothing_asked_for_changes_nothing() -> None:
    x1 = numbered(3, 1, 4, 4)
    assert torch.equal(Augment()(x1, Noise.batch(3)), x1)


def test_what_cannot_be_altered_is_refused() -> None:
    with pytest.raises(InputError, match="shift is -1"):
        Augment(shift=-1)
    with pytest.raises(InputError, match="4 x 9 cannot move so far"):
        Augment(shift=4)(numbered(1, 1, 4, 9), Noise.batch(1))
    with pytest.raises(InputError, match=r"\(3, 4\)"):
        Augment(flip=True)(torch.zeros(3, 4), Noise.batch(3))


def test_a_data_set_is_altered_where_it_is_drawn_and_nowhere_else() -> None:
    values = np.random.default_rng(0).integers(0, 256, (10, 6, 6), dtype=np.uint8)
    plain = Dataset.from_arrays(values, labels=np.arange(10))
    altered = replace(plain, augment=Augment(True, 2))
    indices, noise = torch.tensor([3, 3, 8, 0]), Noise.batch(4, 5, 6)
    assert torch.equal(plain.drawn(indices, noise).x1, plain[indices].x1)
    assert torch.equal(altered[indices].x1, plain[indices].x1)
    batch = altered.drawn(indices, noise)
    assert torch.equal(batch.x1, Augment(True, 2)(plain[indices].x1, noise))
    assert not torch.equal(batch.x1, plain[indices].x1)
    assert batch.cond["label"].tolist() == [3, 3, 8, 0]
    assert batch.ids is not None
    assert batch.ids.tolist() == [3, 3, 8, 0]
    assert altered.fingerprint() == plain.fingerprint()
    part = altered.subset(torch.tensor([3, 8, 0]))
    assert torch.equal(part.drawn(torch.tensor([0, 0, 1, 2]), noise).x1, batch.x1)
