"""Samples together with their log density."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.fields import Field
from pushforward.core.noise import Noise
from pushforward.laws.law import Law
from pushforward.likelihood import Carry, Estimate, source_log_prob, summary
from pushforward.likelihood.flow import Probe
from pushforward.sampling.checks import check_count
from pushforward.sampling.generate import evaluating, home, shape_of, start_states
from pushforward.sampling.given import Label, conditions_of
from pushforward.solvers import Solver


def sample_with_log_prob(
    model: Field,
    num: int,
    *,
    probes: int | None = None,
    solver: Solver | None = None,
    grid: Tensor | None = None,
    source: Law | None = None,
    kind: Probe = "rademacher",
    mask: Tensor | None = None,
    seed: int = 0,
    start: int = 0,
    batch_size: int = 256,
    shape: Sequence[int] | None = None,
    label: Label | None = None,
    **cond: Any,
) -> tuple[Tensor, Tensor | Estimate]:
    """Draw `num` samples, and ln p of each along the trajectory that made it.

        ln p_1(X_1) = ln p_0(X_0) - int_0^1 div u_t(X_t) dt

    Equal to `log_prob(model, samples)` up to the error of the solver, which is that of `log_prob`, and must be
    deterministic. Other options are those of `generate`, whose samples these are at a given seed, and of `log_prob`
    (probes, kind; an Estimate with probes).

    start: id of the first sample: processes that take shares start ... start + num - 1 make the samples of one.
    """
    check_count(num, batch_size, start)
    if source is None:
        model.path.require_gaussian("density of the source")
    size = shape_of(model, shape, False)
    device, dtype = home(model)
    given = conditions_of(
        model, num, label, cond, tuple(signature(sample_with_log_prob).parameters)
    )
    samples, values = [], []
    with torch.no_grad(), evaluating(model):
        for first in range(0, num, batch_size):
            rows = slice(first, min(first + batch_size, num))
            noise = Noise.batch(rows.stop - first, seed, start=start + first, device=device)
            part = None if mask is None else mask[rows].to(device)
            x0 = start_states(source, noise.masked(part), rows, size, model, dtype)
            here = conditions.to(conditions.take(given, rows), device)
            carry = Carry(model, solver, grid, probes, kind, part, noise)
            x1, integral = carry(x0, backwards=False, **here)
            density = (
                source_log_prob(model.path, x0, part)
                if source is None
                else source.log_prob(x0).to(dtype)
            )
            samples.append(x1)
            values.append(density[:, None] - integral)
    return torch.cat(samples), summary(torch.cat(values), probes)
