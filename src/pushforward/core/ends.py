"""The ends of time, where one prediction may say nothing about another.

At sigma = 0 the data and x_t are the same, at alpha = 0 the noise and x_t are, and on variance-preserving paths sigma'
is infinite at t = 1: the conversion between two predictions has no value there, though its limit exists. Only these
points themselves are moved, by a margin, and only for the conversion that needs it: everywhere else a model is asked
at the very time of its state.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction, conversion, jump

Ends = tuple[bool, bool]
MARGIN = 1e-3


def singular_ends(have: Prediction, want: Prediction, path: Path) -> Ends:
    """Whether the conversion from `have` to `want` has no value at t = 0, and at t = 1."""
    if have == want:
        return False, False
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    a, b = conversion(have, want, path.coefficients(ends))
    first, last = (~(a.isfinite() & b.isfinite())).tolist()
    return first, last


def singular_jumps(have: Prediction, path: Path) -> Ends:
    """Whether a step of DDIM from t = 0, and from t = 1, has no value with the prediction `have`."""
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    middle = path.coefficients(torch.full_like(ends, 0.5))
    a, b = jump(have, path.coefficients(ends), middle)
    first, last = (~(a.isfinite() & b.isfinite())).tolist()
    return first, last


def check_margin(margin: float | None) -> None:
    if margin is not None and not 0 < margin < 0.5:
        raise InputError(f"margin is {margin}; it must lie in (0, 0.5)")


def margin_for(margin: float | None, dtype: torch.dtype) -> float:
    """The margin, or the usual one: 1e-6 for states in float64, 1e-3 in shorter formats, whose networks have errors
    that the conversion would enlarge by 1/margin."""
    if margin is not None:
        return margin
    return 1e-6 if dtype == torch.float64 else MARGIN


def away(t: Tensor, ends: Ends, margin: float) -> Tensor:
    """t (B,) with times at a singular end moved by `margin`, and all others as they are."""
    first, last = ends
    if first:
        t = torch.where(t <= 0, margin, t)
    if last:
        t = torch.where(t >= 1, 1 - margin, t)
    return t
