"""A statistic of samples with its standard error."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

from torch import Tensor

from pushforward.core.errors import InputError


class Measured(NamedTuple):
    """A statistic of samples, and the standard error that their number leaves."""

    value: float
    standard_error: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """value -+ z standard_error, which holds the expectation with probability `level` where N is large."""
        if not 0 < level < 1:
            raise InputError(f"level is {level}; it is a probability, strictly between 0 and 1")
        reach = NormalDist().inv_cdf((1 + level) / 2) * self.standard_error
        return self.value - reach, self.value + reach

    def __float__(self) -> float:
        return self.value


def flat(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets as (N, D) and (M, D) in float64 on the CPU."""
    if a.shape[1:] != b.shape[1:] or min(len(a), len(b)) < 2:
        raise InputError(
            f"two sets of at least two samples of one shape are needed, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    a, b = (x.detach().flatten(1).cpu().double() for x in (a, b))
    if not bool(a.isfinite().all() and b.isfinite().all()):
        raise InputError("the samples hold NaN or infinite values")
    return a, b


def variance_of_mean(x: Tensor) -> float:
    """Of the mean of x (N,)."""
    return float(x.var()) / len(x)


def mean(x: Tensor) -> Measured:
    return Measured(float(x.mean()), math.sqrt(variance_of_mean(x)))


def root(square: float, variance: float) -> Measured:
    """The root of a square that has this variance: `std / (2 root)`, and the root of std where that is smaller."""
    root, spread = math.sqrt(max(square, 0.0)), math.sqrt(variance)
    return Measured(root, min(spread / (2 * root) if root > 0 else math.inf, math.sqrt(spread)))
