"""Classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.core.fields import Field, null_condition, require_variance
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
        return self._guided(lambda x, t, **c: (self.field(x, t, want, **c),), x, t, cond)[0]

    def with_variance(
        self, x: Tensor, t: Tensor | float, want: Prediction = "data", **cond: Any
    ) -> tuple[Tensor, Tensor]:
        """The guided prediction, with the variance of the conditional one, as improved DDPM and DiT have it."""
        field = require_variance(self.field)
        value, v = self._guided(lambda x, t, **c: field.with_variance(x, t, want, **c), x, t, cond)
        return value, v

    def _guided(
        self,
        ask: Callable[..., tuple[Tensor, ...]],
        x: Tensor,
        t: Tensor | float,
        cond: dict[str, Tensor],
    ) -> tuple[Tensor, ...]:
        """What `ask(x, t, **cond)` gives, the first of its values guided and the others the conditional ones."""
        t = as_time(t, x)
        acts = inside(self.interval, t)
        if not cond or self.scale == 1 or not bool(acts.any()):
            return ask(x, t, **cond)
        weight = torch.where(acts, self.scale, torch.ones_like(t))
        null = null_condition(cond)
        both = {name: torch.cat((null[name], value)) for name, value in cond.items()}
        value, *others = ask(torch.cat((x, x)), torch.cat((t, t)), **both)
        free, given = value.chunk(2)
        return (free + expand(weight, x) * (given - free), *(v.chunk(2)[1] for v in others))
