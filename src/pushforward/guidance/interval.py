"""When guidance acts."""

from __future__ import annotations

import torch
from torch import Tensor

from pushforward.core.errors import InputError

Interval = tuple[float, float]
NEVER: Interval = (1.0, 0.0)


def check_interval(interval: Interval) -> None:
    low, high = interval
    if interval != NEVER and not 0 <= low <= high <= 1:
        raise InputError(f"the guidance interval is {interval}; need 0 <= low <= high <= 1")


def breaks(interval: Interval) -> tuple[float, ...]:
    """The times at which guidance that acts in the interval jumps."""
    low, high = interval
    return tuple(t for t in (low, high) if 0 < t < 1) if low < high else ()


def acting(interval: Interval, start: float, end: float) -> Interval:
    """The interval as it is between two neighbouring breaks: always, or never."""
    middle = (start + end) / 2
    return (0.0, 1.0) if interval[0] <= middle <= interval[1] else NEVER


def inside(interval: Interval, t: Tensor) -> Tensor:
    """(B,) whether each time lies in it, its ends included (Kynkaanniemi et al. 2024, arXiv 2404.07724)."""
    if interval == NEVER:
        return torch.zeros_like(t, dtype=torch.bool)
    return (t >= interval[0]) & (t <= interval[1])
