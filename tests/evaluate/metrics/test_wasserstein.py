"""Wasserstein distances against closed forms and brute force."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.special import ndtri
from torch import Tensor

import pushforward as pf
from pushforward.evaluate.metrics.wasserstein import sliced_wasserstein, wasserstein


def normals(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn((n, dim), generator=torch.Generator().manual_seed(seed)).double()


def squares(a: Tensor, b: Tensor) -> np.ndarray:
    return (a[:, None] - b).square().sum(2).numpy()


@pytest.mark.parametrize("n", [2, 5, 6])
def test_w2_is_the_best_of_all_permutations(n: int) -> None:
    for seed in range(5):
        a, b = normals(n, 3, seed), normals(n, 3, 100 + seed) + 1
        cost = squares(a, b)
        best = min(
            sum(cost[i, p[i]] for i in range(n)) / n for p in itertools.permutations(range(n))
        )
        assert float(wasserstein(a, b)) == pytest.approx(math.sqrt(best), rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(7, 12), (12, 7), (10, 15), (2, 9)])
def test_w2_of_sets_of_unequal_size_is_the_optimum_of_the_linear_programme(n: int, m: int) -> None:
    a, b = normals(n, 2, n), 2 * normals(m, 2, m) + 1
    cost = squares(a, b)
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    found = linprog(
        cost.ravel(),
        A_eq=np.vstack((rows, columns)),
        b_eq=np.r_[np.full(n, 1 / n), np.full(m, 1 / m)],
    )
    assert float(wasserstein(a, b)) == pytest.approx(math.sqrt(found.fun), rel=1e-7)
    assert float(wasserstein(a, b)) == pytest.approx(float(wasserstein(b, a)), rel=1e-12)


def test_w2_in_one_dimension_matches_quantiles() -> None:
    """Skewed laws far apart: the error, too, is that of potentials which follow from quantiles alone."""
    a, b = normals(300, 1, 0).exp(), 0.5 * normals(300, 1, 1).exp() - 4
    gap = a.sort(0).values - b.sort(0).values
    want = float(gap.square().mean().sqrt())
    exact, sliced = wasserstein(a, b), sliced_wasserstein(a, b)
    assert exact.value == pytest.approx(want, rel=1e-12)
    assert sliced.value == pytest.approx(want, rel=1e-12)
    assert exact.standard_error == pytest.approx(sliced.standard_error, rel=0.02)
    assert wasserstein(b, a).standard_error == pytest.approx(exact.standard_error, rel=0.02)


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_w2_of_a_translated_set_is_the_length_of_the_shift_at_any_scale(
    offset: float, size: float
) -> None:
    a = size * (normals(150, 4, 2) + offset)
    shift = size * torch.tensor([3.0, -1.0, 0.5, 2.0], dtype=torch.float64)
    b = (a + shift)[torch.randperm(150, generator=torch.Generator().manual_seed(0))]
    tolerance = 1e-9 if offset else 1e-13
    assert float(wasserstein(a, b)) == pytest.approx(float(shift.norm()), rel=tolerance)
    assert float(wasserstein(a, a.flip(0))) == 0


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_w2_and_its_error_scale_with_the_samples(size: float) -> None:
    a, b = normals(120, 2, 0).exp(), normals(90, 2, 1) + 3
    one, other = wasserstein(a, b), wasserstein(size * a, size * b)
    assert other.value == pytest.approx(size * one.value, rel=1e-12)
    assert other.standard_error == pytest.approx(size * one.standard_error, rel=1e-9)


def test_w2_of_equally_spaced_quantiles_of_gaussians_is_that_of_the_gaussians() -> None:
    """|m|^2 + (s - r)^2 in one dimension; samples of products of such quantiles add up over dimensions."""
    z = torch.from_numpy(ndtri((np.arange(40) + 0.5) / 40))
    plane = torch.cartesian_prod(z, z)
    var = float(z.square().mean())
    scale, shift = torch.tensor([2.0, 0.5]).double(), torch.tensor([1.0, -3.0]).double()
    want = 10 + var * (1 + 0.25)
    assert float(wasserstein(plane, plane * scale + shift)) == pytest.approx(
        math.sqrt(want), rel=1e-12
    )


def test_the_interval_of_w2_between_gaussians_holds_the_bures_distance() -> None:
    """|m|^2 + tr(A + B - 2 (A B)^{1/2}) with commuting A, B; a bias of order 1/N beside an error of order N^{-1/2}."""
    scale, shift = torch.tensor([2.0, 0.5]).double(), torch.tensor([4.0, -3.0]).double()
    want = math.sqrt(25 + 1 + 0.25)
    hits = 0
    for seed in range(60):
        a, b = normals(300, 2, 2 * seed), normals(300, 2, 2 * seed + 1) * scale + shift
        low, high = wasserstein(a, b).interval()
        hits += low <= want <= high
    assert hits >= 51  # 57 +- 1.7 of 60


def test_a_plan_that_is_not_optimal_is_an_error(monkeypatch) -> None:
    import ot

    solve = ot.emd
    monkeypatch.setattr(ot, "emd", lambda *args, numItermax, **more: solve(*args, 20, **more))
    with (
        pytest.warns(UserWarning, match="numItermax"),
        pytest.raises(pf.ConvergenceError, match="mean cost"),
    ):
        wasserstein(normals(200, 2, 0), normals(200, 2, 1))


def test_a_plan_with_wrong_potentials_is_an_error(monkeypatch) -> None:
    import ot

    solve = ot.emd

    def worse(*args, **more):
        plan, log = solve(*args, **more)
        return plan[::-1].copy(), log

    monkeypatch.setattr(ot, "emd", worse)
    with pytest.raises(pf.ConvergenceError):
        wasserstein(normals(50, 2, 0), normals(50, 2, 1))


def test_without_pot_the_error_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(pf.InputError, match=r"\.\[transport\]"):
        wasserstein(normals(5, 2, 0), normals(5, 2, 1))


def test_sliced_w2_of_a_translated_set_is_the_shift_over_the_root_of_the_dimension() -> None:
    a = normals(40, 5, 0)
    shift = torch.tensor([1.0, 2.0, -2.0, 0.0, 4.0], dtype=torch.float64)
    found = sliced_wasserstein(a, (a + shift).flip(0), projections=2000)
    low, high = found.interval(0.9999)
    assert low < 5 / math.sqrt(5) < high


def test_the_error_of_sliced_w2_holds_that_of_the_directions() -> None:
    """Of one pair of sets: with few directions the variance is larger by what the draws of directions scatter."""
    a, b = normals(60, 4, 0), normals(60, 4, 1) + torch.tensor([3.0, 0, 0, 0])
    few = [sliced_wasserstein(a, b, 8, seed) for seed in range(200)]
    stated = torch.tensor([m.standard_error for m in few]).square().mean()
    samples = sliced_wasserstein(a, b, 4000).standard_error ** 2
    scatter = torch.tensor([m.value for m in few]).var()
    assert float((stated - samples) / scatter) == pytest.approx(1, abs=0.25)


def test_sliced_w2_of_unequal_numbers_is_that_of_samples_repeated_to_the_same_number() -> None:
    a, b = normals(6, 3, 0), normals(15, 3, 1) + 1
    want = sliced_wasserstein(a.repeat(5, 1), b.repeat(2, 1), seed=3).value
    assert sliced_wasserstein(a, b, seed=3).value == pytest.approx(want, rel=1e-12)
    assert sliced_wasserstein(b, a, seed=3).value == pytest.approx(want, rel=1e-12)
    assert sliced_wasserstein(a, b, seed=4).value != pytest.approx(want, rel=1e-6)


def test_sliced_w2_is_the_mean_of_exact_ones_over_directions() -> None:
    a, b = normals(30, 2, 0), 2 * normals(30, 2, 1)
    angle = (torch.arange(90) + 0.5) * (math.pi / 90)
    theta = torch.stack((angle.cos(), angle.sin()), 1).double()
    each = [(((a @ d).sort()[0] - (b @ d).sort()[0]) ** 2).mean() for d in theta]
    want = math.sqrt(float(torch.stack(each).mean()))
    assert sliced_wasserstein(a, b, 4000).value == pytest.approx(want, rel=0.02)
