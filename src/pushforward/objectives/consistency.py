"""Consistency: a map to the data that says the same from all points of a trajectory.

    f(x, t) = X(x, t, 1),      f(x_t, t) = f(x_s, s) for x_t, x_s on one trajectory, f(x, 1) = x

In steps: f at x_t is fitted to f at a point x_s a little nearer to the data, which is held fixed. Where x_s comes from
a step of a teacher's flow this is distillation; where x_s has the same data and noise as x_t it is training from
scratch, equal to it in the limit of small steps. In that limit the loss is one of the derivative of f along the
trajectory.

Song et al. 2023 (arXiv 2303.01469); Song & Dhariwal 2023 (iCT, arXiv 2310.14189); Lu & Song 2024 (sCM, arXiv
2410.11081).
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from pushforward.core.adjoint import generators, repeatable
from pushforward.core.errors import InputError
from pushforward.core.fields import Field, FlowMap
from pushforward.core.noise import TIME, Noise
from pushforward.core.paths import Path
from pushforward.core.shapes import expand, mean_data, sum_data
from pushforward.core.times import LogitNormal, TimeDraw
from pushforward.data.batch import Batch
from pushforward.models.flow_map import FlowMapModel
from pushforward.objectives.matching import Drawn, Dropout, check_dropout, draw
from pushforward.objectives.meanflow import check_teacher, held_fixed, mean_velocity, with_value

Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class PseudoHuber:
    """`sqrt(|a - b|^2 + c^2) - c`, (B,): |.|^2 the sum over D dimensions, c = scale sqrt(D).

    Quadratic where the two are near, and no more than the distance where they are not, without LPIPS. Song & Dhariwal
    2023 (arXiv 2310.14189), eq. 8, with c of sec. 3.3.
    """

    scale: float = 0.00054

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        c = self.scale * math.sqrt(a[0].numel())
        return (sum_data((a - b) ** 2) + c**2).sqrt() - c


def squared(a: Tensor, b: Tensor) -> Tensor:
    """`mean (a - b)^2` over dimensions, (B,)."""
    return mean_data((a - b) ** 2)


@dataclass(frozen=True)
class Levels:
    """Neighbouring noise levels, and how often each pair of them is drawn.

        k_i = (k_0^(1/rho) + i/n (k_n^(1/rho) - k_0^(1/rho)))^rho,    k = sigma/alpha, k_0 = largest, k_n = smallest
        P(i) ~ erf((ln k_i - mean)/(sqrt 2 std)) - erf((ln k_{i+1} - mean)/(sqrt 2 std)),   or 1/n without std

    first, last: n, doubled at equal intervals over `steps` optimiser steps from the one to the other; with steps = 0 it
                 is `last` throughout.
    largest, smallest: noise over data, kept within the path's own; the times that stand for them are 0 and 1.

    Karras et al. 2022, eq. 5; Song & Dhariwal 2023 (arXiv 2310.14189), eq. 7 and sec. 3.4-3.5.
    """

    first: int = 10
    last: int = 1280
    steps: int = 0
    mean: float = -1.1
    std: float | None = 2.0
    largest: float = 80.0
    smallest: float = 0.002
    rho: float = 7.0

    def __post_init__(self) -> None:
        first = self.first if self.steps else 1
        if not 1 <= first <= self.last or self.steps < 0:
            raise InputError(
                f"first = {self.first}, last = {self.last}, steps = {self.steps}: need 1 <= first <= last, steps >= 0"
            )
        if not 0 < self.smallest < self.largest or self.rho <= 0:
            raise InputError(
                f"smallest = {self.smallest}, largest = {self.largest}, rho = {self.rho}: need 0 < smallest < largest, "
                f"rho > 0"
            )
        if self.std is not None and self.std <= 0:
            raise InputError(f"std is {self.std}; it must be positive, or None for equal shares")

    def count(self, step: int) -> int:
        """n at an optimiser step."""
        if self.steps == 0:
            return self.last
        each = max(1, math.floor(self.steps / (math.log2(self.last // self.first) + 1)))
        return min(self.first * 2 ** min(step // each, 64), self.last)

    def table(self, path: Path, n: int) -> tuple[Tensor, Tensor]:
        """(times (n + 1,), increasing from 0 to 1; levels k (n + 1,), decreasing), float64."""
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        high, low = (path.sigma(ends) / path.alpha(ends)).tolist()
        top, bottom = (
            k ** (1 / self.rho) for k in (min(high, self.largest), max(low, self.smallest))
        )
        k = torch.linspace(top, bottom, n + 1, dtype=torch.float64) ** self.rho
        times = path.time_of_edm_sigma(k)
        times[0], times[-1] = 0.0, 1.0
        return times, k

    def draw(self, path: Path, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        """(t, s, k_t - k_s), (B,) each: neighbouring times t < s, and how far apart their levels are."""
        times, k = (part.to(noise.ids.device) for part in self.table(path, self.count(noise.step)))
        if self.std is None:
            share = torch.ones_like(k[1:])
        else:
            z = (k.log() - self.mean) / (math.sqrt(2) * self.std)
            share = (z[:-1].erf() - z[1:].erf()).clamp(min=1e-12)
        cdf = share.cumsum(0)
        i = torch.searchsorted(cdf, noise.uniform((), TIME) * cdf[-1]).clamp(max=len(share) - 1)
        return times[i], times[i + 1], k[i] - k[i + 1]


@dataclass(frozen=True)
class _Consistency(ABC):
    """`loss_i = w d(f(x_t, t), f(x_s, s))`, the second held fixed; w = 1/(k_t - k_s) if weighted.

    model:    a FlowMapModel; one that knows only the way to the data will do.
    levels:   pairs of times. distance: d, from (B, ...) twice to (B,). condition_dropout: as for `Matching`.
    decay:    the second f is a slow copy of the model, `copy <- decay copy + (1 - decay) model` after every step; None
              for the model itself.

    With dropout, both have the same units dropped.
    """

    model: FlowMapModel
    levels: Levels = field(default_factory=Levels)
    distance: Distance = field(default_factory=PseudoHuber)
    weighted: bool = True
    decay: float | None = None
    condition_dropout: Dropout = 0.0

    def __post_init__(self) -> None:
        check_dropout(self.condition_dropout, self.model)
        if isinstance(self.model.jumps, tuple):
            raise InputError("a consistency model goes to the data: FlowMapModel(model, 'data')")
        if self.decay is not None and not 0 <= self.decay < 1:
            raise InputError(f"decay is {self.decay}; it must lie in [0, 1)")

    @cached_property
    def state(self) -> nn.Module | None:
        """The slow copy, which is part of a run's state; see `train.loop.Trainer`."""
        if self.decay is None:
            return None
        return copy.deepcopy(self.model).requires_grad_(False)

    @torch.no_grad()
    def advance(self) -> None:
        """After an optimiser step."""
        if self.state is not None and self.decay is not None:
            mine: list[Tensor] = list(self.state.parameters())
            theirs: list[Tensor] = list(self.model.parameters())
            torch._foreach_lerp_(mine, theirs, 1 - self.decay)

    @abstractmethod
    def _next(self, x_t: Tensor, drawn: Drawn, t: Tensor, s: Tensor) -> Tensor:
        """The state at s that is taken to be on the trajectory of x_t."""

    def __call__(self, batch: Batch | Tensor, noise: Noise) -> dict[str, Tensor]:
        """{"loss": (B,)}. batch: a Batch, or data (B, ...) alone; noise: keyed by the global ids of its samples."""
        path = self.model.path
        drawn = draw(self.model, batch, noise, LogitNormal(), self.condition_dropout)
        t, s, apart = self.levels.draw(path, noise.to(drawn.x1.device))
        x_t = path.sample(drawn.x0, drawn.x1, t)
        goal = self.model if self.state is None else self.state
        before = generators(x_t.device)
        here = self.model(x_t, t, 1.0, **drawn.cond)
        with held_fixed(goal), repeatable(x_t.device) as repeat:
            x_s = self._next(x_t, drawn, t, s)
            repeat(before)
            there = goal(x_s, s, 1.0, **drawn.cond)
        loss = self.distance(here, there)
        return {"loss": loss / apart.to(loss.dtype) if self.weighted else loss}


