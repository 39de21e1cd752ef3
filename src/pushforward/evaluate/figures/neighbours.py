"""The samples nearest to the training data, beside those data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.data.dataset import Dataset
from pushforward.evaluate.figures.grid import to_rgb
from pushforward.evaluate.figures.page import QUIET, START, blank, style
from pushforward.evaluate.metrics.neighbours import Memorisation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAP, DPI = 8, 100
# Colour of a distance that is one of a copy.
COPY = START


def neighbours(
    samples: Tensor,
    found: Memorisation,
    train: Dataset,
    rows: int = 8,
    space: str = "pixels",
    cell: int = 72,
) -> Figure:
    """The samples (N, C, H, W) nearest to the training data, a row each: the sample and its nearest training images.

    The nearest comes first, each with its distance beneath, in red if it is no farther than a hundredth of new images
    are. space: what distances are of. cell: pixels to which images are enlarged, by a whole factor.
    """
    if samples.ndim != 4 or rows < 1:
        raise InputError(f"neighbours are drawn of images (N, C, H, W), got {tuple(samples.shape)}")
    near = found.samples
    chosen = near.distances[:, 0].argsort(stable=True)[:rows].tolist()
    columns = near.indices.shape[1]
    factor = max(1, round(cell / max(samples.shape[2:])))

    def enlarged(images: Tensor) -> np.ndarray:
        return to_rgb(images, train.value_range).repeat(factor, axis=1).repeat(factor, axis=2)

    height, width = enlarged(samples[:1]).shape[1:3]
    usual = float(found.held_out.distances[:, 0].median())
    title = f"The samples nearest to the training set, {len(chosen)} of {len(samples)}"
    below = (
        f"Distances by {space}; of new images the median is {usual:.3g}, and 1 in 100 is below {found.threshold:.3g}.\n"
        f"{100 * found.copied:.2g} in 100 samples are below that."
    )
    margin, line, gutter = 2 * GAP, 20, 3 * GAP
    step = height + line + GAP
    first = margin + width + gutter  # where training images begin
    top = margin + 52
    wide = max(first + columns * (width + GAP) + margin, 560)
    high = top + len(chosen) * step + 2 * line + margin
    with style():
        figure = blank((wide + 0.01) / DPI, (high + 0.01) / DPI, dpi=DPI, layout="none")

        def write(x: float, y: float, text: str, shade: str, size: float, across: str) -> None:
            figure.text(
                x / wide, 1 - y / high, text, color=shade, fontsize=size, ha=across, va="center", linespacing=1.5,
            )  # fmt: skip

        def put(image: np.ndarray, x: int, y: int) -> None:
            figure.figimage(image, x, high - y - height, origin="upper")

        write(margin, margin + 8, title, "black", 11, "left")
        write(margin + width / 2, top - 12, "sample", QUIET, 9, "center")
        write(first, top - 12, "nearest training images", QUIET, 9, "left")
        for row, sample in enumerate(chosen):
            y = top + row * step
            put(enlarged(samples[sample : sample + 1])[0], margin, y)
            images = enlarged(train[near.indices[sample]].x1)
            for column, distance in enumerate(near.distances[sample].tolist()):
                x = first + column * (width + GAP)
                put(images[column], x, y)
                shade = COPY if distance <= found.threshold else QUIET
                write(x + width / 2, y + height + line / 2, f"{distance:.3g}", shade, 8, "center")
        write(margin, top + len(chosen) * step + line, below, QUIET, 9, "left")
    return figure
