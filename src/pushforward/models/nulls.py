"""What stands for no condition, learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError


class LearnedNull(nn.Module):
    """A learned vector r that stands for no condition: a part of the model, trained with it.

    value (B, ..., width) -> r in every place; Tokens (B, L, width) -> the one token r, the rest being padding.
    Starts at 0, where a network that is linear in its condition ignores it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        if width < 1:
            raise InputError(f"width is {width}; it must be positive")
        self.config = {"width": width}
        self.row = nn.Parameter(torch.zeros(width))

    def forward(self, value: Any) -> Any:
        if isinstance(value, Tokens):
            mask = torch.zeros_like(value.mask)
            mask[:, 0] = True
            return Tokens(self(value.values), mask)
        width = self.config["width"]
        if not isinstance(value, Tensor) or value.ndim < 2 or value.shape[-1] != width:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"a LearnedNull of width {width} stands for (B, ..., {width}), not {shape}"
            )
        return self.row.to(value.dtype).expand_as(value)
