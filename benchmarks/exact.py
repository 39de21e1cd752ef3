"""Exact trajectories, and networks that count their calls: the ground on which samplers are compared."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import pushforward as pf

Denoise = Callable[[Tensor, float, float], Tensor]


class Denoiser:
    """`E[x1 | alpha x1 + sigma x0 = x]` of a Gaussian mixture, at any (alpha, sigma) whatever the path, in float64.

    The same function as `law.field(path)(x, t, "data")`, without the moments that sampling does not use.
    """

    def __init__(self, law: pf.GaussianMixture) -> None:
        self.parts, self.log_weights = law.components, law.log_weights
        self.means = law.components.means
        self.isotropic = hasattr(law.components, "variances")
        if self.isotropic:
            self.variances, self.norms = law.components.variances, self.means.square().sum(1)
        else:
            self.values, self.basis = law.components.eigenvalues, law.components.basis

    def __call__(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        x, dim = x.double(), x.shape[1]
        if self.isotropic:
            var = alpha**2 * self.variances + sigma**2
            square = (
                x.square().sum(1, keepdim=True)
                - 2 * alpha * x @ self.means.T
                + alpha**2 * self.norms
            )
            r = (self.log_weights - (square / var + dim * var.log()) / 2).softmax(1)
            gain = alpha * self.variances / var
            return (r * (1 - alpha * gain)) @ self.means + (r @ gain)[:, None] * x
        var = alpha**2 * self.values + sigma**2
        y = x[:, None] - alpha * self.means
        if self.basis is not None:
            y = torch.einsum("kji,bkj->bki", self.basis, y)
        r = (self.log_weights - (y.square() / var + var.log()).sum(2) / 2).softmax(1)
        y = alpha * self.values / var * y
        if self.basis is not None:
            y = torch.einsum("kij,bkj->bki", self.basis, y)
        return torch.einsum("bk,bkd->bd", r, self.means + y)


class Problem:
    """The exact flow of a denoiser through given starts, and the network that peers call.

    In x/r, r = hypot(alpha, sigma), the flow depends on the angle phi = arctan(sigma/alpha) alone, whatever the path:

        d(x/r)/dphi = cos(phi) E[x0|x] - sin(phi) E[x1|x] = (cos(phi) x/r - E[x1|x])/sin(phi)

    which is smooth from phi = pi/2, noise, to 0, data. A sampler on any schedule is started on the trajectory itself.
    """

    def __init__(self, denoise: Denoise, path: pf.Path, x0: Tensor, steps: int = 0) -> None:
        start = torch.zeros((), dtype=torch.float64)
        alpha, sigma = float(path.alpha(start)), float(path.sigma(start))
        self.denoise, self.path, self.x0, self.calls = denoise, path, x0, 0
        self.steps = steps  # of Runge-Kutta instead of an adaptive method: what it costs is known
        self.first, self._states = math.atan2(sigma, alpha), {}
        self._normal = x0 / math.hypot(alpha, sigma)
        self.end = self._carry(self._normal, self.first, 0.0)

    def __call__(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """One network call: E[x1 | x]."""
        self.calls += 1
        return self.denoise(x, float(alpha), float(sigma))

    def at(self, alpha: float, sigma: float) -> Tensor:
        """The state of the exact trajectory where its noise is sigma and its signal alpha."""
        alpha, sigma = float(alpha), float(sigma)
        key = round(math.atan2(sigma, alpha), 12)
        if key not in self._states:
            self._states[key] = self._carry(self._normal, self.first, key)
        return math.hypot(alpha, sigma) * self._states[key]

    def error(self, x: Tensor, rows: slice = slice(None)) -> float:
        """Root mean square over points and coordinates of the distance to the exact end."""
        return float((x - self.end)[rows].square().mean().sqrt())

    def _slope(self, x: Tensor, phi: float) -> Tensor:
        phi = max(
            phi, 1e-6
        )  # E[x0|x] = (x - c E[x1|x])/s, whose limit at s = 0 a denoiser does not give
        c, s = math.cos(phi), math.sin(phi)
        return (c * x - self.denoise(x, c, s)) / s

    def _carry(self, x: Tensor, first: float, last: float) -> Tensor:
        if abs(last - first) < 0.1:  # the ends of schedules differ by little
            return self.runge_kutta(x, first, last, 10)
        if self.steps:
            return self.runge_kutta(x, first, last, self.steps)

        def slope(phi: float, flat: np.ndarray) -> np.ndarray:
            return self._slope(torch.from_numpy(flat).view_as(x), phi).flatten().numpy()

        done = solve_ivp(
            slope,
            (first, last),
            x.flatten().numpy(),
            "DOP853",
            rtol=1e-9,
            atol=1e-9,
        )
        return torch.from_numpy(done.y[:, -1].copy()).view_as(x)

    def runge_kutta(self, x: Tensor, first: float, last: float, steps: int) -> Tensor:
        """The classical method of order four, to check the other one with."""
        h = (last - first) / steps
        for i in range(steps):
            phi = first + i * h
            k1 = self._slope(x, phi)
            k2 = self._slope(x + h / 2 * k1, phi + h / 2)
            k3 = self._slope(x + h / 2 * k2, phi + h / 2)
            end = last if i == steps - 1 else phi + h
            k4 = self._slope(x + h * k3, end)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return x
