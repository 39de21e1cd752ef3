"""Blocks of a multimodal diffusion transformer: two streams of tokens that attend to one another, or one stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, addcmul, nn
from torch.nn.functional import gelu

from pushforward.nets.attention import Attending, check_heads
from pushforward.nets.layers import LayerNorm
from pushforward.nets.linear import Linear, linear
from pushforward.nets.positions import rotate

# What a block has of the text: no stream, keys and values only, or a stream that goes on to the next block.
Text = Literal["none", "keys", "stream"]


class Modulation(nn.Module):
    """`W c`, in `parts` pieces (B, 1, width) each; c is the condition, behind its nonlinearity."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.linear, self.parts = Linear(width, parts * width), parts

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        return self.linear(condition)[:, None].chunk(self.parts, dim=2)


class HeadNorm(nn.Module):
    """`w x / sqrt(mean x^2 + 1e-6)` over the coordinates of a head (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        h = h * ((h * h).mean(-1, keepdim=True) + 1e-6).rsqrt()
        return (h * self.weight).to(x.dtype)


class Projected(nn.Module):
    """`gelu(W x + b)` by its approximation with tanh."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = Linear(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        return gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    """`W2 gelu(W1 x)` with an inner width of 4 width."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            Projected(width, 4 * width), nn.Dropout(dropout), Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class JointAttention(Attending):
    """Attention among the tokens of an image and of a text together, with projections of each stream's own.

        softmax(Q K^T / sqrt d) V      Q = (Q_x, Q_c),  K = (K_x, K_c),  V = (V_x, V_c)

    x: (B, N, width), c: (B, L, width) or None -> the same shapes, None for the text if `text` is not "stream".
    angle: (N, d/2), by which queries and keys of the image are turned. keep: (B, N + L) bool, what is attended to.

    The weights for queries, keys and values have names of their own, and are joined for one product of matrices. With
    "keys", `add_q_proj` and `norm_added_q` belong to the published layout and have no part in the result: they take no
    gradient.
    """

    def __init__(
        self, width: int, heads: int, qk_norm: bool, text: Text = "none", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.text = check_heads(width, heads), text
        dim = width // heads
        self.to_q, self.to_k, self.to_v = (Linear(width, width) for _ in range(3))
        self.to_out = nn.Sequential(Linear(width, width), nn.Dropout(dropout))
        self.norm_q, self.norm_k = _norms(dim, qk_norm)
        if text != "none":
            self.add_q_proj, self.add_k_proj, self.add_v_proj = (
                Linear(width, width) for _ in range(3)
            )
            self.norm_added_q, self.norm_added_k = _norms(dim, qk_norm)
        if text == "stream":
            self.to_add_out = Linear(width, width)
        if text == "keys":
            self.add_q_proj.requires_grad_(False)
            self.norm_added_q.requires_grad_(False)

    def forward(
        self,
        x: Tensor,
        c: Tensor | None = None,
        angle: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        q, k, v = heads_of(x, (self.to_q, self.to_k, self.to_v), self.heads)
        q, k = turned(self.norm_q(q), angle), turned(self.norm_k(k), angle)
        if c is not None:
            if self.text == "stream":
                q_c, k_c, v_c = heads_of(
                    c, (self.add_q_proj, self.add_k_proj, self.add_v_proj), self.heads
                )
                q = torch.cat((q, self.norm_added_q(q_c)), dim=1)
            else:
                k_c, v_c = heads_of(c, (self.add_k_proj, self.add_v_proj), self.heads)
            k, v = torch.cat((k, self.norm_added_k(k_c)), dim=1), torch.cat((v, v_c), dim=1)
        h = self.attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), keep)
        out = self.to_out(h[:, : x.shape[1]])
        if c is None or self.text != "stream":
            return out, None
        return out, self.to_add_out(h[:, x.shape[1] :])


