"""Products of a layer's weights with many tokens, in single precision on a CPU by the quicker of two libraries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pushforward.nets.layers import is_plain

# Fewer multiplications are not worth what choosing the library costs.
LEAST = 2**21


class Linear(nn.Linear):
    """`W x + b` of the last dimension, as torch's own, by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`W x + b` of the last dimension. x: (..., K), weight: (M, K), bias: (M,) -> (..., M).

    torch takes MKL for single precision on CPUs, which on those that are not Intel's knows half of their vector units.
    oneDNN, which comes with torch too and which torch takes for bfloat16, knows them: with products of 4096 tokens and
    192 to 768 coordinates it is 1.3 to 2.2 times as quick on one core of an EPYC with AVX-512, with the same error.
    It is taken for values and first derivatives, and torch's own choice for everything else: other precisions, devices
    and autocast, few tokens, derivatives in forward mode, transforms and the compiler.
    """
    if (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and is_plain()
        and x.numel() * len(weight) >= LEAST
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
    ):
        out: Tensor = _Linear.apply(x, weight, bias)
        return out
    return functional.linear(x, weight, bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x W^T + b` by oneDNN; x (N, K), weight (M, K), in any order in memory."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


class _Linear(torch.autograd.Function):
    """Values and first derivatives by oneDNN; further ones are those of the products of the first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        dx = dw = db = None
        rows, columns = g.flatten(0, -2), x.flatten(0, -2)
        again = torch.is_grad_enabled()
        if ctx.needs_input_grad[0]:
            dx = rows @ weight if again else _product(rows, weight.t(), None)
            dx = dx.reshape(x.shape)
        if ctx.needs_input_grad[1]:
            dw = rows.t() @ columns if again else _product(rows.t(), columns.t(), None)
        if ctx.needs_input_grad[2]:
            db = rows.sum(0)
        return dx, dw, db
