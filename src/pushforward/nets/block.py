"""The block of a diffusion transformer."""

from __future__ import annotations

from torch import Tensor, addcmul, nn

from pushforward.nets.attention import Attention, CrossAttention
from pushforward.nets.layers import LayerNorm, zero
from pushforward.nets.linear import Linear


class Block(nn.Module):
    """Attention and a perceptron, shifted, scaled and gated by the condition (adaLN-Zero).

        x <- x + g1 attention((1 + a1) norm(x) + b1)
        x <- x + cross(norm(x), context)                                        if there is one
        x <- x + g2 W2 gelu(W1 ((1 + a2) norm(x) + b2))        (b1, a1, g1, b2, a2, g2) = W condition

    x: (B, N, width), condition: (B, width) -> (B, N, width). W and the last layer of `cross` start at 0, so that the
    block starts as the identity. gelu: by its approximation with tanh; the inner width is 4 width.

    Peebles & Xie 2023 (arXiv 2212.09748), sec. 3.2; the cross-attention as in Chen et al. 2023 (arXiv 2310.00426),
    with a norm before it.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float = 0.0,
        qk_norm: bool = False,
        cross: bool = False,
    ) -> None:
        super().__init__()
        self.modulate = Linear(width, 6 * width)
        self.norm, self.dropout = LayerNorm(), nn.Dropout(dropout)
        self.attention = Attention(width, heads, qk_norm)
        self.cross = CrossAttention(width, heads, width, qk_norm) if cross else None
        self.mlp = nn.Sequential(
            Linear(width, 4 * width),
            nn.GELU(approximate="tanh"),
            nn.Dropout(dropout),
            Linear(4 * width, width),
        )
        xavier(self)
        zero(self.modulate)
        if self.cross is not None:
            zero(self.cross.out)

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        angle: Tensor | None = None,
        keep: Tensor | None = None,
        context: Tensor | None = None,
        context_keep: Tensor | None = None,
    ) -> Tensor:
        b1, a1, g1, b2, a2, g2 = self.modulate(condition)[:, None].chunk(6, dim=2)
        h = self.attention(addcmul(b1, 1 + a1, self.norm(x)), angle, keep)
        x = addcmul(x, g1, self.dropout(h))
        if self.cross is not None and context is not None:
            x = x + self.dropout(self.cross(self.norm(x), context, context_keep))
        return addcmul(x, g2, self.dropout(self.mlp(addcmul(b2, 1 + a2, self.norm(x)))))


def xavier(module: nn.Module) -> None:
    """Glorot's uniform law for the weights of all layers, as rows of a matrix; zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            nn.init.xavier_uniform_(layer.weight.flatten(1))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
