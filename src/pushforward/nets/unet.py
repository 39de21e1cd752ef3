"""A compact U-Net for images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from pushforward.core.errors import InputError
from pushforward.nets.attention import CrossAttention, attend, check_context, qk_norms, told
from pushforward.nets.layers import Conditioning, recomputing, zero


def _norm(channels: int) -> nn.GroupNorm:
    """Groups of at least 8 channels, 32 groups at most."""
    groups = max(g for g in range(1, 33) if channels % g == 0 and (channels // g >= 8 or g == 1))
    return nn.GroupNorm(groups, channels)


class ResidualBlock(nn.Module):
    """`s (x + conv(silu((1 + a) norm(conv(silu(norm x))) + b)))`, (a, b) linear in the condition, s = scale.

    Starts as the identity, but for s.

    Dhariwal & Nichol 2021 (arXiv 2105.05233), sec. 3 (adaptive group normalisation).
    """

    def __init__(
        self, channels: int, out: int, condition: int, dropout: float, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.scale = scale
        self.norm1, self.conv1 = _norm(channels), nn.Conv2d(channels, out, 3, padding=1)
        self.modulate = nn.Linear(condition, 2 * out)
        self.norm2, self.dropout = _norm(out), nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(out, out, 3, padding=1))
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gain, shift = self.modulate(condition)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(self.dropout(silu(self.norm2(h) * (1 + gain) + shift)))
        return _scaled(self.skip(x) + h, self.scale)


def _scaled(x: Tensor, scale: float) -> Tensor:
    return x if scale == 1 else scale * x


def _heads(channels: int) -> int:
    """As many as leave about 32 channels to each."""
    return max(h for h in range(1, max(1, channels // 32) + 1) if channels % h == 0)


class SelfAttention(nn.Module):
    """`s (x + W softmax(Q K^T / sqrt d) V)` over the pixels, heads of about 32 channels, s = scale.

    Starts as the identity, but for s. qk_norm: queries and keys of root mean square 1, as in `attention.Attention`.
    """

    def __init__(self, channels: int, scale: float = 1.0, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads, self.scale = _heads(channels), scale
        self.norm, self.qkv = _norm(channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))
        self.norm_q, self.norm_k = qk_norms(channels // self.heads, qk_norm)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).mT
        q, k, v = (part.contiguous() for part in qkv.unbind(1))
        h = attend(self.norm_q(q), self.norm_k(k), v)
        return _scaled(x + self.out(h.mT.unflatten(2, x.shape[2:])), self.scale)


class ContextAttention(nn.Module):
    """`s (x + W softmax(Q K^T / sqrt d) V)`, Q from the pixels, K and V from the tokens of a context, s = scale.

    Starts as the identity, but for s. Rombach et al. 2022 (arXiv 2112.10752), sec. 3.3.
    """

    def __init__(
        self, channels: int, context: int, scale: float = 1.0, qk_norm: bool = False
    ) -> None:
        super().__init__()
        self.scale, self.norm = scale, _norm(channels)
        self.cross = CrossAttention(channels, _heads(channels), context, qk_norm)
        zero(self.cross.out)

    def forward(self, x: Tensor, context: Tensor, keep: Tensor | None = None) -> Tensor:
        h = self.cross(self.norm(x).flatten(2).mT, context, keep)
        return _scaled(x + h.mT.unflatten(2, x.shape[2:]), self.scale)


class Layer(nn.Module):
    """A residual block; attention over the pixels, and to a context, where that is wanted."""

    def __init__(
        self,
        block: ResidualBlock,
        attention: SelfAttention | None,
        cross: ContextAttention | None = None,
    ) -> None:
        super().__init__()
        self.block, self.attention, self.cross = block, attention, cross

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        context: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        h = self.block(x, condition)
        if self.attention is not None:
            h = self.attention(h)
        if self.cross is not None and context is not None:
            h = self.cross(h, context, keep)
        return h


class UNet(nn.Module):
    """Convolutions down to a coarse grid and up again, with skip connections; conditioned on time and label.

    (B, channels, H, W) -> (B, outputs channels, H, W), for any H and W of at least 2^(levels - 1); 8 x 8 is plenty for
    two levels.

    width:     channels at full resolution; level i has width * multipliers[i].
    blocks:    residual blocks in each level, on the way down; one more on the way up.
    attention: levels, counted from 0 at full resolution, that attend over their pixels; the middle always does.
    classes:   number of labels, None for none.
    outputs:   answers for each channel, one after the other: 2 for a learned variance or a score beside the velocity.
    two_times: the network also takes a time s, for flow maps.
    context:   width of the tokens (B, L, context) that the network is told as `context`, such as those of a text, with
               `mask` (B, L) bool, true where there is a token. What attends over its pixels attends to them, too.
    qk_norm:   queries and keys of root mean square 1.
    residual_scale: factor of each sum of a skip and what was worked out beside it, such as 1/sqrt(2).

    Attribute `checkpointing`: a layer's activations are worked out again on the way back instead of kept. It is no part
    of the configuration; who trains sets it. No context is the same as one of zeros, and as one whose mask is false
    everywhere.

    Ronneberger et al. 2015; Ho et al. 2020 (arXiv 2006.11239), app. B; scaled sums as in Song
    et al. 2021 (arXiv 2011.13456), app. H.
    """

    def __init__(
        self,
        channels: int,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        attention: Sequence[int] = (),
        classes: int | None = None,
        dropout: float = 0.0,
        time: str = "sinusoidal",
        outputs: int = 1,
        two_times: bool = False,
        context: int | None = None,
        qk_norm: bool = False,
        residual_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if context is not None and context < 1:
            raise InputError(f"context is the width of its tokens, or None for none: not {context}")
        if not 0 < residual_scale < float("inf"):
            raise InputError(f"residual_scale is {residual_scale}; it must be positive and finite")
        if min(channels, width, blocks, outputs) < 1 or not multipliers:
            raise InputError(
                "channels, width, blocks and outputs must be positive and multipliers not empty"
            )
        self.config: dict[str, Any] = {
            "channels": channels, "width": width, "multipliers": list(multipliers), "blocks": blocks,
            "attention": list(attention), "classes": classes, "dropout": dropout, "time": time,
            "outputs": outputs, "two_times": two_times, "context": context, "qk_norm": qk_norm,
            "residual_scale": residual_scale,
        }  # fmt: skip
        self.checkpointing = False
        condition = 4 * width
        self.conditioning = Conditioning(condition, classes, time, two_times)
        self.enter = nn.Conv2d(channels, width, 3, padding=1)

        def layer(inner: int, outer: int, attend: bool) -> Layer:
            scale = residual_scale
            return Layer(
                ResidualBlock(inner, outer, condition, dropout, scale),
                SelfAttention(outer, scale, qk_norm) if attend else None,
                ContextAttention(outer, context, scale, qk_norm) if attend and context else None,
            )

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        sizes, now = [width], width
        for level, multiplier in enumerate(multipliers):
            if level:
                self.down.append(nn.Conv2d(now, now, 3, stride=2, padding=1))
                sizes.append(now)
            for _ in range(blocks):
                self.down.append(layer(now, width * multiplier, level in attention))
                now = width * multiplier
                sizes.append(now)
        self.middle = nn.ModuleList((layer(now, now, True), layer(now, now, False)))
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                self.up.append(layer(now + sizes.pop(), width * multiplier, level in attention))
                now = width * multiplier
            if level:
                self.up.append(nn.Conv2d(now, now, 3, padding=1))
        self.leave_norm, self.leave = (
            _norm(now),
            zero(nn.Conv2d(now, outputs * channels, 3, padding=1)),
        )
        self.smallest = 2 ** (len(multipliers) - 1)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        s: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.config["channels"] or min(x.shape[2:]) < self.smallest:
            raise InputError(
                f"this UNet takes images (B, {self.config['channels']}, H, W) with sides of at least "
                f"{self.smallest}, got {tuple(x.shape)}"
            )
        width = self.config["context"]
        check_context("UNet", width, x, context, mask)
        tokens, keep = (None, None) if width is None else told(x, width, context, mask)
        condition = silu(self.conditioning(t, label, s))
        call = recomputing(self)
        h = self.enter(x)
        skips = [h]
        for layer in self.down:
            one = isinstance(layer, nn.Conv2d)
            h = layer(h) if one else call(layer, h, condition, tokens, keep)
            skips.append(h)
        for layer in self.middle:
            h = call(layer, h, condition, tokens, keep)
        for layer in self.up:
            if isinstance(layer, nn.Conv2d):
                # To the size of the skip that comes next, which an odd size leaves one short of twice.
                h = layer(interpolate(h, size=skips[-1].shape[2:], mode="nearest"))
            else:
                h = call(layer, torch.cat((h, skips.pop()), dim=1), condition, tokens, keep)
        return self.leave(silu(self.leave_norm(h)))
