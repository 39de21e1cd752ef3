"""Distances between many points, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pushforward.core.errors import InputError

# Distances that are held at a time: 64 MB of them.
CELLS = 1 << 23
# Squared distances below this, over the squared norms, are those of a point to itself but for rounding.
SAME = 1e-12


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """`|a_i|^2 + |b_j|^2 - 2 a_i . b_j`, (N, M) in float64, of points a (N, D) and b (M, D).

    One matrix product, at the price of an absolute error of 1e-16 of the squared norms: centre the points first. Pairs
    nearer than 1e-6 of their norms are given the distance 0, so that a copy is found to be one.
    """
    a, b = a.double(), b.double()
    norms = a.square().sum(1)[:, None] + b.square().sum(1)
    squared = torch.addmm(norms, a, b.T, alpha=-2)
    return squared.masked_fill_(squared < SAME * norms, 0.0)


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """The rows of a (rows, columns) matrix in blocks of at most CELLS entries, and one row at least."""
    step = max(1, CELLS // max(columns, 1))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def check_points(least: int, *sets: Tensor) -> None:
    """Sets of points (N, D) of one dimension, `least` of them or more in each, all finite."""
    shapes = ", ".join(str(tuple(x.shape)) for x in sets)
    if any(x.ndim != 2 for x in sets) or len({x.shape[1:] for x in sets}) != 1:
        raise InputError(f"features must be matrices (N, D) of one D, got {shapes}")
    if min(len(x) for x in sets) < least:
        raise InputError(f"at least {least} samples are needed in each set, got {shapes}")
    if not all(bool(x.isfinite().all()) for x in sets):
        raise InputError("features hold NaN or infinite values")
