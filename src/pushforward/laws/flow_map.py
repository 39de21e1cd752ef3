"""Flow maps that are known exactly: of one Gaussian in any dimension, and of any mixture on the line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pushforward.core.errors import InputError, UndefinedError
from pushforward.core.fields import Jumps
from pushforward.core.paths import Path
from pushforward.core.shapes import as_time
from pushforward.laws.finite_mixture import FiniteMixture
from pushforward.laws.law import check_states


@dataclass(frozen=True)
class ExactMap:
    """The flow map of a law on a path, exactly, and differentiable in x, t and s. A `FlowMap`.

    One Gaussian N(m, Q diag(l) Q^T), whose trajectories stay at their place in units of its standard deviations:

        X(x, t, s) = alpha_s m + Q diag(r) Q^T (x - alpha_t m)
        r^2 = (alpha_s^2 l + sigma_s^2)/(alpha_t^2 l + sigma_t^2)

    A mixture on the line, whose trajectories stay at their quantile, F_t being the distribution function of x_t:

        F_s(X(x, t, s)) = F_t(x)

    solved by bisection in the log odds of F to the last digit, with the derivatives of the implicit equation. Computed
    in float64, returned in x's dtype. Other laws have no closed form and raise UndefinedError: use
    `SolverFlowMap(field, solver)`.
    """

    law: FiniteMixture
    path: Path
    jumps: ClassVar[Jumps] = "any"

    def __post_init__(self) -> None:
        means = self.law.components.means
        if len(means) > 1 and means.shape[1] > 1:
            raise UndefinedError(
                f"the flow map of {len(means)} components in {means.shape[1]} dimensions has no closed form: take "
                f"SolverFlowMap(law.field(path), RK4(), 100)"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.law.shape

    def __call__(self, x: Tensor, t: Tensor | float, s: Tensor | float, **cond: Any) -> Tensor:
        if cond:
            raise InputError(f"an exact map takes no condition, got {', '.join(sorted(cond))}")
        check_states(x, self.law.shape, self.law.components.means.device)
        t, s = as_time(t, x).double(), as_time(s, x).double()
        flat = x.flatten(1).double()
        one = len(self.law.components.means) == 1
        y = self._gaussian(flat, t, s) if one else self._line(flat[:, 0], t, s)[:, None]
        return y.reshape(x.shape).to(x.dtype)

    def _scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t (B,), standard deviations (B, K, D or 1))."""
        alpha = self.path.alpha(t)
        return alpha, self.law.components.stds(alpha, self.path.sigma(t))

    def _gaussian(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        mean, basis = self.law.components.means, self.law.components.basis
        (alpha_t, std_t), (alpha_s, std_s) = self._scales(t), self._scales(s)
        y = x - alpha_t[:, None] * mean
        if basis is not None:
            y = y @ basis[0]
        y = y * (std_s / std_t)[:, 0]
        if basis is not None:
            y = y @ basis[0].T
        return alpha_s[:, None] * mean + y

    def _line(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        goal = self._odds(x, t)
        with torch.no_grad():
            alpha, std = self._scales(s)
            centres, widths = alpha[:, None] * self.law.components.means[:, 0], std[:, :, 0]
            # Between the same number of standard deviations of the outermost components.
            reach = (self._standard(x, t).abs().amax(1, keepdim=True) + 1) * widths
            low, high = (centres - reach).amin(1), (centres + reach).amax(1)
            for _ in range(100):
                y = (low + high) / 2
                below = self._odds(y, s) < goal
                low, high = torch.where(below, y, low), torch.where(below, high, y)
            y = (low + high) / 2
            slope = self._slope(y, s)
        # One Newton step from the root does not move it and gives it the derivatives of the implicit equation.
        return y - (self._odds(y, s) - goal) / slope

    def _standard(self, x: Tensor, t: Tensor) -> Tensor:
        """(x - alpha m_k)/std_k, (B, K)."""
        alpha, std = self._scales(t)
        return (x[:, None] - alpha[:, None] * self.law.components.means[:, 0]) / std[:, :, 0]

    def _odds(self, x: Tensor, t: Tensor) -> Tensor:
        """ln F_t(x) - ln(1 - F_t(x)), which keeps its digits in both tails."""
        z, weights = self._standard(x, t), self.law.log_weights
        below = (weights + torch.special.log_ndtr(z)).logsumexp(1)
        above = (weights + torch.special.log_ndtr(-z)).logsumexp(1)
        return below - above

    def _slope(self, x: Tensor, t: Tensor) -> Tensor:
        """The derivative of `_odds` in x, p/(F (1 - F))."""
        z, weights = self._standard(x, t), self.law.log_weights
        std = self._scales(t)[1][:, :, 0]
        below = (weights + torch.special.log_ndtr(z)).logsumexp(1)
        above = (weights + torch.special.log_ndtr(-z)).logsumexp(1)
        density = (weights - z**2 / 2 - std.log() - 0.9189385332046727).logsumexp(1)
        return (density - below - above).exp()
