"""The diffusion transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, addcmul, nn
from torch.nn.functional import interpolate, pad, silu

from pushforward.core.errors import InputError
from pushforward.nets.attention import (
    Attention,
    CrossAttention,
    check_context,
    rotary_angles,
    sincos_positions,
)
from pushforward.nets.layers import Conditioning, LayerNorm, recomputing, zero

Positions = Literal["sincos", "learned", "rope"]
# Of a time; the published parameter counts have this number at every width.
TIME_FEATURES = 256


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
        self.modulate = nn.Linear(width, 6 * width)
        self.norm, self.dropout = LayerNorm(), nn.Dropout(dropout)
        self.attention = Attention(width, heads, qk_norm)
        self.cross = CrossAttention(width, heads, width, qk_norm) if cross else None
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(approximate="tanh"),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
        )
        _xavier(self)
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


class DiT(nn.Module):
    """A transformer over the patches of an image, conditioned on time and label by adaptive layer norms.

    (B, channels, H, W) -> (B, outputs channels, H, W), for any H and W of at least `patch`: what a side lacks to a
    multiple of it is filled up with zeros, and cut off at the end.

    patch:     side of the squares of pixels that are a token each.
    width, depth, heads: of the tokens, number of blocks, heads of each attention.
    classes:   number of labels, None for none.
    positions: "sincos", fixed and added; "learned", added, a table for images of `size`, interpolated to other grids;
               "rope", by which queries and keys are turned with row and column, so that attention sees differences.
    size:      side of the images, or (H, W), for learned positions.
    context:   width of the tokens (B, L, context) that the network is told as `context`, such as those of a text;
               with `mask` (B, L) bool, true where there is a token. None for none.
    conditioning: how: "cross", by attention to them in each block, or "in-context", as more tokens before the image's.
    qk_norm:   queries and keys of root mean square 1.
    outputs:   answers for each channel, one after the other: 2 for a learned variance or a score beside the velocity.
    two_times: the network also takes a time s, for flow maps.

    Attribute `checkpointing`: a block's activations are worked out again on the way back instead of kept. It is no part
    of the configuration; who trains sets it. It has no effect on a derivative in forward mode.

    No context is the same as one of zeros, of any length, and as one whose mask is false everywhere. With "in-context"
    a token of zeros is no token, so that nothing attends to it (and no gradient reaches it).

    The last layer starts at 0, and each block as the identity. The state is carried from block to block in the
    precision of x, under autocast as well.

    Peebles & Xie 2023 (arXiv 2212.09748); parameters by the published sizes are those of the paper, and the order in
    the weights of patches, queries, modulations and positions that of its code.
    """

    def __init__(
        self,
        channels: int,
        patch: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        classes: int | None = None,
        positions: Positions = "sincos",
        size: int | Sequence[int] | None = None,
        context: int | None = None,
        conditioning: Literal["cross", "in-context"] = "cross",
        qk_norm: bool = False,
        dropout: float = 0.0,
        time: str = "sinusoidal",
        outputs: int = 1,
        two_times: bool = False,
    ) -> None:
        super().__init__()
        if min(channels, patch, width, depth, heads, outputs) < 1:
            raise InputError(
                "channels, patch, width, depth, heads and outputs of a DiT must be positive, got "
                f"{channels}, {patch}, {width}, {depth}, {heads}, {outputs}"
            )
        if context is not None and context < 1:
            raise InputError(f"context is the width of its tokens, or None for none: not {context}")
        if conditioning not in ("cross", "in-context"):
            raise InputError(f"conditioning is 'cross' or 'in-context', not {conditioning!r}")
        self.config: dict[str, Any] = {
            "channels": channels, "patch": patch, "width": width, "depth": depth, "heads": heads, "classes": classes,
            "positions": positions, "size": list(size) if isinstance(size, Sequence) else size, "context": context,
            "conditioning": conditioning, "qk_norm": qk_norm, "dropout": dropout, "time": time, "outputs": outputs,
            "two_times": two_times,
        }  # fmt: skip
        self.channels, self.patch, self.head_width = channels, patch, width // heads
        self.positions = positions
        self.in_context = context is not None and conditioning == "in-context"
        self.checkpointing = False
        self.conditioning = Conditioning(width, classes, time, two_times, TIME_FEATURES)
        self.conv_in = nn.Conv2d(channels, width, patch, stride=patch)
        self.table = _table(positions, size, patch, width, heads)
        self.context = (
            None
            if context is None
            else nn.Sequential(
                nn.Linear(context, width), nn.GELU(approximate="tanh"), nn.Linear(width, width)
            )
        )
        cross = context is not None and conditioning == "cross"
        self.blocks = nn.ModuleList(
            Block(width, heads, dropout, qk_norm, cross) for _ in range(depth)
        )
        self.leave_norm, self.leave_modulate = LayerNorm(), zero(nn.Linear(width, 2 * width))
        self.conv_out = zero(nn.Linear(width, patch**2 * outputs * channels))
        self._initialise()

    def _initialise(self) -> None:
        """As in the code of Peebles & Xie 2023: what starts at 0 stays so."""
        _xavier(self.conv_in)
        if self.context is not None:
            _xavier(self.context)
        for layer in self.conditioning.mix:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        if self.conditioning.label is not None:
            nn.init.normal_(self.conditioning.label.table.weight, std=0.02)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        s: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.channels or min(x.shape[2:]) < self.patch:
            raise InputError(
                f"this DiT takes images (B, {self.channels}, H, W) with sides of at least {self.patch}, "
                f"got {tuple(x.shape)}"
            )
        check_context("DiT", self.config["context"], x, context, mask)
        height, width = x.shape[2:]
        rows, columns = (-(-side // self.patch) for side in (height, width))
        filled = pad(x, (0, columns * self.patch - width, 0, rows * self.patch - height))
        # One token after the other in memory, since all that follows keeps the order.
        h = self.conv_in(filled).flatten(2).mT.contiguous().to(x.dtype)
        angle = None
        if self.positions == "rope":
            angle = rotary_angles(rows, columns, self.head_width, h)
        else:
            h = h + self._added_positions(rows, columns, h).to(h.dtype)

        condition = silu(self.conditioning(t, label, s))
        keep = told = told_keep = None
        if self.in_context and context is not None:
            there = (context != 0).any(2)
            there = there if mask is None else there & mask
            h = torch.cat((self._tokens(context, there).to(h.dtype), h), dim=1)
            keep = pad(there, (0, rows * columns), value=True)
            angle = None if angle is None else pad(angle, (0, 0, context.shape[1], 0))
        elif self.context is not None and not self.in_context:
            context = x.new_zeros(len(x), 1, self.config["context"]) if context is None else context
            told = self._tokens(context, mask)
            # Tokens of zeros are all alike, so that it makes no difference how many of them there are.
            told_keep = None if mask is None else mask | ~mask.any(1, keepdim=True)

        call = recomputing(self)
        for block in self.blocks:
            h = call(block, h, condition, angle, keep, told, told_keep)

        shift, gain = self.leave_modulate(condition)[:, None].chunk(2, dim=2)
        h = self.conv_out(addcmul(shift, 1 + gain, self.leave_norm(h[:, -rows * columns :])))
        h = h.unflatten(2, (self.patch, self.patch, -1)).unflatten(1, (rows, columns))
        image = h.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return image[:, :, :height, :width]

    def _tokens(self, context: Tensor, there: Tensor | None) -> Tensor:
        """The context in the network's width; what a token that is not there holds is of no account, NaN or not."""
        assert self.context is not None
        return self.context(context if there is None else torch.where(there[..., None], context, 0))

    def _added_positions(self, rows: int, columns: int, h: Tensor) -> Tensor:
        if self.table is None:
            return sincos_positions(rows, columns, h.shape[2], h)
        table: Tensor = self.table
        if table.shape[2:] != (rows, columns):
            table = interpolate(table, (rows, columns), mode="bilinear", align_corners=False)
        return table.flatten(2).mT


