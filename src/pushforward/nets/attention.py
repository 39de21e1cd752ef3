"""Attention among tokens and to the tokens of another sequence, and the positions of tokens on a grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from pushforward.core.errors import InputError


def attend(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None) -> Tensor:
    """`softmax(Q K^T / sqrt d) V` in each head, the keys that `keep` leaves out having no weight.

    q: (B, heads, N, d); k, v: (B, heads, L, d); keep: (B, L) bool, true somewhere in each row -> (B, N, heads d).

    On a CPU the kernel for float32 is three to five times as quick as those for half as many bits: it is taken there.

    Vaswani et al. 2017 (arXiv 1706.03762), eq. 1.
    """
    mask = None if keep is None else keep[:, None, None, :]
    if q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", enabled=False):
            h = scaled_dot_product_attention(q.float(), k.float(), v.float(), mask).to(q.dtype)
    else:
        h = scaled_dot_product_attention(q, k, v, mask)
    return h.transpose(1, 2).flatten(2)


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Each pair of coordinates (x_k, x_{k + d/2}) turned by angle_k, as a rotation of the plane.

    A query turned by its own angle and a key by its own have the product of the one turned by the difference:
    angles linear in the position make scores depend on relative positions only.
    x: (..., N, d), angle: (N, d/2) -> (..., N, d).

    Su et al. 2021 (arXiv 2104.09864), eq. 34.
    """
    a, b = x.to(angle.dtype).chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1).to(x.dtype)


