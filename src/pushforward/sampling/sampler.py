"""Which solver draws the samples of a model, and at which times: decided here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pushforward.core import times
from pushforward.core.errors import InputError
from pushforward.core.fields import Field, FlowMap, find_inside
from pushforward.core.paths import Path
from pushforward.core.spec import SamplingDefaults
from pushforward.models.diffflow import Backward, DiffFlowModel
from pushforward.solvers import FlowMapSampler, Learned, Multistep, Solver
from pushforward.solvers.base import check_followed, require_solver
from pushforward.solvers.fewstep import default_jump
from pushforward.solvers.learned import Weights, universal

DEFAULT_NFE = 50

# Times of n steps on a path, (n + 1,): `times.karras`, `times.log_snr`, or `lambda n, path: times.quadratic(n)`.
Grid = Callable[[int, Path], Tensor]


class Sampler(NamedTuple):
    """A solver with its times.

    grid:  (n + 1,) float64.
    nfe:   network calls for a sample; None for a solver that makes as many as its tolerance takes.
    names: of the solver and of the grid, as reports show them; "tuned" are those that were fitted to the model.
    """

    solver: Solver
    grid: Tensor
    nfe: int | None
    names: tuple[str, str | None]


def find_sampler(
    model: Field | FlowMap,
    solver: Solver | None = None,
    grid: Tensor | Grid | None = None,
    nfe: int | None = None,
    guidance: float | None = None,
    renoise: float | None = None,
    span: tuple[float, float] = (0.0, 1.0),
    breaks: int = 0,
) -> Sampler:
    """The sampler of a model: what is not given is the best that is known for it.

    solver:   `default_sampler` by default; with a grid, `solver_of_any_grid`.
    grid:     times (n + 1,), which stand instead of nfe, or a rule for them; by default the solver's own, else
              `times.straight`.
    nfe:      network calls for each sample, at most: nfe // solver.calls steps. By default `default_nfe(model)`.
    guidance: the scale that a fitted sampler was fitted for.
    renoise:  of a flow map; see `FlowMapSampler`.
    span:     times from which and to which samples go; a part of the way is taken on `times.straight`.
    breaks:   how many times `integrate` adds, where the field jumps: so many steps less are taken.

    Raises InputError for calls that are too few or not the solver's to choose, and for what is no solver.
    """
    given = isinstance(grid, Tensor)
    if given and nfe is not None:
        raise InputError("give either nfe or a grid, not both")
    if solver is not None:
        require_solver(solver)
    steps = _own_steps(model)
    if steps is not None and not given and (callable(grid) or nfe not in (None, steps)):
        raise InputError(
            f"this flow map takes the {steps} steps that it was distilled to, at times of its own: nfe is {steps}, and "
            f"there is no other grid"
        )
    if grid is not None and span != (0.0, 1.0):
        require_span(grid, span)
    calls = default_nfe(model) if nfe is None else nfe
    if renoise is not None:
        if not isinstance(model, FlowMap):
            raise InputError("renoise is for flow maps, and this model has a velocity")
        if solver is not None:
            raise InputError("renoise makes a FlowMapSampler: give either it or a solver")
        solver = FlowMapSampler(renoise)
    if solver is None:
        chosen = (grid is None and span == (0.0, 1.0)) or isinstance(model, FlowMap)
        solver = (
            default_sampler(model, calls, guidance) if chosen else solver_of_any_grid(model.path)
        )
    check_followed(model, solver)
    name = _name(solver)
    if isinstance(grid, Tensor):
        return Sampler(solver, grid, (grid.shape[-1] - 1) * solver.calls or None, (name, "given"))
    if solver.calls == 0:
        if nfe is not None:
            raise InputError(
                f"{name} makes as many calls as its tolerance takes: it has no nfe to choose"
            )
        if grid is not None:
            raise InputError(f"{name} chooses its own times: it takes no grid")
        return Sampler(solver, times.uniform(1, *span), None, (name, None))
    if calls < solver.calls:
        raise InputError(
            f"{name} calls the network {solver.calls} times in a step: nfe must be at least that, not {calls}"
        )
    n = max(1, calls // solver.calls - breaks)
    if grid is not None:
        return Sampler(solver, grid(n, model.path), calls, (name, "given"))
    if isinstance(model, FlowMap) and isinstance(model.jumps, tuple):
        own = torch.tensor(model.jumps, dtype=torch.float64)
        return Sampler(solver, own, calls, (name, "its own"))
    if span != (0.0, 1.0):
        return Sampler(solver, times.straight(n, model.path, *span), calls, (name, "straight"))
    if isinstance(solver, Learned):
        kind = "angle" if solver.weights is None else name
        return Sampler(solver, solver.grid(n, model.path), calls, (name, kind))
    if isinstance(solver, Backward):
        return Sampler(solver, solver.grid(n, model.path), calls, (name, None))
    return Sampler(solver, times.straight(n, model.path), calls, (name, "straight"))


def require_span(grid: Tensor | Grid, span: tuple[float, float]) -> None:
    """That times lead along this part of the way."""
    found = "a rule for the whole way"
    if isinstance(grid, Tensor):
        ends = torch.stack((grid[..., 0], grid[..., -1]), -1).double().cpu()
        if torch.allclose(ends, torch.tensor(span, dtype=torch.float64), rtol=0, atol=1e-6):
            return
        found = f"from {float(ends.min()):g} to {float(ends.max()):g}"
    raise InputError(
        f"samples go from time {span[0]:g} to {span[1]:g}, and the grid is {found}: give times between these"
    )


def default_sampler(model: Field | FlowMap, nfe: int, guidance: float | None = None) -> Solver:
    """The best solver known for this many calls of a model, each step taking one.

    Of a flow map, `FlowMapSampler`: straight on, or by noise put back where it knows only the way to the data. Of a
    Field, the solver that was fitted to the model for this number of calls and this guidance (`tune`), if there is one;
    the backward process of a DiffFlowModel, in so many steps; `Learned`, if the source is Gaussian noise and there are
    three steps or more; else Adams-Bashforth of order 2 on the velocity, which is exact on straight trajectories.
    """
    if isinstance(model, FlowMap):
        return default_jump(model)
    try:
        for entry in getattr(model, "sampling", SamplingDefaults()).fitted:
            if entry["nfe"] == nfe and _scale(entry["guidance"]) == _scale(guidance):
                return Learned(Weights.from_json(entry["weights"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the model holds a fitted sampler that cannot be read ({type(error).__name__}: {error}): "
            f"pass solver=, or fit it again"
        ) from error
    if isinstance(model, DiffFlowModel):
        return Backward(model if nfe == model.steps else model.regrid(nfe))
    if model.path.gaussian_source and nfe >= 3:
        return Learned()
    return Multistep("velocity", "time", 2)


def solver_of_any_grid(path: Path) -> Solver:
    """`Learned(None)`: learned coefficients belong to their own times, and with a few steps at others are worse than
    none. Adams-Bashforth of order 2 on the velocity where the source is not Gaussian noise."""
    return Learned(None) if path.gaussian_source else Multistep("velocity", "time", 2)


def default_nfe(model: Field | FlowMap) -> int:
    """Network calls for a sample by default: those of its `sampling`, else 50, or of a flow map 1 or its own steps."""
    usual = _own_steps(model) or (1 if isinstance(model, FlowMap) else DEFAULT_NFE)
    return find_inside(model, "sampling", SamplingDefaults()).nfe or usual


def _own_steps(model: Field | FlowMap) -> int | None:
    """How many steps a flow map knows, if it knows no others."""
    if isinstance(model, FlowMap) and isinstance(model.jumps, tuple):
        return len(model.jumps) - 1
    return None


def _name(solver: Solver) -> str:
    """A solver in a word: those that `default_sampler` may give by what they are, others by their class."""
    if isinstance(solver, Learned):
        if solver.weights is None:
            return "abm3"
        return "learned" if solver.weights is universal() else "tuned"
    if isinstance(solver, FlowMapSampler):
        return "jump" if solver.renoise == 0 else f"jump, renoise {solver.renoise:g}"
    if isinstance(solver, Backward):
        return "diffflow"
    if solver == Multistep("velocity", "time", 2):
        return "ab2"
    return type(solver).__name__


def _scale(guidance: float | None) -> float:
    return 1.0 if guidance is None else guidance
