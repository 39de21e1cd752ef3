"""Stochastic sampling: any amount of noise, the same marginals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from pushforward.core.errors import InputError, UndefinedError
from pushforward.core.fields import Field, require_score
from pushforward.core.interpolants import BrownianBridge, Interpolant
from pushforward.core.noise import SOLVER, Noise
from pushforward.core.paths import Path
from pushforward.core.predictions import check_defined
from pushforward.core.shapes import as_time, expand
from pushforward.solvers.ode import advance

NoiseLevel = float | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Reversal:
    """The noise level between the probability-flow ODE and the time reversal of the noising diffusion.

        g_lam(t) = sqrt(1 - lam) g(t),   g = path.reverse_noise_level

    With it the SDE of `EulerMaruyama` is, f = alpha'/alpha and t running towards the data,

        dX = [f x + (1 - lam/2) g^2 score] dt + sqrt(1 - lam) g dW

    lam = 1 is the ODE, lam = 0 Anderson's reversal. On paths from alpha(0) = 0, g(0) is infinite: start later.

    Song et al. 2021 (arXiv 2011.13456), eq. 6 and 13; Anderson 1982.
    """

    path: Path
    lam: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 1:
            raise InputError(f"lam is {self.lam}; it must lie in [0, 1]: 1 is the ODE, 0 the SDE")

    def __call__(self, t: Tensor) -> Tensor:
        if self.lam == 1:
            return torch.zeros_like(t)
        return (1 - self.lam) ** 0.5 * self.path.reverse_noise_level(t)


@dataclass(frozen=True)
class _Diffusion:
    """The SDE with the flow's marginals and noise level g, and what its solvers share.

    On a Gaussian path the velocity gives the score; on an interpolant the field is asked for both, in one call.
    """

    g: NoiseLevel = 1.0

    def __post_init__(self) -> None:
        if not callable(self.g) and not self.g >= 0:
            raise InputError(
                f"the noise level g is {self.g}; it must be a number >= 0 or a function of t"
            )

    @classmethod
    def along(cls, path: Path) -> Self:
        """With the noise level that a path suggests: that of its Brownian motion, or sigma(t)."""
        return cls(path.std if isinstance(path, BrownianBridge) else path.sigma)

    def init(self, x: Tensor, grid: Tensor, path: Path) -> None:
        if isinstance(path, Interpolant):
            return  # the score is the field's own
        check_defined("score", path)
        # Later steps start within (0, 1).
        terms = torch.stack(self._terms(path, grid[0], self.noise_level(grid[0])))
        bad = ~terms.isfinite().all(0)
        if bool(bad.any()):
            raise UndefinedError(
                f"g^2/2 score is not finite at t = {float(grid[0][bad][0]):.6g}, where the first step starts: on "
                f"{path} it needs a noise level that is finite where alpha = 0, and 0 where sigma = 0, or another start"
            )

    def noise_level(self, t: Tensor) -> Tensor:
        """g(t), (B,)."""
        return self.g(t) if callable(self.g) else torch.full_like(t, self.g)

    def correction(self, x: Tensor, t: Tensor, velocity: Tensor, field: Field) -> Tensor:
        """`g^2/2 score`, from the velocity already in hand, on a Gaussian path; 0 where g is."""
        check_defined("score", field.path)
        a, b = self._terms(field.path, t, self.noise_level(t))
        return expand(a, x) * x + expand(b, x) * velocity

    def drift(self, field: Field, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """`u + g^2/2 score`, the drift of the SDE that runs from noise to data."""
        t = as_time(t, x)
        if isinstance(field.path, Interpolant):
            u, c = self._asked(field, x, t, **cond)
            return u + c
        u = field(x, t, **cond)
        return u + self.correction(x, t, u, field)

    def _asked(self, field: Field, x: Tensor, t: Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
        """(u, g^2/2 score) of a field on an interpolant."""
        u, score = require_score(field).with_score(x, t, **cond)
        return u, expand(self.noise_level(t) ** 2 / 2, x) * score

    def _terms(self, path: Path, t: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b) with `g^2/2 score = a x + b u`, each (B,).

        From u = f x + G^2/2 score, f and G^2 those of `Path.forward_sde`; where alpha = 0 the score is -x/sigma^2.
        """
        f, level2 = path.forward_sde(t)
        usual = f.isfinite()
        a = torch.where(usual, -2 * f / level2, -1 / path.sigma(t) ** 2)
        b = torch.where(usual, 2 / level2, 0.0)
        return torch.where(g == 0, 0.0, g**2 / 2 * a), torch.where(g == 0, 0.0, g**2 / 2 * b)


