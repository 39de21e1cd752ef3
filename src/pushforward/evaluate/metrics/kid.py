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

    Pairs of a sample with itself are left out: for two sets of one law it is 0 on average, and of either sign.

    Gretton et al. 2012, eq. 3; k as in Binkowski et al. 2018 (arXiv 1801.01401), sec. 4.
    """
    check_points(2, a, b)

    def within(x: Tensor) -> Tensor:
        k = polynomial_kernel(x, x)
        return (k.sum() - k.trace()) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * polynomial_kernel(a, b).mean())


def kernel_distance(
    a: Tensor, b: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0
) -> Kid:
    """KID: the mean of `squared_mmd` over random subsets of features a (N, D) and b (M, D).

    subsets: how many, S. size: samples of each, m, but at most half of n = min(N, M). Subset i is a function of
    (seed, i).

    standard_error: how far values for new samples are spread. With s the standard deviation over the subsets, which
    share samples and are less spread by the factor 1 - m/n than if they did not,

        standard_error^2 = s^2 (1/S + (m/n) / (1 - m/n))

    For two sets of one law it is too large, since there the values fall faster than 1/sqrt(m).

    Binkowski et al. 2018 (arXiv 1801.01401), sec. 4.
    """
    check_points(4, a, b)
    if min(subsets, size) < 2:
        raise InputError(f"{subsets} subsets of {size} samples: at least 2 of 2 are needed")
    smaller = min(len(a), len(b))
    size = min(size, smaller // 2)
    values = torch.tensor(
        [
            squared_mmd(
                a[_subset(len(a), size, seed, 2 * i).to(a.device)],
                b[_subset(len(b), size, seed, 2 * i + 1).to(b.device)],
            )
            for i in range(subsets)
        ],
        dtype=torch.float64,
    )
    share = size / smaller
    error = float(values.std()) * math.sqrt(1 / subsets + share / (1 - share))
    return Kid(float(values.mean()), error)


def _subset(count: int, size: int, seed: int, step: int) -> Tensor:
    """(size,) different indices below `count`."""
    return Noise.batch(0, seed, step).permutation(count, ORDER)[:size]
