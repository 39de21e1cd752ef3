"""Augmentations of low-resolution pictures: what they keep, what they add, and nothing at level 0."""

from __future__ import annotations

import math

import pytest
import torch

import pushforward as pf
from pushforward.core.augmentation import BlurAugmentation, NoiseAugmentation
from pushforward.core.errors import InputError

BOTH = [NoiseAugmentation(), BlurAugmentation(2.0)]


@pytest.mark.parametrize("augmentation", BOTH, ids=["noise", "blur"])
def test_level_zero_changes_no_bit_and_levels_are_each_sample_s_own(augmentation) -> None:
    torch.manual_seed(0)
    x, noise = torch.randn(3, 2, 5, 4), pf.Noise.batch(3, 1)
    assert torch.equal(augmentation(x, torch.zeros(3), noise), x)
    level = torch.tensor([0.0, 0.5, 0.2])
    out = augmentation(x, level, noise)
    assert torch.equal(out[0], x[0])
    assert not torch.allclose(out[1], x[1], atol=1e-2)
    assert torch.allclose(augmentation(x[1:], level[1:], noise[1:]), out[1:])
    for wrong in (-0.1, augmentation.most + 0.1):
        with pytest.raises(InputError, match=r"lies in \[0, .*this one is"):
            augmentation(x, torch.full((3,), wrong), noise)
    with pytest.raises(InputError, match="a level"):
        augmentation(x, torch.zeros(2), noise)


def test_noise_keeps_the_variance_of_a_standard_normal_and_its_share_of_the_picture() -> None:
    n = 2000
    torch.manual_seed(0)
    x = torch.randn(n, 1, 2, 2, dtype=torch.float64)
    s = 0.4
    out = NoiseAugmentation()(x, torch.full((n,), s), pf.Noise.batch(n, 5))
    a, b = x.flatten(), out.flatten()
    error = 1 / math.sqrt(len(a))
    assert abs(float((b * b).mean()) - 1) < 4 * math.sqrt(2) * error
    assert abs(float((a * b).mean()) - math.sqrt(1 - s * s)) < 4 * math.sqrt(2) * error
    again = NoiseAugmentation()(x, torch.full((n,), s), pf.Noise.batch(n, 6))
    assert not torch.allclose(again, out)


def test_blur_spreads_a_point_to_a_gaussian_and_leaves_a_plain_picture() -> None:
    blur, noise = BlurAugmentation(3.0), pf.Noise.batch(1)
    plain = torch.full((1, 1, 7, 9), 0.3, dtype=torch.float64)
    assert torch.allclose(blur(plain, torch.tensor([1.7]), noise), plain)
    point = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    point[..., 20, 20] = 1
    for s in (1.0, 2.5):
        out = blur(point, torch.tensor([s]), noise)[0, 0]
        place = torch.arange(41, dtype=torch.float64) - 20
        assert float(out.sum()) == pytest.approx(1, abs=1e-6)
        for axis in (0, 1):
            assert float((out.sum(1 - axis) * place**2).sum()) == pytest.approx(s * s, rel=1e-3)
        assert float(out[20, 20]) == pytest.approx(1 / (2 * math.pi * s * s), rel=1e-3)


def test_senseless_ranges_are_refused() -> None:
    with pytest.raises(InputError, match="share of noise"):
        NoiseAugmentation(1.5)
    with pytest.raises(InputError, match="width of a blur"):
        BlurAugmentation(0)
