"""Discrete noise schedules, as continuous paths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.paths import Coefficients, VariancePreserving


@dataclass(frozen=True)
class DDPMPath(VariancePreserving):
    """A discrete schedule beta_1, ..., beta_T as a path in continuous time.

        alpha-bar_k = prod_{j <= k} (1 - beta_j),   x = sqrt(alpha-bar_k) x1 + sqrt(1 - alpha-bar_k) x0,   k = T (1 - t)

    ln alpha-bar is interpolated between the steps by a monotone cubic with continuous derivative, so that the path can
    be asked at any t; at the steps it is the schedule exactly. (Linear interpolation would make the velocity jump at
    every step and cost a Runge-Kutta method its order.) At k = 0 its derivative is that of the first step,
    ln(1 - beta_1).
    alpha(0) = sqrt(alpha-bar_T), 0.0064 for the linear schedule. k = 0 is the data itself: sigma(1) = 0.

    betas: T numbers in (0, 1). The last one may be 1: no data remain at t = 0 (zero terminal SNR, see `rescaled`), and
           over that last step alpha itself is the cubic. Noise and score then determine nothing at t = 0: a network
           predicts velocity, data or v.

    Ho et al. 2020 (arXiv 2006.11239), eq. 4.
    """

    betas: tuple[float, ...]

    def __init__(self, betas: Sequence[float] | Tensor, *, gaussian_source: bool = True) -> None:
        values = tuple(float(beta) for beta in betas)
        if not values:
            raise InputError("a schedule has at least one beta, and this one has none")
        wrong = [
            k
            for k, beta in enumerate(values)
            if not (0 < beta < 1 or (beta == 1 and 0 < k == len(values) - 1))
        ]
        if wrong:
            some = ", ".join(f"betas[{k}] = {values[k]:g}" for k in wrong[:4])
            raise InputError(
                f"{some}{', ...' if len(wrong) > 4 else ''}: of {len(values)} betas, {len(wrong)} are not in (0, 1); "
                f"only the last one may be 1"
            )
        object.__setattr__(self, "betas", values)
        object.__setattr__(self, "gaussian_source", gaussian_source)

    @classmethod
    def linear(cls, steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> DDPMPath:
        """The schedule of DDPM: beta_k from `start` to `end` in equal increments (Ho et al. 2020, sec. 4)."""
        return cls(torch.linspace(start, end, steps, dtype=torch.float64))

    @classmethod
    def scaled_linear(
        cls, steps: int = 1000, start: float = 0.00085, end: float = 0.012
    ) -> DDPMPath:
        """sqrt(beta_k) from sqrt(start) to sqrt(end) in equal increments: the schedule of Stable Diffusion.

        Rombach et al. 2022 (arXiv 2112.10752) and the configuration published with its weights.
        """
        roots = torch.linspace(math.sqrt(start), math.sqrt(end), steps, dtype=torch.float64)
        return cls(roots**2)

    @classmethod
    def sigmoid(cls, steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> DDPMPath:
        """beta_k = start + (end - start)/(1 + e^{-z}), z from -6 to 6 in equal increments.

        Xu et al. 2022 (GeoDiff, arXiv 2203.02923); the "sigmoid" of diffusers.
        """
        z = torch.linspace(-6, 6, steps, dtype=torch.float64)
        return cls(start + (end - start) * z.sigmoid())

    @classmethod
    def cosine(cls, steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> DDPMPath:
        """alpha-bar_k ~ cos^2(pi/2 (k/T + offset)/(1 + offset)), beta_k <= max_beta.

        Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 17; the "squaredcos_cap_v2" of diffusers.
        """
        k = torch.arange(steps + 1, dtype=torch.float64)
        alpha_bar = ((k / steps + offset) / (1 + offset) * (math.pi / 2)).cos() ** 2
        return cls((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta))

    def rescaled(self) -> DDPMPath:
        """The schedule with zero terminal SNR: sqrt(alpha-bar) shifted to end in 0, and scaled to keep its first value.

            alpha_k <- alpha_1 (alpha_k - alpha_T)/(alpha_1 - alpha_T),   alpha = sqrt(alpha-bar)

        Lin et al. 2023 (arXiv 2305.08891), alg. 1.
        """
        if self.steps < 2:
            raise InputError("a schedule of one step has no terminal SNR to rescale")
        alpha = (self._tables[0][1:] / 2).exp()
        alpha = alpha[0] * (alpha - alpha[-1]) / (alpha[0] - alpha[-1])
        ratio = torch.cat((alpha[:1], alpha[1:] / alpha[:-1]))
        return DDPMPath(1 - ratio**2, gaussian_source=self.gaussian_source)

    @property
    def steps(self) -> int:
        return len(self.betas)

    def __repr__(self) -> str:
        source = "" if self.gaussian_source else ", gaussian_source=False"
        return f"DDPMPath({self.steps} betas, {self.betas[0]:.3g} ... {self.betas[-1]:.3g}{source})"

    def step_of_time(self, t: Tensor) -> Tensor:
        """k = T (1 - t): T at the noise, 0 at the data. Others who count 0 ... T-1 mean k - 1."""
        return self.steps * (1 - t)

    def time_of_step(self, k: Tensor) -> Tensor:
        """t = 1 - k/T."""
        return 1 - k / self.steps

    @property
    def _reaches_noise(self) -> bool:
        """alpha-bar_T = 0."""
        return self.betas[-1] == 1

    @property
    def _cubics(self) -> int:
        """Over how many steps ln alpha-bar is a cubic: all, or all but a last one to alpha-bar = 0."""
        return self.steps - int(self._reaches_noise)

    @cached_property
    def _tables(self) -> tuple[Tensor, Tensor]:
        """ln alpha-bar_k for k = 0 ... T, and its derivative in k there.

        The derivative is the harmonic mean of the two slopes that meet, which keeps the interpolant monotone for any
        betas (Fritsch & Butland 1984). At the ends it is the slope of the first and of the last step.
        """
        slopes = torch.tensor(self.betas, dtype=torch.float64).neg().log1p()
        values = torch.cat((slopes.new_zeros(1), slopes.cumsum(0)))
        inner = 2 / (1 / slopes[1:] + 1 / slopes[:-1])
        if self._reaches_noise:
            # The harmonic mean of the slopes of alpha, which the next step interpolates, as a slope of ln alpha^2.
            inner[-1] = 4 * (slopes[-2] / 2).expm1()
        return values, torch.cat((slopes[:1], inner, slopes[-1:]))

    def _piece(self, below: Tensor) -> tuple[Tensor, ...]:
        """Coefficients of `v + r (d + r (c + r b))`, r in [0, 1] from step `below` to the next."""
        values, derivatives = (table.to(below.device) for table in self._tables)
        v, d = values[below], derivatives[below]
        slope, d_next = values[below + 1] - v, derivatives[below + 1]
        return v, d, 3 * slope - 2 * d - d_next, d + d_next - 2 * slope

    def _last_step(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and alpha' over a last step to alpha = 0, t in [0, 1/T], in float64.

            alpha = alpha_{T-1} u (1 + (1 + d) u (1 - u)),   u = T t,   d = d ln alpha/dk at step T - 1

        The cubic of value 0 and slope -alpha_{T-1} at step T that continues alpha at step T - 1.
        """
        values, derivatives = self._tables
        start = float((values[-2] / 2).exp())
        bend = 1 + float(derivatives[-2]) / 2
        u = self.steps * t.double()
        alpha = start * u * (1 + bend * u * (1 - u))
        return alpha, self.steps * start * (1 + bend * u * (2 - 3 * u))

    def alpha(self, t: Tensor) -> Tensor:
        return self.coefficients(t).alpha if self._reaches_noise else super().alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.coefficients(t).sigma if self._reaches_noise else super().sigma(t)

    def coefficients(self, t: Tensor) -> Coefficients:
        if not self._reaches_noise:
            return super().coefficients(t)
        first = 1 / self.steps
        inner = super().coefficients(t.clamp(min=first))
        alpha, d_alpha = self._last_step(t.clamp(max=first))
        sigma = ((1 - alpha) * (1 + alpha)).sqrt()
        last = Coefficients(alpha, sigma, d_alpha, -alpha * d_alpha / sigma)
        return Coefficients(
            *(torch.where(t < first, a.to(t.dtype), b) for a, b in zip(last, inner, strict=True))
        )

    def log_alpha_bar(self, t: Tensor) -> tuple[Tensor, Tensor]:
        k = self.step_of_time(t.double())
        below = k.floor().long().clamp(0, self._cubics - 1)
        v, d, c, b = self._piece(below)
        r = k - below
        value = v + r * (d + r * (c + r * b))
        derivative = -self.steps * (d + r * (2 * c + 3 * r * b))
        if self._reaches_noise:
            last = t < 1 / self.steps
            alpha, d_alpha = self._last_step(torch.where(last, t, 0.5 / self.steps))
            value = torch.where(last, 2 * alpha.log(), value)
            derivative = torch.where(last, 2 * d_alpha / alpha, derivative)
        return value.to(t.dtype), derivative.to(t.dtype)

    def time_of_log_alpha_bar(self, log_alpha_bar: Tensor) -> Tensor:
        target = log_alpha_bar.double()
        values = self._tables[0].to(target.device)
        below = (torch.searchsorted(-values, -target.contiguous()) - 1).clamp(0, self.steps - 1)
        v, d, c, b = self._piece(below.clamp(max=self._cubics - 1))

        def log_alpha_bar_at(r: Tensor) -> Tensor:
            cubic = v + r * (d + r * (c + r * b))
            if not self._reaches_noise:
                return cubic
            alpha = self._last_step((1 - r) / self.steps)[0]
            return torch.where(below < self._cubics, cubic, 2 * alpha.log())

        low, high = torch.zeros_like(target), torch.ones_like(target)
        for _ in range(53):
            r = (low + high) / 2
            above = log_alpha_bar_at(r) > target
            low, high = torch.where(above, r, low), torch.where(above, high, r)
        return self.time_of_step(below + (low + high) / 2).to(log_alpha_bar.dtype)
