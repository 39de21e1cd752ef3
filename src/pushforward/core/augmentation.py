"""Low-resolution pictures made worse on purpose, so that a cascade's next stage is not misled by flaws of the last one.

A super-resolution model is trained on pictures at random levels, is shown the level, and is sampled at any one level.
Level 0 is the picture itself.

Ho et al. 2021 (Cascaded Diffusion Models, arXiv 2106.15282), sec. 4; Saharia et al. 2022 (Imagen, arXiv 2205.11487),
app. A.1; Ramesh et al. 2022 (arXiv 2204.06125), sec. 2.1, for the blur.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import AUGMENT, Noise
from pushforward.core.shapes import expand


class Augmentation(Protocol):
    """(x (B, C, h, w), level (B,), noise of the samples) -> (B, C, h, w). most: the highest level of training."""

    @property
    def most(self) -> float: ...

    def __call__(self, x: Tensor, level: Tensor, noise: Noise) -> Tensor: ...


@dataclass(frozen=True)
class NoiseAugmentation:
    """`sqrt(1 - s^2) x + s z`, z ~ N(0, I), at level s in [0, most]: of the variance of x, if that is 1."""

    most: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.most <= 1:
            raise InputError(f"most is {self.most}; the share of noise lies in (0, 1]")

    def __call__(self, x: Tensor, level: Tensor, noise: Noise) -> Tensor:
        s = check_level(self, x, level)
        z = noise.to(x.device).normal(x.shape[1:], AUGMENT, x.dtype)
        return expand((1 - s**2).sqrt(), x) * x + expand(s, x) * z


@dataclass(frozen=True)
class BlurAugmentation:
    """A Gaussian blur of standard deviation s pixels of the low-resolution picture, at level s in [0, most].

    Each pixel becomes the mean of all, with weights exp(-d^2/(2 s^2)) of their distances d that add up to 1 within the
    picture, so that a plain picture stays as it is.
    """

    most: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.most < math.inf:
            raise InputError(f"most is {self.most}; the width of a blur is positive and finite")

    def __call__(self, x: Tensor, level: Tensor, noise: Noise) -> Tensor:
        s = check_level(self, x, level)
        return (_weights(x.shape[2], s) @ x.movedim(1, 0) @ _weights(x.shape[3], s).mT).movedim(
            0, 1
        )


def _weights(side: int, s: Tensor) -> Tensor:
    """(B, side, side): row i has the weights of all places around place i; the identity at s = 0."""
    place = torch.arange(side, device=s.device, dtype=s.dtype)
    d = (place[:, None] - place)[None]
    # At the least width every other place is too far to count.
    w = torch.exp(-((d / s.clamp(min=1e-3)[:, None, None]) ** 2) / 2)
    return w / w.sum(2, keepdim=True)


def check_level(augmentation: Augmentation, x: Tensor, level: Tensor) -> Tensor:
    """Levels (B,) in x's precision, which must lie where the model was trained."""
    if x.ndim != 4 or level.shape != x.shape[:1]:
        raise InputError(
            f"an augmentation takes pictures (B, C, h, w) and a level (B,), got {tuple(x.shape)} and "
            f"{tuple(level.shape)}"
        )
    if level.numel() and not bool(((level >= 0) & (level <= augmentation.most)).all()):
        low, high = float(level.min()), float(level.max())
        raise InputError(
            f"an augmentation level lies in [0, {augmentation.most:g}], where the model was trained, and this one is "
            f"{low if low < 0 else high:g}"
        )
    return level.to(x.device, x.dtype)
