"""One prediction under five names.

Whatever a network predicts is a linear combination `p x1 + q x0` of data and noise, and x_t is another one:

    x_t = alpha x1 + sigma x0
    velocity = alpha' x1 + sigma' x0      data = x1      noise = x0
    score = -x0 / sigma                   v = alpha x0 - sigma x1

Two equations give x1 and x0, so that any of the five, with x_t, gives the four others. The same holds for
posterior means given x_t, which is what a trained network returns. For the score into the velocity this is

    velocity = (alpha'/alpha) x + (sigma^2 alpha'/alpha - sigma sigma') score

(Holderrieth & Erives 2025, arXiv 2506.02070, prop. 1). Score: Vincent 2011. Noise: Ho et al. 2020 (arXiv 2006.11239).
v: Salimans & Ho 2022 (arXiv 2202.00512), app. D, with the sign of that paper, v = alpha eps - sigma x.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from pushforward.core.errors import InputError, UndefinedError
from pushforward.core.interpolants import Interpolant
from pushforward.core.paths import Coefficients, Path
from pushforward.core.shapes import as_time, expand

Prediction = Literal["velocity", "data", "noise", "score", "v"]
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)


def row(name: Prediction, c: Coefficients) -> tuple[Tensor, Tensor]:
    """(p, q), each of t's shape, with `name = p x1 + q x0`."""
    zero, one = torch.zeros_like(c.alpha), torch.ones_like(c.alpha)
    match name:
        case "velocity":
            return c.d_alpha, c.d_sigma
        case "data":
            return one, zero
        case "noise":
            return zero, one
        case "score":
            return zero, -1 / c.sigma
        case "v":
            return -c.sigma, c.alpha
    raise InputError(
        f"there is no prediction {name!r}; the predictions are {', '.join(PREDICTIONS)}"
    )


def check_defined(name: Prediction, path: Path) -> None:
    """Raise unless `name` is a prediction that exists on this path."""
    if name not in PREDICTIONS:
        raise InputError(
            f"there is no prediction {name!r}; the predictions are {', '.join(PREDICTIONS)}"
        )
    if name in ("score", "noise"):
        path.require_gaussian(name)
    if name != "velocity" and isinstance(path, Interpolant):
        raise UndefinedError(
            f"the {name} does not follow from the velocity on {path}, which adds noise on the way: ask for the "
            f"velocity, or train a model that knows both"
        )


def target(name: Prediction, x0: Tensor, x1: Tensor, t: Tensor | float, path: Path) -> Tensor:
    """`p x1 + q x0`: what a network that predicts `name` is to return for this pair. x0, x1: (B, ...)."""
    check_defined(name, path)
    p, q = row(name, path.coefficients(as_time(t, x1)))
    return expand(p, x1) * x1 + expand(q, x0) * x0


def conversion(have: Prediction, want: Prediction, c: Coefficients) -> tuple[Tensor, Tensor]:
    """(a, b), each of t's shape, with `want = a x_t + b have`.

    With have = p x1 + q x0 and want = r x1 + s x0, Cramer's rule:

        a = (r q - s p)/D,   b = (alpha s - sigma r)/D,   D = alpha q - sigma p

    D = 0 where `have` and x_t say the same thing: data at sigma = 0, noise or score at alpha = 0.
    The result is then not finite.
    """
    p, q = row(have, c)
    r, s = row(want, c)
    det = c.alpha * q - c.sigma * p
    return (r * q - s * p) / det, (c.alpha * s - c.sigma * r) / det


def convert(
    value: Tensor, x: Tensor, t: Tensor | float, path: Path, have: Prediction, want: Prediction
) -> Tensor:
    """The prediction `want` at (x_t, t) from the prediction `have` there.

    value, x: (B, ...); t: one time or (B,). Raises `UndefinedError` for a score or noise that the path's source
    does not define.
    """
    check_defined(have, path)
    check_defined(want, path)
    if have == want:
        return value
    a, b = conversion(have, want, path.coefficients(as_time(t, x)))
    return expand(a, x) * x + expand(b, x) * value
