"""A finite data set as a law to draw from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.core.errors import UndefinedError
from pushforward.core.noise import DATA, Noise
from pushforward.data.dataset import Dataset


@dataclass(frozen=True)
class Resampled:
    """Entries of a data set, drawn uniformly with replacement: the source of a flow between two data sets.

    Which entry a sample starts from is a function of (seed, id, step).
    """

    data: Dataset

    def indices(self, noise: Noise) -> Tensor:
        """(B,) int64: the entries drawn."""
        place = noise.uniform((), DATA) * len(self.data)
        return place.long().clamp(max=len(self.data) - 1)

    def draw(self, noise: Noise) -> Tensor:
        """(B, ...) float32, one entry for each id."""
        return self.data[self.indices(noise)].x1.to(noise.ids.device)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """(n, ...) the entries with ids 0, ..., n - 1."""
        return self.draw(Noise.batch(n, seed, device=torch.device("cpu")))

    def log_prob(self, x: Tensor) -> Tensor:
        raise UndefinedError("a finite data set has no density")
