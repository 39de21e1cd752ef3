"""Samples as picture files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from pushforward.core.errors import InputError


def save_images(
    samples: Tensor,
    folder: str | Path,
    value_range: tuple[float, float] = (-1.0, 1.0),
    *,
    start: int = 0,
    overwrite: bool = False,
    settings: Sequence[Mapping[str, Any]] | None = None,
) -> list[Path]:
    """Write each of the samples (N, C, H, W), C of 1, 3 or 4, as a PNG named by its number, start ... start + N - 1.

        byte = round(255 (x - lo)/(hi - lo)), cut to 0 ... 255         (lo, hi) = value_range, black and white

    settings: of each picture, written into its file as JSON under "pushforward", such as prompt and seed.

    The folder is created. Returns the files. Raises InputError for samples of another shape, and, unless `overwrite`,
    before anything is written, if one of the files is there already.
    """
    if samples.ndim != 4 or samples.shape[1] not in (1, 3, 4):
        raise InputError(
            f"pictures are samples (N, C, H, W) with 1, 3 or 4 channels, not {tuple(samples.shape)}"
        )
    folder = Path(folder)
    if folder.suffix.lower() in (".png", ".jpg", ".jpeg"):
        raise InputError(
            f"{folder} names a picture: give a folder, into which each sample is written as a PNG by its number"
        )
    files = [folder / f"{start + i:06d}.png" for i in range(len(samples))]
    there = next((file for file in files if file.exists()), None)
    if there is not None and not overwrite:
        raise InputError(f"{there} is there already: pass overwrite=True to replace it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for i, (file, pixels) in enumerate(zip(files, to_bytes(samples, value_range), strict=True)):
            about = PngInfo()
            if settings is not None:
                about.add_itxt("pushforward", json.dumps(settings[i]))
            Image.fromarray(pixels).save(file, pnginfo=about)
    except OSError as error:
        raise InputError(f"cannot write pictures into {folder}: {error}") from error
    return files


def to_bytes(samples: Tensor, value_range: tuple[float, float]) -> list[np.ndarray]:
    """(H, W) for one channel, else (H, W, C), uint8."""
    low, high = value_range
    scaled = (samples.detach().cpu().double() - low) * (255 / (high - low))
    pixels = scaled.round().clamp(0, 255).byte().movedim(1, 3).numpy()
    return list(pixels[..., 0] if pixels.shape[3] == 1 else pixels)
