"""The vector of a picture, as a network that takes texts is given it."""

from __future__ import annotations

from torch import Tensor

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.nets.linear import Linear
from pushforward.nets.network import Network


class EmbeddingTokens(Network):
    """A vector (B, dim) -> `count` tokens (B, count, width), linear in it, and the vector itself.

    One of the parts of `Prompted`, which joins the tokens to those of the text and the vector to what is added to the
    embedding of time. A vector of zeros stands for none, and has no tokens.

    Ramesh et al. 2022 (arXiv 2204.06125), sec. 2.1.
    """

    def __init__(self, dim: int, width: int, count: int = 4) -> None:
        super().__init__()
        if min(dim, width, count) < 1:
            raise InputError("dim, width and count must be positive")
        self.width, self.pooled, self.count = width, dim, count
        self.project = Linear(dim, count * width)

    def forward(self, z: Tensor) -> tuple[Tokens, Tensor]:
        if z.ndim != 2 or z.shape[1] != self.pooled:
            raise InputError(f"this network takes vectors (B, {self.pooled}), got {tuple(z.shape)}")
        tokens = self.project(z.to(self.project.weight.dtype)).unflatten(
            1, (self.count, self.width)
        )
        there = (z != 0).any(1)[:, None].expand(-1, self.count)
        return Tokens(tokens, there), z
