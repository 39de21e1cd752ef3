"""Reading a picture: the scene graph that it shows.

Colours are compared as brightness and two differences of colour, the first weighed more, since JPEG keeps half of the
resolution of the others. The ground is the median colour. A pixel p of colour c covered to the share a is
p = g + a (c - g): the colour with the least distance to that line and its a are found for every pixel, connected pixels
with a > 1/2 are one object, and its shape is that whose coverage, at the same area and centre, is nearest to a.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np

from pushforward.core.errors import InputError
from pushforward.data.scenes.graph import COLOURS, SHAPES, SIZES, Object
from pushforward.data.scenes.render import Array, coverage

# Red, green, blue to brightness (Rec. 601, as JPEG has it), three times as heavy, and to the differences of colour.
OPPONENT = np.array([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])
OPPONENT = OPPONENT * [[3.0], [1.0], [1.0]]
PALETTE = np.array(list(COLOURS.values()), np.float64) / 255 @ OPPONENT.T
# Least share of an object's inner pixels that have its colour, and least overlap of its outline with a shape's.
PURE, ALIKE = 0.75, 0.75
# An object smaller than this share of the smallest is a speck, and not seen.
SPECK = 0.25
UNKNOWN = "unknown"
# Offsets in pixels and factors of the radius that are tried around the estimate.
OFFSETS, FACTORS = (-0.35, 0.0, 0.35), (0.95, 1.0, 1.05)
TRIED = np.array(list(product(OFFSETS, OFFSETS, FACTORS)))


def read(picture: Array) -> tuple[Object, ...]:
    """The objects in a picture (H, H, 3), uint8 or in [0, 1]; () if there are none.

    What is no shape of one colour and known size is an object of shape "unknown".
    """
    p = np.asarray(picture)
    if p.ndim != 3 or p.shape[2] != 3 or p.shape[0] != p.shape[1]:
        raise InputError(f"a picture of a scene is (H, H, 3), not {p.shape}")
    p = p.astype(np.float64) / 255 if p.dtype == np.uint8 else p.astype(np.float64)
    try:
        from scipy import ndimage
    except ImportError as error:
        raise InputError("reading scenes needs scipy: pip install scipy") from error
    size, p = len(p), p @ OPPONENT.T
    ground = np.median(p, (0, 1))
    away = p - ground
    lines = PALETTE - ground
    share = away @ lines.T / (lines**2).sum(1)
    off = np.linalg.norm(away[:, :, None] - share[..., None].clip(0, 1.2) * lines, axis=-1)
    nearest = off.argmin(-1)
    covered = np.take_along_axis(share, nearest[..., None], -1)[..., 0]
    parts, count = ndimage.label(covered > 0.5)
    found = []
    for part in range(1, count + 1):
        own = parts == part
        thing = _object(own, parts == 0, share, nearest, covered, size)
        if thing is not None:
            found.append(thing)
    return tuple(found)


def _object(
    own: Array, free: Array, share: Array, nearest: Array, covered: Array, size: int
) -> Object | None:
    least = np.pi * SIZES["small"][0] ** 2 * size**2
    if own.sum() < SPECK * least:
        return None
    rows, columns = np.nonzero(own)
    top, left = max(rows.min() - 2, 0), max(columns.min() - 2, 0)
    window = (
        slice(top, min(rows.max() + 3, size)),
        slice(left, min(columns.max() + 3, size)),
    )
    inner = own & (covered > 0.8)
    core = nearest[inner if inner.any() else own]
    votes = np.bincount(core, minlength=len(PALETTE))
    colour = int(votes.argmax())
    a = np.where((own | free)[window], share[window][..., colour], 0).clip(0, 1)
    # Faint pixels that do not touch the object are texture and noise.
    a = np.where((a > 0.2) | own[window], a, 0)
    area = a.sum()
    v, u = np.mgrid[window] + 0.5
    x, y = (a * u).sum() / area / size, (a * v).sum() / area / size
    r = float(np.sqrt(area / np.pi) / size)
    name = tuple(COLOURS)[colour]
    shape, overlap = _shape(a, u / size, v / size, x, y, r, 1 / size)
    known = (
        votes[colour] >= PURE * votes.sum()
        and overlap >= ALIKE
        and 0.85 * SIZES["small"][0] < r < 1.15 * SIZES["large"][1]
    )
    return Object(shape if known else UNKNOWN, name, float(x), float(y), r)


def _shape(
    a: Array, u: Array, v: Array, x: float, y: float, r: float, pixel: float
) -> tuple[str, float]:
    """The shape most like the coverage `a`, and by how much: shared over total area."""
    dx, dy, f = TRIED.T[..., None, None]
    best, found = -1.0, UNKNOWN
    for shape in SHAPES:
        t = coverage(shape, u - x - dx * pixel, v - y - dy * pixel, r * f, pixel)
        shared, total = np.minimum(a, t).sum((1, 2)), np.maximum(a, t).sum((1, 2))
        alike = float((shared / total).max())
        if alike > best:
            best, found = alike, shape
    return found, best


def read_all(pictures: Iterable[Any]) -> list[tuple[Object, ...]]:
    """`read` of each."""
    return [read(np.asarray(p)) for p in pictures]
