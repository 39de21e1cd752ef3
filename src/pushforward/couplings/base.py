"""What a coupling is."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from pushforward.core.conditions import Conditions
from pushforward.core.noise import Noise


class Coupling(Protocol):
    """Pairs the source samples of a batch with its data.

    x0:    (B, ...) source samples. x1: (B, ...) data.
    noise: keyed by (seed, step) and the ids of the samples, for random plans.
    cond:  the conditions of x1, one row for each sample. A source sample has no condition; couplings that need one use
           that of its row, which is independent of it.

    Returns indices (i, j), int64 (B,) each on x1's device: x0[i] goes with x1[j], and x1[j] keeps cond[j].
    """

    def __call__(
        self, x0: Tensor, x1: Tensor, noise: Noise, cond: Conditions | None = None
    ) -> tuple[Tensor, Tensor]: ...
