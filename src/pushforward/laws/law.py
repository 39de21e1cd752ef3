"""What a law is: it can be drawn from, and its density is known."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from pushforward.core.noise import Noise


class Law(Protocol):
    """A distribution that can be drawn from and whose density is known."""

    def draw(self, noise: Noise) -> Tensor:
        """One sample for each id of `noise`."""

    def sample(self, n: int, seed: int = 0) -> Tensor: ...

    def log_prob(self, x: Tensor) -> Tensor: ...
