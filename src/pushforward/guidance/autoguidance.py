"""Guidance of a model by a worse version of itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.fields import Field, breaks_of, within
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction
from pushforward.core.shapes import as_time, expand
from pushforward.guidance.interval import acting, breaks, check_interval, inside


@dataclass(frozen=True)
class Autoguidance:
    """Push a field away from one that makes the same errors, only larger.

        D_w = D_worse + w (D - D_worse)

    w = 1 is the field alone, and `worse` is then not called; the weights add up to 1, so the same formula holds for
    every prediction. Both get the same condition: two calls a step, each of the whole batch.

    field:    the model. worse: one on the same path, smaller or less trained; `ScheduleTransfer` brings one there.
    interval: (low, high) times within which guidance acts; outside, the field alone is used.

    Karras et al. 2024 (arXiv 2406.02507), eq. 3. With the same field and its condition dropped for `worse` it is
    `ClassifierFree`.
    """

    field: Field
    worse: Field
    scale: float
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_interval(self.interval)
        if self.worse.path != self.field.path:
            raise InputError(
                f"the field is on {self.field.path} and the worse one on {self.worse.path}: "
                f"bring it over by ScheduleTransfer(worse, field.path)"
            )

    @property
    def path(self) -> Path:
        return self.field.path

    @property
    def breaks(self) -> tuple[float, ...]:
        """Where the guided field jumps in time."""
        own = () if self.scale == 1 else breaks(self.interval)
        return tuple(sorted({*own, *breaks_of(self.field), *breaks_of(self.worse)}))

    def within(self, start: float, end: float) -> Autoguidance:
        """The guided field between two neighbouring breaks."""
        return replace(
            self,
            field=within(self.field, start, end),
            worse=within(self.worse, start, end),
            interval=acting(self.interval, start, end),
        )

    def __call__(
        self, x: Tensor, t: Tensor | float, want: Prediction = "velocity", **cond: Any
    ) -> Tensor:
        t = as_time(t, x)
        good = self.field(x, t, want, **cond)
        acts = inside(self.interval, t)
        if self.scale == 1 or not bool(acts.any()):
            return good
        bad = self.worse(x, t, want, **cond)
        weight = torch.where(acts, self.scale, torch.ones_like(t))
        return bad + expand(weight, x) * (good - bad)