def grid_angles(
    rows: int, columns: int, count: int, period: float, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows and columns of a grid of tokens at geometrically spaced frequencies: `(i w, j w)`, in float32 at least.

        w_k = period^{-k/count},   k = 0 ... count - 1

    Returns (rows, count) and (columns, count), on the device of `like`.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    w = period ** -(torch.arange(count, device=like.device, dtype=dtype) / count)
    i, j = (torch.arange(side, device=like.device, dtype=dtype) for side in (rows, columns))
    return i[:, None] * w, j[:, None] * w


def on_grid(row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """What rows and columns have, for each token of the grid, row by row: two of (rows columns, ...)."""
    grid = (len(row), len(column), -1)
    return row[:, None].expand(grid).flatten(0, 1), column.expand(grid).flatten(0, 1)


def sincos_positions(rows: int, columns: int, width: int, like: Tensor) -> Tensor:
    """Fixed positions: sines and cosines of a token's column, then those of its row, at width/4 frequencies.

        (sin j w, cos j w, sin i w, cos i w)        w_k = 10000^{-k/(width/4)}

    -> (rows columns, width), token (i, j) in row i columns + j. In the order of the code of Peebles & Xie 2023, whose
    first half is the column.
    """
    angles = grid_angles(rows, columns, width // 4, 10000.0, like)
    row, column = on_grid(*(torch.cat((angle.sin(), angle.cos()), dim=1) for angle in angles))
    return torch.cat((column, row), dim=1)


def rotary_angles(rows: int, columns: int, dim: int, like: Tensor, period: float = 100.0) -> Tensor:
    """Angles for `rotate` on a grid: half of a head's pairs turn with the row, and half with the column.

        (i w, j w)        w_k = period^{-k/(dim/4)}

    dim: of a head -> (rows columns, dim/2). Heo et al. 2024 (arXiv 2403.13298), sec. 3.2, whose period of 100 suits
    grids of some tens of tokens.
    """
    return torch.cat(on_grid(*grid_angles(rows, columns, dim // 4, period, like)), dim=1)


class RMSNorm(nn.Module):
    """`g x / sqrt(mean x^2 + eps)` over the last dimension, worked out in float32 at least; the gain g starts at 1.

    Zhang & Sennrich 2019 (arXiv 1910.07467), eq. 4.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.gain, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: Tensor) -> Tensor:
        h = x.to(torch.promote_types(x.dtype, torch.float32))
        return (self.gain * h * ((h**2).mean(-1, keepdim=True) + self.eps).rsqrt()).to(x.dtype)


class Attention(nn.Module):
    """Multi-head attention among the tokens of a sequence: `W softmax(Q K^T / sqrt d) V`, Q, K, V linear in x.

    x: (B, N, width) -> (B, N, width); d = width/heads. angle: (N, d/2), by which queries and keys are turned, or None.
    keep: (B, N) bool, the tokens that are attended to, or None for all.
    qk_norm: queries and keys are divided by their root mean square, with a gain for each coordinate, so that scores
    stay bounded (Henry et al. 2020, arXiv 2010.04245; Dehghani et al. 2023, arXiv 2302.05442).
    """

    def __init__(self, width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = _check_heads(width, heads)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm_q, self.norm_k = qk_norms(width // heads, qk_norm)

    def forward(self, x: Tensor, angle: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        q, k, v = (
            h.transpose(1, 2) for h in self.qkv(x).unflatten(2, (3, self.heads, -1)).unbind(2)
        )
        q, k = self.norm_q(q), self.norm_k(k)
        if angle is not None:
            q, k = rotate(q, angle), rotate(k, angle)
        return self.out(attend(q, k, v, keep))


class CrossAttention(nn.Module):
    """Multi-head attention to another sequence: Q linear in x, K and V linear in the context.

    x: (B, N, width), context: (B, L, context) -> (B, N, width). keep: (B, L) bool, the tokens of the context that are
    attended to, at least one for each sample, or None for all. qk_norm: as in `Attention`.
    """

    def __init__(self, width: int, heads: int, context: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = _check_heads(width, heads)
        self.q, self.kv = nn.Linear(width, width), nn.Linear(context, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm_q, self.norm_k = qk_norms(width // heads, qk_norm)

    def forward(self, x: Tensor, context: Tensor, keep: Tensor | None = None) -> Tensor:
        q = self.q(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        kv = self.kv(context).unflatten(2, (2, self.heads, -1))
        k, v = (h.transpose(1, 2) for h in kv.unbind(2))
        q, k = self.norm_q(q), self.norm_k(k)
        return self.out(attend(q, k, v, keep))


def check_context(
    name: str, width: int | None, x: Tensor, context: Tensor | None, mask: Tensor | None
) -> None:
    """InputError unless a network of this name, told tokens of this width, can take these with the images x."""
    if context is None:
        if mask is not None:
            raise InputError(
                "a mask was given without a context: it says which of its tokens are there"
            )
        return
    if width is None:
        raise InputError(
            "a context was given to a network that was built without one: build it with context=, "
            "the width of its tokens"
        )
    if (
        context.ndim != 3
        or len(context) != len(x)
        or context.shape[1] < 1
        or context.shape[2] != width
    ):
        raise InputError(
            f"this {name} takes a context ({len(x)}, L, {width}) for {len(x)} images, got {tuple(context.shape)}"
        )
    if mask is not None and (mask.dtype != torch.bool or mask.shape != context.shape[:2]):
        raise InputError(
            f"the mask of a context {tuple(context.shape)} is bool and of shape {tuple(context.shape[:2])}, "
            f"true where there is a token; got {mask.dtype} {tuple(mask.shape)}"
        )


def told(
    x: Tensor, width: int, context: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """A context to attend to, and which of its tokens; none at all is one token of zeros.

    What a token that is not there holds is of no account, NaN or not. Where none is there all count, as zeros: these
    are all alike, so that it makes no difference how many of them there are.
    """
    if context is None:
        return x.new_zeros(len(x), 1, width), None
    if mask is None:
        return context, None
    return torch.where(mask[..., None], context, 0), mask | ~mask.any(1, keepdim=True)


def _check_heads(width: int, heads: int) -> int:
    if heads < 1 or width < 1 or width % heads:
        raise InputError(
            f"heads share the width: {width} cannot be divided among {heads} heads; choose a multiple of the heads"
        )
    return heads


def qk_norms(dim: int, wanted: bool) -> tuple[nn.Module, nn.Module]:
    if wanted:
        return RMSNorm(dim), RMSNorm(dim)
    return nn.Identity(), nn.Identity()
