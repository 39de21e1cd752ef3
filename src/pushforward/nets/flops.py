"""The size of a network in parameters and operations, counted without memory for either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pushforward.core import conditions


class Count(NamedTuple):
    """parameters; flops: floating-point operations of one forward pass for one sample, a multiply-add being two."""

    parameters: int
    flops: int

    @property
    def multiply_adds(self) -> int:
        return self.flops // 2


def count(net: nn.Module, shape: Sequence[int], **cond: Any) -> Count:
    """Parameters of a network, and operations for one sample.

    Counts what is a product of matrices: linear layers, convolutions, and both products of attention, by their
    definition. It omits what is of the order of the activations: norms, softmax, sums, activation functions.
    Biases are parameters, and their additions no operations. Buffers are neither.

    The "Gflops" of Peebles & Xie 2023 (arXiv 2212.09748), table 4, are billions of multiply-adds, the products of
    attention among them: all twelve are `multiply_adds` to within their rounding and a part in five thousand. The paper
    does not say what makes the rest; one choice that gives every digit is in tests/nets/test_sizes.py.

    shape: of a sample, without B. cond: conditions of one sample, (1, ...).
    Works on any device, without a copy: the network is run on its shapes alone (torch's "meta" device).
    """
    parts = dict(net.named_parameters()) | dict(net.named_buffers())
    state = {name: torch.empty_like(part, device="meta") for name, part in parts.items()}
    dtype = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
    x = torch.empty(1, *shape, device="meta", dtype=dtype)
    t = torch.empty(1, device="meta", dtype=dtype)
    given = conditions.to(cond, "meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        functional_call(net, state, (x, t), given)
    return Count(sum(p.numel() for p in net.parameters()), counter.get_total_flops())