@dataclass(frozen=True)
class ConsistencyTraining(_Consistency):
    """Consistency without a teacher: x_t and x_s of the same data and noise, `x_s = alpha_s x1 + sigma_s x0`.

    By default the improved recipe: a curriculum of levels (give `levels=Levels(steps=K)` for K optimiser steps), levels
    drawn log-normally, pseudo-Huber distance, weight 1/(k_t - k_s), no slow copy. The gradient tends to that of
    distillation by the exact flow as levels get closer, with an error of first order in their distance.

    Song & Dhariwal 2023 (arXiv 2310.14189), table 1; Song et al. 2023 (arXiv 2303.01469), alg. 3 with squared or LPIPS
    distance, levels drawn equally, weight 1 and a slow copy.
    """

    def _next(self, x_t: Tensor, drawn: Drawn, t: Tensor, s: Tensor) -> Tensor:
        return self.model.path.sample(drawn.x0, drawn.x1, s)


@dataclass(frozen=True)
class ConsistencyDistillation(_Consistency):
    """Consistency along a teacher's flow: x_s is where it carries x_t.

    teacher: a flow map; of a Field, `SolverFlowMap(field, solver)`: one step of any solver. Guided or not.

    Song et al. 2023 (arXiv 2303.01469), alg. 2: Heun, levels drawn equally (`Levels(last=18, std=None)`), a slow copy.
    """

    teacher: FlowMap | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher is None:
            raise InputError(
                "distillation takes a teacher: SolverFlowMap(field, solver), or any flow map"
            )
        check_teacher(self.model, self.teacher)

    def _next(self, x_t: Tensor, drawn: Drawn, t: Tensor, s: Tensor) -> Tensor:
        assert self.teacher is not None
        return self.teacher(x_t, t, s, **drawn.cond)