class JointBlock(nn.Module):
    """A block with a stream of an image and one of a text, each with weights of its own.

    In each stream, with norm the layer norm and (b1, a1, g1, b2, a2, g2) = W condition:

        x <- x + g1 attention((1 + a1) norm(x) + b1)                       over both streams
        x <- x + g3 attention'((1 + a3) norm(x at the start) + b3)         if `dual`: over the image alone
        x <- x + g2 W2 gelu(W1 ((1 + a2) norm(x) + b2))

    x: (B, N, width), c: (B, L, width) or None, condition: (B, width) -> x and c. The last block of a network has
    text="keys": its text is attended to and goes no further (None).

    Esser et al. 2024 (arXiv 2403.03206), fig. 2b; the second attention is that of Stable Diffusion 3.5 medium. Names
    and order of the weights are those of diffusers' `JointTransformerBlock`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        qk_norm: bool = False,
        text: Text = "stream",
        dual: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.text, self.norm = text, LayerNorm()
        self.norm1 = Modulation(width, 9 if dual else 6)
        self.attn = JointAttention(width, heads, qk_norm, text, dropout)
        self.attn2 = JointAttention(width, heads, qk_norm, "none", dropout) if dual else None
        self.ff = FeedForward(width, dropout)
        if text != "none":
            self.norm1_context = Modulation(width, 6 if text == "stream" else 2)
        if text == "stream":
            self.ff_context = FeedForward(width, dropout)

    def forward(
        self,
        x: Tensor,
        c: Tensor | None,
        condition: Tensor,
        angle: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        b1, a1, g1, b2, a2, g2, *second = self.norm1(condition)
        normed = self.norm(x)
        h_c: Tensor | None = None
        if c is not None and self.text == "stream":
            cb1, ca1, cg1, cb2, ca2, cg2 = self.norm1_context(condition)
            h_c = addcmul(cb1, 1 + ca1, self.norm(c))
        elif c is not None:
            a, b = self.norm1_context(condition)  # the other way round than elsewhere
            h_c = addcmul(b, 1 + a, self.norm(c))
        h, h_c = self.attn(addcmul(b1, 1 + a1, normed), h_c, angle, keep)
        x = addcmul(x, g1, h)
        if self.attn2 is not None:
            b3, a3, g3 = second
            x = addcmul(x, g3, self.attn2(addcmul(b3, 1 + a3, normed), None, angle)[0])
        x = addcmul(x, g2, self.ff(addcmul(b2, 1 + a2, self.norm(x))))
        if c is None or h_c is None:
            return x, None
        c = addcmul(c, cg1, h_c)
        return x, addcmul(c, cg2, self.ff_context(addcmul(cb2, 1 + ca2, self.norm(c))))


class SingleAttention(Attending):
    """Projections and norms of attention in one stream, without a layer behind it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.norm_q, self.norm_k = HeadNorm(width // heads), HeadNorm(width // heads)
        self.to_q, self.to_k, self.to_v = (Linear(width, width) for _ in range(3))


class SingleBlock(nn.Module):
    """A block of one stream, attention and perceptron side by side: `x + g W (attention(h), gelu(V h))`.

        h = (1 + a) norm(x) + b        (b, a, g) = W' condition

    x: (B, N, width), condition: (B, width) -> (B, N, width). angle: (N, d/2). keep: (B, N) bool, what is attended to.

    Of FLUX.1 (Black Forest Labs 2024), after Dehghani et al. 2023 (arXiv 2302.05442), sec. 2. Names and order of the
    weights are those of diffusers' `FluxSingleTransformerBlock`.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.norm, self.layer_norm = Modulation(width, 3), LayerNorm()
        self.proj_mlp, self.proj_out = Linear(width, 4 * width), Linear(5 * width, width)
        self.attn = SingleAttention(width, heads)

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        angle: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        b, a, g = self.norm(condition)
        h, attn = addcmul(b, 1 + a, self.layer_norm(x)), self.attn
        q, k, v = heads_of(h, (attn.to_q, attn.to_k, attn.to_v), self.heads)
        q, k = turned(attn.norm_q(q), angle), turned(attn.norm_k(k), angle)
        mixed = attn.attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), keep)
        inner = gelu(self.proj_mlp(h), approximate="tanh")
        out = self.proj_out(self.dropout(torch.cat((mixed.to(inner.dtype), inner), dim=2)))
        return addcmul(x, g, out)


def heads_of(x: Tensor, layers: Sequence[Linear], heads: int) -> tuple[Tensor, ...]:
    """What several linear layers of one width make of x (B, N, width): (B, N, heads, d) each, by one product."""
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    return linear(x, weight, bias).unflatten(2, (len(layers), heads, -1)).unbind(2)


def turned(x: Tensor, angle: Tensor | None) -> Tensor:
    """(B, N, heads, d) turned by its place, `rotate`."""
    return x if angle is None else rotate(x, angle[:, None])


def _norms(dim: int, wanted: bool) -> tuple[nn.Module, nn.Module]:
    return (HeadNorm(dim), HeadNorm(dim)) if wanted else (nn.Identity(), nn.Identity())
