"""Samples from a model or an exact law, in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.errors import InputError, NonFiniteError
from pushforward.core.fields import Field, FlowMap
from pushforward.core.noise import START, Noise
from pushforward.guidance import ClassifierFree
from pushforward.laws.law import Law
from pushforward.likelihood import Carry, Estimate, source_log_prob, summary
from pushforward.likelihood.flow import Probe
from pushforward.runtime.processes import Processes
from pushforward.sampling.sampler import Grid, find_inside, find_sampler
from pushforward.solvers import Solver, integrate
from pushforward.solvers.base import Callback

# Options of `generate` that are tensors and do not go with the samples.
WHOLE = ("grid",)


def generate(
    model: Field | FlowMap,
    num: int,
    *,
    solver: Solver | None = None,
    nfe: int | None = None,
    guidance: float | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
    grid: Tensor | Grid | None = None,
    source: Tensor | Law | None = None,
    seed: int = 0,
    start: int = 0,
    batch_size: int = 256,
    shape: Sequence[int] | None = None,
    callback: Callback | None = None,
    label: int | Sequence[int] | Tensor | None = None,
    **cond: Tensor,
) -> Tensor:
    """Draw `num` samples.

    model:      a Field, or a flow map, which takes a step a call; with `shape`, or one of the library's models and
                exact laws, which know theirs. What is wrapped (guidance, ScheduleTransfer) is as good as what is
                inside.
    solver:     the best known for this model and number of calls if left out (`default_sampler`); with a grid of yours,
                `Learned(None)`.
    nfe:        network calls for each sample, at most: nfe // solver.calls steps are taken; a guided call is one.
                If left out, what the model's info holds under "nfe"; else 50, or of a flow map 1 or its own grid's.
    guidance:   scale w of classifier-free guidance, acting within `interval`; None or 1 for none. A flow map has none
                but what it was trained with.
    grid:       times (n + 1,) instead of nfe, or a rule for them such as `times.karras`; if left out, the solver's own,
                or else `times.straight`.
    source:     states to start from (num, *shape), or a law to draw them from; Gaussian noise if left out.
    seed:       sample i is a function of (seed, start + i), whatever the batch size, up to rounding in the network.
    start:      id of the first sample: calls that take shares make the samples of one.
    label:      one class for all, or one for each sample; -1 or None for no class. cond: other conditions (num, ...).
    callback:   called as by `integrate`, for each batch.

    Returns (num, *shape) on the model's device. Raises NonFiniteError if any sample is not finite.
    """
    if num < 1 or batch_size < 1:
        raise InputError(f"num and batch_size must be positive, got {num} and {batch_size}")
    if start < 0:
        raise InputError(f"start is {start}; ids count from 0")
    solver, grid, *_ = find_sampler(model, solver, grid, nfe, guidance)
    size = shape_of(model, shape, isinstance(source, Tensor))
    device, dtype = home(model, source)
    cond = conditions(model, num, label, cond)
    field = model if guidance is None else _guided(model, guidance, interval)

    parts = []
    with torch.no_grad(), evaluating(model):
        for first in range(0, num, batch_size):
            rows = slice(first, min(first + batch_size, num))
            noise = Noise.batch(rows.stop - first, seed, start=start + first, device=device)
            x = _start(source, noise, rows, size, model, dtype)
            here = {name: value[rows].to(device) for name, value in cond.items()}
            x = integrate(
                solver, field, x, grid, seed=seed, ids=noise.ids, callback=callback, **here
            )
            parts.append(x)
    samples = torch.cat(parts)
    bad = (~samples.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        raise NonFiniteError(
            f"{len(bad)} of {num} samples are not finite (the first: {bad[:8]}); take more steps, another "
            f"solver, or less guidance, and check that the model is trained"
        )
    return samples


def generate_together(
    model: Field | FlowMap,
    num: int,
    *,
    source: Tensor | Law | None = None,
    start: int = 0,
    label: int | Sequence[int] | Tensor | None = None,
    **options: Any,
) -> Tensor:
    """The samples of `generate`, of which each process that takes part in the run draws its share; all get all.

    Options are those of `generate`, tensors (num, ...) among them cut alike. Equal for any number of processes, up to
    rounding in the network. With fewer samples than processes each one draws them all.
    """
    processes = Processes.current()
    if processes.count == 1 or num < processes.count:
        return generate(model, num, source=source, start=start, label=label, **options)
    given = {
        name: value
        for name, value in options.items()
        if isinstance(value, Tensor) and name not in WHOLE
    }
    given = conditions(model, num, label, given)
    if isinstance(source, Tensor):
        if len(source) != num:
            raise InputError(f"source has {len(source)} states for {num} samples")
        given["source"] = source
    # Shares of one size, so that processes which hold parts of a network call it equally often.
    size = -(-num // processes.count)
    rows = (torch.arange(size) + processes.rank * size).clamp(max=num - 1)
    options = {"source": source} | options
    options |= {name: value[rows.to(value.device)] for name, value in given.items()}
    own = generate(model, size, start=start + processes.rank * size, **options)
    return processes.gather(own)[:num]


def sample_with_log_prob(
    model: Field,
    num: int,
    *,
    probes: int | None = None,
    solver: Solver | None = None,
    grid: Tensor | None = None,
    source: Law | None = None,
    kind: Probe = "rademacher",
    seed: int = 0,
    start: int = 0,
    batch_size: int = 256,
    shape: Sequence[int] | None = None,
    label: int | Sequence[int] | Tensor | None = None,
    **cond: Tensor,
) -> tuple[Tensor, Tensor | Estimate]:
    """Draw `num` samples, and ln p of each along the trajectory that made it.

        ln p_1(X_1) = ln p_0(X_0) - int_0^1 div u_t(X_t) dt

    Equal to `log_prob(model, samples)` up to the error of the solver, which is that of `log_prob`, and must be
    deterministic. Other options are those of `generate`, whose samples these are at a given seed, and of `log_prob`
    (probes, kind; an Estimate with probes).

    start: id of the first sample: processes that take shares start ... start + num - 1 make the samples of one.
    """
    if num < 1 or batch_size < 1 or start < 0:
        raise InputError(
            f"num and batch_size must be positive and start not negative, got {num}, {batch_size} and {start}"
        )
    if source is None:
        model.path.require_gaussian("density of the source")
    size = shape_of(model, shape, False)
    device, dtype = home(model)
    cond = conditions(model, num, label, cond)
    samples, values = [], []
    with torch.no_grad(), evaluating(model):
        for first in range(0, num, batch_size):
            rows = slice(first, min(first + batch_size, num))
            noise = Noise.batch(rows.stop - first, seed, start=start + first, device=device)
            x0 = _start(source, noise, rows, size, model, dtype)
            here = {name: value[rows].to(device) for name, value in cond.items()}
            carry = Carry(model, solver, grid, probes, kind, None, noise)
            x1, integral = carry(x0, backwards=False, **here)
            density = (
                source_log_prob(model.path, x0) if source is None else source.log_prob(x0).to(dtype)
            )
            samples.append(x1)
            values.append(density[:, None] - integral)
    return torch.cat(samples), summary(torch.cat(values), probes)


def _guided(
    model: Field | FlowMap, guidance: float, interval: tuple[float, float]
) -> Field | FlowMap:
    if isinstance(model, FlowMap) and guidance == 1:
        return model
    if isinstance(model, FlowMap):
        trained = find_inside(model, "info", {}).get("guidance", 1)
        raise InputError(
            f"a flow map has the guidance that it was trained with (scale {trained}), and no other: leave "
            f"guidance out, or train one with another scale"
        )
    return ClassifierFree(model, guidance, interval)


def shape_of(model: Field | FlowMap, shape: Sequence[int] | None, given: bool) -> tuple[int, ...]:
    """Shape of a sample; `given` where the states to start from say it."""
    size = tuple(shape) if shape is not None else tuple(find_inside(model, "shape", ()))
    if not size and not given:
        raise InputError(
            "the shape of a sample is not known: pass shape=, or build the Model with it"
        )
    return size


def conditions(
    model: Field | FlowMap,
    num: int,
    label: int | Sequence[int] | Tensor | None,
    cond: dict[str, Tensor],
) -> dict[str, Tensor]:
    """The label, if there is one, as (num,), and all else as it was."""
    if label is not None:
        cond = cond | {"label": _labels(label, num, find_inside(model, "classes", None))}
    for name, value in cond.items():
        if len(value) != num:
            raise InputError(f"{name} has {len(value)} entries for {num} samples")
    return cond


def _start(
    source: Tensor | Law | None,
    noise: Noise,
    rows: slice,
    size: tuple[int, ...],
    model: Field | FlowMap,
    dtype: torch.dtype,
) -> Tensor:
    if source is None:
        trained = find_inside(model, "info", {}).get("source")
        if trained is not None:
            raise InputError(
                f"this model was trained to start from {trained}, and not from noise: pass source="
            )
        return model.path.source_std * noise.normal(size, START, dtype)
    x = source[rows] if isinstance(source, Tensor) else source.draw(noise)
    return x.to(noise.ids.device, dtype)


def _labels(label: int | Sequence[int] | Tensor, num: int, classes: int | None) -> Tensor:
    value = torch.as_tensor(label)
    if value.is_floating_point() or value.ndim > 1:
        raise InputError(f"label must be an integer or a list of {num} integers")
    value = value.long().expand(num) if value.ndim == 0 else value.long()
    if classes is not None:
        bad = sorted({int(v) for v in value if not -1 <= v < classes})
        if bad:
            raise InputError(
                f"label {', '.join(map(str, bad))}: this model knows the classes 0 to {classes - 1}, and -1 for none"
            )
    return value


def networks(model: Any) -> list[nn.Module]:
    """The networks of a model and of all that it wraps, its own first."""
    if model is None or isinstance(model, nn.Module):
        return [] if model is None else [model]
    inside = vars(model).values() if is_dataclass(model) else [getattr(model, "field", None)]
    return [net for value in inside for net in networks(value)]


def home(model: Field | FlowMap, source: Any = None) -> tuple[torch.device, torch.dtype]:
    """Where and in what precision a model computes; what has no parameters does so as the states that are given to
    start from, or in float64 on the CPU."""
    parameter = next((p for net in networks(model) for p in net.parameters()), None)
    if parameter is None:
        if isinstance(source, Tensor) and source.is_floating_point():
            return source.device, source.dtype
        return torch.device("cpu"), torch.float64
    return parameter.device, torch.promote_types(parameter.dtype, torch.float32)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Dropout off, and back as it was."""
    inside = networks(model)
    modes = [(m, m.training) for net in inside for m in net.modules()]
    for net in inside:
        net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
