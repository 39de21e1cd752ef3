"""The diffusion transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, addcmul, nn
from torch.nn.functional import pad, silu

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.nets.attention import context_or_none, read_context
from pushforward.nets.block import Block, xavier
from pushforward.nets.grids import (
    check_dims,
    convolution,
    count_channels,
    interpolated,
    join_control,
    states,
)
from pushforward.nets.layers import (
    Conditioning,
    LayerNorm,
    feature_widths,
    recomputing,
    zero,
)
from pushforward.nets.linear import Linear
from pushforward.nets.network import Network
from pushforward.nets.positions import rotary_angles, sincos_positions
from pushforward.nets.stages import At, Stage

Positions = Literal["sincos", "learned", "rope"]
# Of a time; the published parameter counts have this number at every width.
TIME_FEATURES = 256


class DiT(Network):
    """A transformer over the patches of an image, conditioned on time and label by adaptive layer norms.

    (B, channels, H, W) -> (B, outputs channels, H, W), for any H and W of at least `patch`: what a side lacks to a
    multiple of it is filled up with zeros, and cut off at the end. With dims=1, signals (B, channels, L), and with
    dims=3, volumes (B, channels, D, H, W).

    With dims=1 and patch=1 it is a transformer for sequences and takes a `mask` of padding, bool and of x's number of
    dimensions: (B, 1, L), or (B, channels, L), where a token with any data is there. A padded sample has the answer
    that it has alone, and zeros where the mask is False, wherever the padding stands and whatever it holds.

    patch:     side of the squares of pixels that are a token each, or the sides, one for each dimension.
    width, depth, heads: of the tokens, number of blocks, heads of each attention.
    classes:   number of labels, None for none.
    positions: "sincos", fixed and added; "learned", added, a table for images of `size`, interpolated to other grids;
               "rope", by which queries and keys are turned with their place, so that attention sees differences.
    size:      side of the images, or (H, W), for learned positions.
    context:   width of the tokens of `context`, such as those of a text: `Tokens`, or a tensor (B, L, context) if all
               are there. None for none.
    conditioning: how: "cross", by attention to them in each block, or "in-context", as more tokens before the image's.
    qk_norm:   queries and keys of root mean square 1.
    outputs:   answers for each channel, one after the other: 2 for a learned variance or a score beside the velocity.
    two_times: the network also takes a time s, for flow maps.
    dims:      1, 2 or 3.
    channels_last: states are (B, ..., channels), such as sequences (B, L, channels); masks and controls, too. Several
               outputs still follow one another along the first dimension of a sample: (B, outputs L, channels).
    in_channels: channels of the state and of `control` together, if there is one: a tensor (B, in_channels - channels,
               H, W), or several by name. One on another grid, such as a low-resolution image, is interpolated.
    out_channels: instead of `outputs`, if what is returned has other channels than the state.
    features:  names of continuous conditions (B,), or their widths by name for vectors (B, K), which the network takes
               by these names. NaN, or none given, stands for unknown, which has a learned vector of its own.

    Attribute `checkpointing`: activations of a block are recomputed in the backward pass instead of stored. It is no
    part of the configuration; training sets it. It has no effect on a derivative in forward mode.

    No context is the same as one of zeros, of any length, and as one without any token. With "in-context" a token of
    zeros is no token, so that nothing attends to it (and no gradient reaches it). Padding of a context never changes a
    result.

    The last layer starts at 0, and each block as the identity. The state is carried from block to block in the
    precision of x, under autocast as well.

    Peebles & Xie 2023 (arXiv 2212.09748); parameters by the published sizes are those of the paper, and the order in
    the weights of patches, queries, modulations and positions that of its code.
    """

    double_times = True

    def __init__(
        self,
        channels: int,
        patch: int | Sequence[int] = 2,
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
        *,
        dims: int = 2,
        channels_last: bool = False,
        in_channels: int | None = None,
        out_channels: int | None = None,
        features: Mapping[str, int] | Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        check_dims(dims)
        patches = (patch,) * dims if isinstance(patch, int) else tuple(patch)
        if min(channels, *patches, width, depth, heads, outputs) < 1:
            raise InputError(
                "channels, patch, width, depth, heads and outputs of a DiT must be positive, got "
                f"{channels}, {patch}, {width}, {depth}, {heads}, {outputs}"
            )
        if len(patches) != dims:
            raise InputError(f"patch is a side, or one for each of {dims} dimensions: not {patch}")
        if context is not None and context < 1:
            raise InputError(f"context is the width of its tokens, or None for none: not {context}")
        if conditioning not in ("cross", "in-context"):
            raise InputError(f"conditioning is 'cross' or 'in-context', not {conditioning!r}")
        inside, self.control, outside = count_channels(channels, outputs, in_channels, out_channels)
        self.channels, self.patch, self.dims, self.head_width = (
            channels,
            patches,
            dims,
            width // heads,
        )
        self.channels_last, self.outputs, self.width = channels_last, outputs, width
        self.staged = (depth + 1) // 2  # of its blocks are stages
        self.positions, self.context_width = positions, context
        self.in_context = context is not None and conditioning == "in-context"
        self.checkpointing = False
        self.conditioning = Conditioning(
            width, classes, time, two_times, TIME_FEATURES, feature_widths(features)
        )
        self.conv_in = convolution(dims)(inside, width, patches, stride=patches)
        self.table = _table(positions, size, patches, width, heads)
        self.context = (
            None
            if context is None
            else nn.Sequential(
                Linear(context, width), nn.GELU(approximate="tanh"), Linear(width, width)
            )
        )
        cross = context is not None and conditioning == "cross"
        self.blocks = nn.ModuleList(
            Block(width, heads, dropout, qk_norm, cross) for _ in range(depth)
        )
        self.norm_out, self.modulate_out = LayerNorm(), zero(Linear(width, 2 * width))
        self.conv_out = zero(Linear(width, prod(patches) * outside))
        self._initialise()

    def _initialise(self) -> None:
        """As in the code of Peebles & Xie 2023: what starts at 0 stays so."""
        xavier(self.conv_in)
        if self.context is not None:
            xavier(self.context)
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
        context: Tensor | Tokens | None = None,
        control: Tensor | Mapping[str, Tensor] | None = None,
        mask: Tensor | None = None,
        **features: Tensor | None,
    ) -> Tensor:
        return self.finish(self.begin(None, x, t, label, s, context, control, mask, **features))

    def stages(self) -> tuple[Stage, ...]:
        """The tokens of the image after each block of the first half, as in Chen et al. 2024 (arXiv 2401.05252)."""
        return (Stage(self.width, "tokens"),) * self.staged

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
        x, control, mask = self._channels_first(x, control, mask)
        there = self._tokens_there(x, mask)
        sides = x.shape[2:]
        x = join_control("DiT", x, control, self.control)
        if there is not None:
            x = torch.where(there[:, None], x, 0)
        values, there_of_context = read_context("DiT", self.context_width, x, context)
        grid = [-(-side // p) for side, p in zip(sides, self.patch, strict=True)]
        missing = [n * p - side for n, p, side in zip(grid, self.patch, sides, strict=True)]
        filled = pad(x, [k for n in reversed(missing) for k in (0, n)])
        # One token after the other in memory, since all that follows keeps the order.
        h = self.conv_in(filled).flatten(2).mT.contiguous().to(x.dtype)
        added, angle = self._places(grid, h, there)
        if added is not None:
            h = h + added.to(h.dtype)

        condition = silu(self.conditioning(t, label, s, features))
        keep, tokens, tokens_keep = there, None, None
        if self.in_context and values is not None:
            assert self.context is not None
            known = (values != 0).any(2)  # padding is 0
            h = torch.cat((self.context(values).to(h.dtype), h), dim=1)
            here = known.new_ones(x.shape[0], prod(grid)) if there is None else there
            keep = torch.cat((known, here), dim=1)
            angle = None if angle is None else pad(angle, (0, 0, values.shape[1], 0))
        elif self.context is not None and self.context_width is not None and not self.in_context:
            values, tokens_keep = context_or_none(values, there_of_context, x, self.context_width)
            tokens = self.context(values)

        call, given = recomputing(self), (condition, angle, keep, tokens, tokens_keep)
        count = prod(grid)
        for k, block in enumerate(self.blocks[: self.staged]):
            h = call(block, h, *given)
            if at is not None:
                own = at(k, h[:, -count:])
                h = own if h.shape[1] == count else torch.cat((h[:, :-count], own), dim=1)
        return h, given, grid, sides, mask

    def finish(self, begun: Any) -> Tensor:
        """See `Staged`."""
        h, given, grid, sides, mask = begun
        condition, *_ = given
        call = recomputing(self)
        for block in self.blocks[self.staged :]:
            h = call(block, h, *given)

        shift, gain = self.modulate_out(condition)[:, None].chunk(2, dim=2)
        h = self.conv_out(addcmul(shift, 1 + gain, self.norm_out(h[:, -prod(grid) :])))
        return self._as_given(self._unpatched(h, grid, sides), mask)

    def halve(self) -> None:
        """See `Staged`."""
        del self.blocks[self.staged :], self.norm_out, self.modulate_out, self.conv_out

    def first_half(self) -> dict[str, Tensor]:
        """See `Staged`."""
        return self.state_dict()

    def _channels_first(
        self, x: Tensor, control: Tensor | Mapping[str, Tensor] | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor | Mapping[str, Tensor] | None, Tensor | None]:
        """All inputs as (B, channels, ...)."""
        if self.channels_last and x.ndim == self.dims + 2:
            x = x.movedim(-1, 1)
            mask = None if mask is None else mask.movedim(-1, 1)
            if isinstance(control, Mapping):
                control = {name: part.movedim(-1, 1) for name, part in control.items()}
            elif control is not None:
                control = control.movedim(-1, 1)
        small = x.ndim == self.dims + 2 and any(
            side < p for side, p in zip(x.shape[2:], self.patch, strict=True)
        )
        if x.ndim != self.dims + 2 or x.shape[1] != self.channels or small:
            wanted = states(self.channels, self.dims)
            if self.channels_last:
                wanted += ", but channels last,"
            least = self.patch[0] if len(set(self.patch)) == 1 else self.patch
            raise InputError(
                f"this DiT takes {wanted} with sides of at least {least}, got {tuple(x.shape)}"
            )
        return x, control, mask

    def _tokens_there(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """(B, L) which tokens of a sequence are data."""
        if mask is None:
            return None
        if self.dims != 1 or self.patch != (1,):
            raise InputError(
                f"this DiT of dims={self.dims} and patch={self.patch} cannot take padded samples with a mask: only one "
                f"of dims=1 and patch=1 can, whose tokens are data or padding, or give it samples of one size"
            )
        if self.positions == "learned":
            raise InputError(
                "learned positions are stretched to the length of a sequence, so that padding would move them: "
                "take 'sincos' or 'rope' for sequences with a mask"
            )
        if mask.dtype != torch.bool or mask.shape not in (
            (len(x), 1, x.shape[2]), (len(x), self.channels, x.shape[2]),
        ):  # fmt: skip
            raise InputError(
                f"the mask of sequences {tuple(x.shape)} is bool and ({len(x)}, 1 or {self.channels}, {x.shape[2]}), "
                f"channels first; got {mask.dtype} {tuple(mask.shape)}"
            )
        return mask.any(1)

    def _places(
        self, grid: list[int], h: Tensor, there: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """What is added to the tokens h (B, N, width) for their positions, and the angles by which they are turned.

        The tokens of a sequence that are there are counted from 0, whatever padding stands before or between them.
        """
        index = None if there is None else (there.cumsum(1) - 1).clamp(min=0)
        if self.positions == "rope":
            angle = rotary_angles(grid, self.head_width, h)
            return None, angle if index is None else angle[index][:, None]
        if self.table is not None:
            return interpolated(self.table, tuple(grid)).flatten(2).mT, None
        added = sincos_positions(grid, h.shape[2], h)
        return added if index is None else added[index], None

    def _unpatched(self, h: Tensor, grid: list[int], sides: Sequence[int]) -> Tensor:
        """Tokens (B, N, channels of a patch) as (B, channels, ...), without what the sides were filled up with."""
        h = h.unflatten(2, (*self.patch, -1)).unflatten(1, grid)
        # (B, rows, columns, p, p, channels) -> (B, channels, rows, p, columns, p)
        h = h.permute(
            0, 2 * self.dims + 1, *(k for axis in range(self.dims) for k in (1 + axis, 1 + self.dims + axis))
        )  # fmt: skip
        for axis in range(self.dims):
            h = h.flatten(2 + axis, 3 + axis)
        for axis, side in enumerate(sides):
            h = h.narrow(2 + axis, 0, side)
        return h

    def _as_given(self, out: Tensor, mask: Tensor | None) -> Tensor:
        """With zeros for padding, and the channels where they were."""
        if mask is not None:
            if mask.shape[1] > 1 and out.shape[1] % mask.shape[1]:
                mask = mask.any(1, keepdim=True)
            times = out.shape[1] // mask.shape[1] if mask.shape[1] > 1 else 1
            out = torch.where(mask.repeat(1, times, 1), out, 0)
        if not self.channels_last:
            return out
        return torch.cat([part.movedim(1, -1) for part in out.chunk(self.outputs, dim=1)], dim=1)


def _table(
    positions: str,
    size: int | Sequence[int] | None,
    patches: Sequence[int],
    width: int,
    heads: int,
) -> nn.Parameter | None:
    """The parameters (1, width, rows, columns) of learned positions; None for others, which have none."""
    dims = len(patches)
    match positions:
        case "sincos":
            if width < 2 * dims:
                raise InputError(
                    f"sincos positions are sines and cosines for each of {dims} axes: width must be at least "
                    f"{2 * dims}, not {width}"
                )
        case "rope":
            if width % heads or (width // heads) % 2 or width // heads < 2 * dims:
                raise InputError(
                    f"rope turns pairs by their place on each of {dims} axes: width / heads must be even and at least "
                    f"{2 * dims}, not {width} / {heads}"
                )
        case "learned":
            sides = (size,) * dims if isinstance(size, int) else tuple(size or ())
            if len(sides) != dims or any(a < p for a, p in zip(sides, patches, strict=True)):
                raise InputError(
                    f"learned positions need the size of the images, a side or one for each of {dims} dimensions, of "
                    f"at least a patch: not size={size} with patch={tuple(patches)}"
                )
            grid = [-(-side // p) for side, p in zip(sides, patches, strict=True)]
            return nn.Parameter(0.02 * torch.randn(1, width, *grid))
        case _:
            raise InputError(f"positions are 'sincos', 'learned' or 'rope', not {positions!r}")
    if size is not None:
        raise InputError(f"size is for learned positions; {positions} positions take any: omit it")
    return None
