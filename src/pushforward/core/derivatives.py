"""Derivatives of fields: in x by reverse mode, along a direction by forward mode."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pushforward.core.shapes import sum_data


def divergence(value: Tensor, x: Tensor, create_graph: bool = False) -> Tensor:
    """`sum_i d value_i / d x_i`, (B,), by one backward pass for each dimension.

    value: (B, ...), computed from x (B, ...) row by row, x requiring gradients. create_graph: so that the result can
    be differentiated.
    """
    flat = value.flatten(1)
    total = x.new_zeros(len(x))
    if not value.requires_grad:  # a value without x in it
        return total
    for i in range(flat.shape[1]):
        (row,) = _pull_back(flat[:, i].sum(), x, None, create_graph)
        total = total + row.flatten(1)[:, i]
    return total


def quadratic_form(value: Tensor, x: Tensor, v: Tensor, create_graph: bool = False) -> Tensor:
    """`v . (d value / d x) v`, (B,), by one backward pass. Its mean over v of unit covariance is the divergence."""
    if not value.requires_grad:
        return x.new_zeros(len(x))
    (row,) = _pull_back(value, x, v, create_graph)
    return sum_data(row * v)


def _pull_back(
    value: Tensor, x: Tensor, v: Tensor | None, create_graph: bool
) -> tuple[Tensor, ...]:
    return torch.autograd.grad(
        value, x, v, retain_graph=True, create_graph=create_graph,
        allow_unused=True, materialize_grads=True,
    )  # fmt: skip


def jvp(
    function: Callable[..., Tensor], at: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """The value of a function and its derivative along tangents, by one pass in forward mode.

    Attention is computed by its definition meanwhile: the fused kernels have no derivative of that kind.
    """
    with sdpa_kernel(SDPBackend.MATH):
        value, derivative = torch.func.jvp(function, at, tangents)[:2]
    return value, derivative
