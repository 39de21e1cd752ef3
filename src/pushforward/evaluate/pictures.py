"""Pictures of samples, drawn with Pillow; each carries how it was made in its PNG metadata."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from pushforward import __version__
from pushforward.core.errors import InputError

INK, PAPER, GAP = (40, 40, 40), (255, 255, 255), 4
# Dark to light through blue and green: single-hued enough to read as an amount.
RAMP = ((255, 255, 255), (190, 221, 240), (94, 168, 214), (33, 102, 172), (8, 38, 84))


def png(image: Image.Image, settings: Mapping[str, Any]) -> bytes:
    """The picture as PNG, with `settings` as JSON under the key "pushforward"."""
    info = PngInfo()
    info.add_text("pushforward", json.dumps({"version": __version__, **settings}, sort_keys=True))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info, optimize=True)
    return buffer.getvalue()


def to_uint8(x: Tensor, value_range: tuple[float, float] = (-1.0, 1.0)) -> np.ndarray:
    """(N, C, H, W) numbers as (N, H, W, C) bytes, value_range becoming 0 ... 255, clipped and rounded."""
    low, high = value_range
    if high <= low:
        raise InputError(f"value_range is {value_range}; its second number must be the larger one")
    scaled = ((x.detach().float().cpu() - low) * (255 / (high - low))).round().clamp(0, 255)
    return scaled.to(torch.uint8).movedim(1, -1).numpy()


def grid(
    x: Tensor,
    columns: int,
    value_range: tuple[float, float] = (-1.0, 1.0),
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
    cell: int = 48,
) -> Image.Image:
    """Images (N, C, H, W) row by row, enlarged by a whole factor to about `cell` pixels, with margins and labels."""
    if x.ndim != 4 or x.shape[1] not in (1, 3, 4) or columns < 1:
        raise InputError(
            f"a grid takes images (N, C, H, W) with 1, 3 or 4 channels, got {tuple(x.shape)}"
        )
    factor = max(1, round(cell / max(x.shape[2:])))
    height, width = x.shape[2] * factor, x.shape[3] * factor
    rows = -(-len(x) // columns)
    points = max(11, min(16, height // 3))
    font = ImageFont.load_default(points)
    left = 2 * GAP + max((int(font.getlength(label)) for label in row_labels), default=-GAP) + GAP
    line = int(points * 1.4)
    top = GAP + (line if title else 0) + (line if column_labels else 0) + GAP
    page = Image.new(
        "RGB",
        (left + columns * (width + GAP) + GAP, top + rows * (height + GAP) + GAP),
        PAPER,
    )
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((left, GAP), title, INK, font)
    for column, label in enumerate(column_labels[:columns]):
        middle = left + column * (width + GAP) + width // 2
        draw.text((middle, top - GAP), label, INK, font, anchor="ms")
    for row, label in enumerate(row_labels[:rows]):
        middle = top + row * (height + GAP) + height // 2
        draw.text((left - 2 * GAP, middle), label, INK, font, anchor="rm")
    for i, pixels in enumerate(to_uint8(x, value_range)):
        row, column = divmod(i, columns)
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        picture = picture.resize((width, height), Image.Resampling.NEAREST)
        page.paste(picture, (left + column * (width + GAP), top + row * (height + GAP)))
    return page


def class_grid(
    x: Tensor,
    names: Sequence[str],
    per_class: int,
    value_range: tuple[float, float] = (-1.0, 1.0),
    title: str = "",
) -> Image.Image:
    """`per_class` samples of each class, a class a row: x (len(names) * per_class, C, H, W) in order of classes."""
    return grid(x, per_class, value_range, row_labels=names, title=title)


def density(
    points: Tensor, extent: float, title: str = "", size: int = 420, bins: int = 105
) -> Image.Image:
    """Where points (N, 2) fall in the square [-extent, extent]^2, darker for more; y upwards."""
    if points.ndim != 2 or points.shape[1] != 2:
        raise InputError(f"points must have shape (N, 2), got {tuple(points.shape)}")
    xy = points.detach().double().cpu().numpy()
    counts, _, _ = np.histogram2d(xy[:, 1], xy[:, 0], bins, [[-extent, extent]] * 2)
    top = max(1.0, float(np.quantile(counts[counts > 0], 0.99)) if counts.any() else 1.0)
    level = np.clip(counts[::-1] / top, 0, 1) ** 0.5 * (len(RAMP) - 1)
    below = np.minimum(level.astype(int), len(RAMP) - 2)
    ramp = np.array(RAMP, dtype=float)
    share = (level - below)[..., None]
    colours = ramp[below] * (1 - share) + ramp[below + 1] * share
    picture = Image.fromarray(colours.round().astype(np.uint8)).resize(
        (size, size), Image.Resampling.NEAREST
    )
    font = ImageFont.load_default(14)
    top_margin = 3 * GAP + (18 if title else 0)
    page = Image.new("RGB", (size + 6 * GAP, size + top_margin + 3 * GAP), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((3 * GAP, 2 * GAP), title, INK, font)
    page.paste(picture, (3 * GAP, top_margin))
    draw.rectangle(
        (3 * GAP - 1, top_margin - 1, 3 * GAP + size, top_margin + size), outline=(200, 200, 200)
    )
    return page


def square(n: int) -> int:
    """Columns that make n pictures about a square."""
    return max(1, math.ceil(math.sqrt(n)))
