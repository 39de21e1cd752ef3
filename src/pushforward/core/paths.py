"""Probability paths: how noise is carried to data.

    x_t = alpha(t) x1 + sigma(t) x0        t = 0: source, t = 1: data

A path is two functions of time. A new one writes `alpha` and `sigma`; by default derivatives are computed by automatic
differentiation, their limits at t = 0 and t = 1 by extrapolation, and the inverse of the log-SNR by bisection. Closed
forms override these.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from pushforward.core.errors import InputError, UndefinedError
from pushforward.core.shapes import as_time, expand


class Coefficients(NamedTuple):
    """alpha, sigma and their derivatives in t, each of t's shape."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


# Distances from t at which `_limits` evaluates, each a quarter of the one before.
_NEAR = (2.0**-17, 2.0**-19, 2.0**-21)


def _limits(f: Callable[[Tensor], Tensor], t: Tensor, value: Tensor) -> Tensor:
    """`value` = f(t), and where that is not finite the limit of f from inside [0, 1], if f converges there.

    Aitken's extrapolation from three times in geometric progression, exact for `c + d |t - end|^p` with any p > 0 and
    correct to about 1e-9 for smooth f. A limit that is infinite gives an infinite value of its sign.
    """
    unknown = ~value.isfinite()
    if not bool(unknown.any()):
        return value
    end = t[unknown].double()
    inwards = torch.where(end < 0.5, 1.0, -1.0)
    first, second, third = (f(end + inwards * h) for h in _NEAR)
    before, last = second - first, third - second
    ratio = last / before
    limit = third + torch.where(last == 0, last, last * ratio / (1 - ratio))
    limit = torch.where((last == 0) | (ratio.abs() < 0.95), limit, math.inf * third.sign())
    out = value.clone()
    out[unknown] = limit.to(value.dtype)
    return out


