"""Learning rates over a run."""

from __future__ import annotations

import math
from typing import Literal

from pushforward.core.errors import InputError

Decay = Literal["constant", "cosine", "linear", "trapezoid", "inverse-root"]

# The share of a run over which a trapezoid comes down.
DESCENT = 0.2


def learning_rate(
    step: int, steps: int, peak: float, warmup: int = 0, decay: Decay = "constant"
) -> float:
    """The rate of optimiser step `step` of `steps`, counted from 0.

    Linear from peak/warmup to peak over the first `warmup` steps; then, with u in [0, 1] the share of the rest that is
    done,

        constant       peak
        linear         peak (1 - u)
        cosine         peak (1 + cos pi u)/2
        trapezoid      peak min(1, (1 - u)/0.2)           constant, and down over the last fifth
        inverse-root   peak / sqrt(max(1, 10 u))          as EDM2's, from a tenth of the run on

    Loshchilov & Hutter 2017 (arXiv 1608.03983); Hagele et al. 2024 (arXiv 2405.18392); Karras et al. 2024 (arXiv
    2312.02696), eq. 67.
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
        case "trapezoid":
            return peak * min(1.0, (1 - done) / DESCENT)
        case "inverse-root":
            return peak / math.sqrt(max(1.0, 10 * done))
    raise InputError(f"there is no decay {decay!r}")
