"""Convolutions where pixels are fine, a transformer where they are coarse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.nets.dit import TIME_FEATURES, DiT
from pushforward.nets.grids import count_channels, join_control, states
from pushforward.nets.layers import Conditioning, feature_widths, recomputing, zero
from pushforward.nets.network import Network, refuse_mask
from pushforward.nets.stages import At, Stage
from pushforward.nets.unet import ResidualBlock, group_norm


class UViT(Network):
    """A U-Net whose lowest level is a `DiT` with one token a place.

    (B, channels, H, W) -> (B, outputs channels, H, W); what a side lacks to a multiple of 2^levels is filled up with
    zeros, and cut off at the end. Each level of `levels` has `blocks` residual blocks on the way down and up, joined by
    a skip connection, and halves the sides; the transformer sees the rest. Local shape is then a matter of
    convolutions on few channels, and layout and text of attention among few tokens.

    levels: channels of each level, from the finest one. core: channels that go into the transformer.
    width, depth, heads, positions, context, conditioning, qk_norm, dropout: of the transformer, as in `DiT`.
    classes, time, two_times, features, in_channels, out_channels, outputs: as in `DiT`.

    Hoogeboom, Heek, Salimans 2023 (simple diffusion, arXiv 2301.11093), sec. 3.3, with blocks of this library.
    """

    double_times = True

    def __init__(
        self,
        channels: int,
        levels: Sequence[int] = (32, 64),
        blocks: int = 1,
        core: int = 128,
        width: int = 192,
        depth: int = 6,
        heads: int = 3,
        classes: int | None = None,
        positions: Literal["sincos", "rope"] = "sincos",
        context: int | None = None,
        conditioning: Literal["cross", "in-context"] = "in-context",
        qk_norm: bool = True,
        dropout: float = 0.0,
        time: str = "sinusoidal",
        outputs: int = 1,
        two_times: bool = False,
        *,
        in_channels: int | None = None,
        out_channels: int | None = None,
        features: Mapping[str, int] | Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if min(channels, *levels, blocks, core, outputs) < 1 or not levels:
            raise InputError(
                "channels, levels, blocks, core and outputs of a UViT must be positive"
            )
        inside, self.control, outside = count_channels(channels, outputs, in_channels, out_channels)
        self.channels, self.outputs, self.dims = channels, outputs, 2
        self.checkpointing = False
        condition = 2 * max(levels)
        self.conditioning = Conditioning(
            condition, classes, time, two_times, TIME_FEATURES, feature_widths(features)
        )
        self.core = DiT(
            core, 1, width, depth, heads, classes, positions, None, context, conditioning, qk_norm, dropout, time, 1,
            two_times, features=features,
        )  # fmt: skip
        # What starts at 0 is the last layer of the whole, and not of its core too.
        nn.init.normal_(cast(Tensor, self.core.conv_out.weight), std=0.02)

        def stage(first: int, then: int) -> nn.ModuleList:
            widths = [first] + [then] * blocks
            return nn.ModuleList(
                ResidualBlock(a, then, condition, dropout) for a in widths[:blocks]
            )

        finer, coarser = list(levels), [*levels[1:], core]
        self.level_channels = tuple(levels)
        self.conv_in = nn.Conv2d(inside, levels[0], 3, padding=1)
        self.down = nn.ModuleList(stage(w, w) for w in finer)
        self.shrink = nn.ModuleList(
            nn.Conv2d(a, b, 2, stride=2) for a, b in zip(finer, coarser, strict=True)
        )
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in zip(finer, coarser, strict=True)
        )
        self.up = nn.ModuleList(stage(2 * w, w) for w in finer)
        self.norm_out = group_norm(levels[0])
        self.conv_out = zero(nn.Conv2d(levels[0], outside, 3, padding=1))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        s: Tensor | None = None,
        context: Tensor | Tokens | None = None,
        control: Tensor | Mapping[str, Tensor] | None = None,
        mask: Tensor | None = None,
        **features: Any,
    ) -> Tensor:
        return self.finish(self.begin(None, x, t, label, s, context, control, mask, **features))

    def stages(self) -> tuple[Stage, ...]:
        """What goes along the skip connection of each level, and the stages of the transformer."""
        return (*(Stage(w, "map") for w in self.level_channels), *self.core.stages())

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
        **features: Any,
    ) -> Any:
        """See `Staged`."""
        refuse_mask("UViT", mask)
        unit = 2 ** len(self.shrink)
        if x.ndim != 4 or x.shape[1] != self.channels or min(x.shape[2:]) < 2:
            raise InputError(
                f"this UViT takes {states(self.channels, 2)} with sides of at least 2, got {tuple(x.shape)}"
            )
        height, width = x.shape[2:]
        condition = silu(self.conditioning(t, label, s, features))
        call = recomputing(self)
        h = join_control("UViT", x, control, self.control)
        h = self.conv_in(pad(h, (0, -width % unit, 0, -height % unit)))
        kept: list[Tensor] = []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            for block in cast(nn.ModuleList, blocks):
                h = call(block, h, condition)
            kept.append(h if at is None else at(len(kept), h))
            h = shrink(h)
        self.core.checkpointing = self.checkpointing
        inner = None if at is None else (lambda k, h: at(k + len(kept), h))
        core = self.core.begin(inner, h, t, label, s, context, **features)
        return h, core, kept, condition, (height, width)

    def finish(self, begun: Any) -> Tensor:
        """See `Staged`."""
        h, core, kept, condition, (height, width) = begun
        left: list[Tensor] = list(kept)
        call = recomputing(self)
        h = h + self.core.finish(core)
        for blocks, grow in zip(reversed(self.up), reversed(self.grow), strict=True):
            h = torch.cat((grow(h), left.pop()), 1)
            for block in cast(nn.ModuleList, blocks):
                h = call(block, h, condition)
        out: Tensor = self.conv_out(silu(self.norm_out(h)))
        # A slice of the whole would be a view all the same.
        return out if out.shape[2:] == (height, width) else out[..., :height, :width]

    def halve(self) -> None:
        """See `Staged`."""
        self.core.halve()
        del self.grow, self.up, self.norm_out, self.conv_out

    def first_half(self) -> dict[str, Tensor]:
        """See `Staged`."""
        return self.state_dict()
