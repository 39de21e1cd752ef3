"""Grids of images, pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.evaluate.figures.page import INK, blank, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Range = tuple[float, float]
GAP, DPI = 4, 100


def to_uint8(x: Tensor, value_range: Range = (-1.0, 1.0)) -> np.ndarray:
    """Numbers (N, C, H, W) as bytes (N, H, W, C): value_range is mapped to 0 ... 255, clipped and rounded."""
    low, high = value_range
    if high <= low:
        raise InputError(f"value_range is {value_range}; its second number must be the larger one")
    scaled = ((x.detach().float().cpu() - low) * (255 / (high - low))).round().clamp(0, 255)
    return scaled.to(torch.uint8).movedim(1, -1).numpy()


def to_rgb(x: Tensor, value_range: Range = (-1.0, 1.0)) -> np.ndarray:
    """Images (N, C, H, W) as bytes (N, H, W, 3): C = 1 grey, 3 colour, 4 colour with opacity over white.

    Any other number of channels is drawn as that many grey images side by side.
    """
    pixels = to_uint8(x, value_range)
    channels = pixels.shape[3]
    if channels == 3:
        return pixels
    if channels == 4:
        share = pixels[..., 3:].astype(np.float64) / 255
        return (pixels[..., :3] * share + 255 * (1 - share)).round().astype(np.uint8)
    wide = pixels.transpose(0, 1, 3, 2).reshape(*pixels.shape[:2], -1)
    return np.repeat(wide[..., None], 3, axis=3)


def grid(
    x: Tensor,
    columns: int,
    value_range: Range = (-1.0, 1.0),
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
    cell: int = 48,
) -> Figure:
    """Images (N, C, H, W) row by row, each pixel as a square of whole pixels, so that an image is about `cell` wide."""
    if x.ndim != 4 or columns < 1 or len(x) < 1:
        raise InputError(
            f"a grid takes images (N, C, H, W) in one or more columns, got {tuple(x.shape)} and {columns}"
        )
    images = to_rgb(x, value_range)
    factor = max(1, round(cell / max(x.shape[2:])))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    return mosaic(images, columns, row_labels, column_labels, title)


def mosaic(
    images: np.ndarray,
    columns: int,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Images (N, H, W, 3) as bytes, row by row, copied pixel by pixel, with labels in the margins."""
    number, height, width, _ = images.shape
    rows = -(-number // columns)
    step_y, step_x = height + GAP, width + GAP
    page = np.full((rows * step_y - GAP, columns * step_x - GAP, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * step_y, (i % columns) * step_x
        page[y : y + height, x : x + width] = image
    points = max(11, min(16, height // 3)) * 72 / DPI  # pixels in points
    with style():
        figure = blank(1, 1, dpi=DPI, layout="none")
        size = {"fontsize": points, "color": INK}
        beside = [figure.text(0, 0, text, **size) for text in row_labels[:rows]]
        above = [figure.text(0, 0, text, **size) for text in column_labels[:columns]]
        heading = figure.text(0, 0, title, **size)
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        wide = [math.ceil(text.get_window_extent(renderer).width) for text in beside]
        line = round(1.4 * points * DPI / 72)
        left = 2 * GAP + max(wide, default=-GAP) + GAP
        top = 2 * GAP + (line if title else 0) + (line if column_labels else 0)
        need = math.ceil(heading.get_window_extent(renderer).width) if title else 0
        total_x = max(left + page.shape[1], left + need, _reach(above, left, step_x, renderer))
        total_x, total_y = total_x + 2 * GAP, top + page.shape[0] + 2 * GAP
        # A little more than whole pixels, since matplotlib cuts fractions off.
        figure.set_size_inches((total_x + 0.01) / DPI, (total_y + 0.01) / DPI)

        def put(text: object, x: float, y: float, across: str, along: str) -> None:
            text.set(  # type: ignore[attr-defined]
                x=x / total_x,
                y=1 - y / total_y,
                horizontalalignment=across,
                verticalalignment=along,
            )

        put(heading, left, GAP + line / 2, "left", "center")
        for column, text in enumerate(above):
            put(text, left + column * step_x + width / 2, top - GAP, "center", "baseline")
        for row, text in enumerate(beside):
            put(text, left - 2 * GAP, top + row * step_y + height / 2, "right", "center")
        figure.figimage(page, left, total_y - top - page.shape[0], origin="upper")
    return figure


def _reach(above: Sequence[object], left: int, step: int, renderer: object) -> int:
    """Where the last label of a column ends, in pixels."""
    if not above:
        return 0
    last = above[-1].get_window_extent(renderer).width  # type: ignore[attr-defined]
    return math.ceil(left + (len(above) - 0.5) * step + last / 2)


def class_grid(
    x: Tensor,
    names: Sequence[str],
    per_class: int,
    value_range: Range = (-1.0, 1.0),
    title: str = "",
) -> Figure:
    """`per_class` samples of each class, a class a row: x (len(names) * per_class, C, H, W) in order of classes."""
    return grid(x, per_class, value_range, row_labels=names, title=title)


def square(n: int) -> int:
    """The number of columns with which n images make about a square."""
    return max(1, math.ceil(math.sqrt(n)))
