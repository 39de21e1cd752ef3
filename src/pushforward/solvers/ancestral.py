"""Sampling by the posterior of the noising process: DDPM, DDIM and everything between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.errors import InputError
from pushforward.core.fields import Field, require_variance
from pushforward.core.noise import SOLVER, Noise
from pushforward.core.paths import Path
from pushforward.core.predictions import check_defined, convert
from pushforward.core.shapes import expand


@dataclass(frozen=True)
class DDIM:
    """Denoising diffusion implicit steps, on any Gaussian path and any grid.

        x_s = alpha_s D + sqrt(sigma_s^2 - eta^2 v) E + s_noise eta sqrt(v) z
        v   = (sigma_s/sigma_t)^2 (sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2)

    D and E are data and noise predicted at (x_t, t), v the variance beta-tilde of q(x_s | x_t, x1). eta = 0 is
    deterministic, one with DPM-Solver-1, and works in both directions: data -> noise is DDIM inversion. eta = 1 with
    the same v is DDPM's ancestral sampling. The slides' `sqrt(1 - alpha - sigma)` lacks a square.

    The ancestral Euler method of k-diffusion is the same for x/alpha with noise sigma/alpha: an Euler step in sigma
    down to sigma_down, and noise sigma_up on top. eta and s_noise are those of its `sample_euler_ancestral`.

    Song, Meng, Ermon 2021 (arXiv 2010.02502), eq. 12 and 16.
    """

    eta: float = 0.0
    s_noise: float = 1.0
    order: ClassVar[float] = 1
    calls: ClassVar[int] = 1

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise InputError(f"eta is {self.eta}; it must lie in [0, 1]")
        if not self.s_noise >= 0:
            raise InputError(f"s_noise is {self.s_noise}; it must be a number >= 0")

    def init(self, x: Tensor, grid: Tensor, path: Path) -> None:
        check_defined("noise", path)
        if self.eta > 0:
            require_forward(grid, "DDIM with eta > 0")

    def step(
        self, field: Field, x: Tensor, t: Tensor, s: Tensor, state: None, noise: Noise, **cond: Any
    ) -> tuple[Tensor, None]:
        data, eps = both(field, x, t, **cond)
        alpha_s, sigma_s = field.path.alpha(s), field.path.sigma(s)
        variance = self.eta**2 * posterior_variance(field.path, t, s)
        x_s = (
            expand(alpha_s, x) * data + expand((sigma_s**2 - variance).clamp(min=0).sqrt(), x) * eps
        )
        if self.eta > 0:
            spread = expand(self.s_noise * variance.sqrt(), x)
            x_s = x_s + spread * noise.normal(x.shape[1:], SOLVER, x.dtype)
        return x_s, None


@dataclass(frozen=True)
class DDPM:
    """Ancestral sampling: a draw from q(x_s | x_t, x1) with the predicted data instead of x1.

        x_s = (alpha_t/alpha_s) (sigma_s/sigma_t)^2 x_t + alpha_s (b/sigma_t^2) D + sqrt(v) z
        b   = sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2

    v is "beta-tilde", b (sigma_s/sigma_t)^2, exact for data at a single point; "beta", b itself, exact for white data;
    or "learned", `beta^w beta-tilde^(1 - w) = b (sigma_s/sigma_t)^(2 - 2w)` with w from a `VarianceField`, such as a
    Model whose network has twice the channels, by the call that gives D. On neighbouring steps of a DiscretePath
    b = beta_k and this is Ho et al.'s mean. Any grid will do, each step being that of the schedule with the steps
    between omitted. The last step, to sigma_s = 0, adds no noise.

    Ho et al. 2020 (arXiv 2006.11239), eq. 6-7 and sec. 3.2; learned variance and subsets of steps: Nichol & Dhariwal
    2021 (arXiv 2102.09672), eq. 15 and 19.
    """

    variance: Literal["beta", "beta-tilde", "learned"] = "beta-tilde"
    order: ClassVar[float] = 1
    calls: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.variance not in ("beta", "beta-tilde", "learned"):
            raise InputError(
                f"variance is 'beta', 'beta-tilde' or 'learned', not {self.variance!r}"
            )

    def init(self, x: Tensor, grid: Tensor, path: Path) -> None:
        check_defined("noise", path)
        require_forward(grid, "DDPM")

    def step(
        self, field: Field, x: Tensor, t: Tensor, s: Tensor, state: None, noise: Noise, **cond: Any
    ) -> tuple[Tensor, None]:
        path = field.path
        data, weight = self._predicted(field, x, t, **cond)
        alpha_s, ratio = path.alpha(s), (path.sigma(s) / path.sigma(t)) ** 2
        shrink = path.alpha(t) / alpha_s
        added = path.sigma(t) ** 2 - shrink**2 * path.sigma(s) ** 2
        mean = (
            expand(shrink * ratio, x) * x + expand(alpha_s * added / path.sigma(t) ** 2, x) * data
        )
        # The last step, to sigma_s = 0, has ratio 0 and adds nothing, whatever the weight.
        spread = torch.where(ratio > 0, added.clamp(min=0), 0.0).sqrt()
        tilt = expand(torch.where(ratio > 0, ratio, 1.0), x) ** ((1 - weight) / 2)
        z = noise.normal(x.shape[1:], SOLVER, x.dtype)
        return mean + expand(spread, x) * tilt * z, None

    def _predicted(
        self, field: Field, x: Tensor, t: Tensor, **cond: Any
    ) -> tuple[Tensor, Tensor | float]:
        """D, and the weight of beta against beta-tilde in the logarithm of the variance."""
        if self.variance != "learned":
            return field(x, t, "data", **cond), 1.0 if self.variance == "beta" else 0.0
        return require_variance(field).with_variance(x, t, "data", **cond)


def both(field: Field, x: Tensor, t: Tensor, **cond: Any) -> tuple[Tensor, Tensor]:
    """(data, noise) predicted at (x, t) by one call, also where sigma = 0 or alpha = 0.

    From v, which gives both without loss of digits: with r^2 = alpha^2 + sigma^2,

        data = (alpha x - sigma v)/r^2,   noise = (sigma x + alpha v)/r^2
    """
    v = field(x, t, "v", **cond)
    return convert(v, x, t, field.path, "v", "data"), convert(v, x, t, field.path, "v", "noise")


def masked(
    rows: Tensor, x: Tensor, change: Callable[..., Tensor], /, *values: Any, **cond: Any
) -> Tensor:
    """`change(x, *values, **cond)` for the samples in rows (B,), x for the others: nothing is asked in vain."""
    if bool(rows.all()):
        return change(x, *values, **cond)
    rows = rows.nonzero()[:, 0]
    if len(rows) == 0:
        return x
    here = conditions.take(cond, rows)
    return x.index_copy(0, rows, change(x[rows], *(value[rows] for value in values), **here))


def posterior_variance(path: Path, t: Tensor, s: Tensor) -> Tensor:
    """beta-tilde, the variance of q(x_s | x_t, x1) for s > t, (B,)."""
    sigma_t, sigma_s = path.sigma(t), path.sigma(s)
    added = sigma_t**2 - (path.alpha(t) / path.alpha(s)) ** 2 * sigma_s**2
    return (added * (sigma_s / sigma_t) ** 2).clamp(min=0)


def require_forward(grid: Tensor, what: str) -> None:
    if not bool((grid[1:] > grid[:-1]).all()):
        raise InputError(f"{what} goes from noise to data only: give increasing times")
