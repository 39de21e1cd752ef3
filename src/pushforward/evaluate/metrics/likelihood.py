"""How likely data are to a model: along its flow, and by the variational bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.paths import DDPMPath, Path
from pushforward.core.times import straight, uniform
from pushforward.laws.law import Law
from pushforward.likelihood import (
    bits,
    log_prob,
    mean_and_error,
    source_log_prob,
    variational_bound,
)
from pushforward.models.model import Model
from pushforward.solvers import DormandPrince

# Up to this many dimensions the divergence is worked out exactly unless probes are asked for.
EXACT_DIMENSIONS = 8


@dataclass(frozen=True)
class Settings:
    """Options of `pushforward likelihood`."""

    probes: int | None = None
    tolerance: float = 1e-4
    bound: bool = False
    bound_terms: int | None = None
    bound_steps: int | None = None
    variance: Literal["beta", "beta-tilde", "learned"] = "beta-tilde"
    seed: int = 0
    batch_size: int = 256


def judge(
    model: Model,
    x: Tensor,
    label: Tensor | None,
    settings: Settings,
    source: Law | None = None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Figures and how they were found, of data x (B, ...) and its labels. source: where the flow starts, None: noise.

    ode:   -log p along the flow; bound: the variational bound; each with the standard error of its mean over the data.
    prior, steps, decoder: the parts of the bound.

    Images: bits per dimension, x dequantised by uniform noise over bins whose width is the distance of their values.
    All else: nats, of the density.
    """
    x = x.to(next(model.parameters()).device)
    cond = {} if label is None else {"label": label.to(x.device)}
    if label is not None and int(label.max()) >= (model.classes or 0):
        raise InputError(f"the data have a class {int(label.max())} that the model does not know")
    size = x[0].numel()
    probes = settings.probes
    if probes is None and size > EXACT_DIMENSIONS:
        probes = 4
    low, high = model.info.get("value_range", (float(x.min()), float(x.max())))
    width = bin_width(x, low, high) if x.ndim == 4 else None
    common: dict[str, Any] = {"seed": settings.seed, "batch_size": settings.batch_size, **cond}
    density = source_density(model.path, source)
    solver = DormandPrince(settings.tolerance, settings.tolerance)
    if width is None:
        found: Any = log_prob(model, x, probes=probes, solver=solver, source=density, **common)
        each = -(found if probes is None else found.log_prob)
    else:
        each = bits(model, x, width, probes=probes, solver=solver, source=density, **common).each
    mean, error = mean_and_error(each)
    figures = {"ode": mean, "ode_error": error}
    facts: dict[str, Any] = {
        "bin_width": width, "dequantisation": None if width is None else "uniform", "probes": probes,
        "tolerance": settings.tolerance, "seed": settings.seed,
    }  # fmt: skip
    if settings.bound:
        discrete = isinstance(model.path, DDPMPath)
        steps = settings.bound_steps or (model.path.steps if discrete else 1000)  # type: ignore[attr-defined]
        grid = uniform(steps) if discrete else straight(steps, model.path)
        bound = variational_bound(
            model, x, grid=grid, variance=settings.variance, bin_width=width,
            value_range=(low, high), terms=settings.bound_terms, **common,
        )  # fmt: skip
        unit = 1.0 if width is None else size * math.log(2)
        figures["bound"], figures["bound_error"] = mean_and_error(bound.total / unit)
        figures["prior"] = float(bound.prior.mean()) / unit
        figures["steps"] = float(bound.steps * bound.terms.mean()) / unit
        figures["decoder"] = float(bound.decoder.mean()) / unit
        facts |= {
            "bound_steps": steps,
            "bound_terms": settings.bound_terms,
            "variance": settings.variance,
        }
    return figures, facts


def source_density(path: Path, source: Law | None) -> Callable[[Tensor], Tensor] | None:
    """ln density of the law at t = 0, to give to `log_prob`: None where the path itself says it.

    Noise that is paired with the data batch by batch is still noise, but its path does not say so.
    """
    if source is not None:
        return source.log_prob
    return None if path.gaussian_source else lambda x0: source_log_prob(path, x0)


def bin_width(x: Tensor, low: float, high: float) -> float:
    """The smallest distance of two values of quantised data, all of which lie at low + k width, up to high."""
    values = x.double().unique()
    gap = float(values.diff().min()) if len(values) > 1 else high - low
    count = max(1, round((high - low) / gap))
    place = (values - low) / (high - low) * count
    off = (place - place.round()).abs().max()
    if (
        count > 2**16
        or float(off) > 0.01
        or float(place.min()) < -0.5
        or float(place.max()) > count + 0.5
    ):
        raise InputError(
            f"the data are not quantised: their values lie on no grid of up to 65536 steps from {low:g} to {high:g}"
        )
    return (high - low) / count
