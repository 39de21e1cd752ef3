"""Images reduced by means of blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pushforward.core.errors import DataError
from pushforward.data.dataset import Dataset
from pushforward.data.scenes import load_scenes


def test_pixels_are_means_of_blocks_and_all_else_stays() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 12, 8, 3)).astype(np.uint8)
    whole = Dataset.from_arrays(pixels, captions=list("abcde"), layout="channels last")
    some = whole.reduced(2)
    index = torch.tensor([3, 1])
    want = pixels[[3, 1]].reshape(2, 6, 2, 4, 2, 3).mean((2, 4)) / 127.5 - 1
    assert np.allclose(some[index].x1.numpy(), want.transpose(0, 3, 1, 2), atol=1e-5)
    assert (some.shape, some.spec.shape, some.spec.bin_width) == ((3, 6, 4), (3, 6, 4), None)
    assert some[index].texts == whole[index].texts
    assert torch.allclose(some.reduced(2)[index].x1, whole.reduced(4)[index].x1, atol=1e-6)
    assert torch.allclose(some.subset(index)[torch.tensor([0])].x1, some[index].x1[:1])
    assert len({whole.fingerprint(), some.fingerprint(), whole.reduced(4).fingerprint()}) == 3
    assert whole.reduced(1) is whole


def test_scenes_are_reduced_as_they_are_drawn() -> None:
    whole = load_scenes(3, 32)
    index = torch.arange(3)
    x, small = whole[index].x1, whole.reduced(4)[index].x1
    assert torch.allclose(
        small, x.unflatten(3, (8, 4)).unflatten(2, (8, 4)).mean((3, 5)), atol=1e-6
    )


def test_what_has_no_blocks_is_refused() -> None:
    with pytest.raises(DataError, match="no blocks of 5 x 5"):
        load_scenes(2, 32).reduced(5)
    with pytest.raises(DataError, match="are not reduced"):
        Dataset.from_arrays(np.zeros((4, 3), np.float32)).reduced(2)
