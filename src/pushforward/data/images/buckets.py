"""Frames of about equal area for pictures of several shapes, so that little of any is cropped."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from pushforward.core.errors import InputError

# The longer side of a frame over its shorter one, at most.
ASPECT = 4.0
# Sides are multiples of the size over this, or of the unit where that is larger.
PARTS = 16
# How far the area of a frame may be from that of the square.
TOLERANCE = 0.15


@dataclass(frozen=True, eq=False)
class Buckets:
    """Which frame each picture is cut to.

    frames: (H, W), the one that most pictures have first.
    which:  (N,) int64, for each picture the frame whose shape is nearest to its own.
    lost:   the share of their area that is cropped, in the mean over pictures.
    """

    frames: tuple[tuple[int, int], ...]
    which: np.ndarray
    lost: float

    @property
    def counts(self) -> tuple[int, ...]:
        """How many pictures each frame has."""
        return tuple(np.bincount(self.which, minlength=len(self.frames)).tolist())

    def digest(self) -> str:
        """SHA-256 of the frames and of which each picture has."""
        digest = hashlib.sha256(json.dumps(self.frames).encode())
        digest.update(np.ascontiguousarray(self.which, "<i8").data)
        return digest.hexdigest()

    def __str__(self) -> str:
        """As in "64 x 64 (40), 80 x 52 (12)", widths first."""
        each = zip(self.frames, self.counts, strict=True)
        return ", ".join(f"{w} x {h} ({n})" for (h, w), n in each)


def candidates(size: int, unit: int = 1) -> list[tuple[int, int]]:
    """Frames (H, W) of about size^2 pixels, wide ones last, whose sides are multiples of `unit`, each also on its side.

    Sides are also multiples of the largest multiple of `unit` up to size / 16, and one is at most 4 times the other.
    """
    if size < 1 or unit < 1:
        raise InputError(f"size is {size} and unit is {unit}; both must be positive")
    step = unit * max(1, size // (PARTS * unit))
    found = set[tuple[int, int]]()
    for width in range(step, int(size * ASPECT**0.5) + 1, step):
        below = size**2 // (width * step) * step
        for height in (below, below + step):
            fits = abs(width * height / size**2 - 1) <= TOLERANCE
            if fits and max(width, height) <= ASPECT * min(width, height):
                found |= {(height, width), (width, height)}
    if not found:
        raise InputError(
            f"there is no frame of about {size} x {size} pixels with sides that are multiples of {unit}: choose a "
            f"multiple of {unit} as --size"
        )
    return sorted(found, key=lambda frame: (frame[1] / frame[0], frame))


def cropped(sizes: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """(N, F) the share of the area of pictures (N, 2) that is cropped to give them the shape of frames (F, 2).

    1 - min(r/s, s/r) for pictures of shape r = H/W and frames of shape s. Sizes as (H, W).
    """
    r = np.log(sizes[:, 0] / sizes[:, 1])
    s = np.log(frames[:, 0] / frames[:, 1])
    lost: np.ndarray = -np.expm1(-np.abs(r[:, None] - s))
    return lost


def choose(sizes: np.ndarray, frames: list[tuple[int, int]], number: int) -> list[int]:
    """Which of the frames, `number` of them at most, crop the least of pictures (N, 2) in sum; the fewest that do.

    Exact, by dynamic programming over shapes in order: between two neighbouring frames that are chosen each picture
    takes the one that crops less of it.
    """
    shapes = np.array(frames, float)
    order = np.argsort(shapes[:, 0] / shapes[:, 1], kind="stable")
    distinct, counts = np.unique(sizes, axis=0, return_counts=True)
    lost = cropped(distinct, shapes[order]) * counts[:, None]
    f = len(order)
    ratio = distinct[:, 0] / distinct[:, 1]
    # Pictures 0 ... place[j] - 1 are no taller in shape than frame j.
    by_shape = np.argsort(ratio, kind="stable")
    lost, ratio = lost[by_shape], ratio[by_shape]
    place = np.searchsorted(ratio, (shapes[:, 0] / shapes[:, 1])[order], side="right")
    between = np.full((f, f), np.inf)
    for i in range(f):
        for j in range(i + 1, f):
            some = slice(place[i], place[j])
            between[i, j] = np.minimum(lost[some, i], lost[some, j]).sum()
    first = np.array([lost[: place[j], j].sum() for j in range(f)])
    last = np.array([lost[place[j] :, j].sum() for j in range(f)])
    best, before = first, list[np.ndarray]()
    found: list[tuple[float, int, int]] = []
    for k in range(min(number, f)):
        if k:
            through = best[:, None] + between
            before.append(through.argmin(0))
            best = through.min(0)
        end = int((best + last).argmin())
        found.append((float((best + last)[end]), k, end))
    least = min(cost for cost, _, _ in found)
    _, k, end = next(one for one in found if one[0] <= least * (1 + 1e-9) + 1e-12)
    chain = [end]
    for step in reversed(before[:k]):
        chain.append(int(step[chain[-1]]))
    return sorted(int(order[j]) for j in chain)


def find_buckets(
    sizes: np.ndarray, size: int, unit: int = 1, number: int = 8, least: int = 1
) -> Buckets:
    """The frames for pictures (N, 2) of these heights and widths; see `candidates` and `choose`.

    A picture of size (0, 0), which could not be read, goes with the most. least: of pictures that a frame has; one with
    fewer is dropped, unless it is the only one.
    """
    sizes = np.asarray(sizes, float)
    read = (sizes > 0).all(1)
    if not read.any() or number < 1:
        raise InputError("buckets are found for pictures whose sizes are known, and at least one")
    possible = candidates(size, unit)
    frames = np.array([possible[i] for i in choose(sizes[read], possible, number)])
    while True:
        lost = cropped(sizes[read], frames)
        which = lost.argmin(1)
        counts = np.bincount(which, minlength=len(frames))
        if len(frames) == 1 or counts.min() >= least:
            break
        frames = np.delete(frames, counts.argmin(), axis=0)
    order = np.argsort(-counts, kind="stable")
    back = np.argsort(order, kind="stable")
    all_of_them = np.zeros(len(sizes), np.int64)
    all_of_them[read] = back[which]
    kept = tuple((int(h), int(w)) for h, w in frames[order])
    return Buckets(kept, all_of_them, float(lost.min(1).mean()))
