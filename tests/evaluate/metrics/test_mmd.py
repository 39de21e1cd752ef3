"""The maximum mean discrepancy against closed forms and double sums."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import pushforward as pf
from pushforward.evaluate.metrics.energy import energy_distance
from pushforward.evaluate.metrics.mmd import distance_kernel, gaussian_kernel, mmd


def normals(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn((n, dim), generator=torch.Generator().manual_seed(seed)).double()


def test_mmd_leaves_out_pairs_of_a_sample_with_itself() -> None:
    a, b = normals(9, 2, 0), normals(7, 2, 1) + 1
    h = 0.7

    def k(x: Tensor, y: Tensor) -> float:
        return math.exp(-float((x - y).square().sum()) / (2 * h**2))

    in_a = sum(k(x, y) for x, y in itertools.permutations(a, 2)) / (9 * 8)
    in_b = sum(k(x, y) for x, y in itertools.permutations(b, 2)) / (7 * 6)
    between = sum(k(x, y) for x in a for y in b) / 63
    assert mmd(a, b, gaussian_kernel(h)).value == pytest.approx(in_a + in_b - 2 * between)


def test_mmd_between_gaussians_is_the_closed_form() -> None:
    """E exp(-|X|^2 / 2h^2) = (1 + v/h^2)^(-D/2) exp(-|m|^2 / 2 (h^2 + v)) for X ~ N(m, v I)."""
    h, dim, var, shift = 1.5, 3, 0.25, 0.8
    a, b = normals(2000, dim, 0), math.sqrt(var) * normals(1500, dim, 1) + shift

    def mean(m2: float, v: float) -> float:
        return (1 + v / h**2) ** (-dim / 2) * math.exp(-m2 / (2 * (h**2 + v)))

    want = mean(0, 2) + mean(0, 2 * var) - 2 * mean(dim * shift**2, 1 + var)
    found = mmd(a, b, gaussian_kernel(h))
    assert abs(found.value - want) < 4 * found.standard_error < 0.2 * want


def test_with_the_distance_as_kernel_mmd_is_the_energy_distance() -> None:
    a, b = normals(1100, 3, 0), 1.3 * normals(900, 3, 1) + 0.5
    assert mmd(a, b, distance_kernel).value == pytest.approx(energy_distance(a, b), rel=1e-10)


def test_bandwidths_follow_the_scale_of_the_samples_unless_given() -> None:
    a, b = normals(200, 2, 0), normals(200, 2, 1) + 1
    assert mmd(1000 * a, 1000 * b).value == pytest.approx(mmd(a, b).value, rel=1e-9)
    width = float(torch.pdist(torch.cat((a, b))).median())
    three = gaussian_kernel(width / 2, width, 2 * width)
    assert mmd(a, b).value == pytest.approx(mmd(a, b, three).value, rel=1e-12)
    same = torch.ones(5, 2)
    assert mmd(same, same).value == pytest.approx(0, abs=1e-12)
    with pytest.raises(pf.InputError, match="bandwidths"):
        gaussian_kernel(1.0, 0.0)


def test_the_bandwidth_is_that_of_all_classes_of_data_that_lie_class_by_class() -> None:
    """Four classes ten apart, one after the other: as in any other order, which the first rows decide."""
    places = 10.0 * torch.arange(4).repeat_interleave(700)[:, None]
    a, b = normals(2800, 2, 0) + places, normals(2800, 2, 1) + places + 1
    mixed = torch.randperm(2800, generator=torch.Generator().manual_seed(0))
    want = mmd(a[mixed], b[mixed]).value
    assert mmd(a, b).value == pytest.approx(want, rel=0.05)