@dataclass(frozen=True)
class EulerMaruyama(_Diffusion):
    """Euler's method for the SDE with the flow's marginals and a noise level g(t) >= 0 of your choice.

        dX = [u(X, t) + g(t)^2/2 score(X, t)] dt + g(t) dW
        x_{t+h} = x + h u + |h| g^2/2 score + g sqrt(|h|) z,   z ~ N(0, I)

    Every g keeps the marginals p_t; g = 0 is Euler's method for the flow. Backwards in time (h < 0) the same formula
    holds, and again keeps the marginals. Errors in law are of first order in h, those along a path of order 1/2.

    g: a number, or a function of t (B,) that returns (B,): `lambda t: path.sigma(t)`, or `Reversal(path, lam)` for the
    family between the flow and the time reversal of the noising diffusion. It needs a score, hence an independent
    Gaussian source or, on an interpolant, a `ScoreField`; and raises UndefinedError where a step would start from an
    infinite g^2/2 score. On `BrownianBridge(std)`, g = std is the process itself: the Schroedinger bridge, if that was
    learned.

    Holderrieth & Erives 2025 (arXiv 2506.02070), the SDE extension trick; Song et al. 2021 (arXiv 2011.13456).
    """

    order: ClassVar[float] = 1
    calls: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True

    def step(
        self, field: Field, x: Tensor, t: Tensor, s: Tensor, state: None, noise: Noise, **cond: Any
    ) -> tuple[Tensor, None]:
        h = s - t
        g = self.noise_level(t)
        if isinstance(field.path, Interpolant):
            u, c = self._asked(field, x, t, **cond)
            kick = expand(h.abs(), x) * c
        else:
            u = field(x, t, **cond)
            a, b = (expand(h.abs() * c, x) for c in self._terms(field.path, t, g))
            kick = (b * u).add_(a * x)
        z = noise.normal(x.shape[1:], SOLVER, x.dtype)
        # The first term as in `Euler`, to the last bit.
        moved = torch.addcmul(x, expand(h, x), u)
        return moved.add_(kick).add_(expand(g * h.abs().sqrt(), x) * z), None


@dataclass(frozen=True)
class StochasticHeun(_Diffusion):
    """Heun's method for the SDE of `EulerMaruyama`: of second order in law.

        x~      = x + h u(x, t) + |h| c(x, t) + g sqrt(|h|) z,           c = g^2/2 score
        x_{t+h} = x + h/2 (u + u~) + |h|/2 (c + c~) + g sqrt(|h|) z,     u~, c~ at (x~, t + h)

    with one z for both, and g that of the middle of the step, so that the noise has its variance up to third order. The
    noise does not depend on x: errors in law are then of order 2 in h, those along a path of order 1. g = 0 is `Heun`.
    A z for each stage, or none in x~, would leave order 1.

    Where c~ does not exist (a step to sigma = 0 in general, or to alpha = 0 with an infinite g) c stands in its place.
    g and errors are those of `EulerMaruyama`.

    Kloeden & Platen 1992, sec. 14.2 and 15.1, for additive noise.
    """

    order: ClassVar[float] = 2
    calls: ClassVar[int] = 2
    stochastic: ClassVar[bool] = True

    def step(
        self, field: Field, x: Tensor, t: Tensor, s: Tensor, state: None, noise: Noise, **cond: Any
    ) -> tuple[Tensor, None]:
        h = s - t
        size = expand(h.abs(), x)
        g = self.noise_level(t + h / 2)
        spread = expand(g * h.abs().sqrt(), x) * noise.normal(x.shape[1:], SOLVER, x.dtype)
        if isinstance(field.path, Interpolant):
            u, c = self._asked(field, x, t, **cond)
            there = advance(x, h, (1,), [u]) + size * c + spread
            u_there, c_there = self._asked(field, there, s, **cond)
            moved = advance(x, h, (1 / 2, 1 / 2), [u, u_there])
            return moved + size / 2 * (c + c_there) + spread, None
        a, b = (expand(c, x) for c in self._terms(field.path, t, self.noise_level(t)))
        u = field(x, t, **cond)
        c = a * x + b * u
        there = advance(x, h, (1,), [u]) + size * c + spread
        u_there = field(there, s, **cond)
        a, b = self._terms(field.path, s, self.noise_level(s))
        known = a.isfinite() & b.isfinite()
        a, b = (expand(torch.where(known, value, 0.0), x) for value in (a, b))
        c_there = torch.where(expand(known, x).bool(), a * there + b * u_there, c)
        moved = advance(x, h, (1 / 2, 1 / 2), [u, u_there])
        return moved + size / 2 * (c + c_there) + spread, None
