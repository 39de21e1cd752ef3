"""How large the images of a folder are, and a size for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pushforward.core.errors import DataError
from pushforward.data.images.decode import is_exhaustion, reason, upright_size
from pushforward.data.images.files import Files, Source, scan

# Powers of two, which networks halve without a rest. Above 64, pixels are too many for what a network of the usual
# width learns in a day on one machine: who has the means asks for more.
SIZES = (8, 16, 32, 64)
SHOWN = 10


@dataclass(frozen=True)
class Sizes:
    """Which sizes images have, upright.

    count:  (width, height) -> how many.
    first:  (width, height) -> the number of the first of them.
    unread: (number, reason) of files without a size.
    """

    count: dict[tuple[int, int], int]
    first: dict[tuple[int, int], int]
    unread: tuple[tuple[int, str], ...]

    @property
    def shortest(self) -> int:
        """The shortest side of all."""
        return min(min(size) for size in self.count)

    def __str__(self) -> str:
        """As in "20 images of 13 sizes (from 480 x 640 to 4000 x 3000)", by their areas."""
        total = sum(self.count.values())
        order = sorted(self.count, key=lambda size: (size[0] * size[1], size))
        (width, height), last = order[0], order[-1]
        images = f"{total} image{'s' if total > 1 else ''} of"
        if len(order) == 1:
            return f"{images} {width} x {height}"
        return f"{images} {len(order)} sizes (from {width} x {height} to {last[0]} x {last[1]})"

    def refusal(self, where: str, name: Callable[[int], str]) -> str:
        """That they are several, with an example of each."""
        order = sorted(self.count.items(), key=lambda item: -item[1])
        lines = [
            f"  {w} x {h}: {n} images, for example {name(self.first[w, h])}"
            for (w, h), n in order[:SHOWN]
        ]
        if len(order) > SHOWN:
            lines.append(f"  and {len(order) - SHOWN} more sizes")
        return "\n".join(
            [
                f"the images of {where} have {len(order)} sizes:",
                *lines,
                "Pass --size K (size=K) to make all of them K x K",
            ]
        )


def measure(source: Source, at_most: int | None = None) -> Sizes:
    """The sizes of all images, or of `at_most`, spread evenly over them. Only their headers are read."""
    total = len(source)
    number = total if at_most is None else min(at_most, total)
    entries = np.arange(number) * total // max(number, 1)
    sizes, unread = measure_each(source, entries)
    count: Counter[tuple[int, int]] = Counter()
    first: dict[tuple[int, int], int] = {}
    for entry, (height, width) in zip(entries.tolist(), sizes.tolist(), strict=True):
        if height:
            count[width, height] += 1
            first.setdefault((width, height), entry)
    return Sizes(dict(count), first, unread)


def measure_each(
    source: Source, entries: np.ndarray
) -> tuple[np.ndarray, tuple[tuple[int, str], ...]]:
    """(height, width) of each of these images (N, 2), 0 for one that cannot be read, and (number, reason) of those."""
    sizes = np.zeros((len(entries), 2), np.int64)
    unread: list[tuple[int, str]] = []
    for place, entry in enumerate(entries.tolist()):
        try:
            with source.open(entry) as image:
                width, height = upright_size(image)
        except DataError:
            raise
        except Exception as error:
            if is_exhaustion(error):
                raise
            unread.append((entry, reason(error)))
            continue
        sizes[place] = height, width
    return sizes, tuple(unread)


def describe_sizes(folder: str | Path, at_most: int | None = None) -> Sizes:
    """Which sizes the images of a folder have; `at_most`: of so many only, spread evenly over them.

    Raises DataError for a folder that is missing or has no image that can be opened.
    """
    source = Files(Path(folder), scan(Path(folder)))
    sizes = measure(source, at_most)
    if not sizes.count:
        entry, why = sizes.unread[0]
        raise DataError(f"{folder}: none of the images can be opened; {source.name(entry)} {why}")
    return sizes


def choose_size(sizes: Sizes) -> int:
    """The largest of 8, 16, 32 and 64 that does not exceed the shortest side, so that nothing is blown up.

    The shortest side itself if it is below 8.
    """
    return max((size for size in SIZES if size <= sizes.shortest), default=sizes.shortest)
