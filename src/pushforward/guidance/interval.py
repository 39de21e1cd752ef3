"""When guidance acts."""

from __future__ import annotations

from torch import Tensor

from pushforward.core.errors import InputError

Interval = tuple[float, float]


def check_interval(interval: Interval) -> None:
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise InputError(f"the guidance interval is {interval}; need 0 <= low <= high <= 1")


def inside(interval: Interval, t: Tensor) -> Tensor:
    """(B,) whether each time lies in it, its ends included (Kynkaanniemi et al. 2024, arXiv 2404.07724)."""
    return (t >= interval[0]) & (t <= interval[1])
