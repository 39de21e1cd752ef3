"""The sampler of Karras et al.: Heun's method in the noise level, and noise put back before each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.fields import Field
from pushforward.core.noise import SOLVER, Noise
from pushforward.core.paths import Path
from pushforward.core.predictions import check_defined
from pushforward.core.shapes import expand
from pushforward.solvers.ancestral import both, masked, require_forward


@dataclass(frozen=True)
class ChurnedHeun:
    """Heun's method in the noise level, after a little fresh noise, on any Gaussian path.

    With y = x/alpha and noise level k = sigma/alpha, the flow is dy/dk = E, the predicted noise. From k_t to k_s:

        k^  = (1 + gamma) k_t,    gamma = min(s_churn/n, sqrt(2) - 1) if s_tmin <= k_t <= s_tmax else 0
        y^  = y + sqrt(k^^2 - k_t^2) s_noise z                                              z ~ N(0, I)
        y~  = y^ + (k_s - k^) E(y^, k^)
        y_s = y^ + (k_s - k^)/2 (E(y^, k^) + E(y~, k_s))

    n is the number of steps. s_churn = 0, the default, is deterministic and works in both directions. It is not `Heun`,
    which steps in t: both are of second order, with other errors. The step to sigma = 0 is y~ alone, as in the paper,
    and so is the one from alpha = 0, where k is infinite; each of them takes one call instead of two. Levels are
    raised to that of t = 0 at most.

    (s_churn, s_tmin, s_tmax, s_noise) = (40, 0.05, 50, 1.003) in the paper, on ImageNet-64, scaled to a standard
    deviation of 0.5.

    Karras et al. 2022 (arXiv 2206.00364), alg. 2, and alg. 1 for s_churn = 0.
    """

    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = float("inf")
    s_noise: float = 1.0
    order: ClassVar[float] = 2
    calls: ClassVar[int] = 2

    @property
    def stochastic(self) -> bool:
        return self.s_churn > 0

    def __post_init__(self) -> None:
        if not (self.s_churn >= 0 and self.s_noise >= 0 and 0 <= self.s_tmin <= self.s_tmax):
            raise InputError(f"need s_churn, s_noise >= 0 and 0 <= s_tmin <= s_tmax, got {self}")

    def init(self, x: Tensor, grid: Tensor, path: Path) -> int:
        """The number of steps, among which s_churn is shared out."""
        check_defined("noise", path)
        if self.s_churn > 0:
            require_forward(grid, "ChurnedHeun with s_churn > 0")
        return len(grid) - 1

    def step(
        self, field: Field, x: Tensor, t: Tensor, s: Tensor, state: int, noise: Noise, **cond: Any
    ) -> tuple[Tensor, int]:
        path = field.path
        if self.s_churn > 0:
            x, t = self._churn(x, t, path, min(self.s_churn / state, 2**0.5 - 1), noise)
        data, eps = both(field, x, t, **cond)
        alpha_s, sigma_s, alpha_t = path.alpha(s), path.sigma(s), path.alpha(t)
        euler = expand(alpha_s, x) * data + expand(sigma_s, x) * eps
        # alpha_s (k_s - k_t)/2: y is x_s up to the scale alpha_s.
        half = expand((sigma_s - alpha_s / alpha_t * path.sigma(t)) / 2, x)

        def heun(there: Tensor, at: Tensor, eps: Tensor, half: Tensor, **cond: Any) -> Tensor:
            return there + half * (both(field, there, at, **cond)[1] - eps)

        return masked((sigma_s > 0) & (alpha_t > 0), euler, heun, s, eps, half, **cond), state

    def _churn(
        self, x: Tensor, t: Tensor, path: Path, gamma: float, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """The state, and the time, after noise is raised by the factor 1 + gamma."""
        alpha, sigma = path.alpha(t), path.sigma(t)
        level = sigma / alpha
        raised = (level >= self.s_tmin) & (level <= self.s_tmax) & (alpha > 0) & (sigma > 0)
        back = torch.where(raised, path.time_of_edm_sigma((1 + gamma) * level), t)
        ratio = torch.where(raised, path.alpha(back) / alpha, 1.0)
        added = (path.sigma(back) ** 2 - (ratio * sigma) ** 2).clamp(min=0).sqrt()
        spread = expand(torch.where(raised, self.s_noise * added, 0.0), x)
        return expand(ratio, x) * x + spread * noise.normal(x.shape[1:], SOLVER, x.dtype), back
