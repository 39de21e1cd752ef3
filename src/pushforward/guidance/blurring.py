"""A Gaussian blur by a filter."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad


def reach_of(sigma: float) -> int:
    """How far the filter goes to each side: three sigma."""
    return math.ceil(3 * sigma)


def blurred(x: Tensor, sigma: float) -> Tensor:
    """x (B, C, H, W) blurred by a Gaussian of `sigma` pixels, borders mirrored.

    The filter has weights exp(-d^2/(2 sigma^2)) of sum 1, and ends at three sigma or at the width of the picture.
    """
    channels = x.shape[1]
    for side in (2, 3):
        reach = min(reach_of(sigma), x.shape[side] - 1)
        place = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
        row = torch.exp(-((place / sigma) ** 2) / 2)
        row = (row / row.sum()).reshape((1, 1, -1, 1) if side == 2 else (1, 1, 1, -1))
        border = (0, 0, reach, reach) if side == 2 else (reach, reach, 0, 0)
        row = row.expand(channels, *row.shape[1:])
        x = conv2d(pad(x, border, mode="reflect"), row, groups=channels)
    return x