@dataclass(frozen=True)
class ContinuousConsistency:
    """Consistency in the limit of small steps, with normalised tangents.

        g = (v - U) + r (df/dt - (v - U)),   target = U + g/(|g| + c), held fixed,   loss_i = |U - target|^2

    f(x, t) = X(x, t, 1), df/dt its derivative along the trajectory by one pass in forward mode, U the prediction as a
    velocity, |.| the root mean square over dimensions. It is what MeanFlow regresses on (`objectives.meanflow`), for
    s = 1 and of unit size, which keeps the noise of df/dt from blowing up. On the trigonometric path (`Cosine`,
    prediction "v") g is, at r = 1, the published tangent over the cosine of their angle, alpha_t, in units of time t.

    The value that is returned is |df/dt|^2, by how much the law fails, with the gradient of the loss.

    teacher: a Field, guided or not, whose velocity v is; None for the pair's own: training from scratch.
    times:   the law of t. warmup: optimiser steps over which r rises from 0 to 1. floor: c.
    condition_dropout: as for `Matching`; compiled: as for `MeanFlow`.

    Lu & Song 2024 (arXiv 2410.11081), eq. 6-8 and alg. 1; theirs also learns a weight over t, which is omitted here.
    """

    model: FlowMapModel
    teacher: Field | None = None
    times: TimeDraw = field(default_factory=lambda: LogitNormal(0.0, 1.6))
    warmup: int = 0
    floor: float = 0.1
    condition_dropout: Dropout = 0.0
    compiled: bool = False

    def __post_init__(self) -> None:
        check_dropout(self.condition_dropout, self.model)
        check_teacher(self.model, self.teacher)
        if isinstance(self.model.jumps, tuple):
            raise InputError("a consistency model goes to the data: FlowMapModel(model, 'data')")
        if self.warmup < 0 or self.floor <= 0:
            raise InputError(
                f"warmup is {self.warmup} and floor {self.floor}: need warmup >= 0 and floor > 0"
            )

    def __call__(self, batch: Batch | Tensor, noise: Noise) -> dict[str, Tensor]:
        """{"loss": (B,)}. batch: a Batch, or data (B, ...) alone; noise: keyed by the global ids of its samples."""
        path = self.model.path
        x0, x1, t, cond, _ = draw(self.model, batch, noise, self.times, self.condition_dropout)
        x_t = path.sample(x0, x1, t)
        with torch.no_grad():
            v = (
                path.velocity(x0, x1, t)
                if self.teacher is None
                else self.teacher(x_t, t, "velocity", **cond)
            )
        share = min(1.0, noise.step / self.warmup) if self.warmup else 1.0
        s = torch.ones_like(t)
        u, rate = mean_velocity(self.model, x_t, t, s, v, cond, self.compiled)
        gap = v - u.detach()
        g = gap + share * (rate - gap)
        size = expand(mean_data(g**2).sqrt(), g)
        loss = mean_data((u - (u.detach() + g / (size + self.floor))) ** 2)
        return {"loss": with_value(loss, mean_data(rate**2))}
