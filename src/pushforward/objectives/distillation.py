"""Two steps in one: a flow map learned from the law of composition.

    X(x, t, s) = X(X(x, t, r), r, s),      t < r < s

The right side, held fixed, is the target of the left. With a teacher's steps on the right it is progressive
distillation; with the model's own, and flow matching where t = s, a shortcut model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.errors import InputError
from pushforward.core.fields import FlowMap
from pushforward.core.noise import SPAN, TIME, Noise
from pushforward.core.predictions import Prediction, check_defined, jump, secant
from pushforward.core.shapes import expand, mean_data
from pushforward.core.times import Uniform
from pushforward.data.batch import Batch
from pushforward.models.flow_map import FlowMapModel
from pushforward.objectives.matching import Dropout, check_dropout, check_weight, draw, weighted
from pushforward.objectives.meanflow import check_teacher, held_fixed


@dataclass(frozen=True)
class ProgressiveDistillation:
    """A student that makes one step of two of its teacher's.

        x_r = T(x_t, t, r),   x_s = T(x_r, r, s),   loss_i = w(t) mean (P(x_t, t, s) - target)^2

    t and s are neighbours on the student's grid, r lies between them on the teacher's; target is the prediction at x_t
    with which DDIM's step leads to x_s, as the data (x_s - (sigma_s/sigma_t) x_t)/(alpha_s - (sigma_s/sigma_t)
    alpha_t). t is drawn equally from the student's times.

    model:   a FlowMapModel whose jumps are a grid, or any.
    teacher: a flow map; of a Field, `SolverFlowMap(field, DDIM())`.
    fine:    the teacher's times (2 N + 1,), every other of which is the student's: `times.uniform(2 * N)`.
    loss_in: the prediction in which errors are squared. v, without a weight, is the paper's SNR + 1 for the data;
             `weights.TruncatedSNR(path, "v")` its other choice.
    condition_dropout: as for `Matching`.

    Salimans & Ho 2022 (arXiv 2202.00512), alg. 2 and eq. 9-10; guided teachers: Meng et al. 2022 (arXiv 2210.03142).
    """

    model: FlowMapModel
    teacher: FlowMap
    fine: Tensor
    loss_in: Prediction = "v"
    weight: Callable[[Tensor], Tensor] | None = None
    condition_dropout: Dropout = 0.0

    def __post_init__(self) -> None:
        check_dropout(self.condition_dropout, self.model)
        check_defined(self.loss_in, self.model.path)
        start = self.model.path.alpha(self.fine[:1].double())
        if self.loss_in in ("noise", "score") and bool((start == 0).any()):
            raise InputError(
                f"a jump from pure noise cannot be measured in the {self.loss_in}, which x_t says there: take v or data"
            )
        check_weight(self.weight, self.loss_in, self.model.path)
        check_teacher(self.model, self.teacher)
        fine = self.fine
        if (
            fine.ndim != 1
            or len(fine) < 3
            or len(fine) % 2 == 0
            or not bool((fine.diff() > 0).all())
        ):
            raise InputError(
                f"fine must be increasing times, 2 N + 1 for a student of N steps, got {tuple(fine.shape)}"
            )
        jumps = self.model.jumps
        if jumps == "data" or (jumps != "any" and list(jumps) != fine[::2].tolist()):
            raise InputError(
                "the student's jumps must be every other time of `fine`: FlowMapModel(model, fine[::2].tolist())"
            )

    def __call__(self, batch: Batch | Tensor, noise: Noise) -> dict[str, Tensor]:
        """{"loss": (B,)}. batch: a Batch, or data (B, ...) alone; noise: keyed by the global ids of its samples."""
        path = self.model.path
        x0, x1, _, cond, mask = draw(
            self.model, batch, noise, Uniform(), self.condition_dropout, masks=True
        )
        fine = self.fine.to(x1.device, torch.float64)
        steps = len(fine) // 2
        u = noise.to(x1.device).uniform((), TIME)
        i = 2 * (u * steps).long().clamp(max=steps - 1)
        t, r, s = fine[i], fine[i + 1], fine[i + 2]
        x_t = path.sample(x0, x1, t)
        with torch.no_grad():
            x_r = self.teacher(x_t, t, r, **cond)
            x_s = self.teacher(x_r, r, s, **cond)
            target = secant(x_t, x_s, t, s, path, self.loss_in)
        got = self.model.predict(x_t, t, s, self.loss_in, **cond)
        return {"loss": weighted(mean_data((got - target) ** 2, mask), self.weight, t)}


@dataclass(frozen=True)
class Shortcut:
    """A flow map that agrees with itself: one jump of length 2 d equals two of length d.

        s = t + 2 d,   d = 2^-k of the grid of `finest` steps:   loss_i = mean (U(x_t, t, s) - target)^2
        target = (X(X(x_t, t, t + d), t + d, s) as a velocity), held fixed;   for a share, s = t and target = v

    The shortest jumps are two of the velocity's own (Euler's) at d = 1/finest. No derivative in forward mode is taken.

    model:   a FlowMapModel of any jumps. teacher: a flow map for the shortest jumps; without one the model's own.
    finest:  a power of 2. share: of samples that learn the velocity of the pair; with a
             teacher it may be 0, since the shortest jumps are then the teacher's.
    condition_dropout: as for `Matching`.

    Frans et al. 2024 (arXiv 2410.12557), eq. 5 and alg. 1.
    """

    model: FlowMapModel
    teacher: FlowMap | None = None
    finest: int = 128
    share: float = 0.75
    condition_dropout: Dropout = 0.0

    def __post_init__(self) -> None:
        check_dropout(self.condition_dropout, self.model)
        check_teacher(self.model, self.teacher)
        if self.model.jumps != "any":
            raise InputError("a shortcut model makes jumps of any length: FlowMapModel(model)")
        if self.finest < 2 or self.finest & (self.finest - 1):
            raise InputError(f"finest is {self.finest}; it must be a power of 2, at least 2")
        if not 0 <= self.share <= 1:
            raise InputError(f"share is {self.share}; it lies in [0, 1]")

    def __call__(self, batch: Batch | Tensor, noise: Noise) -> dict[str, Tensor]:
        """{"loss": (B,)}. batch: a Batch, or data (B, ...) alone; noise: keyed by the global ids of its samples."""
        path, model = self.model.path, self.model
        x0, x1, free, cond, _ = draw(self.model, batch, noise, Uniform(), self.condition_dropout)
        where, length, alone = noise.to(x1.device).uniform((3,), SPAN).unbind(1)
        rungs = self.finest.bit_length() - 1  # 2 d = 1, 1/2, ..., 2/finest
        long = 2.0 ** -(length * rungs).floor().clamp(max=rungs - 1)
        t = (where / long).floor() * long
        plain = alone < self.share
        t = torch.where(plain, free, t)
        r, s = torch.where(plain, t, t + long / 2), torch.where(plain, t, t + long)
        x_t = path.sample(x0, x1, t)
        shortest = long <= 2 / self.finest
        with held_fixed(model):
            target = path.velocity(x0, x1, t)
            rows = (~plain).nonzero().flatten()
            if len(rows):
                told = conditions.take(cond, rows)
                x, a, m, b = x_t[rows], t[rows], r[rows], s[rows]
                first = self._small(x, a, m, shortest[rows], told)
                x_s = self._small(first, m, b, shortest[rows], told)
                target[rows] = secant(x, x_s, a, b, path, "velocity")
        got = model.predict(x_t, t, s, "velocity", **cond)
        return {"loss": mean_data((got - target) ** 2)}

    def _small(
        self, x: Tensor, t: Tensor, s: Tensor, shortest: Tensor, cond: dict[str, Any]
    ) -> Tensor:
        """One of the two jumps: the model's; of the shortest, by the velocity at t alone, or the teacher's."""
        path, model = self.model.path, self.model
        if self.teacher is not None:
            there = self.teacher(x, t, s, **cond)
            mine = model(x, t, s, **cond)
            return torch.where(expand(shortest, x).bool(), there, mine)
        # At d = 1/finest the network is asked for the velocity itself, s = t.
        towards = torch.where(shortest, t, s)
        velocity = model.predict(x, t, towards, "velocity", **cond)
        a, b = jump("velocity", path.coefficients(t), path.coefficients(s))
        return expand(a, x) * x + expand(b, x) * velocity
