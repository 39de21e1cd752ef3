"""Langevin dynamics: within one marginal, down a ladder of noise levels, and as corrector of another solver."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.fields import Field
from pushforward.core.noise import CORRECTOR, Noise
from pushforward.core.paths import Path
from pushforward.core.predictions import check_defined
from pushforward.core.shapes import as_time, expand, mean_data
from pushforward.solvers.ancestral import masked, require_forward
from pushforward.solvers.base import Solver
from pushforward.solvers.sde import NoiseLevel


class Corrector(Protocol):
    """Moves x_t within its law p_t, by `calls` calls of the field; sigma(t) > 0."""

    @property
    def calls(self) -> int: ...

    def correct(self, field: Field, x: Tensor, t: Tensor, noise: Noise, **cond: Any) -> Tensor: ...


class _Dynamics(ABC):
    """n steps `x <- x + eps/2 score(x, t) + sqrt(eps) z` of a size eps that subclasses give."""

    n: int

    @property
    def calls(self) -> int:
        return self.n

    @abstractmethod
    def size(self, score: Tensor, t: Tensor, path: Path, mask: Tensor | None = None) -> Tensor:
        """eps, (B,)."""

    def correct(self, field: Field, x: Tensor, t: Tensor, noise: Noise, **cond: Any) -> Tensor:
        # All the noise in one draw: each of the n steps has numbers of its own.
        for z in noise.normal((self.n, *x.shape[1:]), CORRECTOR, x.dtype).unbind(1):
            score = field(x, t, "score", **cond)
            eps = self.size(score, t, field.path, cond.get("mask"))
            x = x + expand(eps / 2, x) * score + expand(eps.sqrt(), x) * z
        return x


@dataclass(frozen=True)
class Langevin(_Dynamics):
    """Unadjusted Langevin dynamics at a fixed time, n steps.

        x <- x + eps/2 score(x, t) + sqrt(eps) z,   eps = step sigma(t)^2,   z ~ N(0, I)

    p_t is kept up to an error of first order in eps: a Gaussian of variance V becomes one of V/(1 - eps/4V), and eps
    must stay below 4V. V >= sigma^2 on any path, so that steps below 4 are stable where p_t has one mode.

    step: eps in units of the noise's variance, a number or a function of t; 4 r^2 for a signal-to-noise ratio r (see
    `SignalToNoise`); eps/sigma_L^2 of NCSN, 0.2 there.

    Parisi 1981; Welling & Teh 2011; Song & Ermon 2019 (arXiv 1907.05600), eq. 4.
    """

    step: NoiseLevel = 0.2
    n: int = 1

    def __post_init__(self) -> None:
        if not callable(self.step) and not self.step >= 0:
            raise InputError(f"step is {self.step}; it must be a number >= 0 or a function of t")
        _check_count(self.n)

    def size(self, score: Tensor, t: Tensor, path: Path, mask: Tensor | None = None) -> Tensor:
        return path.sigma(t) ** 2 * (self.step(t) if callable(self.step) else self.step)


@dataclass(frozen=True)
class SignalToNoise(_Dynamics):
    """Langevin dynamics whose drift and noise keep a ratio r of norms, n steps.

        eps = (2 r |z| / |score|)^2,   |z| = sqrt(D),   at most 2 sigma(t)^2

    The paper takes means of both norms over the batch, which makes a sample depend on its batch. Here the norm of each
    sample's own score is taken, and for |z| what its mean tends to. A step size that depends on x has a price: the
    law that is kept is p_t |score|^2, not p_t. In many dimensions, where |score| hardly varies, these agree; in few,
    take `Langevin(4 r^2)`, to which this comes down where the noise dominates, |score| = sqrt(D)/sigma. The bound is
    for samples where the score vanishes.

    Song et al. 2021 (arXiv 2011.13456), alg. 4 and 5, whose eps is half of this one; its factor 1 - beta_i is omitted.
    """

    r: float = 0.16
    n: int = 1

    def __post_init__(self) -> None:
        if not self.r >= 0:
            raise InputError(f"the signal-to-noise ratio r is {self.r}; it must be a number >= 0")
        _check_count(self.n)

    def size(self, score: Tensor, t: Tensor, path: Path, mask: Tensor | None = None) -> Tensor:
        bound = 2 * path.sigma(t) ** 2
        square = mean_data(score**2, mask).to(bound.dtype)
        return torch.minimum(4 * self.r**2 / square.clamp(min=1e-30), bound)


def langevin(
    field: Field,
    x: Tensor,
    t: Tensor | float,
    steps: int,
    *,
    corrector: Corrector | None = None,
    seed: int = 0,
    ids: Tensor | None = None,
    **cond: Any,
) -> Tensor:
    """A corrector, `Langevin()` by default, `steps` times on x (B, ...) at a time t; seed, ids as in `integrate`."""
    _check_count(steps)
    check_defined("score", field.path)
    corrector, t = Langevin() if corrector is None else corrector, as_time(t, x)
    if not bool((field.path.sigma(t) > 0).all()):
        raise InputError(
            "Langevin dynamics need some noise, and at t = 1 there is none: take a t below"
        )
    ids = torch.arange(len(x), device=x.device) if ids is None else ids.to(x.device)
    for i in range(steps):
        x = corrector.correct(field, x, t, Noise(seed, ids, i), **cond)
    return x


@dataclass(frozen=True)
class AnnealedLangevin:
    """Annealed Langevin dynamics: n steps at every noise level of the grid, from large noise to small.

        x <- (alpha_s/alpha_t) x_t, then n times x <- x + eps_s/2 score(x, s) + sqrt(eps_s) z,  eps_s = step sigma_s^2

    For alpha = 1 this is NCSN: eps_i = eps sigma_i^2/sigma_L^2 with step = eps/sigma_L^2. The step size falls with the
    noise. The slides' increasing sigma_i are the wrong way round: weights of modes are settled at large noise, where
    modes overlap, and cannot be at small, so decreasing times are an error. From alpha = 0, x is scaled by
    sigma_s/sigma_t.

    There is no level with sigma = 0: a step to it is the denoising D(x_t, t). denoise=True ends so in any case, with
    one call more: D(x, t_n) of Jolicoeur-Martineau et al. takes off the noise that is left at the last level.

    Errors do not fall with the number of levels alone; n must grow too.

    Song & Ermon 2019 (arXiv 1907.05600), alg. 1; Jolicoeur-Martineau et al. 2020 (arXiv 2009.05475), sec. 3.1.
    """

    step_size: float = 0.2
    n: int = 5
    denoise: bool = False
    order: ClassVar[float] = 1
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Langevin(self.step_size, self.n)

    @property
    def calls(self) -> int:
        return self.n

    def init(self, x: Tensor, grid: Tensor, path: Path) -> int:
        """The number of steps to come."""
        check_defined("score", path)
        require_forward(grid, "annealed Langevin dynamics, whose noise levels fall,")
        return len(grid) - 1

    def step(
        self, field: Field, x: Tensor, t: Tensor, s: Tensor, state: int, noise: Noise, **cond: Any
    ) -> tuple[Tensor, int]:
        path = field.path
        alpha_t, sigma_s = path.alpha(t), path.sigma(s)
        scale = torch.where(alpha_t > 0, path.alpha(s) / alpha_t, sigma_s / path.sigma(t))

        def dynamics(x: Tensor, s: Tensor, scale: Tensor, noise: Noise, **cond: Any) -> Tensor:
            start = expand(scale, x) * x
            return Langevin(self.step_size, self.n).correct(field, start, s, noise, **cond)

        def denoised(x: Tensor, t: Tensor, **cond: Any) -> Tensor:
            return field(x, t, "data", **cond)

        x = masked(sigma_s == 0, x, denoised, t, **cond)
        x = masked(sigma_s > 0, x, dynamics, s, scale, noise, **cond)
        if self.denoise and state == 1:
            x = masked(sigma_s > 0, x, denoised, s, **cond)
        return x, state - 1


@dataclass(frozen=True)
class PredictorCorrector:
    """A step of any solver, then a corrector at the time it has reached.

    Where sigma(s) = 0 nothing is left to correct. A predictor with memory starts afresh in every step, since its memory
    is of states that the corrector has left: a multistep method is then its first-order start.

    Song et al. 2021 (arXiv 2011.13456), sec. 4.2 and alg. 1-3.
    """

    predictor: Solver
    corrector: Corrector
    stochastic: ClassVar[bool] = True

    @property
    def order(self) -> float:
        return self.predictor.order

    @property
    def calls(self) -> int:
        own = self.predictor.calls
        return own + self.corrector.calls if own else 0

    def init(self, x: Tensor, grid: Tensor, path: Path) -> None:
        check_defined("score", path)
        self.predictor.init(x, grid, path)

    def step(
        self, field: Field, x: Tensor, t: Tensor, s: Tensor, state: None, noise: Noise, **cond: Any
    ) -> tuple[Tensor, None]:
        start = self.predictor.init(x, torch.stack((t, s)), field.path)
        moved = self.predictor.step(field, x, t, s, start, noise, **cond)[0]

        def corrected(x: Tensor, s: Tensor, noise: Noise, **cond: Any) -> Tensor:
            return self.corrector.correct(field, x, s, noise, **cond)

        return masked(field.path.sigma(s) > 0, moved, corrected, s, noise, **cond), None


def _check_count(n: int) -> None:
    if n < 1:
        raise InputError(f"{n} steps of Langevin dynamics were asked for; it takes at least 1")
