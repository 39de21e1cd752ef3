"""Captions that a model wrote beside those that were there: which of the two a drawing takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pushforward.core.errors import DataError, InputError
from pushforward.core.noise import CAPTION, Noise

SHOWN = 3


@dataclass(frozen=True, eq=False)
class Recaptions:
    """Other texts of N samples, and the share of drawings that take them.

    Each drawing of a sample takes its other text where u < share, u being uniform by the noise of this drawing: in
    every epoch anew, and the same in a run that is resumed or shared by several processes.

    Betker et al. 2023 (DALL-E 3), sec. 3.2, where the share is 0.95.
    """

    lines: tuple[str, ...]
    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InputError(f"the share of new captions is {self.share}; it lies in [0, 1]")

    def drawn(self, noise: Noise) -> Tensor:
        """(B,) bool: which of the samples take their other text."""
        return noise.uniform((), CAPTION) < self.share

    def part(self, rows: np.ndarray) -> Recaptions:
        """Those of the samples at these places."""
        return Recaptions(tuple(self.lines[i] for i in rows), self.share)


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of a file that `pushforward caption` wrote. A last line that was cut off is skipped."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith("\n"):
                    return
                try:
                    found = json.loads(line)
                except ValueError:
                    found = None
                if isinstance(found, dict) and "error" in found:
                    continue  # A picture that could not be read.
                if not isinstance(found, dict) or not isinstance(found.get("text"), str):
                    raise DataError(
                        f"{path}, line {number} is no caption: each line is an object with id and text, as pushforward "
                        f"caption writes them"
                    )
                yield number, found
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the captions {path}: {error}") from error


def read_recaptions(
    path: str | Path, share: float, count: int, names: Sequence[str] | None = None
) -> Recaptions:
    """The captions in a file of `pushforward caption` for all of `count` samples.

    Samples are found by their names (`file_name`) where they have some, else by their numbers (`id`). Raises DataError
    for a sample without a caption, or with two.
    """
    path = Path(path)
    key, kind = ("id", int) if names is None else ("file_name", str)
    rows: dict[Any, int] = {name: row for row, name in enumerate(names or range(count))}
    lines: list[str] = [""] * count
    others = 0
    for number, item in read_lines(path):
        name = item.get(key)
        if type(name) is not kind or name not in rows:
            others += 1
            continue
        if lines[rows[name]]:
            raise DataError(f"{path}, line {number}: {key} {name} has a caption already")
        lines[rows[name]] = item["text"].strip()
    missing = [row for row, line in enumerate(lines) if not line]
    if missing:
        first = ", ".join(str(row) if names is None else names[row] for row in missing[:SHOWN])
        dots = ", ..." if len(missing) > SHOWN else ""
        also = f"; {others} of its captions are of other pictures" if others else ""
        raise DataError(
            f"{path} has no caption for {len(missing)} of {count} pictures, {first}{dots}{also}: write them with "
            f"pushforward caption"
        )
    return Recaptions(tuple(lines), share)
