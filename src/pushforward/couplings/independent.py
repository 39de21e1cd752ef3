"""The independent coupling."""

from __future__ import annotations

import torch
from torch import Tensor

from pushforward.core.conditions import Conditions
from pushforward.core.noise import Noise


def independent(
    x0: Tensor, x1: Tensor, noise: Noise, cond: Conditions | None = None
) -> tuple[Tensor, Tensor]:
    """Pair x0 and x1 as they come: (x0, x1) ~ source x data."""
    index = torch.arange(len(x1), device=x1.device)
    return index, index
