"""The kernel distance between two sets of features."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import ORDER, Noise
from pushforward.evaluate.metrics.distances import check_points


class Kid(NamedTuple):
    """A kernel distance and its standard error."""

    value: float
    standard_error: float


def polynomial_kernel(a: Tensor, b: Tensor) -> Tensor:
    """`k(x, y) = (x . y / D + 1)^3`, (N, M) in float64, of a (N, D) and b (M, D)."""
    return (a.double() @ b.double().T / a.shape[1] + 1) ** 3


def squared_mmd(a: Tensor, b: Tensor) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy of the laws of a (N, D) and b (M, D).

        E k(A, A') + E k(B, B') - 2 E k(A, B)

    Pairs of a sample with itself do not count: for two sets of one law it is 0 on average, and of either sign.

    Gretton et al. 2012, eq. 3; k as in Binkowski et al. 2018 (arXiv 1801.01401), sec. 4.
    """
    check_points(2, a, b)
    return _mmd(a, b)[0]


def _mmd(a: Tensor, b: Tensor) -> tuple[float, float, float]:
    """The squared discrepancy, and by how much the variance of a sample of a and of one of b goes into it.

    These are the variances of `2 (E k(a_i, A) - E k(a_i, B))` over i, and of the same of b: of the first-order terms.
    """
    in_a, in_b, across = polynomial_kernel(a, a), polynomial_kernel(b, b), polynomial_kernel(a, b)

    def within(k: Tensor) -> Tensor:
        return (k.sum() - k.trace()) / (len(k) * (len(k) - 1))

    value = float(within(in_a) + within(in_b) - 2 * across.mean())

    def spread(k: Tensor, other: Tensor) -> float:
        rows = (k.sum(1) - k.diagonal()) / (len(k) - 1) - other.mean(1)
        return float(4 * rows.var())

    return value, spread(in_a, across), spread(in_b, across.T)


def kernel_distance(
    a: Tensor, b: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0
) -> Kid:
    """KID: the mean of `squared_mmd` over random subsets of features a (N, D) and b (M, D).

    subsets: how many, S. size: samples of each, m, but at most half of n = min(N, M). Subset i is a function of
    (seed, i).

    standard_error: how far values for new samples are spread. To first order a sample of a adds va/N, of b vb/M, to the
    variance of the value. Subsets share samples, so that with s the standard deviation over them

        s^2 = va (1/m - 1/N) + vb (1/m - 1/M)        standard_error^2 = s^2/S + va/N + vb/M

    where va : vb is found from the rows of the kernel matrices. For two sets of one law the error is too large, since
    there the values fall faster than 1/sqrt(m).

    Binkowski et al. 2018 (arXiv 1801.01401), sec. 4.
    """
    check_points(4, a, b)
    if min(subsets, size) < 2:
        raise InputError(f"{subsets} subsets of {size} samples: at least 2 of 2 are needed")
    smaller = min(len(a), len(b))
    size = min(size, smaller // 2)
    found = torch.tensor(
        [
            _mmd(
                a[_subset(len(a), size, seed, 2 * i).to(a.device)],
                b[_subset(len(b), size, seed, 2 * i + 1).to(b.device)],
            )
            for i in range(subsets)
        ],
        dtype=torch.float64,
    )
    values = found[:, 0]
    va, vb = found[:, 1:].mean(0).tolist()
    share = va / (va + vb) if va + vb > 0 else 0.5
    between = float(values.var())
    scale = between / (share * (1 / size - 1 / len(a)) + (1 - share) * (1 / size - 1 / len(b)))
    variance = between / subsets + scale * (share / len(a) + (1 - share) / len(b))
    return Kid(float(values.mean()), math.sqrt(variance))


def _subset(count: int, size: int, seed: int, step: int) -> Tensor:
    """(size,) different indices below `count`."""
    return Noise.batch(0, seed, step).permutation(count, ORDER)[:size]
