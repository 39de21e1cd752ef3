"""Where tokens are: positions on a line, a plane or a volume, fixed or as rotations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Each pair of coordinates (x_k, x_{k + d/2}) turned by angle_k, as a rotation of the plane.

    A query turned by its own angle and a key by its own have the product of the one turned by the difference:
    angles linear in the position make scores depend on relative positions only.
    x: (..., N, d), angle: (N, d/2), or more dimensions that broadcast -> (..., N, d).

    Su et al. 2021 (arXiv 2104.09864), eq. 34.
    """
    a, b = x.to(angle.dtype).chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1).to(x.dtype)


def axis_angles(side: int, count: int, period: float, like: Tensor) -> Tensor:
    """The places along one axis at geometrically spaced frequencies, (side, count), in float32 at least.

    i w_k,   w_k = period^{-k/count},   i = 0 ... side - 1,   k = 0 ... count - 1
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    w = period ** -(torch.arange(count, device=like.device, dtype=dtype) / count)
    return torch.arange(side, device=like.device, dtype=dtype)[:, None] * w


def on_grid(tables: Sequence[Tensor]) -> list[Tensor]:
    """What each axis has by place, (side, k), for each token of the grid, (N, k), the last axis counting fastest."""
    sides, out = [len(table) for table in tables], []
    for axis, table in enumerate(tables):
        shape = [1] * len(sides)
        shape[axis] = sides[axis]
        out.append(table.reshape(*shape, -1).expand(*sides, -1).flatten(0, -2))
    return out


def sincos_positions(sides: Sequence[int], width: int, like: Tensor) -> Tensor:
    """Fixed positions: for each axis, the last one first, sines and cosines at n = width/(2 axes) frequencies.

        (sin j w, cos j w, sin i w, cos i w)        w_k = 10000^{-k/n},  for token (i, j) of a plane

    -> (N, width), tokens row by row; what is left of the width is 0. In the order of the code of Peebles & Xie 2023,
    whose first half is the column.
    """
    angles = (axis_angles(side, width // (2 * len(sides)), 10000.0, like) for side in sides)
    parts = on_grid([torch.cat((angle.sin(), angle.cos()), dim=1) for angle in angles])
    return _filled(torch.cat(parts[::-1], dim=1), width)


def rotary_angles(
    sides: Sequence[int], dim: int, like: Tensor, period: float | None = None
) -> Tensor:
    """Angles for `rotate`: the pairs of a head are shared among the axes, and turn with the place on each.

        (i w, j w)        w_k = period^{-k/n},   n = dim/(2 axes)

    dim: of a head -> (N, dim/2); what is left of the pairs is not turned. period: 10000 on a line (Su et al. 2021), and
    100 on grids, which suits some tens of tokens a side (Heo et al. 2024, arXiv 2403.13298, sec. 3.2).
    """
    if period is None:
        period = 10000.0 if len(sides) == 1 else 100.0
    count = dim // (2 * len(sides))
    angles = on_grid([axis_angles(side, count, period, like) for side in sides])
    return _filled(torch.cat(angles, dim=1), dim // 2)


def _filled(x: Tensor, width: int) -> Tensor:
    return x if x.shape[-1] == width else pad(x, (0, width - x.shape[-1]))
