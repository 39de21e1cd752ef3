"""Volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from pushforward.core.spec import DataSpec
from pushforward.evaluate.figures.grid import grid
from pushforward.evaluate.kinds.base import Kind, rows_by_class

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Volumes that are drawn, three images each.
SHOWN = 32


class Volume(Kind):
    """Volumes (C, D, H, W), drawn as three slices through the middle, across each of their directions."""

    name, form = "volume", "(N, C, D, H, W)"
    alone, per_class = 12, 2

    def figure(
        self,
        samples: Tensor,
        spec: DataSpec,
        label: Tensor | None,
        title: str,
        mask: Tensor | None,
        beside: dict[str, Tensor],
    ) -> Figure:
        value_range = spec.value_range or (-1.0, 1.0)
        shown = samples[:SHOWN]
        if mask is not None:
            shown = torch.where(mask.cpu().expand(samples.shape)[:SHOWN], shown, value_range[1])
        rows = rows_by_class(len(shown), None if label is None else label[:SHOWN], spec, 2)
        images = middle_slices(shown[rows.order], value_range[1])
        columns = min(rows.columns, len(shown))
        return grid(
            images.flatten(0, 1),
            3 * columns,
            value_range,
            row_labels=rows.names,
            column_labels=("front", "top", "side") * columns,
            title=title,
            cell=64,
        )


def middle_slices(x: Tensor, white: float) -> Tensor:
    """(N, 3, C, S, S) of volumes (N, C, D, H, W): the slices (H, W), (D, W) and (D, H) through the middle.

    S is the longest side; white fills the rest.
    """
    depth, height, width = x.shape[2:]
    side = max(depth, height, width)
    cuts = (x[:, :, depth // 2], x[:, :, :, height // 2], x[..., width // 2])

    def framed(image: Tensor) -> Tensor:
        down, across = side - image.shape[2], side - image.shape[3]
        edges = (across // 2, across - across // 2, down // 2, down - down // 2)
        return pad(image, edges, value=white)

    return torch.stack([framed(cut) for cut in cuts], 1)
