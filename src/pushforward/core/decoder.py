"""ln P of data given a Gaussian: as a density, or over bins."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.special import log_ndtr

from pushforward.core.errors import InputError
from pushforward.core.shapes import sum_data


def normal_log_prob(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """ln N(x; mean, diag(variance)), (B,). variance broadcasts with x (B, ...)."""
    each = -((x - mean) ** 2) / (2 * variance) - (2 * math.pi * variance).log() / 2
    return sum_data(each)


def bin_log_prob(
    x: Tensor, mean: Tensor, variance: Tensor, width: float, value_range: tuple[float, float]
) -> Tensor:
    """ln of the mass that N(mean, variance) has in the bins of x, (B,).

        prod_i [Phi((x_i + w/2 - m_i)/s_i) - Phi((x_i - w/2 - m_i)/s_i)]

    the first bin reaching down to -infinity and the last up to +infinity, so that the bins' masses add up to 1.

    x: (B, ...) centres of bins, low + k width. Worked out in float64, in the tail where both Phi are small, so that no
    mass is lost to rounding. Ho et al. 2020 (arXiv 2006.11239), eq. 13: width 2/255 in [-1, 1] for bytes.
    """
    low, high = value_range
    x, mean, std = x.double(), mean.double(), variance.double().sqrt()
    place = (x - low) / width
    if bool(((place - place.round()).abs() > 1e-2).any()) or bool(
        ((x < low - width / 2) | (x > high + width / 2)).any()
    ):
        raise InputError(
            f"the data do not lie on the values {low:g}, {low + width:g}, ..., {high:g}: give the width of their "
            f"bins and their range, or none for data that are not quantised"
        )
    infinity = torch.full_like(x, math.inf)
    upper = torch.where(x > high - width / 2, infinity, (x + width / 2 - mean) / std)
    lower = torch.where(x < low + width / 2, -infinity, (x - width / 2 - mean) / std)
    # Phi(b) - Phi(a) = Phi(-a) - Phi(-b): in the upper tail both are near 1, and so are taken from below.
    turned = lower > 0
    lower, upper = torch.where(turned, -upper, lower), torch.where(turned, -lower, upper)
    big, small = log_ndtr(upper), log_ndtr(lower)
    return sum_data(big + torch.log(-torch.expm1(small - big)))