@dataclass(frozen=True)
class Path(ABC):
    """A probability path `x_t = alpha(t) x1 + sigma(t) x0`.

    x1 ~ data; x0 ~ N(0, I), independent of x1, unless `gaussian_source` is False. The process then starts
    in N(0, sigma(0)^2 I), exactly so where alpha(0) = 0; each path states what remains of the data at t = 0
    (the terminal mismatch) and of the noise at t = 1.

    gaussian_source: set it to False for any other source law, or for pairs (x0, x1) that are not
    independent (minibatch optimal transport, reflow). Velocity and data stay what they are, posterior
    means given x_t; score and noise are then not defined by them, and asking for either is an error.

    Albergo, Boffi, Vanden-Eijnden 2023 (arXiv 2303.08797), sec. 2; Lipman et al. 2024 (arXiv 2412.06264), sec. 4.
    """

    gaussian_source: bool = field(default=True, kw_only=True)

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Weight of the data, non-decreasing in t. t: any shape, in [0, 1]."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Weight of the noise, non-increasing in t. t: any shape, in [0, 1]."""

    def coefficients(self, t: Tensor) -> Coefficients:
        """alpha, sigma and d/dt of both at t, by forward-mode differentiation.

        Where that gives 0/0, as of sqrt(1 - alpha^2) at alpha = 1, the limit from inside [0, 1].
        """
        t = t.contiguous()  # jvp refuses one number that was expanded to (B,)
        alpha, d_alpha = _derivative(self.alpha, t)
        sigma, d_sigma = _derivative(self.sigma, t)
        d_alpha = _limits(lambda s: _derivative(self.alpha, s)[1], t, d_alpha)
        d_sigma = _limits(lambda s: _derivative(self.sigma, s)[1], t, d_sigma)
        return Coefficients(alpha, sigma, d_alpha, d_sigma)

    def forward_sde(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(f, g^2) of the noising diffusion whose marginals these are.

            f = alpha'/alpha,   g^2 = 2 (sigma^2 alpha'/alpha - sigma sigma')

        In noise time s = 1 - t that diffusion is `dx = -f x ds + g dW`; the flow is `u = f x + g^2/2 score`.
        f and g are infinite where alpha = 0. Where sigma' is infinite, sigma sigma' is its limit.
        Song et al. 2021 (arXiv 2011.13456), eq. 5.
        """
        alpha, sigma, d_alpha, d_sigma = self.coefficients(t)

        def growth(s: Tensor) -> Tensor:
            c = self.coefficients(s)
            return c.sigma * c.d_sigma

        f, rate = d_alpha / alpha, sigma * d_sigma
        if self._singular:
            f = torch.where(alpha > 0, f, math.inf)
            rate = _limits(growth, t, rate)
        return f, 2 * (sigma**2 * f - rate)

    @cached_property
    def _singular(self) -> bool:
        """Whether alpha'/alpha or sigma sigma' is 0/0 or 0 infinity at an end of time."""
        c = self.coefficients(torch.tensor([0.0, 1.0], dtype=torch.float64))
        return bool((c.d_alpha / c.alpha).isnan().any() or (c.sigma * c.d_sigma).isnan().any())

    def reverse_noise_level(self, t: Tensor) -> Tensor:
        """The noise level g(t) for which sampling is the time reversal of the noising diffusion (Anderson 1982)."""
        return self.forward_sde(t)[1].clamp(min=0).sqrt()

    # Log-SNR, and the conventions of others as conversions of it.

    def log_snr(self, t: Tensor) -> Tensor:
        """`ln(alpha^2 / sigma^2)`, strictly increasing in t; twice the lambda of the DPM-Solver papers."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        """The t in [0, 1] with this log-SNR; beyond the path's range, the nearer end."""
        return self._time_of_log_snr(log_snr).clamp(0, 1)

    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        target = log_snr.double()
        low, high = torch.zeros_like(target), torch.ones_like(target)
        for _ in range(64):
            middle = (low + high) / 2
            below = self.log_snr(middle) < target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).to(log_snr.dtype)

    def edm_sigma(self, t: Tensor) -> Tensor:
        """Noise level sigma/alpha of x_t/alpha: the sigma of Karras et al. 2022 (arXiv 2206.00364)."""
        return self.sigma(t) / self.alpha(t)

    def time_of_edm_sigma(self, edm_sigma: Tensor) -> Tensor:
        """The t at which x_t/alpha has noise of this standard deviation."""
        return self.time_of_log_snr(-2 * edm_sigma.log())

    def diffusion_time(self, t: Tensor) -> Tensor:
        """s = 1 - t: 0 at the data and 1 at the noise, as the diffusion literature counts. Its own inverse."""
        return 1 - t

    @cached_property
    def source_std(self) -> float:
        """Standard deviation sigma(0) of the Gaussian law in which sampling starts."""
        return float(self.sigma(torch.zeros((), dtype=torch.float64)))

    # x_t and its velocity for any pair (x0, x1).

    def sample(self, x0: Tensor, x1: Tensor, t: Tensor | float) -> Tensor:
        """`x_t = alpha x1 + sigma x0` for x0, x1 (B, ...) and t, one number or (B,)."""
        t = as_time(t, _pair(x0, x1))
        return expand(self.alpha(t), x1) * x1 + expand(self.sigma(t), x0) * x0

    def velocity(self, x0: Tensor, x1: Tensor, t: Tensor | float) -> Tensor:
        """`d x_t / dt = alpha' x1 + sigma' x0`, the conditional velocity."""
        c = self.coefficients(as_time(t, _pair(x0, x1)))
        return expand(c.d_alpha, x1) * x1 + expand(c.d_sigma, x0) * x0

    def require_gaussian(self, what: str) -> None:
        """Raise `UndefinedError` unless the source is Gaussian noise, independent of the data."""
        if not self.gaussian_source:
            raise UndefinedError(
                f"the {what} is defined only where x0 is Gaussian noise, independent of x1, and {self} says "
                f"it is not (gaussian_source=False). Ask for the velocity or the data instead, or train "
                f"on the path with an independent Gaussian source"
            )