def _table(
    positions: str, size: int | Sequence[int] | None, patch: int, width: int, heads: int
) -> nn.Parameter | None:
    """The parameters (1, width, rows, columns) of learned positions; None for others, which have none."""
    match positions:
        case "sincos":
            if width % 4:
                raise InputError(
                    f"sincos positions are sines and cosines of rows and columns: width must be a multiple of 4, "
                    f"not {width}"
                )
        case "rope":
            if width % heads or (width // heads) % 4:
                raise InputError(
                    f"rope turns pairs by rows and by columns: width / heads must be a multiple of 4, "
                    f"not {width} / {heads}"
                )
        case "learned":
            sides = (size, size) if isinstance(size, int) else tuple(size or ())
            if len(sides) != 2 or min(sides) < patch:
                raise InputError(
                    f"learned positions need the size of the images, a side or (H, W), of at least a patch: "
                    f"not size={size} with patch={patch}"
                )
            rows, columns = (-(-side // patch) for side in sides)
            return nn.Parameter(0.02 * torch.randn(1, width, rows, columns))
        case _:
            raise InputError(f"positions are 'sincos', 'learned' or 'rope', not {positions!r}")
    if size is not None:
        raise InputError(
            f"size is for learned positions; {positions} positions take any: leave it out"
        )
    return None


def _xavier(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight.flatten(1))
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
