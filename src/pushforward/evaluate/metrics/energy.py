"""The energy distance between two sets of samples."""

from __future__ import annotations

import torch
from torch import Tensor

from pushforward.core.errors import InputError


def energy_distance(a: Tensor, b: Tensor) -> float:
    """`2 E|A - B| - E|A - A'| - E|B - B'|`, 0 if and only if the laws are equal.

    a: (N, ...), b: (M, ...), flattened. Unbiased: pairs of a sample with itself do not count, so that two sets from one
    law give values around 0, of either sign. Szekely & Rizzo 2013.
    """
    if a.shape[1:] != b.shape[1:] or min(len(a), len(b)) < 2:
        raise InputError(
            f"two sets of at least two samples of one shape are needed, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    a, b = a.flatten(1).double(), b.flatten(1).double()
    return float(2 * _mean_distance(a, b) - _within(a) - _within(b))


def _within(a: Tensor) -> Tensor:
    return _mean_distance(a, a) * len(a) / (len(a) - 1)


def _mean_distance(a: Tensor, b: Tensor, rows: int = 1024) -> Tensor:
    total = sum(
        (
            torch.cdist(part, b, compute_mode="donot_use_mm_for_euclid_dist").sum()
            for part in a.split(rows)
        ),
        torch.zeros((), dtype=a.dtype),
    )
    return total / (len(a) * len(b))
