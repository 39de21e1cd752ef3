"""Samples given an observation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.core.fields import Field, find_inside
from pushforward.guidance.operators import Decoded
from pushforward.guidance.posterior import Full, Operator, Posterior, Spread
from pushforward.models.base import ModelBase
from pushforward.sampling.checks import check_whole
from pushforward.sampling.generate import ARGUMENTS, generate, home, shape_of


def posterior(
    field: Field,
    y: Tensor | np.ndarray[Any, Any],
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
    y:        one observation (*M), or B of them (B, *M), a tensor or an array.
    operator: (B, ...) -> (B, *M), see `guidance.operators`, or any function of each sample by itself that can be
              differentiated twice. It sees samples as they are returned: of a model of latents decoded ones, by its
              codec, and with decode=False the latents.
    method:   how the uncertainty of the data given x_t is treated, see `guidance.posterior`; by default `Full()`
              (MMPS), which is exact for Gaussian data and linear operators.
    nfe:      network calls for each sample, each with a few backward passes.
    options:  those of `generate`: solver, guidance, label, conditions. A condition, also a list of labels or prompts,
              has one row for each observation, or is one for all; source and mask have one for each sample.

    Returns (n, *shape) for one observation, and (B, n, *shape) for B. Sample j of observation i is a function of the
    seed and i n + j.
    """
    check_whole(seed=seed, nfe=nfe)
    if "num" in options:
        raise InputError("the samples of each observation are n, and not num")
    if n < 1:
        raise InputError(f"n is {n}; draw at least one sample")
    codec = find_inside(field, "codec") if options.get("decode", True) else None
    if codec is not None:
        operator = Decoded(codec.decode, operator)
    size = shape_of(field, options.get("shape"), False)
    device, dtype = home(field, None)
    with torch.no_grad():
        seen = operator(torch.zeros(1, *size, device=device, dtype=dtype)).shape[1:]
    y = torch.as_tensor(y).to(device, dtype)
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
        if (name == "label" or name not in ARGUMENTS) and _has_rows(value)
    }
    if options.get("guidance") is None and "prompt" in options and isinstance(field, ModelBase):
        options["guidance"] = field.sampling.prompt_guidance
    rows = {name: _repeated(name, value, len(many), n) for name, value in given.items()}
    rows["observation"] = conditions.repeat({"y": many}, n)["y"]
    guided = Posterior(field, operator, noise_std, spread=method or Full())
    x = generate(guided, n * len(many), nfe=nfe, seed=seed, **{**options, **rows})
    return x if single else x.unflatten(0, (len(many), n))


def _has_rows(value: Any) -> bool:
    """Whether it says something of each observation, and not one thing of all."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim > 0
    return isinstance(value, Tokens | Mapping | list | tuple)


def _repeated(name: str, value: Any, count: int, n: int) -> Any:
    """A condition of `count` observations as that of n samples of each."""
    if isinstance(value, list | tuple):
        found = len(value)
        repeated: Any = [entry for entry in value for _ in range(n)]
    else:
        value = torch.as_tensor(value) if isinstance(value, np.ndarray) else value
        found = conditions.size({name: value}) or 0
        repeated = conditions.repeat({name: value}, n)[name]
    if found != count:
        raise InputError(f"{name} has {found} rows for {count} observations")
    return repeated
