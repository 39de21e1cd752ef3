"""A compact U-Net for signals, images and volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.nets.attention import (
    Attending,
    CrossAttention,
    context_or_none,
    qk_norms,
    read_context,
)
from pushforward.nets.grids import (
    check_dims,
    convolution,
    count_channels,
    halves,
    join_control,
    resized,
    states,
)
from pushforward.nets.layers import Conditioning, feature_widths, is_plain, recomputing, zero
from pushforward.nets.network import Network, refuse_mask
from pushforward.nets.stages import At, Stage


def group_norm(channels: int) -> nn.GroupNorm:
    """Groups of at least 8 channels, 32 groups at most."""
    groups = max(g for g in range(1, 33) if channels % g == 0 and (channels // g >= 8 or g == 1))
    return nn.GroupNorm(groups, channels)


class ResidualBlock(nn.Module):
    """`s (x + conv(silu((1 + a) norm(conv(silu(norm x))) + b)))`, (a, b) linear in the condition, s = scale.

    Starts as the identity, but for s. size: sides of the grid that it returns, if not that of x: both x and what the
    first convolution takes are then brought to it, by means of 2 x 2 pixels or by repeating them.

    Dhariwal & Nichol 2021 (arXiv 2105.05233), sec. 3 (adaptive group normalisation; up- and downsampling as in BigGAN).
    """

    def __init__(
        self,
        channels: int,
        out: int,
        condition: int,
        dropout: float,
        scale: float = 1.0,
        dims: int = 2,
    ) -> None:
        super().__init__()
        self.scale, conv = scale, convolution(dims)
        self.norm1, self.conv1 = group_norm(channels), conv(channels, out, 3, padding=1)
        self.modulate = nn.Linear(condition, 2 * out)
        self.norm2, self.dropout = group_norm(out), nn.Dropout(dropout)
        self.conv2 = zero(conv(out, out, 3, padding=1))
        self.skip = nn.Identity() if channels == out else conv(channels, out, 1)

    def forward(self, x: Tensor, condition: Tensor, size: tuple[int, ...] | None = None) -> Tensor:
        coefficients = self.modulate(condition)[(..., *[None] * (x.ndim - 2))]
        gain, shift = coefficients.chunk(2, dim=1)
        h = silu(self.norm1(x))
        if size is not None:
            x, h = resized(x, size), resized(h, size)
        h = self.conv1(h)
        h = self.conv2(self.dropout(silu(self.norm2(h) * (1 + gain) + shift)))
        return _scaled(self.skip(x) + h, self.scale)


def _scaled(x: Tensor, scale: float) -> Tensor:
    return x if scale == 1 else scale * x


def _heads(channels: int, width: int) -> int:
    """As many as leave at least `width` channels to each, the same number to all."""
    return max(h for h in range(1, max(1, channels // width) + 1) if channels % h == 0)


class SelfAttention(Attending):
    """`s (x + W softmax(Q K^T / sqrt d) V)` over the pixels, s = scale.

    Starts as the identity, but for s. qk_norm: queries and keys of root mean square 1, as in `attention.Attention`.
    head_width: channels of a head; more, where they do not divide those that there are.
    """

    def __init__(
        self,
        channels: int,
        scale: float = 1.0,
        qk_norm: bool = False,
        head_width: int = 32,
        dims: int = 2,
    ) -> None:
        super().__init__()
        self.heads, self.scale, conv = _heads(channels, head_width), scale, convolution(dims)
        self.norm, self.qkv = group_norm(channels), conv(channels, 3 * channels, 1)
        self.out = zero(conv(channels, channels, 1))
        self.norm_q, self.norm_k = qk_norms(channels // self.heads, qk_norm)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).mT
        q, k, v = (part.contiguous() for part in qkv.unbind(1))
        h = self.attend(self.norm_q(q), self.norm_k(k), v, None)
        return _scaled(x + self.out(h.mT.unflatten(2, x.shape[2:])), self.scale)


class ContextAttention(nn.Module):
    """`s (x + W softmax(Q K^T / sqrt d) V)`, Q from the pixels, K and V from the tokens of a context, s = scale.

    Starts as the identity, but for s. Rombach et al. 2022 (arXiv 2112.10752), sec. 3.3.
    """

    def __init__(
        self,
        channels: int,
        context: int,
        scale: float = 1.0,
        qk_norm: bool = False,
        head_width: int = 32,
    ) -> None:
        super().__init__()
        self.scale, self.norm = scale, group_norm(channels)
        self.cross = CrossAttention(channels, _heads(channels, head_width), context, qk_norm)
        zero(self.cross.out)

    def forward(self, x: Tensor, context: Tensor, keep: Tensor | None = None) -> Tensor:
        h = self.cross(self.norm(x).flatten(2).mT, context, keep)
        return _scaled(x + h.mT.unflatten(2, x.shape[2:]), self.scale)


class Layer(nn.Module):
    """A residual block, and attention over the pixels and to a context where there is any."""

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


class UNet(Network):
    """Convolutions down to a coarse grid and up again, with skip connections; conditioned on time and much else.

    (B, channels, H, W) -> (B, outputs channels, H, W), for any H and W of at least 2^(levels - 1); 8 x 8 is plenty for
    two levels. With dims=1, signals (B, channels, L), and with dims=3, volumes (B, channels, D, H, W).

    width:     channels at full resolution; level i has width * multipliers[i].
    blocks:    residual blocks in each level, on the way down; one more on the way up.
    attention: levels, counted from 0 at full resolution, that attend over their pixels; the middle always does.
    classes:   number of labels, None for none.
    outputs:   answers for each channel, one after the other: 2 for a learned variance or a score beside the velocity.
    two_times: the network also takes a time s, for flow maps.
    context:   width of the tokens of `context`, such as those of a text: `Tokens`, or a tensor (B, L, context) if all
               are there. What attends over its pixels attends to them, too.
    qk_norm:   queries and keys of root mean square 1.
    residual_scale: factor of each sum of a skip and a residual branch, such as 1/sqrt(2).
    head_width: channels of a head of attention; more, where they do not divide those of the level.
    resample:  from level to level by a convolution, "plain", or in a residual block of its own, "residual".
    dims:      1, 2 or 3.
    in_channels: channels of the state and of `control` together, if there is one: a tensor (B, in_channels - channels,
               H, W), or several by name. One on another grid, such as a low-resolution image, is interpolated.
    out_channels: instead of `outputs`, if what is returned has other channels than the state.
    features:  names of continuous conditions (B,), or their widths by name for vectors (B, K), which the network takes
               by these names. NaN, or none given, stands for unknown, which has a learned vector of its own.

    Attribute `checkpointing`: activations of a layer are recomputed in the backward pass instead of stored. It is no
    part of the configuration; training sets it. No context is the same as one of zeros, and as one without any token.
    Padding of a context never changes a result. Padding of x would, so that a mask of it is an InputError.

    Ronneberger et al. 2015; Ho et al. 2020 (arXiv 2006.11239), app. B; scaled sums as in Song
    et al. 2021 (arXiv 2011.13456), app. H; residual blocks between levels as in Dhariwal & Nichol 2021, sec. 3.
    """

    double_times = True

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
        head_width: int = 32,
        resample: Literal["plain", "residual"] = "plain",
        *,
        dims: int = 2,
        in_channels: int | None = None,
        out_channels: int | None = None,
        features: Mapping[str, int] | Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        check_dims(dims)
        if context is not None and context < 1:
            raise InputError(f"context is the width of its tokens, or None for none: not {context}")
        if not 0 < residual_scale < float("inf"):
            raise InputError(f"residual_scale is {residual_scale}; it must be positive and finite")
        if resample not in ("plain", "residual"):
            raise InputError(f"resample is 'plain' or 'residual', not {resample!r}")
        if min(channels, width, blocks, outputs, head_width) < 1 or not multipliers:
            raise InputError(
                "channels, width, blocks, outputs and head_width must be positive and multipliers not empty"
            )
        self.channels, self.dims, self.context = channels, dims, context
        inside, self.control, outside = count_channels(channels, outputs, in_channels, out_channels)
        self.checkpointing = False
        condition, conv = 4 * width, convolution(dims)
        self.conditioning = Conditioning(
            condition, classes, time, two_times, columns=feature_widths(features)
        )
        self.conv_in = conv(inside, width, 3, padding=1)

        def residual(inner: int, outer: int) -> ResidualBlock:
            return ResidualBlock(inner, outer, condition, dropout, residual_scale, dims)

        def layer(inner: int, outer: int, attend: bool) -> Layer:
            options = (residual_scale, qk_norm, head_width)
            return Layer(
                residual(inner, outer),
                SelfAttention(outer, *options, dims) if attend else None,
                ContextAttention(outer, context, *options) if attend and context else None,
            )

        def between(stride: int) -> nn.Module:
            if resample == "residual":
                return residual(now, now)
            return conv(now, now, 3, stride=stride, padding=1)

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        sizes, now = [width], width
        for level, multiplier in enumerate(multipliers):
            if level:
                self.down.append(between(2))
                sizes.append(now)
            for _ in range(blocks):
                self.down.append(layer(now, width * multiplier, level in attention))
                now = width * multiplier
                sizes.append(now)
        self.middle = nn.ModuleList((layer(now, now, True), layer(now, now, False)))
        self._stages = tuple(Stage(size, "map") for size in (*sizes, now))
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                self.up.append(layer(now + sizes.pop(), width * multiplier, level in attention))
                now = width * multiplier
            if level:
                self.up.append(between(1))
        self.norm_out, self.conv_out = group_norm(now), zero(conv(now, outside, 3, padding=1))
        self.smallest = 2 ** (len(multipliers) - 1)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        s: Tensor | None = None,
        context: Tensor | Tokens | None = None,
        control: Tensor | Mapping[str, Tensor] | None = None,
        mask: Tensor | None = None,
        **features: Tensor | None,
    ) -> Tensor:
        return self.finish(self.begin(None, x, t, label, s, context, control, mask, **features))

    def stages(self) -> tuple[Stage, ...]:
        """What goes along each skip connection, in order, and the middle. Only the second half sees what is added."""
        return self._stages

    def begin(
        self,
        at: At | None,
        x: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        s: Tensor | None = None,
        context: Tensor | Tokens | None = None,
        control: Tensor | Mapping[str, Tensor] | None = None,
        mask: Tensor | None = None,
        **features: Tensor | None,
    ) -> Any:
        """See `Staged`."""
        refuse_mask("UNet", mask)
        if (
            x.ndim != self.dims + 2
            or x.shape[1] != self.channels
            or min(x.shape[2:]) < self.smallest
        ):
            raise InputError(
                f"this UNet takes {states(self.channels, self.dims)} with sides of at least {self.smallest}, "
                f"got {tuple(x.shape)}"
            )
        x = join_control("UNet", x, control, self.control)
        tokens, keep = read_context("UNet", self.context, x, context)
        if self.context is not None:
            tokens, keep = context_or_none(tokens, keep, x, self.context)
        condition = silu(self.conditioning(t, label, s, features))
        call = recomputing(self)
        h = _quickest(self.conv_in(x))
        skips = [h]
        for layer in self.down:
            if isinstance(layer, Layer):
                h = call(layer, h, condition, tokens, keep)
            elif isinstance(layer, ResidualBlock):
                h = call(layer, h, condition, halves(h))
            else:
                h = layer(h)
            skips.append(h)
        for layer in self.middle:
            h = call(layer, h, condition, tokens, keep)
        if at is not None:
            skips = [at(k, skip) for k, skip in enumerate(skips)]
            h = at(len(skips), h)
        return h, skips, condition, tokens, keep

    def finish(self, begun: Any) -> Tensor:
        """See `Staged`."""
        h, skips, condition, tokens, keep = begun
        skips, call = list(skips), recomputing(self)
        for layer in self.up:
            # Between levels, to the size of the skip that comes next, which an odd size leaves one short of twice.
            size = tuple(skips[-1].shape[2:]) if skips else None
            if isinstance(layer, Layer):
                h = call(layer, torch.cat((h, skips.pop()), dim=1), condition, tokens, keep)
            elif isinstance(layer, ResidualBlock):
                h = call(layer, h, condition, size)
            else:
                h = layer(interpolate(h, size=size, mode="nearest"))
        return self.conv_out(silu(self.norm_out(h))).contiguous()

    def halve(self) -> None:
        """See `Staged`."""
        del self.up, self.norm_out, self.conv_out

    def first_half(self) -> dict[str, Tensor]:
        """See `Staged`."""
        return self.state_dict()


def _quickest(h: Tensor) -> Tensor:
    """The same tensor in the order in memory in which all that follows is quickest.

    For float32 on a CPU that has the channels of a pixel side by side: a training step takes 8% less. With bfloat16 it
    would take 10% more. Not where torch's norms cannot do with it, in forward mode and in torch.func's transforms, nor
    in a compiled network, whose compiler chooses for itself.
    """
    if h.ndim == 4 and is_plain() and h.device.type == "cpu" and h.dtype == torch.float32:
        return h.contiguous(memory_format=torch.channels_last)
    return h
