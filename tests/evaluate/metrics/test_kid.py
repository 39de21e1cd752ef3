"""The kernel distance against a double loop, and against its expectation for Gaussians in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pushforward as pf
from pushforward.evaluate.metrics.kid import kernel_distance, polynomial_kernel, squared_mmd


def normals(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
    return (sum(p * q for p, q in zip(x.tolist(), y.tolist(), strict=True)) / len(x) + 1) ** 3


def test_the_squared_mmd_is_the_plain_double_sum_without_pairs_of_a_sample_with_itself() -> None:
    a, b = normals(7, 4, 0), normals(9, 4, 1) + 0.5
    within = [
        sum(kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j)
        / (len(x) * (len(x) - 1))
        for x in (a, b)
    ]
    across = sum(kernel(p, q) for p in a for q in b) / (len(a) * len(b))
    want = sum(within) - 2 * across
    assert squared_mmd(a, b) == pytest.approx(want, rel=1e-10)
    assert squared_mmd(b, a) == pytest.approx(want, rel=1e-10)
    assert squared_mmd(a.float(), b.float()) == pytest.approx(want, rel=1e-5)
    assert polynomial_kernel(a.float(), b.float()).dtype == torch.float64


def expected(m: torch.Tensor, s: float, n: torch.Tensor, r: float) -> float:
    """E (x . y / D + 1)^3 of independent x ~ N(m, s^2 I), y ~ N(n, r^2 I), by the moments of x . y."""
    d, p, q, mn = len(m), float(m @ m), float(n @ n), float(m @ n)
    second = (s * r) ** 2 * d + s**2 * q + r**2 * p + mn**2
    third = mn * (mn**2 + 3 * r**2 * p + 3 * s**2 * q + 3 * (s * r) ** 2 * (d + 2))
    return 1 + 3 * mn / d + 3 * second / d**2 + third / d**3


def test_the_squared_mmd_of_two_gaussians_is_that_of_their_moments() -> None:
    d, s, r = 3, 1.2, 0.7
    m, n = torch.tensor([0.5, -1.0, 0.2]).double(), torch.tensor([0.1, 0.3, -0.4]).double()
    want = expected(m, s, m, s) + expected(n, r, n, r) - 2 * expected(m, s, n, r)
    # The third moment, too, on its own: it is all that an even law would hide.
    x, y = m + s * normals(200_000, d, 8), n + r * normals(200_000, d, 9)
    values = ((x * y).sum(1) / d + 1) ** 3
    assert abs(values.mean() - expected(m, s, n, r)) < 4 * values.std() / math.sqrt(len(values))
    found = torch.tensor(
        [
            squared_mmd(m + s * normals(120, d, 2 * k), n + r * normals(90, d, 2 * k + 1))
            for k in range(400)
        ]
    ).double()
    error = float(found.std()) / math.sqrt(len(found))
    assert error < 0.02 * want
    assert abs(float(found.mean()) - want) < 4 * error


def test_the_kernel_distance_of_two_sets_of_one_law_is_0_on_average() -> None:
    found = torch.tensor(
        [
            kernel_distance(normals(40, 5, 2 * k), normals(30, 5, 2 * k + 1), 2, 15, k).value
            for k in range(400)
        ]
    ).double()
    error = float(found.std()) / math.sqrt(len(found))
    # With the pairs of a sample with itself it would be 2/15 of E k(x, x) - E k(x, y), which is about 8.
    assert error < 0.03
    assert abs(float(found.mean())) < 4 * error
    assert (found < 0).any()


@pytest.mark.parametrize(
    ("n", "m", "size", "subsets"),
    [(60, 60, 30, 4), (60, 300, 30, 4), (300, 60, 30, 4)],
)
def test_the_standard_error_is_how_far_distances_of_new_sets_are_spread(n, m, size, subsets) -> None:  # fmt: skip
    """The mean of squared errors is the variance over repetitions, within three of the errors of their ratio.

    Sets of equal and of unequal sizes, the narrower law in either: what each set adds to the variance is found apart.
    """
    repetitions = 600
    found = [
        kernel_distance(
            normals(n, 2, 2 * k), 0.7 * normals(m, 2, 2 * k + 1) + 1.0, subsets, size, k
        )
        for k in range(repetitions)
    ]
    values = torch.tensor([one.value for one in found]).double()
    squares = torch.tensor([one.standard_error**2 for one in found]).double()
    deviations = (values - values.mean()) ** 2
    ratio = float(squares.mean() / deviations.mean())
    relative = [float(x.var()) / float(x.mean()) ** 2 for x in (squares, deviations)]
    error = math.sqrt(sum(relative) / repetitions)
    assert abs(ratio - 1) < 3 * error
    # An error that is 18 in 100 off would have a ratio of 0.67 or 1.39.
    assert 3 * error < 0.32


def test_subsets_are_a_function_of_the_seed_and_of_their_number() -> None:
    a, b = normals(60, 3, 0), normals(50, 3, 1)
    first = kernel_distance(a, b, 5, 20, seed=3)
    assert first == kernel_distance(a, b, 5, 20, seed=3)
    assert first != kernel_distance(a, b, 5, 20, seed=4)
    orders = [pf.Noise.batch(0, 3, step).permutation(n)[:20] for step, n in enumerate((60, 50) * 2)]
    each = [squared_mmd(a[orders[0]], b[orders[1]]), squared_mmd(a[orders[2]], b[orders[3]])]
    assert kernel_distance(a, b, 2, 20, seed=3).value == pytest.approx(sum(each) / 2)


def test_subsets_have_at_most_half_of_the_smaller_set() -> None:
    a, b = normals(31, 3, 0), normals(80, 3, 1)
    assert kernel_distance(a, b, 5, 1000) == kernel_distance(a, b, 5, 15)
    assert kernel_distance(a, b, 5, 14) != kernel_distance(a, b, 5, 15)
    assert kernel_distance(a, b, 5, 1000).standard_error > 0


@given(seed=st.integers(0, 1000))
def test_the_kernel_distance_does_not_depend_on_the_order_of_the_whole_sets(seed: int) -> None:
    a, b = normals(12, 3, seed), normals(15, 3, seed + 1)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(seed))
    assert squared_mmd(a, b) == pytest.approx(squared_mmd(a, b[order]), rel=1e-8, abs=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "options"),
    [
        (torch.zeros(5, 2), torch.zeros(5, 3), {}),
        (torch.zeros(3, 2), torch.zeros(5, 2), {}),
        (torch.zeros(5, 2, 2), torch.zeros(5, 2, 2), {}),
        (torch.full((5, 2), torch.nan), torch.zeros(5, 2), {}),
        (torch.zeros(5, 2), torch.zeros(5, 2), {"subsets": 1}),
        (torch.zeros(5, 2), torch.zeros(5, 2), {"size": 1}),
    ],
)
def test_what_has_no_kernel_distance_is_refused(a, b, options) -> None:
    with pytest.raises(pf.InputError):
        kernel_distance(a, b, **options)
