"""The distance between neighbouring values of quantised data, from all of them."""

from __future__ import annotations

import numpy as np

# More different values than 16 bits have cannot be distinguished from a continuous density.
MAX_LEVELS = 1 << 16
# The least gap that occurs may be this many bins wide.
MOST_SKIPPED = 8
# Values repeat on a grid; where each occurs about once, being on one says nothing.
REPEATS = 2
EPS = float(np.finfo(np.float32).eps)


class Grid:
    """Whether numbers lie on a grid, v = a + k w with whole k, as grey levels do; fed part by part.

        grid = Grid()
        for part in parts:
            grid.add(part)
        grid.width()                # w, or None

    Values count as on the grid if they are within the rounding of float32, in which batches come. None: off any grid,
    more than 2^16 levels, fewer than two, or each value seen less than twice on average.
    """

    def __init__(self) -> None:
        self._levels = np.empty(0)
        self._count = 0
        self._failed = False

    def add(self, values: np.ndarray) -> None:
        """More of the numbers, of any shape, all finite."""
        if self._failed or values.size == 0:
            return
        flat = np.asarray(values).reshape(-1)
        self._count += flat.size
        # Continuous data show it in a few numbers, before many are sorted.
        for part in (flat[: MAX_LEVELS + 1], flat[MAX_LEVELS + 1 :]):
            self._levels = np.union1d(self._levels, np.unique(part).astype(np.float64))
            if len(self._levels) > MAX_LEVELS:
                self._failed = True
                return

    def width(self) -> float | None:
        levels = self._levels
        if self._failed or len(levels) < 2 or self._count < REPEATS * len(levels):
            return None
        span = float(levels[-1] - levels[0])
        rounding = 4 * EPS * float(np.abs(levels[[0, -1]]).max())
        # One level may come in two roundings, x / 255 computed in two ways: these are one.
        levels = levels[np.concatenate(([True], np.diff(levels) > rounding))]
        if len(levels) < 2:
            return None
        least = float(np.diff(levels).min())
        for skipped in range(1, MOST_SKIPPED + 1):
            bins = round(span * skipped / least)
            if bins > MAX_LEVELS:
                return None
            width = span / bins
            if width < 8 * rounding:
                return None
            off = (levels - levels[0]) / width
            if float(np.abs(off - np.rint(off)).max()) * width <= rounding:
                return width
        return None
