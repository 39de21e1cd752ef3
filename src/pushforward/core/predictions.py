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
    if isinstance(path, str | type) or not hasattr(path, "gaussian_source"):
        known = path.__name__ if isinstance(path, type) else "pf.CondOT"
        raise InputError(f"a path is an object, such as {known}(), and this is {path!r}")
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


def jump(have: Prediction, c_t: Coefficients, c_s: Coefficients) -> tuple[Tensor, Tensor]:
    """(a, b), each of t's shape, with `alpha_s x1 + sigma_s x0 = a x_t + b have`, have = p x1 + q x0 at t.

        a = (alpha_s q - sigma_s p)/D,   b = (alpha_t sigma_s - sigma_t alpha_s)/D,   D = alpha_t q - sigma_t p

    The step of DDIM from t to s, in any prediction: with the data (p, q) = (1, 0), a = sigma_s/sigma_t. On CondOT with
    the velocity a = 1 and b = s - t. Not finite where `have` and x_t say the same thing (see `conversion`).
    """
    p, q = row(have, c_t)
    det = c_t.alpha * q - c_t.sigma * p
    return (
        (c_s.alpha * q - c_s.sigma * p) / det,
        (c_t.alpha * c_s.sigma - c_t.sigma * c_s.alpha) / det,
    )


def secant(x_t: Tensor, x_s: Tensor, t: Tensor, s: Tensor, path: Path, want: Prediction) -> Tensor:
    """The prediction at (x_t, t) with which one step of DDIM leads to x_s: `(x_s - a x_t)/b`, a and b of `jump`.

    On CondOT, as a velocity, (x_s - x_t)/(s - t). As the data it is the target of progressive distillation, Salimans &
    Ho 2022 (arXiv 2202.00512), alg. 2: (x_s - (sigma_s/sigma_t) x_t)/(alpha_s - (sigma_s/sigma_t) alpha_t).
    x_t, x_s: (B, ...); t, s: (B,), nowhere equal.
    """
    a, b = jump(want, path.coefficients(t), path.coefficients(s))
    return (x_s - expand(a, x_t) * x_t) / expand(b, x_t)
