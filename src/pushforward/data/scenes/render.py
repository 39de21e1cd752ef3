"""Pictures of scenes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pushforward.core.errors import InputError
from pushforward.data.scenes.graph import (
    _ARM,
    _SQUARE,
    _TRIANGLE,
    COLOURS,
    MOST,
    SHAPES,
    TEXTURES,
    Object,
    Scene,
)

Array = np.ndarray[Any, np.dtype[Any]]
# Half the range of a texture, in grey levels of 1.
TEXTURE = 0.04


def distance(shape: str, x: Array, y: Array, r: Array | float) -> Array:
    """Signed distance to the outline (exact inside and across edges), negative inside; y points down.

    r: radius of the circle of equal area.
    """
    if shape == "circle":
        return np.hypot(x, y) - r
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - _SQUARE * r
    if shape == "triangle":
        inner = _TRIANGLE * r / 2
        sides = math.sqrt(3) / 2 * abs(x) - y / 2
        return np.maximum(y, sides) - inner
    arm, half = _ARM * r, 0.35 * _ARM * r
    flat = np.maximum(abs(x) - arm, abs(y) - half)
    return np.minimum(flat, np.maximum(abs(x) - half, abs(y) - arm))


def coverage(shape: str, x: Array, y: Array, r: Array | float, pixel: float) -> Array:
    """Share of each pixel that a shape covers, an edge within a pixel being straight: 1/2 - distance/pixel."""
    return np.clip(0.5 - distance(shape, x, y, r) / pixel, 0, 1)


@dataclass(frozen=True)
class Graphs:
    """Scenes as arrays. things: (N, 4, 5) of shape, colour, x, y, r, shape -1 where there is none; ground: (N, 3)."""

    things: Array
    ground: Array

    @classmethod
    def of(cls, scenes: Sequence[Scene]) -> Graphs:
        things = np.full((len(scenes), MOST, 5), -1.0, np.float32)
        ground = np.empty((len(scenes), 3), np.float32)
        colours = tuple(COLOURS)
        for i, scene in enumerate(scenes):
            if len(scene.objects) > MOST:
                raise InputError(
                    f"a scene has at most {MOST} objects, and one has {len(scene.objects)}"
                )
            for k, o in enumerate(scene.objects):
                things[i, k] = SHAPES.index(o.shape), colours.index(o.colour), o.x, o.y, o.r
            ground[i] = scene.ground, TEXTURES.index(scene.texture), scene.phase
        return cls(things, ground)

    def __len__(self) -> int:
        return len(self.things)

    def scenes(self, rows: Any = slice(None)) -> list[Scene]:
        """The scenes themselves."""
        colours = tuple(COLOURS)
        return [
            Scene(
                tuple(
                    Object(SHAPES[int(shape)], colours[int(colour)], float(x), float(y), float(r))
                    for shape, colour, x, y, r in things
                    if shape >= 0
                ),
                float(ground),
                TEXTURES[int(texture)],
                float(phase),
            )
            for things, (ground, texture, phase) in zip(
                self.things[rows], self.ground[rows], strict=True
            )
        ]

    def pictures(self, size: int, rows: Any = slice(None)) -> Array:
        """(n, size, size, 3) uint8."""
        things, ground = self.things[rows], self.ground[rows]
        pixel = 1 / size
        at = (np.arange(size, dtype=np.float32) + 0.5) * pixel
        x, y = np.meshgrid(at, at)
        out = np.repeat(self._grounds(ground, x, y)[..., None], 3, -1)
        palette = np.array(list(COLOURS.values()), np.float32) / 255
        for k in range(MOST):
            for index, shape in enumerate(SHAPES):
                which = np.flatnonzero(things[:, k, 0] == index)
                if not len(which):
                    continue
                _, colour, u, v, r = things[which, k].T[..., None, None]
                cover = coverage(shape, x - u, y - v, r, pixel)[..., None]
                paint = palette[colour[:, 0, 0].astype(int)][:, None, None]
                out[which] += cover * (paint - out[which])
        return np.round(255 * out).clip(0, 255).astype(np.uint8)

    def levels(self, size: int, rows: Any = slice(None), order: bool = False) -> Array:
        """(n, size, size) float32: 1 where there is an object, and 0 elsewhere; with the order, that of k + 1 of 4 for
        the k-th one from the back."""
        things = self.things[rows]
        at = (np.arange(size, dtype=np.float32) + 0.5) / size
        x, y = np.meshgrid(at, at)
        out = np.zeros((len(things), size, size), np.float32)
        for k in range(MOST):
            for index, shape in enumerate(SHAPES):
                which = np.flatnonzero(things[:, k, 0] == index)
                if not len(which):
                    continue
                _, _, u, v, r = things[which, k].T[..., None, None]
                cover = coverage(shape, x - u, y - v, r, 1 / size)
                out[which] += cover * ((k + 1) / MOST if order else 1) - cover * out[which]
        return out

    @staticmethod
    def _grounds(ground: Array, x: Array, y: Array) -> Array:
        level, texture, phase = ground.T[..., None, None]
        turn = 2 * math.pi * phase
        along = x * np.cos(turn) + y * np.sin(turn)
        patterns = (
            np.zeros_like(along),
            np.sin(2 * math.pi * 5 * along + turn),
            np.sign(np.sin(2 * math.pi * (3 * x + phase)) * np.sin(2 * math.pi * (3 * y + phase))),
            2 * (along - along.mean((1, 2), keepdims=True)),
        )
        found = level + np.zeros_like(along)
        for index, pattern in enumerate(patterns):
            found = found + np.where(texture == index, TEXTURE * pattern, 0)
        return found


@dataclass(frozen=True)
class Rendered:
    """Pictures of scenes, drawn when they are read: (N, size, size, 3) uint8."""

    graphs: Graphs
    size: int

    def __len__(self) -> int:
        return len(self.graphs)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), self.size, self.size, 3)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __getitem__(self, index: Any) -> Array:
        return self.graphs.pictures(self.size, index)


def render(scenes: Sequence[Scene], size: int = 32) -> Array:
    """(N, size, size, 3) uint8, antialiased."""
    return Graphs.of(scenes).pictures(size)
