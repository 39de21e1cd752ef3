"""Are samples copies of training data? Their nearest training images, and how near those are to new data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.evaluate.metrics.distances import check_points, row_blocks, squared_distances

# The share of new images that are as near to the training set as what is taken for a copy.
QUANTILE = 0.01
# Training data that are compared at a time.
BLOCK = 8192


@dataclass(frozen=True)
class Nearest:
    """distances: (N, k) float64, the least first. indices: (N, k) int64, whose they are."""

    distances: Tensor
    indices: Tensor

    def __getitem__(self, rows: slice | Tensor) -> Nearest:
        return Nearest(self.distances[rows], self.indices[rows])


def nearest(queries: Tensor, data: Tensor | Iterable[Tensor], k: int = 1) -> Nearest:
    """The k nearest points of `data` (M, D), given whole or in blocks, to each of `queries` (N, D).

    Exact: every pair is compared, in float64; a copy has the distance 0. Raises InputError for fewer than k data.
    """
    if k < 1:
        raise InputError(f"k is {k}; it must be positive")
    blocks: Iterable[Tensor] = (data,) if isinstance(data, Tensor) else data
    squared = torch.empty(len(queries), 0, dtype=torch.float64)
    indices = torch.empty(len(queries), 0, dtype=torch.int64)
    start, centred, centre = 0, queries.double(), None
    for part in (part for block in blocks for part in block.split(BLOCK)):
        check_points(1, queries, part)
        if centre is None:
            centre = part.double().mean(0)
            centred = centred - centre
        there, found = part.double() - centre, min(k, len(part))
        least, place = [], []
        for rows in row_blocks(len(queries), len(part)):
            top = squared_distances(centred[rows], there).topk(found, dim=1, largest=False)
            least.append(top.values)
            place.append(top.indices + start)
        squared = torch.cat((squared, torch.cat(least)), dim=1)
        indices = torch.cat((indices, torch.cat(place)), dim=1)
        squared, order = squared.sort(dim=1, stable=True)
        squared, indices = squared[:, :k], indices.gather(1, order)[:, :k]
        start += len(part)
    if start < k:
        raise InputError(f"{k} nearest of {start} points were asked for")
    return Nearest(squared.sqrt(), indices)


@dataclass(frozen=True)
class Memorisation:
    """How near samples are to the training data, beside held-out data, which cannot have been copied.

    samples: the nearest training data of each sample. held_out: those of each sample kept apart.
    """

    samples: Nearest
    held_out: Nearest

    @property
    def threshold(self) -> float:
        """The distance that a share `QUANTILE` of new data do not reach."""
        return float(self.held_out.distances[:, 0].quantile(QUANTILE))

    @property
    def copied(self) -> float:
        """The share of samples that are no farther than `threshold`: `QUANTILE` for samples that are new data."""
        return float((self.samples.distances[:, 0] <= self.threshold).double().mean())

    @property
    def ratio(self) -> float:
        """The median distance of samples over that of held-out data: 1 for new data, 0 for copies."""
        here, there = (part.distances[:, 0].median() for part in (self.samples, self.held_out))
        return float(here / there) if there > 0 else 1.0

    def figures(self, name: str) -> dict[str, float]:
        """nearest_ratio_NAME: `ratio`. copied_NAME: `copied`."""
        return {f"nearest_ratio_{name}": self.ratio, f"copied_{name}": self.copied}


def memorisation(
    samples: Tensor, held_out: Tensor, data: Tensor | Iterable[Tensor], k: int = 5
) -> Memorisation:
    """Compare samples (N, D) and held-out data (M, D) with training data, features or pixels as vectors.

    k: nearest training data that are kept, but no more than there are.

    Meehan, Chaudhuri & Dasgupta 2020 (arXiv 2004.05675) compare these two sets of distances, by their ranks.
    """
    check_points(1, samples, held_out)
    if isinstance(data, Tensor):
        k = min(k, len(data))
    found = nearest(torch.cat((samples.double(), held_out.double())), data, k)
    return Memorisation(found[: len(samples)], found[len(samples) :])
