"""What it costs to pair two points."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pushforward.core.errors import InputError

# (B, ...) source samples and (B, ...) data to the costs of all pairs, (B, B): row i for x0[i], column j for x1[j].
Cost = Callable[[Tensor, Tensor], Tensor]


def squared_euclidean(x0: Tensor, x1: Tensor) -> Tensor:
    """`|x0_i - x1_j|^2` over all data dimensions, (B, B) in float64.

    |a|^2 + |b|^2 - 2 a.b, about the mean of x0, so that points far from the origin lose no digits.
    """
    a, b = x0.reshape(len(x0), -1).double(), x1.reshape(len(x1), -1).double()
    centre = a.mean(0)
    a, b = a - centre, b - centre
    square = a.square().sum(1)[:, None] + b.square().sum(1)
    return torch.addmm(square, a, b.T, alpha=-2).clamp(min=0)


@torch.no_grad()
def cost_matrix(cost: Cost, x0: Tensor, x1: Tensor) -> Tensor:
    """`cost(x0, x1)` in float64, with checks of its arguments and of its result.

    Raises InputError for an empty batch, unequal shapes, rows or costs that are not finite, and a wrong shape.
    """
    check_pair(x0, x1)
    c = cost(x0, x1)
    if not isinstance(c, Tensor) or c.shape != (len(x0), len(x1)):
        got = tuple(c.shape) if isinstance(c, Tensor) else type(c).__name__
        raise InputError(
            f"the cost of {len(x0)} pairs must be a tensor {(len(x0), len(x1))}, got {got}"
        )
    check_finite(c, "the cost matrix")
    return c.double()


def check_pair(x0: Tensor, x1: Tensor) -> None:
    if x0.shape != x1.shape:
        raise InputError(
            f"x0 has shape {tuple(x0.shape)} and x1 has {tuple(x1.shape)}; a coupling pairs as many source samples as "
            f"data, of one shape"
        )
    if x0.ndim == 0 or len(x0) == 0:
        raise InputError(f"there is nothing to pair in a batch of shape {tuple(x0.shape)}")
    check_finite(x0, "x0")
    check_finite(x1, "x1")


def check_finite(x: Tensor, name: str) -> None:
    """InputError that names the rows of x (B, ...) with a value that is not finite."""
    finite = x.isfinite()
    if bool(finite.all()):
        return
    rows = (~finite.reshape(len(x), -1).all(1)).nonzero().flatten().tolist()
    some = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
    raise InputError(
        f"{name} has values that are not finite in {len(rows)} of {len(x)} rows: {some}. Mend or remove these samples"
    )
