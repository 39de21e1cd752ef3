"""Explicit Runge-Kutta methods for the flow dx/dt = u(x, t).

    k_i = u(x + h sum_j a_ij k_j, t + c_i h),   x_{t+h} = x + h sum_i b_i k_i

A new one is its tableau. Hairer, Norsett, Wanner 1993, "Solving ordinary differential equations I", ch. II.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pushforward.core.fields import Field, find_inside
from pushforward.core.noise import Noise
from pushforward.core.paths import Path
from pushforward.core.predictions import jump
from pushforward.core.shapes import expand

Row = tuple[float, ...]


class RungeKutta:
    """A method given by its tableau: a (lower triangle, row by row), b and c.

    A method with a stage at the end of its step takes the last one, to where sigma = 0, of a model that predicts the
    data by `to_the_data`.
    """

    order: ClassVar[float]
    stochastic: ClassVar[bool] = False
    a: ClassVar[tuple[Row, ...]]
    b: ClassVar[Row]
    c: ClassVar[Row]

    @property
    def calls(self) -> int:
        return len(self.b)

    def init(self, x: Tensor, grid: Tensor, path: Path) -> None:
        return None

    def step(
        self, field: Field, x: Tensor, t: Tensor, s: Tensor, state: None, noise: Noise, **cond: Any
    ) -> tuple[Tensor, None]:
        if 1 in self.c and asked_at_the_data(field, s):
            return to_the_data(field, x, t, s, cond), None
        h, slopes = s - t, list[Tensor]()
        for row, c in zip(self.a, self.c, strict=True):
            # The last stage is asked at s itself: t + (s - t) may round to the other side of the end of time.
            at = t if c == 0 else s if c == 1 else t + c * h
            slopes.append(field(advance(x, h, row, slopes), at, **cond))
        return advance(x, h, self.b, slopes), None


def asked_at_the_data(field: Field, s: Tensor) -> bool:
    """Whether a velocity at time s would be asked of a model that predicts the data, which are x itself there."""
    if find_inside(field, "prediction") != "data" or not bool((s >= 1).all()):
        return False
    return float(field.path.sigma(torch.ones((), dtype=torch.float64))) == 0


def to_the_data(field: Field, x: Tensor, t: Tensor, s: Tensor, cond: dict[str, Any]) -> Tensor:
    """Two steps of DDIM by the data that a model predicts: half of the way to s, where sigma = 0, and to alpha D there.

    A velocity at s would be (D - x)/(1 - s) on CondOT, an error of the data over the margin at which it is asked.
    Karras et al. 2022 (arXiv 2206.00364), alg. 1, take one step, and so do Li & He 2025 (JiT, arXiv 2511.13720).
    """
    path, middle = field.path, t + (s - t) / 2
    a, b = jump("data", path.coefficients(t), path.coefficients(middle))
    x = expand(a, x) * x + expand(b, x) * field(x, t, "data", **cond)
    return expand(path.alpha(s), x) * field(x, middle, "data", **cond)


def advance(x: Tensor, h: Tensor, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """`x + h sum_i weights_i slopes_i`, one pass over the data for each slope."""
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            x = torch.addcmul(x, expand(h if weight == 1 else weight * h, x), slope)
    return x


@dataclass(frozen=True)
class Euler(RungeKutta):
    """`x_{t+h} = x + h u(x, t)`. n steps of h = 1/n reach t = 1."""

    order: ClassVar[float] = 1
    a: ClassVar[tuple[Row, ...]] = ((),)
    b: ClassVar[Row] = (1,)
    c: ClassVar[Row] = (0,)


@dataclass(frozen=True)
class Midpoint(RungeKutta):
    """`x_{t+h} = x + h u(x + h/2 u(x, t), t + h/2)`."""

    order: ClassVar[float] = 2
    a: ClassVar[tuple[Row, ...]] = ((), (1 / 2,))
    b: ClassVar[Row] = (0, 1)
    c: ClassVar[Row] = (0, 1 / 2)


@dataclass(frozen=True)
class Heun(RungeKutta):
    """`x_{t+h} = x + h/2 (k1 + k2)`, k1 = u(x, t), k2 = u(x + h k1, t + h): the explicit trapezoidal rule."""

    order: ClassVar[float] = 2
    a: ClassVar[tuple[Row, ...]] = ((), (1,))
    b: ClassVar[Row] = (1 / 2, 1 / 2)
    c: ClassVar[Row] = (0, 1)


@dataclass(frozen=True)
class RK4(RungeKutta):
    """The classical method of Kutta 1901: `x + h/6 (k1 + 2 k2 + 2 k3 + k4)`."""

    order: ClassVar[float] = 4
    a: ClassVar[tuple[Row, ...]] = ((), (1 / 2,), (0, 1 / 2), (0, 0, 1))
    b: ClassVar[Row] = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
    c: ClassVar[Row] = (0, 1 / 2, 1 / 2, 1)
