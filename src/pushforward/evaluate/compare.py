"""Samplers against each other: error and distance to the data against network calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pushforward.core.errors import InputError, NonFiniteError
from pushforward.core.fields import Field
from pushforward.core.progress import counted
from pushforward.data.dataset import Dataset
from pushforward.evaluate.metrics.agreement import everything
from pushforward.evaluate.metrics.energy import energy_distance
from pushforward.evaluate.metrics.frechet import MAX_DIMENSIONS, frechet_distance
from pushforward.laws.law import Law
from pushforward.sampling.generate import generate
from pushforward.solvers import Learned, Solver

# Steps of the reference, doubled from the first to the last until it changes by less than this share.
STEPS, TOLERANCE = (64, 512), 1e-5


class Sampler(Protocol):
    """A solver and its times."""

    @property
    def solver(self) -> Solver: ...

    @property
    def grid(self) -> Tensor | None: ...


class Method(NamedTuple):
    """at: the sampler of a number of calls; None if there is none. exact: samples are a function of the first noise."""

    at: Callable[[int], Sampler | None]
    exact: bool = True


class Distance(NamedTuple):
    """How far samples are from data. floor: the same of other data."""

    name: str
    to: Callable[[Tensor], float]
    floor: float


@dataclass(frozen=True)
class Comparison:
    """Figures by method and number of calls.

    errors:    RMSE over samples and coordinates against the reference, from the same noise; infinite if not finite.
    scale:     root mean square of the reference's coordinates. steps, accuracy: of the reference, see `reference`.
    measure, distances, reference_distance, floor: of samples to data, those of the reference, and of data to data.
    """

    nfes: tuple[int, ...]
    errors: dict[str, dict[int, float]]
    scale: float
    steps: int
    accuracy: float
    measure: str | None = None
    distances: dict[str, dict[int, float]] | None = None
    reference_distance: float | None = None
    floor: float | None = None

    def as_json(self) -> dict[str, Any]:
        def finite(table: Mapping[str, Mapping[int, float]]) -> dict[str, Any]:
            return {
                name: {str(nfe): v if math.isfinite(v) else None for nfe, v in row.items()}
                for name, row in table.items()
            }

        found: dict[str, Any] = {"nfes": list(self.nfes), "errors": finite(self.errors)}
        found["reference"] = {"steps": self.steps, "accuracy": self.accuracy, "scale": self.scale}
        if self.distances is not None:
            found["distances"] = finite(self.distances)
            found["distance"] = {
                "name": self.measure, "reference": self.reference_distance, "data": self.floor,
            }  # fmt: skip
        return found


def distance_to(data: Law | Dataset, held_out: Dataset | None, num: int, seed: int) -> Distance:
    """Energy distance to a law, or Frechet distance to the data held out, of `num` samples."""
    if isinstance(data, Dataset):
        if held_out is None:
            raise InputError("this run kept no data apart, so there is no distance to them")
        if math.prod(data.shape) > MAX_DIMENSIONS:
            raise InputError(
                f"samples {data.shape} have more than {MAX_DIMENSIONS} dimensions: no distance is known for them"
            )
        apart, seen = everything(held_out, 10_000)[0], everything(data, num)[0]
        return Distance(
            "Frechet distance",
            lambda x: frechet_distance(x.cpu(), apart),
            frechet_distance(seen, apart),
        )
    # Seeds apart from the samples' own and from each other, as in `judge_law`.
    real, other = (data.sample(num, seed=(seed + k) % 2**64) for k in (1, 2))
    return Distance(
        "energy distance", lambda x: energy_distance(x.cpu(), real), energy_distance(other, real)
    )


def reference(model: Field, num: int, **sampling: Any) -> tuple[Tensor, int, float]:
    """Ends of the flow from the noise of `generate`, the number of steps, and an upper estimate of their RMSE.

    `Learned(None)`, of order 3, with steps doubled until an RMSE of 1e-5 of the root mean square, or to 512. The RMSE
    stated is that of half as many steps, against those returned.
    """
    solver, steps = Learned(None), STEPS[0]

    def ends() -> Tensor:
        grid = solver.grid(steps, model.path)
        return generate(model, num, solver=solver, grid=grid, decode=False, **sampling)

    fine = ends()
    while True:
        coarse, steps = fine, 2 * steps
        fine = ends()
        change = rmse(fine, coarse)
        if change <= TOLERANCE * rmse(fine) or steps >= STEPS[1]:
            return fine, steps, change


def rmse(x: Tensor, y: Tensor | float = 0.0) -> float:
    return float((x - y).double().square().mean().sqrt())


def compare(
    model: Field,
    methods: Mapping[str, Method],
    nfes: Sequence[int],
    num: int,
    distance: Distance | None = None,
    **sampling: Any,
) -> Comparison:
    """Figures of all methods at all numbers of calls, from the same noise. sampling: options of `generate`."""
    truth, steps, accuracy = reference(model, num, **sampling)
    errors: dict[str, dict[int, float]] = {}
    distances: dict[str, dict[int, float]] = {}
    for name, nfe in counted("solvers", list(product(methods, nfes))):
        method = methods[name]
        sampler = method.at(nfe)
        if sampler is None:
            continue
        try:
            x = generate(
                model, num, solver=sampler.solver, grid=sampler.grid, decode=False, **sampling
            )
        except NonFiniteError:
            x = torch.full_like(truth, math.inf)
        if method.exact:
            errors.setdefault(name, {})[nfe] = rmse(x, truth)
        if distance is not None:
            found = distance.to(x) if bool(x.isfinite().all()) else math.inf
            distances.setdefault(name, {})[nfe] = found
    common = (tuple(nfes), errors, rmse(truth), steps, accuracy)
    if distance is None:
        return Comparison(*common)
    return Comparison(*common, distance.name, distances, distance.to(truth), distance.floor)
