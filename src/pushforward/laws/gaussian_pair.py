"""Pairs of Gaussian laws: interpolants, and the Schroedinger bridge, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.interpolants import BrownianBridge, Interpolant
from pushforward.core.noise import DATA, Noise
from pushforward.core.predictions import Prediction, check_defined
from pushforward.core.shapes import as_time
from pushforward.laws.law import check_states


class GaussianPair:
    """A source and data that are Gaussian, jointly.

        x0 ~ N(mean0, cov0),   x1 ~ N(mean1, cov1),   E[(x0 - mean0) (x1 - mean1)^T] = cross

    mean0, mean1: (D,). cov0, cov1: (D, D), positive definite. cross: (D, D); 0, independence, by default. In float64.
    Raises InputError if the joint covariance is not positive semi-definite.
    """

    def __init__(self, mean0: Any, cov0: Any, mean1: Any, cov1: Any, cross: Any = None) -> None:
        self.mean0, self.mean1 = (_as(m).reshape(-1) for m in (mean0, mean1))
        dim = len(self.mean0)
        self.cov0, self.cov1 = _as(cov0), _as(cov1)
        self.cross = torch.zeros(dim, dim, dtype=torch.float64) if cross is None else _as(cross)
        if len(self.mean1) != dim or any(
            c.shape != (dim, dim) for c in (self.cov0, self.cov1, self.cross)
        ):
            raise InputError(
                f"means must have shape (D,) and covariances (D, D), got {tuple(self.mean0.shape)}, "
                f"{tuple(self.mean1.shape)}, {tuple(self.cov0.shape)}, {tuple(self.cov1.shape)}, "
                f"{tuple(self.cross.shape)}"
            )
        for name, cov in (("cov0", self.cov0), ("cov1", self.cov1)):
            if not torch.allclose(cov, cov.mT) or float(torch.linalg.eigvalsh(cov)[0]) <= 0:
                raise InputError(f"{name} must be symmetric and positive definite")
        self.joint = torch.cat(
            (torch.cat((self.cov0, self.cross), 1), torch.cat((self.cross.mT, self.cov1), 1))
        )
        values, basis = torch.linalg.eigh(self.joint)
        if float(values[0]) < -1e-9 * float(values[-1]):
            raise InputError(
                "no pair has this cross-covariance: the joint covariance has negative eigenvalues"
            )
        self._root = basis * values.clamp(min=0).sqrt()

    @classmethod
    def entropic(cls, mean0: Any, cov0: Any, mean1: Any, cov1: Any, std: float) -> GaussianPair:
        """The coupling of the Schroedinger bridge: nearest in KL to Brownian motion of diffusion std.

            cross = (cov0^1/2 (4 cov0^1/2 cov1 cov0^1/2 + std^4 I)^1/2 cov0^-1/2 - std^2 I)/2

        Equally, of optimal transport for |x0 - x1|^2/2 with entropic regularisation std^2. With `BrownianBridge(std)`
        its field is the Schroedinger bridge.

        Janati et al. 2020 (arXiv 2006.02572), thm. 1; Bunne et al. 2023 (arXiv 2202.05722), sec. 3.
        """
        BrownianBridge(std)  # checks std
        pair = cls(mean0, cov0, mean1, cov1)
        one = torch.eye(len(pair.mean0), dtype=torch.float64)
        half = _power(pair.cov0, 0.5)
        inner = _power(4 * half @ pair.cov1 @ half + std**4 * one, 0.5)
        cross = (half @ inner @ _power(pair.cov0, -0.5) - std**2 * one) / 2
        return cls(mean0, cov0, mean1, cov1, cross)

    def draw(self, noise: Noise) -> tuple[Tensor, Tensor]:
        """(x0, x1), (B, D) each in float64, a function of (seed, step, id)."""
        dim = len(self.mean0)
        x = noise.normal((2 * dim,), DATA, torch.float64) @ self._root.mT
        return self.mean0 + x[:, :dim], self.mean1 + x[:, dim:]

    def field(self, path: Interpolant) -> PairField:
        """The exact velocity and score of this pair on `path`."""
        return PairField(self, path)


@dataclass(frozen=True)
class PairField:
    """Velocity and score of x_t = alpha x1 + sigma x0 + gamma z for a Gaussian pair, a `ScoreField`.

        x_t ~ N(mean, cov),   mean = alpha mean1 + sigma mean0
        cov = alpha^2 cov1 + sigma^2 cov0 + alpha sigma (cross + cross^T) + gamma^2 I
        score = -cov^-1 (x - mean)
        u = alpha' mean1 + sigma' mean0 + K cov^-1 (x - mean),   K = Cov(d x_t/dt, x_t)

    Finite at both ends, where gamma' need not be.
    """

    pair: GaussianPair
    path: Interpolant

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return (len(self.pair.mean0),)

    def marginal(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Mean (..., D) and covariance (..., D, D) of x_t for t (...)."""
        p, t = self.pair, torch.as_tensor(t, dtype=torch.float64)
        a, s, g = (f(t)[..., None] for f in (self.path.alpha, self.path.sigma, self.path.gamma))
        mean = a * p.mean1 + s * p.mean0
        a, s, g = a[..., None], s[..., None], g[..., None]
        cov = a**2 * p.cov1 + s**2 * p.cov0 + a * s * (p.cross + p.cross.mT)
        return mean, cov + g**2 * torch.eye(len(p.mean0), dtype=torch.float64)

    def __call__(
        self, x: Tensor, t: Tensor | float, want: Prediction = "velocity", **cond: Any
    ) -> Tensor:
        if want == "score":
            return self.with_score(x, t)[1]
        check_defined(want, self.path)
        return self.with_score(x, t)[0]

    def with_score(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """Velocity and score, (B, D) each."""
        check_states(x, self.shape)
        p, t = self.pair, as_time(t, x).double()
        if len(t) > 1 and bool((t == t[0]).all()):
            t = t[:1]  # one covariance for all samples
        mean, cov = self.marginal(t)
        alpha, sigma, d_alpha, d_sigma = (c[:, None] for c in self.path.coefficients(t))
        score = -torch.linalg.solve(cov, (x.double() - mean)[..., None])[..., 0]
        a, s, da, ds = (c[..., None] for c in (alpha, sigma, d_alpha, d_sigma))
        one = torch.eye(len(p.mean0), dtype=torch.float64)
        k = da * (a * p.cov1 + s * p.cross.mT) + ds * (a * p.cross + s * p.cov0)
        k = k + self.path.growth(t)[:, None, None] * one
        velocity = d_alpha * p.mean1 + d_sigma * p.mean0 - (k @ score[..., None])[..., 0]
        return velocity.to(x.dtype), score.to(x.dtype)


def _as(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64).detach().cpu()


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """A power of a symmetric positive definite matrix."""
    values, basis = torch.linalg.eigh(matrix)
    return basis * values**exponent @ basis.mT
