"""The maximum mean discrepancy between two sets of samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.evaluate.metrics.measured import Measured, flat, variance_of_mean

# Rows of a matrix of distances that are handled at a time.
ROWS = 1024

Kernel = Callable[[Tensor], Tensor]


def gaussian_kernel(*bandwidths: float) -> Kernel:
    """`mean_h exp(-|x - y|^2 / 2 h^2)`, as a function of the squared distance."""
    if not bandwidths or min(bandwidths) <= 0:
        raise InputError(f"bandwidths are {bandwidths}; they must be positive")
    return lambda square: torch.stack([(square / (-2 * h**2)).exp() for h in bandwidths]).mean(0)


def distance_kernel(square: Tensor) -> Tensor:
    """`-|x - y|`, with which MMD^2 is the energy distance."""
    return -square.sqrt()


def mmd(a: Tensor, b: Tensor, kernel: Kernel | None = None) -> Measured:
    """The squared maximum mean discrepancy, 0 if and only if the laws are equal, for kernels that tell all apart:

        MMD^2 = E k(A, A') + E k(B, B') - 2 E k(A, B)

    a: (N, ...), b: (M, ...), flattened. Unbiased: pairs of a sample with itself do not count, so that two sets from one
    law give values around 0, of either sign.

    kernel: k as a function of the squared distance: `gaussian_kernel(h, ...)`, or `distance_kernel` for the energy
            distance. None for Gaussians of 1/2, 1 and 2 times the median distance of the samples to each other; the
            bandwidth then depends on the samples, so give one where values are compared.

    Standard error: that of the means over rows of the kernel matrix, the first-order term of the U-statistic; of equal
    laws, where that term is 0, it is stated too large. Gretton et al. 2012 (JMLR 13), eq. 3 and sec. 6.
    """
    a, b = flat(a, b)
    if kernel is None:
        # Evenly spaced rows, since the first ones may all be of one class.
        some = torch.cat([x[:: -(-len(x) // ROWS)] for x in (a, b)])
        width = float(torch.pdist(some).median())
        kernel = gaussian_kernel(*(width * c or 1.0 for c in (0.5, 1.0, 2.0)))
    n, m = len(a), len(b)
    itself = kernel(torch.zeros((), dtype=a.dtype))
    in_a, in_b = ((_rows(kernel, x, x)[0] - itself) / (len(x) - 1) for x in (a, b))
    to_b, to_a = _rows(kernel, a, b)
    value = float(in_a.mean() + in_b.mean() - 2 * to_b.sum() / (n * m))
    variance = variance_of_mean(2 * (in_a - to_b / m)) + variance_of_mean(2 * (in_b - to_a / n))
    return Measured(value, math.sqrt(variance))


def _rows(kernel: Kernel, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the kernel matrix over its columns (N,), and over its rows (M,)."""
    over_b, over_a = [], b.new_zeros(len(b))
    for part in a.split(ROWS):
        k = kernel(torch.cdist(part, b, compute_mode="donot_use_mm_for_euclid_dist").square_())
        over_b.append(k.sum(1))
        over_a += k.sum(0)
    return torch.cat(over_b), over_a
