"""Stochastic interpolants: paths between any two laws, with noise of their own on the way.

    x_t = alpha(t) x1 + sigma(t) x0 + gamma(t) z        z ~ N(0, I), independent of the pair (x0, x1)

The source may be any law, and the pair coupled in any way: the velocity and the score of the law of x_t are

    u(x, t) = E[alpha' x1 + sigma' x0 + gamma' z | x_t = x],      score = -E[z | x_t = x]/gamma

and so `u = line - gamma gamma' score` with line = E[alpha' x1 + sigma' x0 | x_t = x]: finite where gamma' is not.
With noise g, `dX = (u + g^2/2 score) dt + g dW` has the same marginals, and so has `dX = (u - g^2/2 score) dt + g dW`
with dt < 0, backwards.

Albergo, Boffi, Vanden-Eijnden 2023 (arXiv 2303.08797), sec. 2; Tong et al. 2024 (arXiv 2307.03672), eq. 8 for the
Brownian bridge.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pushforward.core.errors import InputError, UndefinedError
from pushforward.core.paths import Coefficients, Path
from pushforward.core.shapes import as_time, expand


@dataclass(frozen=True)
class Interpolant(Path):
    """A path with gamma(t): `x_t = alpha x1 + sigma x0 + gamma z`.

    A new one writes alpha, sigma and gamma, and `latent` and `growth` in closed form where gamma' is infinite. A
    velocity gives none of the other predictions: data and noise are two of three unknowns. There is no noising
    diffusion with these marginals, so that `forward_sde` is an error.
    """

    gaussian_source: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.gaussian_source:
            raise InputError(
                f"{type(self).__name__} adds noise of its own to a source of any law: leave gaussian_source=False, "
                f"also for Gaussian noise, or take a path such as CondOT"
            )

    @abstractmethod
    def gamma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise added on the way. t: any shape, in [0, 1]."""

    def latent(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """gamma and d gamma/dt at t, by forward-mode differentiation."""
        t = t.contiguous()
        return torch.func.jvp(self.gamma, (t,), (torch.ones_like(t),))[:2]

    def growth(self, t: Tensor) -> Tensor:
        """`gamma gamma' = (gamma^2)'/2` at t."""
        gamma, d_gamma = self.latent(t)
        return gamma * d_gamma

    def forward_sde(self, t: Tensor) -> tuple[Tensor, Tensor]:
        raise UndefinedError(
            f"{self} is not the time reversal of a noising diffusion: give the noise level as a number or a function "
            f"of t, such as the std of the Brownian bridge"
        )

    def mix(self, x0: Tensor, x1: Tensor, z: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """x_t and d x_t / dt for the pair and its noise, (B, ...) each; the latter is infinite where gamma' is."""
        if z.shape != x1.shape:
            raise InputError(
                f"z is noise for x1, so their shapes must agree: {tuple(z.shape)} and {tuple(x1.shape)}"
            )
        t = as_time(t, x1)
        gamma, d_gamma = (expand(value, z) for value in self.latent(t))
        return self.sample(x0, x1, t) + gamma * z, self.velocity(x0, x1, t) + d_gamma * z


@dataclass(frozen=True)
class _Straight(Interpolant):
    """alpha = t, sigma = 1 - t."""

    std: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.std < math.inf:
            raise InputError(f"std is {self.std}; it must be positive and finite")

    def alpha(self, t: Tensor) -> Tensor:
        return t

    def sigma(self, t: Tensor) -> Tensor:
        return 1 - t

    def coefficients(self, t: Tensor) -> Coefficients:
        one = torch.ones_like(t)
        return Coefficients(t, 1 - t, one, -one)


@dataclass(frozen=True)
class Tube(_Straight):
    """A straight tube of constant width: `x_t = t x1 + (1 - t) x0 + std z`.

    Its ends are the two laws blurred by std. The velocity is that of the line, x1 - x0.
    Tong et al. 2023 (arXiv 2302.00482), eq. 14-15; Lipman et al. 2023 for a Gaussian source.
    """

    std: float = 0.01

    def gamma(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.std)


@dataclass(frozen=True)
class BrownianBridge(_Straight):
    """Brownian motion of diffusion std, pinned to x0 and x1: `x_t = t x1 + (1 - t) x0 + std sqrt(t (1 - t)) z`.

    gamma' is infinite at both ends, and the mean square of gamma' z over all t with it: `ScoreAndFlowMatching` has
    targets of finite variance, plain matching of the velocity has not. With g = std and (x0, x1) from the entropic plan
    of cost |x0 - x1|^2/2 and regularisation std^2, the process is the Schroedinger bridge (Tong et al. 2024, arXiv
    2307.03672, prop. 3.1).
    """

    def gamma(self, t: Tensor) -> Tensor:
        return self.std * (t * (1 - t)).sqrt()

    def latent(self, t: Tensor) -> tuple[Tensor, Tensor]:
        gamma = self.gamma(t)
        return gamma, self.std**2 * (1 - 2 * t) / (2 * gamma)

    def growth(self, t: Tensor) -> Tensor:
        return self.std**2 * (1 - 2 * t) / 2


@dataclass(frozen=True)
class SmoothBridge(_Straight):
    """Noise that comes and goes smoothly: `x_t = t x1 + (1 - t) x0 + std sin^2(pi t) z`.

    Nothing is infinite at the ends. Albergo et al. 2023 (arXiv 2303.08797), table 2.
    """

    def gamma(self, t: Tensor) -> Tensor:
        return self.std * (math.pi * t).sin() ** 2

    def latent(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.gamma(t), self.std * math.pi * (2 * math.pi * t).sin()
