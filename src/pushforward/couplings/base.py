"""What a coupling is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from pushforward.core.noise import Noise


class Coupling(Protocol):
    """Pairs the source samples of a batch with its data.

    x0:    (B, ...) source samples. x1: (B, ...) data.
    noise: keyed by (seed, step) and the ids of the samples, for a plan that is drawn at random.
    cond:  what x1 is conditioned on, tensors (B, ...) by name. A source sample has no condition of its own; those that
           need one for it take that of its row, with which it came together independently.

    Returns indices (i, j), int64 (B,) each on x1's device: x0[i] goes with x1[j], and x1[j] keeps cond[j].
    """

    def __call__(
        self, x0: Tensor, x1: Tensor, noise: Noise, cond: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]: ...
