"""Stochastic sampling: any amount of noise, the same marginals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.fields import Field
from pushforward.core.noise import SOLVER, Noise
from pushforward.core.paths import Path
from pushforward.core.predictions import check_defined, conversion
from pushforward.core.shapes import as_time, expand

NoiseLevel = float | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class EulerMaruyama:
    """Euler's method for the SDE with the flow's marginals and a noise level g(t) >= 0 of your choice.

        dX = [u(X, t) + g(t)^2/2 score(X, t)] dt + g(t) dW
        x_{t+h} = x + h u + |h| g^2/2 score + g sqrt(|h|) z,   z ~ N(0, I)

    Every g keeps the marginals p_t; g = 0 is Euler's method for the flow. Backwards in time (h < 0) the same formula
    holds, and again keeps the marginals. Errors in law are of first order in h, those along a path of order 1/2.

    g: a number, or a function of t (B,) that returns (B,): `lambda t: path.sigma(t)`, or `path.reverse_noise_level`
    for the time reversal of the noising diffusion. It needs a score, hence an independent Gaussian source.

    Holderrieth & Erives 2025 (arXiv 2506.02070), the SDE extension trick; Song et al. 2021 (arXiv 2011.13456).
    """

    g: NoiseLevel = 1.0
    order: ClassVar[float] = 1
    calls: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not callable(self.g) and not self.g >= 0:
            raise InputError(
                f"the noise level g is {self.g}; it must be a number >= 0 or a function of t"
            )

    def init(self, x: Tensor, grid: Tensor, path: Path) -> None:
        return None

    def noise_level(self, t: Tensor) -> Tensor:
        """g(t), (B,)."""
        return self.g(t) if callable(self.g) else torch.full_like(t, self.g)

    def correction(self, x: Tensor, t: Tensor, velocity: Tensor, field: Field) -> Tensor:
        """`g^2/2 score`, from the velocity already in hand; 0 where g is."""
        check_defined("score", field.path)
        g, c = self.noise_level(t), field.path.coefficients(t)
        f, g2 = field.path.forward_sde(t)
        a, b = conversion("velocity", "score", c)
        # Where sigma' is infinite (variance-preserving paths at t = 1): velocity = f x + g2/2 score.
        usual = c.d_sigma.isfinite()
        a, b = torch.where(usual, a, -2 * f / g2), torch.where(usual, b, 2 / g2)
        a, b = (torch.where(g > 0, g**2 / 2 * value, 0.0) for value in (a, b))
        return expand(a, x) * x + expand(b, x) * velocity

    def drift(self, field: Field, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """`u + g^2/2 score`, the drift of the SDE that runs from noise to data."""
        t = as_time(t, x)
        u = field(x, t, **cond)
        return u + self.correction(x, t, u, field)

    def step(
        self, field: Field, x: Tensor, t: Tensor, s: Tensor, state: None, noise: Noise, **cond: Any
    ) -> tuple[Tensor, None]:
        h = s - t
        u = field(x, t, **cond)
        spread = expand(self.noise_level(t) * h.abs().sqrt(), x)
        z = noise.normal(x.shape[1:], SOLVER, x.dtype)
        # The first term as in `Euler`, to the last bit.
        moved = torch.addcmul(x, expand(h, x), u)
        return moved + expand(h.abs(), x) * self.correction(x, t, u, field) + spread * z, None
