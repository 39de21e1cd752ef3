"""Classifier-free guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.core.fields import Field, null_condition
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction
from pushforward.core.shapes import as_time, expand
from pushforward.guidance.interval import check_interval, inside


@dataclass(frozen=True)
class ClassifierFree:
    """Push a conditional field away from the unconditional one.

        u_w(x | y) = (1 - w) u(x | none) + w u(x | y)

    w = 0 ignores the condition, w = 1 is plain conditional sampling, w > 1 exaggerates it; the w of Ho & Salimans is
    this one minus 1. The weights add up to 1, so the same formula holds for every prediction.

    field:    one trained with its condition dropped now and then; called once a step, on both halves of a double batch.
    interval: (low, high) times within which guidance acts; outside, the condition alone is used.

    Ho & Salimans 2022 (arXiv 2207.12598), eq. 6; interval: Kynkaanniemi et al. 2024 (arXiv 2404.07724).
    """

    field: Field
    scale: float
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_interval(self.interval)

    @property
    def path(self) -> Path:
        return self.field.path

    def __call__(
        self, x: Tensor, t: Tensor | float, want: Prediction = "velocity", **cond: Any
    ) -> Tensor:
        t = as_time(t, x)
        if not cond or self.scale == 1:
            return self.field(x, t, want, **cond)
        acts = inside(self.interval, t)
        if not bool(acts.any()):
            return self.field(x, t, want, **cond)
        weight = torch.where(acts, self.scale, torch.ones_like(t))
        null = null_condition(cond)
        both = {name: torch.cat((null[name], value)) for name, value in cond.items()}
        free, given = self.field(torch.cat((x, x)), torch.cat((t, t)), want, **both).chunk(2)
        return free + expand(weight, x) * (given - free)
