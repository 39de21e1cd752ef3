"""Pictures of several shapes as a data set for each frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pushforward.data.dataset import Dataset
from pushforward.data.images.lazy import Pictures


@dataclass(frozen=True)
class Mixed:
    """The samples of a data set by frame.

    parts: those of each frame that has any, the most usual frame of the whole data first.
    rows:  for each part, which samples of the data set these are, (n,) int64.
    """

    parts: tuple[Dataset, ...]
    rows: tuple[Tensor, ...]


def divide(data: Dataset, memory: int = 0) -> Mixed:
    """The data set that `load_mixed` made, or a part of it, by frame; one part if it has one frame.

    memory: if all pixels take no more bytes, and are not cropped at random, they are decoded now. Bad pictures that are
    to be skipped are then left out.
    """
    values = data.values
    if not isinstance(values, Pictures) or values.buckets is None:
        return Mixed((data,), (torch.arange(len(data)),))
    own = np.arange(len(values)) if data.rows is None else data.rows
    which = torch.from_numpy(values.buckets.which[own])
    parts, rows, taken = [], [], 0
    for number in range(len(values.buckets.frames)):
        places = (which == number).nonzero().flatten()
        if len(places):
            part = data.subset(places)
            part = replace(part, values=values.in_frame(number))
            taken += len(part) * int(np.prod(part.shape))
            parts.append(part)
            rows.append(places)
    if taken <= memory and values.crop == "centre":
        both = [_decoded(part, places) for part, places in zip(parts, rows, strict=True)]
        parts, rows = [part for part, _ in both], [places for _, places in both]
    return Mixed(tuple(parts), tuple(rows))


def _decoded(part: Dataset, rows: Tensor) -> tuple[Dataset, Tensor]:
    """The part with its pixels in memory, without what is bad."""
    values = part.values
    assert isinstance(values, Pictures)
    places = np.arange(len(part))
    pixels, found = values.read(places, part.rows)
    good = found == places
    if not good.all():
        kept = torch.from_numpy(places[good])
        part, rows, pixels = part.subset(kept), rows[kept], pixels[good]
    return replace(part, values=pixels, rows=None), rows
