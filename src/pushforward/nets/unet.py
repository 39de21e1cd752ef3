"""A compact U-Net for images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu

from pushforward.core.errors import InputError
from pushforward.nets.layers import Conditioning, zero


def _norm(channels: int) -> nn.GroupNorm:
    """Groups of at least 8 channels, 32 groups at most."""
    groups = max(g for g in range(1, 33) if channels % g == 0 and (channels // g >= 8 or g == 1))
    return nn.GroupNorm(groups, channels)


class Pointwise(nn.Conv2d):
    """A convolution of 1 x 1 pixel, as one matrix product for each image.

    The library's own convolutions are up to five times as slow at it on a CPU: few channels, many pixels.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        size, pixels = len(x), x.flatten(2)
        weight = self.weight.flatten(1).expand(size, -1, -1)
        bias = self.bias[:, None].expand(size, -1, pixels.shape[2])
        return torch.baddbmm(bias, weight, pixels).unflatten(2, x.shape[2:])


class ResidualBlock(nn.Module):
    """`x + conv(silu((1 + a) norm(conv(silu(norm x))) + b))`, (a, b) linear in the condition; starts as the identity.

    Dhariwal & Nichol 2021 (arXiv 2105.05233), sec. 3 (adaptive group normalisation).
    """

    def __init__(self, channels: int, out: int, condition: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(channels), nn.Conv2d(channels, out, 3, padding=1)
        self.modulate = nn.Linear(condition, 2 * out)
        self.norm2, self.dropout = _norm(out), nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(out, out, 3, padding=1))
        self.skip = nn.Identity() if channels == out else Pointwise(channels, out)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gain, shift = self.modulate(condition)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(self.dropout(silu(self.norm2(h) * (1 + gain) + shift)))
        return self.skip(x) + h


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """`softmax(Q K^T / sqrt d) V` of (B, heads, L, d), by the kernel that is quickest at hand.

    On a CPU that is the one for float32, by three to five times over the one for bfloat16.
    """
    low = q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16)
    if not low:
        return scaled_dot_product_attention(q, k, v, mask)
    with torch.autocast("cpu", enabled=False):
        return scaled_dot_product_attention(q.float(), k.float(), v.float(), mask).to(q.dtype)


class SelfAttention(nn.Module):
    """`x + W softmax(Q K^T / sqrt d) V` over the pixels, heads of about 32 channels; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(h for h in range(1, max(1, channels // 32) + 1) if channels % h == 0)
        self.norm, self.qkv = _norm(channels), Pointwise(channels, 3 * channels)
        self.out = zero(Pointwise(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).mT
        h = attend(*(part.contiguous() for part in qkv.unbind(1)))
        return x + self.out(h.mT.flatten(1, 2).unflatten(2, x.shape[2:]))


class Layer(nn.Module):
    """A residual block, and attention over the pixels if it is wanted there."""

    def __init__(self, block: ResidualBlock, attention: SelfAttention | None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.block(x, condition)
        return h if self.attention is None else self.attention(h)


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

    Ronneberger et al. 2015; Ho et al. 2020 (arXiv 2006.11239), app. B.
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
    ) -> None:
        super().__init__()
        if min(channels, width, blocks, outputs) < 1 or not multipliers:
            raise InputError(
                "channels, width, blocks and outputs must be positive and multipliers not empty"
            )
        self.config: dict[str, Any] = {
            "channels": channels, "width": width, "multipliers": list(multipliers), "blocks": blocks,
            "attention": list(attention), "classes": classes, "dropout": dropout, "time": time,
            "outputs": outputs, "two_times": two_times,
        }  # fmt: skip
        condition = 4 * width
        self.conditioning = Conditioning(condition, classes, time, two_times)
        self.enter = nn.Conv2d(channels, width, 3, padding=1)

        def layer(inner: int, outer: int, attend: bool) -> Layer:
            block = ResidualBlock(inner, outer, condition, dropout)
            return Layer(block, SelfAttention(outer) if attend else None)

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
        self, x: Tensor, t: Tensor, label: Tensor | None = None, s: Tensor | None = None
    ) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.config["channels"] or min(x.shape[2:]) < self.smallest:
            raise InputError(
                f"this UNet takes images (B, {self.config['channels']}, H, W) with sides of at least "
                f"{self.smallest}, got {tuple(x.shape)}"
            )
        condition = silu(self.conditioning(t, label, s))
        h = self.enter(x)
        skips = [h]
        for layer in self.down:
            h = layer(h) if isinstance(layer, nn.Conv2d) else layer(h, condition)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, condition)
        for layer in self.up:
            if isinstance(layer, nn.Conv2d):
                # To the size of the skip that comes next, which an odd size leaves one short of twice.
                h = layer(interpolate(h, size=skips[-1].shape[2:], mode="nearest"))
            else:
                h = layer(torch.cat((h, skips.pop()), dim=1), condition)
        return self.leave(silu(self.leave_norm(h)))
