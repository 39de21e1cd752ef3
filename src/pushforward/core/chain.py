"""The steps of a diffusion model against those of the noising process: the terms of the variational bound.

    q(x_s | x_t, x1) = N(m(x_t, x1), b~)          p(x_s | x_t) = N(m(x_t, data(x_t, t)), v)          t < s
    m(x_t, x1) = (alpha_t/alpha_s)(sigma_s/sigma_t)^2 x_t + alpha_s b/sigma_t^2 x1
    b = sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2,   b~ = b sigma_s^2/sigma_t^2

Ho et al. 2020 (arXiv 2006.11239), eq. 5-8, in the times of a path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.special import log_ndtr

from pushforward.core.ddpm import DDPMPath
from pushforward.core.errors import InputError
from pushforward.core.paths import Path
from pushforward.core.shapes import expand, sum_data
from pushforward.core.times import TimeDraw, straight, uniform


def levels(path: Path, grid: Tensor | None) -> Tensor:
    """The times of the states on a grid, of which the data themselves, at sigma = 0, are none.

    The default is the steps of a DDPMPath, and 1000 steps of `times.straight` on any other path.
    """
    if grid is None:
        grid = uniform(path.steps) if isinstance(path, DDPMPath) else straight(1000, path)
    grid = grid.double()
    if grid.ndim != 1 or not bool((grid.diff() > 0).all()):
        raise InputError("the grid of a bound is one list of increasing times")
    grid = grid[path.sigma(grid) > 0]
    if len(grid) < 2:
        raise InputError("a bound takes at least two times before the data")
    return grid


def step_variances(path: Path, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """(b, b~): the noise added from x_s to x_t, and the variance of q(x_s | x_t, x1), (B,)."""
    sigma_t, sigma_s = path.sigma(t), path.sigma(s)
    added = sigma_t**2 - (path.alpha(t) / path.alpha(s)) ** 2 * sigma_s**2
    return added, added * (sigma_s / sigma_t) ** 2


def learned_variance(share: Tensor, added: Tensor, tilde: Tensor) -> Tensor:
    """`exp(v ln b + (1 - v) ln b~)` for v (B, ...) and b, b~ (B,).

    Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 15.
    """
    share = share.double()
    low, high = (expand(value, share).log() for value in (tilde, added))
    return (low + share * (high - low)).exp()


def step_kl(x: Tensor, data: Tensor, v: Tensor, tilde: Tensor, pull: Tensor) -> Tensor:
    """(B,) `KL(q(x_s | x_t, x) || p(x_s | x_t)) = sum [ln(v/b~) + b~/v - 1 + pull^2 (x - data)^2/v]/2`.

    x, data: (B, ...), v: of that shape or broadcast to it; tilde: b~, pull: alpha_s b/sigma_t^2, (B,).
    """
    ratio = expand(tilde, data) / v
    away = expand(pull, data) * (x.double() - data)
    return sum_data(ratio - 1 - ratio.log() + away**2 / v) / 2


def prior_kl(path: Path, x: Tensor, t: Tensor) -> Tensor:
    """KL(N(alpha x, sigma^2 I) || N(0, sigma^2 I)), (B,)."""
    return sum_data(x.double() ** 2) * (path.alpha(t) / path.sigma(t)) ** 2 / 2


def decoded_log_prob(
    x: Tensor, mean: Tensor, variance: Tensor, width: float | None, value_range: tuple[float, float]
) -> Tensor:
    """ln P of x in its bins under N(mean, variance), or, without a width, its log density; (B,)."""
    if width is None:
        return normal_log_prob(x.double(), mean, variance)
    return bin_log_prob(x, mean, variance, width, value_range)


@dataclass(frozen=True, eq=False)
class Steps(TimeDraw):
    """The states t_0 < ... < t_{n-1} of a chain, each drawn with its probability.

    path, grid:    the states are those of `levels`: of a DDPMPath its T steps, unless there is a grid.
    probabilities: (n,), normalised here; None for 1/n each.

    The bound has one term for each state: n - 1 KLs, and the decoder that leads from the last one to the data. An
    unbiased estimate of their sum is the drawn one over its probability.
    """

    path: Path
    grid: Tensor | None = None
    probabilities: Tensor | None = None

    def __post_init__(self) -> None:
        n, p = len(self.levels), self.probabilities
        if p is not None and (p.shape != (n,) or not bool((p.isfinite() & (p > 0)).all())):
            raise InputError(
                f"probabilities of {n} steps must be as many positive numbers, got {tuple(p.shape)}"
            )

    def __len__(self) -> int:
        return len(self.levels)

    @cached_property
    def levels(self) -> Tensor:
        return levels(self.path, self.grid)

    @cached_property
    def shares(self) -> Tensor:
        """(n,) float64, of sum 1."""
        p = torch.ones(len(self)) if self.probabilities is None else self.probabilities
        return p.double() / p.double().sum()

    @cached_property
    def table(self) -> tuple[Tensor, Tensor, Tensor]:
        """(b, b~, pull), (n,) each, `pull = alpha_s b/sigma_t^2`.

        The decoder is a step to alpha_s = 1, sigma_s = 0; its b~ is that of the step before instead of 0.
        """
        t, s = self.levels[:-1], self.levels[1:]
        added, tilde = step_variances(self.path, t, s)
        pull = self.path.alpha(s) * added / self.path.sigma(t) ** 2
        last = self.path.sigma(self.levels[-1:]) ** 2
        return (
            torch.cat((added, last)),
            torch.cat((tilde, tilde[-1:])),
            torch.cat((pull, torch.ones_like(last))),
        )

    def quantile(self, u: Tensor) -> Tensor:
        cdf = self.shares.to(u.device).cumsum(0)
        k = torch.searchsorted(cdf, u * cdf[-1]).clamp(max=len(self) - 1)
        return self.levels.to(u.device)[k]

    def index(self, t: Tensor) -> Tensor:
        """Which states the times (B,) that were drawn here are, int64."""
        return torch.searchsorted(self.levels.to(t.device), t.contiguous())


def normal_log_prob(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """ln N(x; mean, diag(variance)), (B,). variance broadcasts with x (B, ...)."""
    each = -((x - mean) ** 2) / (2 * variance) - (2 * math.pi * variance).log() / 2
    return sum_data(each)


def bin_log_prob(
    x: Tensor, mean: Tensor, variance: Tensor, width: float, value_range: tuple[float, float]
) -> Tensor:
    """ln of the mass that N(mean, variance) has in the bins of x, (B,).

        prod_i [Phi((x_i + w/2 - m_i)/s_i) - Phi((x_i - w/2 - m_i)/s_i)]

    the first bin reaching down to -infinity and the last up to +infinity, so that the bins' masses add up to 1.

    x: (B, ...) centres of bins, low + k width. Worked out in float64, in the tail where both Phi are small, so that no
    mass is lost to rounding. Ho et al. 2020 (arXiv 2006.11239), eq. 13: width 2/255 in [-1, 1] for bytes.
    """
    low, high = value_range
    x, mean, std = x.double(), mean.double(), variance.double().sqrt()
    place = (x - low) / width
    if bool(((place - place.round()).abs() > 1e-2).any()) or bool(
        ((x < low - width / 2) | (x > high + width / 2)).any()
    ):
        raise InputError(
            f"the data do not lie on the values {low:g}, {low + width:g}, ..., {high:g}: give the width of their "
            f"bins and their range, or none for data that are not quantised"
        )
    infinity = torch.full_like(x, math.inf)
    upper = torch.where(x > high - width / 2, infinity, (x + width / 2 - mean) / std)
    lower = torch.where(x < low + width / 2, -infinity, (x - width / 2 - mean) / std)
    # Phi(b) - Phi(a) = Phi(-a) - Phi(-b): in the upper tail both are near 1, and so are taken from below.
    turned = lower > 0
    lower, upper = torch.where(turned, -upper, lower), torch.where(turned, -lower, upper)
    big, small = log_ndtr(upper), log_ndtr(lower)
    return sum_data(big + torch.log(-torch.expm1(small - big)))
