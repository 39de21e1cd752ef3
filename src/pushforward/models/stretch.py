"""Brightness over many orders of magnitude as states of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pushforward.core.errors import InputError


@dataclass(frozen=True)
class LogStretch:
    """`y = ln(x + 1)/scale` of what is greater than -1, and back: of a model, its codec.

    A density of y is one of x by `ln p(x) = ln p(y) - sum ln(scale (x + 1))`.
    """

    scale: float = 0.1

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise InputError(f"the scale of a stretch must be positive, not {self.scale}")

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"LogStretch {self.scale!r}".encode()).hexdigest()

    def latent_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape)

    def encode(self, x: Tensor) -> Tensor:
        if not bool((x > -1).all()):
            raise InputError("the logarithm of x + 1 is taken, and some values are -1 or less")
        return x.log1p() / self.scale

    def decode(self, z: Tensor) -> Tensor:
        return (z * self.scale).expm1()
