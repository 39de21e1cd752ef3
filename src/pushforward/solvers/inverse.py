"""A deterministic solver run backwards without error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.errors import ConvergenceError, InputError
from pushforward.core.fields import Field
from pushforward.core.noise import Noise
from pushforward.core.paths import Path
from pushforward.core.shapes import mean_data
from pushforward.solvers.base import Solver


class Silent(Noise):
    """For solvers that are to have none."""

    def _chunks(self, *_: Any) -> Any:
        # What all random numbers are made of.
        raise InputError(
            "Inverse and SolverFlowMap take solvers without noise, such as DDIM(), Euler() or Heun()"
        )


@dataclass(frozen=True)
class Inverse:
    """The step of a solver undone: from x_t to the x_s from which the solver's step s -> t leads back to x_t.

        F(x_s) = x_t,   F the solver's step from s to t

    Running DDIM itself backwards leaves an error of first order in the step, since it takes the noise predicted at x_t
    for that at x_s. Here the equation is solved, by Anderson's iteration from that first guess, one call of F each,

        y <- y + r - (dY + dR) c,   r = x_t - F(y),   c = argmin |r - dR c|

    dY and dR being the last `memory` changes of y and r. Each sample stops by its own residual, at

        |r| <= tol (1 + |x_t|)   in root mean square over its dimensions

    and is no longer asked about: what becomes of it does not depend on its batch. The way there and back is then the
    identity up to tol, which leaves no error but that of rounding.

    solver:    a one-step method without noise: DDIM(), Euler(), Heun(), ...; others are errors.
    tol:       100 units of rounding of x's dtype by default.
    max_calls: evaluations of F in one step after which a sample is given up, with a ConvergenceError: the step may be
               too long for F to have an inverse, or sigma(t) = 0 and the data lie on a set without volume.

    No gradients pass through. calls: 0, as many as it takes.

    Anderson 1965; Walker & Ni 2011; exact inversion of DDIM: Wallace et al. 2022 (arXiv 2211.12446), Pan et al. 2023
    (arXiv 2309.04907).
    """

    solver: Solver
    tol: float | None = None
    max_calls: int = 100
    memory: int = 5
    calls: ClassVar[int] = 0
    stochastic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (self.tol is None or self.tol > 0) or self.max_calls < 1 or self.memory < 1:
            raise InputError(f"need tol > 0, max_calls >= 1 and memory >= 1, got {self}")

    @property
    def order(self) -> float:
        return self.solver.order

    def init(self, x: Tensor, grid: Tensor, path: Path) -> None:
        if self.solver.init(x, grid.flip(0), path) is not None:
            raise InputError(
                f"Inverse takes one-step solvers, and {type(self.solver).__name__} remembers earlier steps: "
                f"use DDIM() or Heun(), or run {type(self.solver).__name__} itself backwards"
            )

    @torch.no_grad()
    def step(
        self, field: Field, x: Tensor, t: Tensor, s: Tensor, state: None, noise: Noise, **cond: Any
    ) -> tuple[Tensor, None]:
        if len(x) == 0:
            return x, None
        silent = Silent(noise.seed, noise.ids, noise.step, noise.mask)
        tol = 100 * torch.finfo(x.dtype).eps if self.tol is None else self.tol
        out = x.clone()
        rows = torch.arange(len(x), device=x.device)  # samples still on their way
        goal, bound = x, tol * (1 + _size(x, cond.get("mask")))
        y = self.solver.step(field, x, t, s, None, silent, **cond)[0]
        before: list[Tensor] = []  # y and r of the last evaluations, newest first: (2, B, ...)
        for _ in range(self.max_calls):
            r = goal - self.solver.step(field, y, s, t, None, silent[rows], **cond)[0]
            left = ~(_size(r, cond.get("mask")) <= bound)
            out[rows[~left]] = y[~left]
            if not bool(left.any()):
                return out, None
            rows, goal, bound, t, s = rows[left], goal[left], bound[left], t[left], s[left]
            cond = conditions.take(cond, left)
            before = [torch.stack((y, r))[:, left], *(pair[:, left] for pair in before)]
            before = before[: self.memory + 1]
            y = _anderson(before)
        raise ConvergenceError(
            f"{len(rows)} samples (the first in row {int(rows[0])}) have no state at t = {float(s[0]):.6g} from which "
            f"{type(self.solver).__name__} leads to theirs at t = {float(t[0]):.6g}, or none was found in "
            f"{self.max_calls} calls: take more steps, a larger tol, or a grid that ends before sigma = 0"
        )


def _anderson(before: list[Tensor]) -> Tensor:
    """The next y from the last (y, r), newest first."""
    y, r = before[0]
    if len(before) == 1:
        return y + r
    changes = torch.stack([before[0] - pair for pair in before[1:]], dim=2).double()
    d_y, d_r = changes.flatten(3)  # (B, M, D)
    gram = d_r @ d_r.mT
    # Each change at length 1: they shrink by orders of magnitude from one to the next.
    length = gram.diagonal(dim1=1, dim2=2).sqrt().clamp(min=1e-300)
    gram = gram / length[:, :, None] / length[:, None]
    right = (d_r @ r.double().flatten(1)[:, :, None]) / length[:, :, None]
    c = torch.linalg.pinv(gram, rtol=1e-12, hermitian=True) @ right / length[:, :, None]
    move = ((d_y + d_r).mT @ c)[:, :, 0]
    return y + r - move.reshape(y.shape).to(y.dtype)


def _size(x: Tensor, mask: Tensor | None) -> Tensor:
    """Root mean square of each sample, (B,)."""
    return mean_data(x.double() ** 2, mask).sqrt()