def _derivative(f: Callable[[Tensor], Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    """f(t) and f'(t) of a function that acts on each entry."""
    return torch.func.jvp(f, (t,), (torch.ones_like(t),))[:2]


def _pair(x0: Tensor, x1: Tensor) -> Tensor:
    if x0.shape != x1.shape:
        raise InputError(
            f"x0 and x1 form pairs, so their shapes must agree: {tuple(x0.shape)} and {tuple(x1.shape)}"
        )
    return x1


@dataclass(frozen=True)
class CondOT(Path):
    """Straight line from noise to data, the path of conditional optimal transport.

        x_t = t x1 + (1 - (1 - sigma_min) t) x0

    alpha(0) = 0: the source is N(0, I) exactly. sigma(1) = sigma_min: the end law is the data blurred by
    sigma_min, and with sigma_min > 0 the score stays finite there.

    Lipman et al. 2023, eq. 20-22 (arXiv 2210.02747); with sigma_min = 0 the rectified flow of Liu et al. 2022
    (arXiv 2209.03003).
    """

    sigma_min: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min < 1:
            raise InputError(f"sigma_min is {self.sigma_min}; it must lie in [0, 1)")

    def alpha(self, t: Tensor) -> Tensor:
        return t

    def sigma(self, t: Tensor) -> Tensor:
        return 1 - (1 - self.sigma_min) * t

    def coefficients(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(t, self.sigma(t), one, -(1 - self.sigma_min) * one)

    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        # alpha/sigma = r  <=>  t = r / (1 + r (1 - sigma_min)), written so that r = inf is allowed.
        return 1 / ((-log_snr / 2).exp() + 1 - self.sigma_min)


@dataclass(frozen=True)
class Cosine(Path):
    """Quarter circle from noise to data; the trigonometric path.

        x_t = sin(pi t/2) x1 + cos(pi t/2) x0

    alpha(0) = 0 and sigma(1) = 0 exactly; alpha^2 + sigma^2 = 1.

    Albergo & Vanden-Eijnden 2023 (arXiv 2209.15571); the "cosine" of SD3 (arXiv 2403.03206), sec. 2;
    TrigFlow (Lu & Song 2024, arXiv 2410.11081) up to the scale of time.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return (t * (math.pi / 2)).sin()

    def sigma(self, t: Tensor) -> Tensor:
        # cos(pi t/2), as a sine so that sigma(1) is 0 and small values keep their digits.
        return ((1 - t) * (math.pi / 2)).sin()

    def coefficients(self, t: Tensor) -> Coefficients:
        alpha, sigma = self.alpha(t), self.sigma(t)
        return Coefficients(alpha, sigma, math.pi / 2 * sigma, -math.pi / 2 * alpha)

    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return (log_snr / 2).exp().atan() * (2 / math.pi)


class VariancePreserving(Path):
    """Paths with alpha^2 + sigma^2 = 1, given by `L(t) = ln alpha^2`, the log of alpha-bar.

        x_t = e^{L/2} x1 + sqrt(1 - e^L) x0

    L is non-decreasing with L(1) = 0. There sigma' is infinite while sigma sigma', and with it the velocity
    of a smooth law, is finite. L(0) may be -infinity, a terminal SNR of zero: alpha(0) = 0, and alpha' there is the
    limit of `L'/2 e^{L/2}`.
    """

    @abstractmethod
    def log_alpha_bar(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """L(t) and its derivative."""

    @abstractmethod
    def time_of_log_alpha_bar(self, log_alpha_bar: Tensor) -> Tensor:
        """The t with this L."""

    def alpha(self, t: Tensor) -> Tensor:
        return (self.log_alpha_bar(t)[0] / 2).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return self.log_alpha_bar(t)[0].expm1().abs().sqrt()

    def coefficients(self, t: Tensor) -> Coefficients:
        log, d_log = self.log_alpha_bar(t)
        alpha, sigma = (log / 2).exp(), log.expm1().abs().sqrt()
        d_alpha, d_sigma = d_log / 2 * alpha, -d_log / 2 * log.exp() / sigma
        if self._without_data:

            def inside(s: Tensor) -> Tensor:
                log, d_log = self.log_alpha_bar(s)
                return d_log / 2 * (log / 2).exp()

            d_alpha = _limits(inside, t, d_alpha)
            d_sigma = torch.where(alpha == 0, -alpha * d_alpha / sigma, d_sigma)
        return Coefficients(alpha, sigma, d_alpha, d_sigma)

    @cached_property
    def _without_data(self) -> bool:
        """L(0) = -infinity."""
        return bool(self.log_alpha_bar(torch.zeros((), dtype=torch.float64))[0].isinf())

    def forward_sde(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """f = L'/2 and g^2 = L', which is the beta of `dx = -beta/2 x ds + sqrt(beta) dW`."""
        d_log = self.log_alpha_bar(t)[1]
        return d_log / 2, d_log

    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        # alpha^2 = sigmoid(log-SNR).
        return self.time_of_log_alpha_bar(torch.nn.functional.logsigmoid(log_snr))


def _integrated_beta(beta_min: float, beta_max: float, s: Tensor) -> tuple[Tensor, Tensor]:
    """B(s) = beta_min s + (beta_max - beta_min) s^2/2 and beta(s) = B'(s)."""
    slope = beta_max - beta_min
    return beta_min * s + slope / 2 * s**2, beta_min + slope * s


def _noise_time(beta_min: float, beta_max: float, integral: Tensor) -> Tensor:
    """The s >= 0 with B(s) = integral, by the root that loses no digits; an infinite integral is far beyond s = 1."""
    slope, integral = beta_max - beta_min, integral.clamp(max=1e30)
    return 2 * integral / (beta_min + (beta_min**2 + 2 * slope * integral).sqrt())


def _check_betas(beta_min: float, beta_max: float) -> None:
    if not 0 < beta_min <= beta_max:
        raise InputError(
            f"beta_min = {beta_min}, beta_max = {beta_max}: need 0 < beta_min <= beta_max"
        )


@dataclass(frozen=True)
class VP(VariancePreserving):
    """Variance-preserving diffusion with a linear beta.

        alpha = e^{-B(s)/2},   sigma = sqrt(1 - e^{-B(s)}),   s = 1 - t
        B(s) = beta_min s + (beta_max - beta_min) s^2/2

    alpha(0) = e^{-B(1)/2}, 0.0066 for (0.1, 20): that much of the data is left in the source, which is taken
    to be N(0, sigma(0)^2 I), sigma(0) = 0.99998. sigma(1) = 0. The noising SDE is dx = -beta/2 x ds + sqrt(beta) dW.

    Song et al. 2021 (arXiv 2011.13456), eq. 11 and 33.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _check_betas(self.beta_min, self.beta_max)

    def log_alpha_bar(self, t: Tensor) -> tuple[Tensor, Tensor]:
        integral, beta = _integrated_beta(self.beta_min, self.beta_max, 1 - t)
        return -integral, beta

    def time_of_log_alpha_bar(self, log_alpha_bar: Tensor) -> Tensor:
        return 1 - _noise_time(self.beta_min, self.beta_max, -log_alpha_bar)


@dataclass(frozen=True)
class SubVP(Path):
    """Sub-variance-preserving diffusion: VP's drift with less noise.

        alpha = e^{-B(s)/2},   sigma = 1 - e^{-B(s)},   s = 1 - t,   B as in `VP`

    alpha(0) = e^{-B(1)/2}, 0.0066 for (0.1, 20), and sigma(0) = 0.99996. sigma(1) = 0. The noising SDE is
    dx = -beta/2 x ds + sqrt(beta (1 - e^{-2B})) dW.

    Song et al. 2021 (arXiv 2011.13456), eq. 12 and 29.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _check_betas(self.beta_min, self.beta_max)

    def alpha(self, t: Tensor) -> Tensor:
        return (-_integrated_beta(self.beta_min, self.beta_max, 1 - t)[0] / 2).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return -(-_integrated_beta(self.beta_min, self.beta_max, 1 - t)[0]).expm1()

    def coefficients(self, t: Tensor) -> Coefficients:
        integral, beta = _integrated_beta(self.beta_min, self.beta_max, 1 - t)
        alpha, sigma = (-integral / 2).exp(), -(-integral).expm1()
        return Coefficients(alpha, sigma, beta / 2 * alpha, -beta * (-integral).exp())

    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        # alpha/sigma = r and sigma = 1 - alpha^2 give r alpha^2 + alpha - r = 0, solved for 1 - alpha^2 = alpha/r:
        # with q = 1/r, alpha = 2/(q + sqrt(q^2 + 4)), and B = -2 ln alpha = 2 asinh(q/2).
        q = (-log_snr / 2).exp()
        return 1 - _noise_time(self.beta_min, self.beta_max, 2 * (q / 2).asinh())


@dataclass(frozen=True)
class VE(Path):
    """Variance-exploding diffusion with a geometric noise level.

        x_t = x1 + sigma_min (sigma_max/sigma_min)^(1-t) x0

    alpha = 1 throughout: at t = 0 the data are drowned, not gone, and the source N(0, sigma_max^2 I) neglects
    them. sigma(1) = sigma_min: the end law is the data blurred by it.

    Song & Ermon 2019 (arXiv 1907.05600); Song et al. 2021 (arXiv 2011.13456), eq. 9 and 31.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        _check_sigmas(self.sigma_min, self.sigma_max)

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * ((1 - t) * self._log_ratio).exp()

    def coefficients(self, t: Tensor) -> Coefficients:
        one, sigma = torch.ones_like(t), self.sigma(t)
        return Coefficients(one, sigma, torch.zeros_like(t), -self._log_ratio * sigma)

    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return 1 + (log_snr / 2 + math.log(self.sigma_min)) / self._log_ratio


@dataclass(frozen=True)
class EDM(Path):
    """The path of Karras et al.: unscaled data, noise falling from sigma_max to sigma_min.

        x_t = x1 + sigma(t) x0,   sigma(t) = (sigma_max^(1/rho) + t (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho

    Times uniform in t are the sampling grid of the paper. alpha = 1: at t = 0 the data are drowned, not gone,
    and the source N(0, sigma_max^2 I) neglects them. sigma(1) = sigma_min: the end law is the data blurred by it.

    Karras et al. 2022 (arXiv 2206.00364), eq. 5.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        _check_sigmas(self.sigma_min, self.sigma_max)
        if self.rho <= 0:
            raise InputError(f"rho is {self.rho}; it must be positive")

    @property
    def _roots(self) -> tuple[float, float]:
        return self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        high, low = self._roots
        return (high + t * (low - high)) ** self.rho

    def coefficients(self, t: Tensor) -> Coefficients:
        high, low = self._roots
        root = high + t * (low - high)
        d_sigma = self.rho * (low - high) * root ** (self.rho - 1)
        return Coefficients(torch.ones_like(t), root**self.rho, torch.zeros_like(t), d_sigma)

    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        high, low = self._roots
        return ((-log_snr / (2 * self.rho)).exp() - high) / (low - high)


def _check_sigmas(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max:
        raise InputError(
            f"sigma_min = {sigma_min}, sigma_max = {sigma_max}: need 0 < sigma_min < sigma_max"
        )
