"""Images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pushforward.core.spec import DataSpec
from pushforward.evaluate.figures.grid import grid, square
from pushforward.evaluate.figures.refinement import refinement
from pushforward.evaluate.kinds.base import Kind, rows_by_class

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Image(Kind):
    """Images (C, H, W), drawn as a grid, a class a row if classes have equally many."""

    name, form = "image", "(N, C, H, W)"
    per_class = 8

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
        if mask is not None:
            samples = torch.where(mask.cpu(), samples, value_range[1])
        if beside:
            return refinement(samples, beside, value_range, title)
        rows = rows_by_class(len(samples), label, spec, square(len(samples)))
        return grid(
            samples[rows.order], rows.columns, value_range, row_labels=rows.names, title=title
        )
