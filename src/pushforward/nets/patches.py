"""From the pixels of an image to tokens with their places, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pushforward.core.errors import InputError
from pushforward.nets.positions import rotary_angles, sincos_positions

Positions = Literal["sincos", "table", "rope"]


class Patches(nn.Module):
    """Images (B, channels, H, W) as tokens (B, N, width), one for each patch, row by row, with their places added.

    The sides are those of the image divided by `patch`, rounded up; what is lacking is filled with zeros.

    positions:  "sincos": sines and cosines of row and column, for any number of them; "rope": nothing is added, and
                `angles` are for the attention; "table": see `position_table`, a buffer, of which the middle is taken.
    size:       side of the images that a table is spaced for. max_size: its number of rows and columns of patches.
    bottleneck: channels through which the patch goes first, so that large patches of many numbers are read by few
                directions (Li & He 2025, arXiv 2511.13720). None for one layer.
    stem:       channels of two 3 x 3 convolutions at full resolution that are read beside the pixels. None for none.
    """

    pos_embed: Tensor

    def __init__(
        self,
        channels: int,
        width: int,
        patch: int,
        positions: Positions = "sincos",
        size: int | None = None,
        max_size: int | None = None,
        bottleneck: int | None = None,
        stem: int | None = None,
    ) -> None:
        super().__init__()
        self.patch, self.positions, self.max_size = patch, positions, max_size
        self.stem = (
            None
            if stem is None
            else nn.Sequential(
                nn.Conv2d(channels, stem, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(stem, stem, 3, padding=1),
            )
        )
        inside = channels + (stem or 0)
        if bottleneck is None:
            self.proj = nn.Conv2d(inside, width, patch, patch)
        else:
            self.proj1 = nn.Conv2d(inside, bottleneck, patch, patch, bias=False)
            self.proj2 = nn.Conv2d(bottleneck, width, 1)
        self.bottleneck = bottleneck
        if positions == "table":
            assert size is not None
            assert max_size is not None
            self.register_buffer("pos_embed", position_table(width, max_size, size // patch))

    def grid(self, x: Tensor) -> tuple[int, int]:
        """Rows and columns of patches."""
        return -(-x.shape[2] // self.patch), -(-x.shape[3] // self.patch)

    def forward(self, x: Tensor) -> Tensor:
        if self.stem is not None:
            x = torch.cat((x, self.stem(x)), dim=1)
        rows, columns = self.grid(x)
        below, right = rows * self.patch - x.shape[2], columns * self.patch - x.shape[3]
        if below or right:
            x = pad(x, (0, right, 0, below))
        h = self.proj(x) if self.bottleneck is None else self.proj2(self.proj1(x))
        # One token after the other in memory, since all that follows keeps the order.
        h = h.flatten(2).mT.contiguous()
        if self.positions == "table":
            return h + self._middle(rows, columns).to(h.dtype)
        if self.positions == "sincos":
            return h + sincos_positions((rows, columns), h.shape[2], h).to(h.dtype)
        return h

    def angles(self, grid: Sequence[int], dim: int, like: Tensor) -> Tensor | None:
        """(N, dim/2), by which queries and keys of `dim` coordinates are turned; None if they are not."""
        return rotary_angles(grid, dim, like) if self.positions == "rope" else None

    def _middle(self, rows: int, columns: int) -> Tensor:
        most = self.max_size
        assert most is not None
        if max(rows, columns) > most:
            raise InputError(
                f"the table of positions has {most} x {most} places, and the image {rows} x {columns} patches of "
                f"{self.patch}: take max_size={max(rows, columns)}, or positions='sincos' or 'rope' for any size"
            )
        top, left = (most - rows) // 2, (most - columns) // 2
        table = self.pos_embed.unflatten(1, (most, most))
        return table[:, top : top + rows, left : left + columns].flatten(1, 2)


def position_table(width: int, most: int, base: int) -> Tensor:
    """Sines and cosines of places (1, most^2, width), row by row, as stored with Stable Diffusion 3.

        (sin j w, cos j w, sin i w, cos i w),   i, j = k base / most for the k-th row and column

    with w as in `sincos_positions`: the table spans the places of `base` patches, however many rows it has, and an
    image takes its middle. The figures are those of diffusers' `PatchEmbed`, to the last bit.
    """
    place = torch.arange(most, dtype=torch.float32) / (most / base)
    w = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4.0))
    angle = torch.outer(place, w)
    axis = torch.cat((angle.sin(), angle.cos()), dim=1).float()
    columns, rows = axis.expand(most, -1, -1), axis[:, None].expand(-1, most, -1)
    return torch.cat((columns, rows), dim=2).flatten(0, 1)[None]


def check_positions(
    positions: str, width: int, heads: int, patch: int, size: int | None, max_size: int | None
) -> None:
    """That places can be told apart with these figures."""
    if positions not in ("sincos", "table", "rope"):
        raise InputError(f"positions are 'sincos', 'table' or 'rope', not {positions!r}")
    if positions == "table":
        if size is None or max_size is None or size < patch or max_size < 1:
            raise InputError(
                f"a table of positions needs max_size=, its number of rows and columns of patches, and size=, the side "
                f"of the images that it is spaced for, of at least a patch of {patch}: not {max_size} and {size}"
            )
    elif size is not None or max_size is not None:
        raise InputError(
            f"size and max_size are for a table of positions; {positions} positions take any size: omit them"
        )
    if positions != "rope" and width % 4:
        raise InputError(
            f"positions are sines and cosines on two axes: the width must be a multiple of 4, not {width}"
        )
    if positions == "rope" and (width % heads or (width // heads) % 4):
        raise InputError(
            f"rope turns pairs of a head by their place on each of two axes: width / heads must be a multiple of 4, "
            f"not {width} / {heads}"
        )


def unpatched(h: Tensor, grid: Sequence[int], patch: int, sides: Sequence[int]) -> Tensor:
    """Tokens (B, N, patch^2 channels) as images (B, channels, H, W), without what was filled up beyond the sides."""
    h = h.unflatten(2, (patch, patch, -1)).unflatten(1, tuple(grid))
    # (B, rows, columns, p, p, channels) -> (B, channels, rows, p, columns, p)
    h = h.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
    return h[:, :, : sides[0], : sides[1]]
