"""Samples given an observation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.errors import InputError
from pushforward.core.fields import Field
from pushforward.guidance.posterior import Full, Operator, Posterior, Spread
from pushforward.sampling.checks import check_whole
from pushforward.sampling.generate import generate, home, shape_of

# Tensors among the options of `generate` that are no conditions.
KEPT = ("grid", "source", "mask")


def posterior(
    field: Field,
    y: Tensor,
    operator: Operator,
    noise_std: float,
    n: int = 1,
    *,
    nfe: int | None = None,
    method: Spread | None = None,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """Draw from p(x | y) for y = operator(x) + noise_std z, z standard normal: `n` samples for each observation.

    field:    a model, or any Field on a Gaussian path, guided ones included.
    y:        one observation (*M), or B of them (B, *M).
    operator: (B, ...) -> (B, *M), see `guidance.operators`, or any function of each sample by itself that can be
              differentiated twice.
    method:   how the uncertainty of the data given x_t is treated, see `guidance.posterior`; by default `Full()`
              (MMPS), which is exact for Gaussian data and linear operators.
    nfe:      network calls for each sample, each with a few backward passes.
    options:  those of `generate`: solver, guidance, label, conditions; a condition has one row for each observation.

    Returns (n, *shape) for one observation, and (B, n, *shape) for B. Sample j of observation i is a function of the
    seed and i n + j.
    """
    check_whole(seed=seed, nfe=nfe)
    if n < 1:
        raise InputError(f"n is {n}; draw at least one sample")
    size = shape_of(field, options.get("shape"), False)
    device, dtype = home(field, None)
    with torch.no_grad():
        seen = operator(torch.zeros(1, *size, device=device, dtype=dtype)).shape[1:]
    y = y.to(device, dtype)
    single = y.shape == seen
    many = y[None] if single else y
    if many.shape[1:] != seen or not len(many):
        raise InputError(
            f"the observation has shape {tuple(y.shape)}, and the operator makes {tuple(seen)} of a sample"
        )
    if not bool(many.isfinite().all()):
        raise InputError("the observation has numbers that are not finite")
    given = {
        name: value
        for name, value in options.items()
        if isinstance(value, Tensor) and name not in KEPT
    }
    for name, value in given.items():
        if len(value) != len(many):
            raise InputError(f"{name} has {len(value)} rows for {len(many)} observations")
    rows = conditions.repeat({**given, "observation": many}, n)
    guided = Posterior(field, operator, noise_std, spread=method or Full())
    x = generate(guided, n * len(many), nfe=nfe, seed=seed, **{**options, **rows})
    return x if single else x.unflatten(0, (len(many), n))
