"""Attention among tokens, and to the tokens of another sequence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.nets.linear import Linear
from pushforward.nets.positions import rotate

KeyValues = tuple[Tensor, Tensor]


def attend(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None) -> Tensor:
    """`softmax(Q K^T / sqrt d) V` in each head, keys outside of `keep` having no weight.

    q: (B, heads, N, d); k, v: (B, heads, L, d); keep: (B, L) bool, true somewhere in each row, or (B, N, L) for keys of
    each query -> (B, N, heads d).

    On a CPU the kernel for float32 is three to five times as quick as those for half as many bits: it is taken there.

    Vaswani et al. 2017 (arXiv 1706.03762), eq. 1.
    """
    mask = None if keep is None else keep[:, None] if keep.ndim == 3 else keep[:, None, None]
    if q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", enabled=False):
            h = scaled_dot_product_attention(q.float(), k.float(), v.float(), mask).to(q.dtype)
    else:
        h = scaled_dot_product_attention(q, k, v, mask)
    return h.transpose(1, 2).flatten(2)


Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class Attending(nn.Module):
    """What has an attention, as a function of queries, keys, values and mask, which may be another than `attend`."""

    attend: Attend = staticmethod(attend)


class RMSNorm(nn.Module):
    """`g x / sqrt(mean x^2 + eps)` over the last dimension, computed in float32 at least; the gain g starts at 1.

    Zhang & Sennrich 2019 (arXiv 1910.07467), eq. 4.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.gain, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        return (self.gain * h * ((h**2).mean(-1, keepdim=True) + self.eps).rsqrt()).to(x.dtype)


class Attention(Attending):
    """Multi-head attention among the tokens of a sequence: `W softmax(Q K^T / sqrt d) V`, Q, K, V linear in x.

    x: (B, N, width) -> (B, N, width); d = width/heads. angle: (N, d/2) or
    (B, 1, N, d/2), by which queries and keys are turned, or None.
    keep: (B, N) bool, the tokens that are attended to, or (B, N, N) by each token; None for all.
    qk_norm: queries and keys are divided by their root mean square, with a gain for each coordinate, so that scores
    stay bounded (Henry et al. 2020, arXiv 2010.04245; Dehghani et al. 2023, arXiv 2302.05442).
    """

    def __init__(self, width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = check_heads(width, heads)
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)
        self.norm_q, self.norm_k = qk_norms(width // heads, qk_norm)

    def forward(self, x: Tensor, angle: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        q, k, v = self._project(x)
        if angle is not None:
            q, k = rotate(q, angle), rotate(k, angle)
        return self.out(self.attend(q, k, v, keep))

    def extend(
        self, x: Tensor, past: KeyValues | None = None, keep: Tensor | None = None
    ) -> tuple[Tensor, KeyValues]:
        """Tokens x (B, N, width) that come after others, whose keys and values are `past`, each (B, heads, L, d).

        They attend to those and to each other; keep: as in `forward`, of all L + N, (B, L + N) or (B, N, L + N).
        Returns (B, N, width), and the keys and values of all. Where `keep` is causal, a sequence in any number of such
        calls equals that in one.
        """
        q, k, v = self._project(x)
        if past is not None:
            k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
        return self.out(self.attend(q, k, v, keep)), (k, v)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (
            h.transpose(1, 2) for h in self.qkv(x).unflatten(2, (3, self.heads, -1)).unbind(2)
        )
        return self.norm_q(q), self.norm_k(k), v


class CrossAttention(Attending):
    """Multi-head attention to another sequence: Q linear in x, K and V linear in the context.

    x: (B, N, width), context: (B, L, context) -> (B, N, width). keep: (B, L) bool, the tokens of the context that are
    attended to, at least one for each sample, or None for all. qk_norm: as in `Attention`.
    """

    def __init__(self, width: int, heads: int, context: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = check_heads(width, heads)
        self.q, self.kv = Linear(width, width), Linear(context, 2 * width)
        self.out = Linear(width, width)
        self.norm_q, self.norm_k = qk_norms(width // heads, qk_norm)

    def forward(self, x: Tensor, context: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.look(x, self.read(context), keep)

    def read(self, context: Tensor) -> KeyValues:
        """Keys and values of a context, each (B, heads, L, d), to be looked at by `look` any number of times."""
        kv = self.kv(context).unflatten(2, (2, self.heads, -1))
        k, v = (h.transpose(1, 2) for h in kv.unbind(2))
        return self.norm_k(k), v

    def look(self, x: Tensor, context: KeyValues, keep: Tensor | None = None) -> Tensor:
        """What `forward` gives of the context that was read."""
        q = self.norm_q(self.q(x).unflatten(2, (self.heads, -1)).transpose(1, 2))
        return self.out(self.attend(q, *context, keep))


def read_context(
    name: str, width: int | None, x: Tensor, context: Tensor | Tokens | None, what: str = "context"
) -> tuple[Tensor | None, Tensor | None]:
    """A context as its tokens (B, L, width) and which of them are there (B, L), None for all.

    What a token that is not there holds is of no account, NaN or not. InputError unless a network of this name, built
    for tokens of this width, can take it with the states x. what: the name of the argument.
    """
    if context is None:
        return None, None
    if width is None:
        raise InputError(
            f"a {what} was given to a network that was built without one: build it with {what}=, "
            f"the width of its tokens"
        )
    values, mask = (
        (context, None) if isinstance(context, Tensor) else (context.values, context.mask)
    )
    if (
        values.ndim != 3
        or values.shape[0] != x.shape[0]
        or values.shape[1] < 1
        or values.shape[2] != width
    ):
        raise InputError(
            f"this {name} takes a {what} of tokens ({x.shape[0]}, L, {width}) for {x.shape[0]} samples, got "
            f"{tuple(values.shape)}"
        )
    values = values.to(x.dtype)
    return (values if mask is None else torch.where(mask[..., None], values, 0)), mask


def context_or_none(
    values: Tensor | None, mask: Tensor | None, x: Tensor, width: int
) -> tuple[Tensor, Tensor | None]:
    """A context to attend to, and which of its tokens; no context is one token of zeros.

    Where none is there all count, as zeros: these are all alike, so that it makes no difference how many there are.
    """
    if values is None:
        return x.new_zeros(x.shape[0], 1, width), None
    return values, None if mask is None else mask | ~mask.any(1, keepdim=True)


def check_heads(width: int, heads: int) -> int:
    if heads < 1 or width < 1 or width % heads:
        raise InputError(
            f"heads share the width: {width} cannot be divided among {heads} heads; choose a multiple of the heads"
        )
    return heads


def qk_norms(dim: int, wanted: bool) -> tuple[nn.Module, nn.Module]:
    if wanted:
        return RMSNorm(dim), RMSNorm(dim)
    return nn.Identity(), nn.Identity()
