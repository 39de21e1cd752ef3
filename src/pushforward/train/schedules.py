"""Learning rates over a run."""

from __future__ import annotations

import math
from typing import Literal

Decay = Literal["constant", "cosine", "linear"]


def learning_rate(
    step: int, steps: int, peak: float, warmup: int = 0, decay: Decay = "constant"
) -> float:
    """The rate of optimiser step `step` of `steps`, counted from 0.

    Linear from peak/warmup to peak over the first `warmup` steps; then constant, or down to 0 at `steps` in a straight
    line or along half a cosine.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    match decay:
        case "constant":
            return peak
        case "linear":
            return peak * (1 - done)
        case "cosine":
            return peak * (1 + math.cos(math.pi * done)) / 2
