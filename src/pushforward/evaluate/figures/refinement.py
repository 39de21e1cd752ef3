"""Images beside what they were made of and what they should be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.evaluate.figures.grid import Range, grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The name of the row of the samples themselves, and images in a row.
MADE, COLUMNS = "sample", 16
# The name under which the truth is drawn last.
TRUTH = "truth"


def refinement(
    samples: Tensor,
    beside: Mapping[str, Tensor],
    value_range: Range = (-1.0, 1.0),
    title: str = "",
) -> Figure:
    """A column for each image (N, C, H, W): what it was made of, the image, and the truth; at most 16 of them.

    beside: images (N, C, h, w) by name; the one called "truth" comes last, all others before the samples. Smaller ones
    are enlarged by a whole factor, pixel by pixel.
    """
    count = min(len(samples), COLUMNS)
    names = [name for name in beside if name != TRUTH] + [MADE] + [TRUTH] * (TRUTH in beside)
    rows = []
    for name in names:
        images = samples if name == MADE else beside[name].detach().cpu()
        factor = samples.shape[2] // max(1, images.shape[2])
        images = images[:count].repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        if images.shape != samples[:count].shape:
            raise InputError(
                f"{name} has the shape {tuple(beside[name].shape)}, the samples {tuple(samples.shape)}: "
                f"it must be theirs, or smaller by a whole factor"
            )
        rows.append(images)
    return grid(torch.cat(rows), count, value_range, row_labels=names, title=title, cell=64)
