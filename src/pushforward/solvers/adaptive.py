"""Runge-Kutta with a step size of its own for every sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.errors import InputError, NonFiniteError
from pushforward.core.fields import Field
from pushforward.core.noise import Noise
from pushforward.core.paths import Path
from pushforward.core.progress import is_watched, tell
from pushforward.core.shapes import expand, mean_data
from pushforward.solvers.ode import advance

A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
C = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
# Fifth order minus fourth: the estimate of the error of a step.
E = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


@dataclass(frozen=True)
class DormandPrince:
    """Dormand and Prince's pair of orders 5 and 4, with the error of each step held below a tolerance.

        |error| <= atol + rtol max(|x_t|, |x_s|)   in root mean square over the dimensions of one sample

    Each sample has its own steps, accepted and chosen by its own error: what becomes of it does not depend on its
    batch. Samples that have arrived are no longer asked about. Within each interval of the grid as many steps are taken
    as are needed; for sampling, a grid of one step from 0 to 1 will do.

    calls: 0, as many as it takes. max_steps: trial steps in an interval after which it is given up, with an error.

    Dormand & Prince 1980; step size control: Hairer, Norsett, Wanner 1993, sec. II.4.
    """

    rtol: float = 1e-5
    atol: float = 1e-6
    max_steps: int = 10_000
    order: ClassVar[float] = 5
    calls: ClassVar[int] = 0
    stochastic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (self.rtol >= 0 and self.atol > 0):
            raise InputError(f"rtol = {self.rtol}, atol = {self.atol}: need rtol >= 0 and atol > 0")

    def init(self, x: Tensor, grid: Tensor, path: Path) -> None:
        return None

    def step(
        self, field: Field, x: Tensor, t: Tensor, s: Tensor, state: None, noise: Noise, **cond: Any
    ) -> tuple[Tensor, None]:
        if len(x) == 0:
            return x, None
        rows = torch.arange(len(x), device=x.device)  # samples still on their way
        now, end, here = t, s, x
        slope = field(here, now, **cond)
        h = self._first_step(here, slope, end - now, cond.get("mask"))
        whole = float((s - t).abs().max()) if is_watched() else 1.0
        arrived: list[tuple[Tensor, Tensor]] = []
        for _ in range(self.max_steps):
            last = (end - now).abs() <= h.abs() * (1 + 1e-12)
            h = torch.where(last, end - now, h)
            slopes = [slope]
            for row, c in zip(A, C, strict=True):
                at = torch.where(last, end, now + h) if c == 1 else now + c * h
                there = advance(here, h, row, slopes)
                slopes.append(field(there, at, **cond))
            # The last stage of the pair is its fifth-order result, and its slope the first of the next step.
            error = advance(torch.zeros_like(here), h, E, slopes)
            scale = self.atol + self.rtol * torch.maximum(here.abs(), there.abs())
            # Steps are chosen, not differentiated: gradients are those of the method on the steps it took.
            size = mean_data((error / scale).detach().double() ** 2, cond.get("mask")).sqrt()
            good = size <= 1
            factor = (0.9 * size.clamp(min=1e-10) ** -0.2).clamp(0.2, 10)
            factor = torch.where(size.isfinite(), factor, 0.2)
            here = torch.where(expand(good, here).bool(), there, here)
            slope = torch.where(expand(good, here).bool(), slopes[-1], slope)
            now = torch.where(good, now + h, now)
            if is_watched():
                rest = float((end - now).abs().max()) / whole
                tell("trajectories", round(1000 * (1 - rest)), 1000)
            h = h * factor
            left = ~(good & last)
            if not bool(left.all()):
                arrived.append((rows[~left], here[~left]))
                if not bool(left.any()):
                    break
                rows, now, end, h = rows[left], now[left], end[left], h[left]
                here, slope = here[left], slope[left]
                cond = conditions.take(cond, left)
        else:
            raise NonFiniteError(
                f"{len(rows)} samples did not arrive in {self.max_steps} steps (the first in row {int(rows[0])}, at "
                f"t = {float(now[0]):.6g}): the field may not be finite or smooth there, or the tolerance is too small"
            )
        order = torch.cat([rows for rows, _ in arrived]).argsort()
        return torch.cat([states for _, states in arrived])[order], None

    def _first_step(self, x: Tensor, slope: Tensor, span: Tensor, mask: Tensor | None) -> Tensor:
        """A step over which x moves by about a hundredth of its tolerance-weighted size."""
        x, slope = x.detach(), slope.detach()
        scale = self.atol + self.rtol * x.abs()
        d0, d1 = (mean_data((v / scale).double() ** 2, mask).sqrt() for v in (x, slope))
        h = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
        return h.to(span.dtype) * span.sign()
