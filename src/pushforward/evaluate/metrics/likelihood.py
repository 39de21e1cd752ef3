"""How likely data are to a model: along its flow, and by the variational bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from pushforward.core import conditions
from pushforward.core.ddpm import DDPMPath
from pushforward.core.errors import InputError
from pushforward.core.paths import Path
from pushforward.core.times import straight, uniform
from pushforward.evaluate.labels import spec_of
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

# Up to this many dimensions the divergence is computed exactly by default.
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
    bin_width: float | None = None,
    given: Mapping[str, Any] | None = None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Figures, and how they were computed, of data x (B, ...) and their labels, numbered as the model's.

    ode:   -log p along the flow; bound: the variational bound; each with the standard error of its mean over the data.
    prior, steps, decoder: the parts of the bound.

    Quantised data are in bits per dimension, dequantised by uniform noise over bins of `bin_width`, by default the one
    in the model's spec. All other data are in nats, of the density.

    source: the law at the start of the flow, None for Gaussian noise. given: other conditions of the data, by name.

    Raises InputError for fewer than 2 samples, labels that the model does not know, and data that do not lie at the
    centres of their bins.
    """
    if len(x) < 2:
        raise InputError(f"the data hold {len(x)} sample; a mean with its error needs 2")
    x = x.to(next(model.parameters()).device)
    cond: dict[str, Any] = conditions.to(dict(given or {}), x.device)
    if label is not None:
        cond["label"] = label.to(x.device)
    if label is not None and int(label.max()) >= (model.classes or 0):
        raise InputError(f"the data have a class {int(label.max())} that the model does not know")
    size = x[0].numel()
    probes = settings.probes
    if probes is None and size > EXACT_DIMENSIONS:
        probes = 4
    spec = spec_of(model)
    low, high = spec.value_range or (-1.0, 1.0)
    width = spec.bin_width if bin_width is None else bin_width
    if width is not None:
        check_bins(x, low, width)
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


def check_bins(x: Tensor, low: float, width: float) -> None:
    """That all values are low + k width, k whole, to a hundredth of a bin."""
    place = (x.double() - low) / width
    off = float((place - place.round()).abs().max())
    if off > 0.01:
        raise InputError(
            f"the data do not lie on the grid of the model's data, {low:g} + {width:.4g} k: a value is {off:.2g} of a "
            f"bin away from it. Quantise them alike, or train on data like these"
        )
