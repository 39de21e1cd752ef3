"""Hints by which a picture is steered: its edges, masks, the order of its objects from back to front.

A hint is computed from a picture when that is read, `hint(x1 (B, C, H, W), rows (B,)) -> (B, 1, H, W)`, with values
between 0 and 1. rows: which of the stored samples they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import DataError, InputError


class Levels(Protocol):
    """What knows its objects, such as `scenes.render.Graphs`."""

    def levels(self, size: int, rows: Any, order: bool) -> np.ndarray: ...


class Hint(Protocol):
    """moves: whether it follows a picture that is mirrored, moved or cropped in training."""

    @property
    def moves(self) -> bool: ...

    def __call__(self, x1: Tensor, rows: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Edges:
    """Edges of one pixel's width, 1 on 0 (Canny 1986), of the brightness.

    sigma: width of the Gaussian, in pixels. low, high: thresholds of the gradient, of a brightness between 0 and 1.
    value_range: of black and white. decode: makes pictures of x1 where it holds something else, such as latents.

    By scikit-image, an extra. Pixels at the border of a picture are never edges.
    """

    sigma: float = 1.0
    low: float = 0.1
    high: float = 0.2
    value_range: tuple[float, float] = (-1.0, 1.0)
    decode: Callable[[Tensor], Tensor] | None = None

    moves = True

    def __call__(self, x1: Tensor, rows: Tensor | None = None) -> Tensor:
        pictures = x1 if self.decode is None else self.decode(x1)
        low, high = self.value_range
        return self.of(((pictures - low) / (high - low)).clamp(0, 1))

    def of(self, pictures: Tensor) -> Tensor:
        """Those of pictures (B, C, H, W) between 0 and 1."""
        canny = find_canny()
        grey = brightness(pictures).double().cpu().numpy()
        found = [canny(each, self.sigma, self.low, self.high, mode="nearest") for each in grey]
        return torch.from_numpy(np.stack(found))[:, None].float()


def brightness(pictures: Tensor) -> Tensor:
    """(B, H, W) of grey or coloured pictures (B, 1 or 3, H, W), by Rec. 601."""
    if pictures.shape[1] == 1:
        return pictures[:, 0]
    if pictures.shape[1] != 3:
        raise InputError(
            f"edges are those of pictures of 1 or 3 channels, and these have {pictures.shape[1]}"
        )
    weight = torch.tensor([0.299, 0.587, 0.114]).to(pictures)
    return (pictures * weight[:, None, None]).sum(1)


def find_canny() -> Any:
    """scikit-image's detector; InputError where it is not installed."""
    try:
        from skimage.feature import canny
    except ImportError as error:
        raise InputError("edges are found by scikit-image: pip install -e '.[control]'") from error
    return canny


@dataclass(frozen=True)
class OfRows:
    """The hints of some of the samples that `hint` knows, by their numbers there."""

    hint: Hint
    rows: np.ndarray

    @property
    def moves(self) -> bool:
        return self.hint.moves

    def __call__(self, x1: Tensor, rows: Tensor) -> Tensor:
        return self.hint(x1, torch.from_numpy(self.rows[rows.cpu().numpy()]))


@dataclass(frozen=True)
class SceneHint:
    """What a scene graph says of each pixel: "masks", 1 where there is an object; "order", the same in grey levels, 1/4
    for the one at the back to 1 for a fourth one in front."""

    graphs: Levels
    size: int
    what: Literal["masks", "order"]

    moves = False

    def __call__(self, x1: Tensor, rows: Tensor) -> Tensor:
        drawn = self.graphs.levels(self.size, rows.numpy(), self.what == "order")
        return torch.from_numpy(drawn)[:, None]


@dataclass(frozen=True)
class MaskFiles:
    """Pictures of the same names as those that they belong to, in a folder of their own, as grey levels.

    folder: of the masks. names: of the pictures, from their own folder on, with any ending. size: sides (H, W).
    """

    folder: Path
    names: Sequence[str]
    size: tuple[int, int]

    moves = False

    def __call__(self, x1: Tensor, rows: Tensor) -> Tensor:
        return torch.stack([self._read(self.find(self.names[int(row)])) for row in rows])

    def find(self, name: str) -> Path:
        """The file of a mask."""
        stem = (self.folder / name).with_suffix("")
        found = [p for p in sorted(stem.parent.glob(f"{stem.name}.*")) if p.stem == stem.name]
        if not found:
            raise DataError(f"there is no mask for {name} in {self.folder}: {stem}.png is missing")
        return found[0]

    def _read(self, path: Path) -> Tensor:
        return open_grey(path, self.size)[0][None]


def open_grey(path: Path, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """A picture file as grey levels (H, W) between 0 and 1, brought to these sides; and those that it had."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            grey = file.convert("L")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the picture {path}: {error}") from error
    had = (grey.height, grey.width)
    if had != size:
        plain = set(np.unique(np.asarray(grey)).tolist()) <= {0, 255}
        way = Image.Resampling.NEAREST if plain else Image.Resampling.LANCZOS
        grey = grey.resize((size[1], size[0]), way)
    return torch.from_numpy(np.asarray(grey).copy()).float() / 255, had
