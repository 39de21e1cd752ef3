"""Samples from a model or an exact law, in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core import times
from pushforward.core.errors import InputError, NonFiniteError
from pushforward.core.fields import Field
from pushforward.core.noise import START, Noise
from pushforward.core.oracle import Law
from pushforward.guidance import ClassifierFree
from pushforward.solvers import Multistep, Solver, integrate
from pushforward.solvers.base import Callback

DEFAULT_NFE = 50


def generate(
    model: Field,
    num: int,
    *,
    solver: Solver | None = None,
    nfe: int | None = None,
    guidance: float | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
    grid: Tensor | None = None,
    source: Tensor | Law | None = None,
    seed: int = 0,
    batch_size: int = 256,
    shape: Sequence[int] | None = None,
    callback: Callback | None = None,
    label: int | Sequence[int] | Tensor | None = None,
    **cond: Tensor,
) -> Tensor:
    """Draw `num` samples.

    model:      a Field; with `shape`, or one of the library's models and exact laws, which know theirs.
    solver:     Adams-Bashforth of order 2 on the velocity if left out.
    nfe:        network calls for each sample, at most: nfe // solver.calls steps are taken; a guided call is one.
                50 if left out, or what the model's info holds under "nfe".
    guidance:   scale w of classifier-free guidance, acting within `interval`; None or 1 for none.
    grid:       times (n + 1,) in place of nfe; `times.straight` if left out.
    source:     states to start from (num, *shape), or a law to draw them from; Gaussian noise if left out.
    seed:       sample i is a function of (seed, i), whatever the batch size, up to rounding in the network.
    label:      one class for all, or one for each sample; -1 or None for no class. cond: other conditions (num, ...).
    callback:   called as by `integrate`, for each batch.

    Returns (num, *shape) on the model's device. Raises NonFiniteError if any sample is not finite.
    """
    if num < 1 or batch_size < 1:
        raise InputError(f"num and batch_size must be positive, got {num} and {batch_size}")
    solver = Multistep("velocity", "time", 2) if solver is None else solver
    if grid is not None and nfe is not None:
        raise InputError("give either nfe or a grid, not both")
    if grid is None:
        grid = _grid(model, solver, nfe)
    size = tuple(shape) if shape is not None else tuple(getattr(model, "shape", ()))
    if not size and not isinstance(source, Tensor):
        raise InputError(
            "the shape of a sample is not known: pass shape=, or build the Model with it"
        )
    device, dtype = _home(model)
    if label is not None:
        cond["label"] = _labels(label, num, getattr(model, "classes", None))
    for name, value in cond.items():
        if len(value) != num:
            raise InputError(f"{name} has {len(value)} entries for {num} samples")
    field = model if guidance is None else ClassifierFree(model, guidance, interval)

    parts = []
    with torch.no_grad(), _evaluating(model):
        for start in range(0, num, batch_size):
            rows = slice(start, min(start + batch_size, num))
            noise = Noise.batch(rows.stop - start, seed, start=start, device=device)
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


def _grid(model: Field, solver: Solver, nfe: int | None) -> Tensor:
    """As many steps as nfe calls allow."""
    if solver.calls == 0:
        if nfe is not None:
            raise InputError(
                f"{type(solver).__name__} makes as many calls as its tolerance takes: leave nfe out"
            )
        return times.uniform(1)
    calls = nfe if nfe is not None else getattr(model, "info", {}).get("nfe", DEFAULT_NFE)
    if calls < solver.calls:
        raise InputError(
            f"{type(solver).__name__} calls the network {solver.calls} times in a step: "
            f"nfe must be at least that, not {calls}"
        )
    return times.straight(calls // solver.calls, model.path)


def _start(
    source: Tensor | Law | None,
    noise: Noise,
    rows: slice,
    size: tuple[int, ...],
    model: Field,
    dtype: torch.dtype,
) -> Tensor:
    if source is None:
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


def _home(model: Field) -> tuple[torch.device, torch.dtype]:
    """Where and in what precision a model computes; exact laws do so in float64 on the CPU."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if parameter is None:
        return torch.device("cpu"), torch.float64
    return parameter.device, torch.promote_types(parameter.dtype, torch.float32)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Dropout off, and back as it was."""
    modes = [(m, m.training) for m in model.modules()] if isinstance(model, nn.Module) else []
    if modes:
        model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
