"""Images with part of their resolution taken away."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pushforward.core.errors import InputError, UndefinedError
from pushforward.core.noise import AUGMENT, DATA, Noise
from pushforward.data.dataset import Dataset


def coarsen(x: Tensor, factor: int) -> Tensor:
    """Images (B, C, H, W) of the same size whose blocks of factor x factor pixels have one value, their mean.

    A projection: coarse images stay as they are. InputError if the sides are no multiples of the factor.
    """
    if x.ndim != 4 or factor < 1 or x.shape[2] % factor or x.shape[3] % factor:
        raise InputError(
            f"images (B, C, H, W) with sides that are multiples of {factor} are needed, got {tuple(x.shape)}"
        )
    small = avg_pool2d(x, factor)
    return small.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


@dataclass(frozen=True)
class Small:
    """The hint of pictures (B, C, H, W) that is their means over blocks of factor x factor pixels."""

    factor: int

    moves = True

    def __call__(self, x1: Tensor, rows: Tensor | None = None) -> Tensor:
        return avg_pool2d(x1, self.factor)


@dataclass(frozen=True)
class Coarse:
    """The law of coarse images with noise: `x0 = coarsen(x1, factor) + std z`, x1 drawn from a data set.

    Each x0 has its x1, which `pair` gives, too. Which it is, and z, are functions of (seed, id, step).
    """

    data: Dataset
    factor: int
    std: float

    def pair(self, noise: Noise) -> tuple[Tensor, Tensor]:
        """(x0, x1), (B, C, H, W) each."""
        place = (noise.uniform((), DATA) * len(self.data)).long().clamp(max=len(self.data) - 1)
        x1 = self.data[place].x1.to(noise.ids.device)
        z = noise.normal(x1.shape[1:], AUGMENT, x1.dtype)
        return coarsen(x1, self.factor) + self.std * z, x1

    def draw(self, noise: Noise) -> Tensor:
        """One x0 for each id of `noise`."""
        return self.pair(noise)[0]

    def sample(self, n: int, seed: int = 0) -> Tensor:
        return self.draw(Noise.batch(n, seed, device=torch.device("cpu")))

    def log_prob(self, x: Tensor) -> Tensor:
        raise UndefinedError(
            "the density of coarse images is a sum over the whole data set: not offered"
        )
