"""Figures as pixels, for the tests of what is drawn."""

from __future__ import annotations

import io

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from pushforward.evaluate.figures import png


def pixels(figure: Figure) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(png(figure, {}))).convert("RGB"))


def places(page: np.ndarray, image: np.ndarray) -> list[tuple[int, int]]:
    """The upper left corners (row, column) at which an image (H, W, 3) is found on a page, pixel by pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(page, image.shape)[:, :, 0]
    return [tuple(map(int, p)) for p in np.argwhere((windows == image).all((2, 3, 4)))]


def enlarged(image: torch.Tensor, factor: int) -> np.ndarray:
    """An image (C, H, W) of bytes as (H factor, W factor, 3)."""
    shown = image.expand(3, *image.shape[1:]).movedim(0, -1).numpy().astype(np.uint8)
    return shown.repeat(factor, 0).repeat(factor, 1)
