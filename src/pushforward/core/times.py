"""Times: how they are drawn in training, and the grids along which samplers go.

Time runs from 0 (noise) to 1 (data). The diffusion literature counts s = 1 - t.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import TIME, Noise
from pushforward.core.paths import Path

# Training draws.


@dataclass(frozen=True)
class TimeDraw(ABC):
    """A law of training times, given by its quantile function: `t = quantile(u)`, u uniform on (0, 1).

    low_discrepancy: take u from the golden-ratio sequence over sample ids instead of independent draws; every t keeps
    its law, and a batch covers (0, 1) evenly, which lowers the variance of the loss.
    """

    low_discrepancy: bool = field(default=False, kw_only=True)

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """The t below which a fraction u of the draws lies, or above which it does. u: (B,) in (0, 1)."""

    def __call__(self, noise: Noise) -> Tensor:
        """(B,) times in float64, a function of (seed, step, sample id)."""
        u = noise.low_discrepancy(TIME) if self.low_discrepancy else noise.uniform((), TIME)
        # Half a unit of the 32-bit grid: the open interval, as noise.uniform has it.
        return self.quantile(u.clamp(2.0**-33, 1 - 2.0**-33))


@dataclass(frozen=True)
class Uniform(TimeDraw):
    """t ~ U(start, end)."""

    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        _check_range(self.start, self.end)

    def quantile(self, u: Tensor) -> Tensor:
        return self.start + (self.end - self.start) * u


@dataclass(frozen=True)
class Constant(TimeDraw):
    """One and the same t: a single noise level, the ends included."""

    time: float

    def __post_init__(self) -> None:
        if not 0 <= self.time <= 1:
            raise InputError(f"time is {self.time}; it must lie in [0, 1]")

    def quantile(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self.time)


@dataclass(frozen=True)
class LogitNormal(TimeDraw):
    """logit(t) ~ N(mean, std^2), density `exp(-(logit t - m)^2 / 2 s^2) / (s sqrt(2 pi) t (1 - t))`.

    mean > 0 favours the data. SD3's rf/lognorm(m, s) (arXiv 2403.03206, eq. 19) counts the noise as 1: it is
    LogitNormal(-m, s).
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise InputError(f"std is {self.std}; it must be positive")

    def quantile(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


@dataclass(frozen=True)
class Mode(TimeDraw):
    """`t = 1 - u - scale (cos^2(pi u/2) - 1 + u)`, which favours the middle for scale > 0 and the ends for < 0.

    The same law in either direction of time. SD3 (arXiv 2403.03206), eq. 20; scale in [-1, 2/(pi - 2)].
    """

    scale: float = 1.29

    def __post_init__(self) -> None:
        if not -1 <= self.scale <= 2 / (math.pi - 2):
            raise InputError(
                f"scale is {self.scale}; t is monotone in u only for -1 <= scale <= 2/(pi - 2)"
            )

    def quantile(self, u: Tensor) -> Tensor:
        return 1 - u - self.scale * ((u * (math.pi / 2)).cos() ** 2 - 1 + u)


@dataclass(frozen=True)
class CosMap(TimeDraw):
    """`t = 1 - 1 / (tan(pi u/2) + 1)`, density 2 / (pi - 2 pi t + 2 pi t^2).

    On CondOT it gives the log-SNR of the cosine path with uniform times; the same law in either direction of time.
    SD3 (arXiv 2403.03206), eq. 21.
    """

    def quantile(self, u: Tensor) -> Tensor:
        tan = (u * (math.pi / 2)).tan()
        return tan / (tan + 1)


@dataclass(frozen=True)
class EDMLogNormal(TimeDraw):
    """ln(sigma/alpha) ~ N(mean, std^2): the training noise levels of Karras et al. 2022, table 1.

    Levels beyond the path's own range are drawn at its nearer end.
    """

    path: Path
    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise InputError(f"std is {self.std}; it must be positive")

    def quantile(self, u: Tensor) -> Tensor:
        log_sigma = self.mean + self.std * torch.special.ndtri(u)
        return self.path.time_of_log_snr(-2 * log_sigma)


# Sampling grids: n steps from `start` to `end`, n + 1 increasing times in float64.


def uniform(n: int, start: float = 0.0, end: float = 1.0) -> Tensor:
    """`t_i = start + (end - start) i/n`."""
    _check_grid(n, start, end)
    return torch.linspace(start, end, n + 1, dtype=torch.float64)


def straight(n: int, path: Path, start: float = 0.0, end: float = 1.0) -> Tensor:
    """The times of `path` at which noise and data are mixed as on CondOT at uniform times.

        alpha_i/(alpha_i + sigma_i) uniform in i

    Trajectories are then as straight as the rectified flow's. On CondOT this is `uniform`; on the variance-preserving
    path, with few steps, it beats every grid that is uniform in another sense (docs/log.md).
    """
    _check_grid(n, start, end)
    ends = torch.tensor([start, end], dtype=torch.float64)
    alpha, sigma = path.alpha(ends), path.sigma(ends)
    first, last = (alpha / (alpha + sigma)).tolist()
    share = torch.linspace(first, last, n + 1, dtype=torch.float64)
    return _with_ends(path.time_of_log_snr(2 * (share / (1 - share)).log()), start, end)


def quadratic(n: int, start: float = 0.0, end: float = 1.0) -> Tensor:
    """Noise time quadratic in i, so that steps shrink towards the data.

        (t_i - start)/(end - start) = 1 - (1 - i/n)^2

    Song, Meng, Ermon 2021 (DDIM, arXiv 2010.02502), app. D.2.
    """
    _check_grid(n, start, end)
    return start + (end - start) * (1 - (1 - uniform(n)) ** 2)


def shifted(n: int, shift: float = 3.0, start: float = 0.0, end: float = 1.0) -> Tensor:
    """Noise time shifted towards the noise: `s -> shift s / (1 + (shift - 1) s)` of uniform s = 1 - t.

    On CondOT sigma/alpha is multiplied by `shift`. Between other ends, s is uniform between those that go to them.
    SD3 (arXiv 2403.03206), eq. 23: shift = sqrt(m/n) for images of m pixels instead of n.
    """
    if shift <= 0:
        raise InputError(f"shift is {shift}; it must be positive")
    _check_grid(n, start, end)
    first, last = (s / (shift - (shift - 1) * s) for s in (1 - start, 1 - end))
    s = torch.linspace(first, last, n + 1, dtype=torch.float64)
    return _with_ends(moved(1 - s, shift), start, end)


def moved(t: Tensor, shift: float) -> Tensor:
    """Times t at `shift` times the noise: where sigma/alpha on CondOT, (1 - t)/t, is `shift` times as large."""
    s = 1 - t
    return 1 - shift * s / (1 + (shift - 1) * s)


def log_snr(
    n: int, path: Path, start: float = 0.0, end: float = 1.0, margin: float = 1e-3
) -> Tensor:
    """Uniform in log-SNR (Lu et al. 2022, arXiv 2206.00927, sec. 3.4).

    Where the log-SNR is infinite at an end, the outermost points are those at distance `margin (end - start)` from
    it, moved to the end itself: the first or last step carries the rest.
    """
    _check_grid(n, start, end)
    low, high = _finite_log_snr(path, start, end, margin)
    return _with_ends(
        path.time_of_log_snr(torch.linspace(low, high, n + 1, dtype=torch.float64)), start, end
    )


def karras(
    n: int, path: Path, rho: float = 7.0, start: float = 0.0, end: float = 1.0, margin: float = 1e-3
) -> Tensor:
    """`sigma_i = (sigma_max^(1/rho) + i/n (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho`, sigma being sigma/alpha.

    sigma_max and sigma_min are the path's own at `start` and `end`; where they are infinite or 0, those at distance
    `margin (end - start)`, moved to the end itself. Karras et al. 2022 (arXiv 2206.00364), eq. 5.
    """
    _check_grid(n, start, end)
    low, high = _finite_log_snr(path, start, end, margin)
    top, bottom = math.exp(-low / (2 * rho)), math.exp(-high / (2 * rho))
    root = torch.linspace(top, bottom, n + 1, dtype=torch.float64)
    return _with_ends(path.time_of_log_snr(-2 * rho * root.log()), start, end)


def _finite_log_snr(path: Path, start: float, end: float, margin: float) -> tuple[float, float]:
    ends = path.log_snr(torch.tensor([start, end], dtype=torch.float64))
    inner = margin * (end - start)
    near = path.log_snr(torch.tensor([start + inner, end - inner], dtype=torch.float64))
    low, high = torch.where(ends.isfinite(), ends, near).tolist()
    return low, high


def _with_ends(times: Tensor, start: float, end: float) -> Tensor:
    times = times.clone()
    times[0], times[-1] = start, end
    return times


def _check_range(start: float, end: float) -> None:
    if not 0 <= start < end <= 1:
        raise InputError(f"start = {start}, end = {end}: need 0 <= start < end <= 1")


def _check_grid(n: int, start: float, end: float) -> None:
    if n < 1:
        raise InputError(f"a grid has at least 1 step, not {n}")
    _check_range(start, end)
