"""Precision, recall, density and coverage: the plainest code, their expectations, and what leaves them as they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pushforward as pf
from pushforward.evaluate.metrics import coverage as module
from pushforward.evaluate.metrics import distances
from pushforward.evaluate.metrics.coverage import Coverage, coverage, expected_coverage


def normals(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(real: np.ndarray, fake: np.ndarray, k: int) -> Coverage:
    """All pairs one by one, with the words of the papers."""

    def radius(points: np.ndarray, i: int) -> float:
        others = [math.dist(points[i], points[j]) for j in range(len(points)) if j != i]
        return sorted(others)[k - 1]

    balls, fake_balls = ([radius(points, i) for i in range(len(points))] for points in (real, fake))
    inside = [[math.dist(x, y) <= r for x, r in zip(real, balls, strict=True)] for y in fake]
    reached = [[math.dist(x, y) <= r for y, r in zip(fake, fake_balls, strict=True)] for x in real]
    covered = [any(inside[j][i] for j in range(len(fake))) for i in range(len(real))]
    return Coverage(
        sum(map(any, inside)) / len(fake),
        sum(map(any, reached)) / len(real),
        sum(map(sum, inside)) / (k * len(fake)),
        sum(covered) / len(real),
    )


@pytest.mark.parametrize(
    ("n", "m", "d", "k", "shift"),
    [(30, 20, 2, 3, 1.5), (25, 40, 8, 5, 0.2), (12, 12, 1, 1, 1.0)],
)
def test_all_four_are_those_of_a_loop_over_all_pairs(n, m, d, k, shift) -> None:
    real, fake = normals(n, d, 0), 0.8 * normals(m, d, 1) + shift
    want = plain(real.numpy(), fake.numpy(), k)
    assert len(set(want)) == 4  # So that none can stand for another.
    assert coverage(real, fake, k) == pytest.approx(want)
    back = coverage(fake, real, k)
    assert (back.precision, back.recall) == pytest.approx((want.recall, want.precision))


@given(seed=st.integers(0, 10**6), scale=st.floats(1e-4, 1e4), offset=st.floats(-1e3, 1e3))
def test_order_scale_place_and_direction_change_nothing(seed, scale, offset) -> None:
    real, fake = normals(20, 3, seed), normals(15, 3, seed + 1) + 0.5
    want = coverage(real, fake, 3)
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    order, other = (torch.randperm(n, generator=generator) for n in (20, 15))

    def moved(x: torch.Tensor) -> torch.Tensor:
        return scale * (x @ turn + offset)

    assert coverage(moved(real[order]), moved(fake[other]), 3) == pytest.approx(want)


def test_a_set_far_from_the_origin_has_the_coverage_of_one_near_it() -> None:
    """The squared norms are 1e14 here, and their rounding errors as large as many of the squared distances."""
    real, fake = normals(60, 3, 0), normals(50, 3, 1) + 0.5
    assert coverage(real + 1e7, fake + 1e7) == pytest.approx(coverage(real, fake))


def test_equal_sets_have_precision_recall_and_coverage_1_and_far_ones_0() -> None:
    x = normals(40, 4, 0)
    same = coverage(x, x)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    # Each sample lies in its own ball, and in those of which it is one of the five nearest: five on average.
    assert same.density == pytest.approx(6 / 5)
    assert coverage(x, x + 100) == (0, 0, 0, 0)


def test_copies_of_one_point_are_within_their_balls_of_radius_0() -> None:
    one = torch.full((8, 3), 0.1)
    assert coverage(one, one) == (1, 1, 8 / 5, 1)
    assert coverage(one, one + 1e-3) == (0, 0, 0, 0)
    assert coverage(one + 1e4, one + 1e4)[0] == 1


def test_one_far_sample_counts_in_full_in_precision_and_a_kth_in_density() -> None:
    """Real: a crowd at 0 and one at 10, whose ball holds all fakes, at 5."""
    real = torch.cat((0.01 * normals(20, 2, 0), torch.tensor([[10.0, 0.0]])))
    fake = torch.tensor([[5.0, 0.0]]) + 0.01 * normals(10, 2, 1)
    found = coverage(real, fake, 5)
    assert found.precision == 1
    assert found.density == pytest.approx(1 / 5)
    assert found.coverage == pytest.approx(1 / 21)


def test_samples_of_some_modes_are_precise_and_do_not_cover() -> None:
    modes = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0], [50.0, 50.0]]).double()
    real = torch.cat([mode + normals(50, 2, i) for i, mode in enumerate(modes)])
    fake = modes[0] + normals(200, 2, 9)
    found = coverage(real, fake, 5)
    assert found.precision > 0.85
    assert found.coverage <= found.precision * 0.25 + 0.01
    assert found.recall <= 0.25
    assert found.density == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize(("n", "m", "k"), [(40, 40, 5), (60, 30, 3), (20, 50, 1)])
def test_density_is_1_and_coverage_its_closed_form_on_average_for_one_law(n, m, k) -> None:
    found = [
        coverage(normals(n, 2, 2 * seed), normals(m, 2, 2 * seed + 1), k) for seed in range(400)
    ]
    # A real sample is missed if, of the others and the fakes, all of its k nearest are others.
    want = {"density": 1.0, "coverage": 1 - math.comb(n - 1, k) / math.comb(n + m - 1, k)}
    for name, value in want.items():
        values = torch.tensor([getattr(one, name) for one in found]).double()
        error = float(values.std()) / math.sqrt(len(values))
        assert error < 0.02
        assert abs(float(values.mean()) - value) < 4 * error, name


def test_expected_coverage_is_the_formula_of_the_paper() -> None:
    for n, k in ((10, 1), (100, 5), (1000, 3)):
        top = math.prod(range(n - k, n))
        bottom = math.prod(range(2 * n - k, 2 * n))
        assert expected_coverage(n, n, k) == pytest.approx(1 - top / bottom)
    assert expected_coverage(7, 13, 4) == pytest.approx(1 - math.comb(6, 4) / math.comb(19, 4))
    assert expected_coverage(3, 9, 5) == 1


def test_blocks_change_nothing_and_none_is_larger_than_it_may_be(monkeypatch) -> None:
    real, fake = normals(101, 3, 0), normals(67, 3, 1)
    want = coverage(real, fake, 4)
    seen = []

    def watched(a, b):
        seen.append(len(a) * len(b))
        return distances.squared_distances(a, b)

    monkeypatch.setattr(module, "squared_distances", watched)
    monkeypatch.setattr(distances, "CELLS", 500)
    assert coverage(real, fake, 4) == want
    assert max(seen) <= 500
    assert sum(seen) == 101 * 101 + 67 * 67 + 101 * 67


def test_distances_are_those_of_double_precision_far_from_the_origin() -> None:
    near = normals(30, 2, 0)
    far = near + 3e3
    want = torch.cdist(near, near, compute_mode="donot_use_mm_for_euclid_dist")
    centre = far.mean(0)
    got = distances.squared_distances(far - centre, far - centre).sqrt()
    assert torch.allclose(got, want, rtol=1e-6)
    single = distances.squared_distances(near.float(), near.float())
    assert single.dtype == torch.float64
    assert (single.diagonal() == 0).all()


@pytest.mark.parametrize(
    ("real", "fake", "k"),
    [
        (torch.zeros(5, 2), torch.zeros(9, 2), 5),
        (torch.zeros(9, 2), torch.zeros(5, 2), 5),
        (torch.zeros(9, 2), torch.zeros(9, 3), 5),
        (torch.zeros(9, 2), torch.zeros(9, 2), 0),
        (torch.zeros(9, 2), torch.full((9, 2), torch.inf), 5),
    ],
)
def test_what_has_no_k_nearest_is_refused(real, fake, k) -> None:
    with pytest.raises(pf.InputError):
        coverage(real, fake, k)
