"""A Field of one Gaussian path, asked along another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pushforward.core.ends import Ends, away, check_margin, margin_for, singular_ends
from pushforward.core.fields import Field, breaks_of, require_variance, within
from pushforward.core.paths import Path
from pushforward.core.predictions import PREDICTIONS, Prediction, convert
from pushforward.core.shapes import as_time, expand


@dataclass(frozen=True)
class ScheduleTransfer:
    """A Field of one Gaussian path, asked along another: same law, other alpha and sigma.

    States of equal log-SNR differ only by a scale. With r = hypot(alpha, sigma), x/r and v/r (v the prediction of
    that name) are then the same on both paths, and from them everything else follows without loss of digits.
    Where the new path's log-SNR leaves the range of the old one, the nearest end is asked. The end of time at which v
    does not give the velocity (a variance-preserving path at t = 1) is asked at distance `margin` from there, as by
    `Model`; no other time is moved.

    Karras et al. 2022 (arXiv 2206.00364), sec. 4; Pokle et al. 2023 (arXiv 2310.04432).
    """

    field: Field
    path: Path
    margin: float | None = None

    def __post_init__(self) -> None:
        check_margin(self.margin)
        for path in (self.field.path, self.path):
            path.require_gaussian("transfer to another path")

    @cached_property
    def _ends(self) -> dict[Prediction, Ends]:
        return {want: singular_ends("v", want, self.path) for want in PREDICTIONS}

    @property
    def breaks(self) -> tuple[float, ...]:
        """The field's own breaks, at the times of equal log-SNR."""
        own = torch.tensor(breaks_of(self.field), dtype=torch.float64)
        if len(own) == 0:
            return ()
        return tuple(self.path.time_of_log_snr(self.field.path.log_snr(own)).tolist())

    def within(self, start: float, end: float) -> ScheduleTransfer:
        """The field between two neighbouring breaks."""
        ends = torch.tensor([start, end], dtype=torch.float64)
        first, last = self.field.path.time_of_log_snr(self.path.log_snr(ends)).tolist()
        return replace(self, field=within(self.field, first, last))

    def __call__(
        self, x: Tensor, t: Tensor | float, want: Prediction = "velocity", **cond: Any
    ) -> Tensor:
        t, old_t, ratio = self._there(x, t, want)
        v = self.field(ratio * x, old_t, "v", **cond) / ratio
        return convert(v, x, t, self.path, "v", want)

    def with_variance(
        self, x: Tensor, t: Tensor | float, want: Prediction = "data", **cond: Any
    ) -> tuple[Tensor, Tensor]:
        """The variance's v is the field's own: the same steps between paths of one alpha^2 + sigma^2.

        Between others beta, unlike beta-tilde, is not the same step, by a factor that goes to 1 with the steps.
        """
        t, old_t, ratio = self._there(x, t, want)
        v, variance = require_variance(self.field).with_variance(ratio * x, old_t, "v", **cond)
        return convert(v / ratio, x, t, self.path, "v", want), variance

    def _there(
        self, x: Tensor, t: Tensor | float, want: Prediction
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(t, the field's own time, the factor that takes x there)."""
        t = away(as_time(t, x), self._ends[want], margin_for(self.margin, x.dtype))
        old_t = self.field.path.time_of_log_snr(self.path.log_snr(t))
        old = torch.hypot(self.field.path.alpha(old_t), self.field.path.sigma(old_t))
        return t, old_t, expand(old / torch.hypot(self.path.alpha(t), self.path.sigma(t)), x)
