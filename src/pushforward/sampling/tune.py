"""Samplers fitted to one model and one number of calls.

The weights of `solvers.Learned`, its times among them, are taken further from the universal ones until its samples are
as near as they come to those of a precise solver, from the same noise. Two ways:

gradient:       Adam on all weights, through all steps, on `ln RMSE`; it takes a model that can be differentiated.
least squares:  the last layer of each step in turn, given the steps before: with its basis vectors b_m, differences
                times their classical weight, and y the hidden layer,

                    min | x*_s - x_s - sum_m (C_m y + c_m) b_m |^2  +  ridge,        x* the precise trajectory

                No gradient, and no more memory than sampling: for large networks. Times stay what they are.

In the line of Shaul et al. 2024 (bespoke non-stationary solvers, arXiv 2403.01329) and Tong et al. 2025 (learning to
discretize, arXiv 2405.15506).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import fields, replace
from inspect import signature
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.errors import InputError, NonFiniteError
from pushforward.core.fields import Field, require_nulls
from pushforward.core.noise import START, Noise
from pushforward.core.paths import Path
from pushforward.core.progress import counted
from pushforward.core.shapes import expand
from pushforward.guidance import ClassifierFree
from pushforward.sampling.generate import evaluating, home, shape_of
from pushforward.sampling.given import conditions_of
from pushforward.solvers import Learned, integrate
from pushforward.solvers.learned import (
    VALUES,
    Weights,
    factors,
    hidden_units,
    look,
    spread,
    strength,
    times_of_angles,
    universal,
)

Method = Literal["gradient", "least-squares"]

# The noise of a fit is drawn at this step, that of `generate` at 0: no fit sees the samples of any seed.
STEP = 1
# Calls of the reference: ten times those of the sampler, and at least so many.
PRECISE = 200
RIDGES = (10.0, 1.0, 1e-1, 1e-2, 1e-3)


class Tuned(NamedTuple):
    """A fitted sampler.

    before, after: RMSE, over samples and coordinates, against the precise solver, of the universal and of the fitted
                   sampler, on noise that the fit has not seen.
    reference:     RMSE of the precise solver against itself with half the steps.
    """

    weights: Weights
    nfe: int
    guidance: float | None
    before: float
    after: float
    reference: float
    seconds: float

    @property
    def solver(self) -> Learned:
        return Learned(self.weights)

    def attach(self, model: Any) -> None:
        """Put it into `model.sampling`, where `generate` finds it and `save` keeps it, instead of one of its kind."""
        entry = self._asdict() | {"weights": self.weights.as_json()}
        others = [
            e
            for e in model.sampling.fitted
            if (e["nfe"], e["guidance"]) != (self.nfe, self.guidance)
        ]
        fitted = tuple(sorted([*others, entry], key=lambda e: e["nfe"]))
        model.sampling = replace(model.sampling, fitted=fitted)


def tune(
    model: Field,
    nfe: int,
    *,
    num: int = 1024,
    held_out: int = 512,
    iterations: int = 300,
    method: Method = "gradient",
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    guidance: float | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
    shape: tuple[int, ...] | None = None,
    label: int | Tensor | None = None,
    callback: Callable[[int, float], None] | None = None,
    **cond: Tensor,
) -> Tuned:
    """Fit a sampler of `nfe` steps to a model; `Tuned.attach(model)` makes it the default of `generate`.

    num, held_out: samples of the fit, and others by which it is judged. The precise solver takes 200 calls a sample,
                   or 10 nfe if that is more.
    method:        "gradient", with `iterations` steps on `batch_size` samples each, or "least-squares".
    guidance, interval, shape: as for `generate`.
    label, cond:   conditions, one for each of num + held_out samples. Left out, a model with classes is fitted on all
                   its classes in turn.
    callback:      called with (iteration, RMSE on the batch).

    The best moment of the fit, on all of its noise, is kept, or the universal weights if none beats them. Errors have
    heavy tails where trajectories part: a few hundred samples tell little there.
    """
    began = time.monotonic()
    if nfe < 3:
        raise InputError(f"nfe is {nfe}; a fitted sampler takes at least 3 steps")
    if min(num, held_out, batch_size, iterations) < 1:
        raise InputError(
            f"num, held_out, batch_size and iterations must be positive, "
            f"got {num}, {held_out}, {batch_size} and {iterations}"
        )
    if method not in ("gradient", "least-squares"):
        raise InputError(f"method is 'gradient' or 'least-squares', not {method!r}")
    if guidance is not None:
        require_nulls(model)
    path, total = model.path, num + held_out
    path.require_gaussian("learned sampler")
    size, (device, dtype) = shape_of(model, shape, False), home(model)
    classes = getattr(model, "classes", None)
    if label is None and classes is not None:
        label = torch.arange(total) % classes
    arguments = tuple(signature(tune).parameters)
    given = conditions.to(conditions_of(model, total, label, cond, arguments), device)
    field = model if guidance is None else ClassifierFree(model, guidance, interval)
    x0 = path.source_std * Noise.batch(total, seed, STEP, device=device).normal(size, START, dtype)
    learn, judge = slice(0, num), slice(num, total)

    with evaluating(model):
        problem = _Problem(field, path, nfe, x0, given, batch_size)
        steps = max(PRECISE, 10 * nfe)
        precise = problem.solve(Learned(None), steps)
        if not bool(precise.isfinite().all()):
            raise NonFiniteError("the model's samples are not finite: nothing can be fitted to it")
        coarse = problem.solve(Learned(None), steps // 2, judge)

        def error(weights: Weights, rows: slice) -> float:
            return _rmse(problem.solve(Learned(weights), nfe, rows) - precise[rows])

        tried = (
            _by_gradient(problem, precise, learn, iterations, learning_rate, seed, callback)
            if method == "gradient"
            else _by_least_squares(problem, learn)
        )
        best, least = universal(), error(universal(), learn)
        for weights in tried:
            value = error(weights, learn)
            if value < least:
                best, least = weights, value
        return Tuned(
            best,
            nfe,
            guidance,
            error(universal(), judge),
            error(best, judge),
            _rmse(coarse - precise[judge]),
            time.monotonic() - began,
        )


def _rmse(error: Tensor) -> float:
    return float(error.double().square().mean().sqrt())


class _Problem(NamedTuple):
    """Samples of a field, from x0 (N, ...) under conditions."""

    field: Field
    path: Path
    nfe: int
    x0: Tensor
    cond: dict[str, Any]
    batch_size: int

    def solve(self, solver: Learned, steps: int, rows: slice = slice(None)) -> Tensor:
        """The ends of the trajectories from x0[rows]."""
        grid = solver.grid(steps, self.path)
        index = torch.arange(len(self.x0), device=self.x0.device)[rows]
        with torch.no_grad():
            return torch.cat(
                [
                    integrate(solver, self.field, self.x0[part], grid, **self.given(part))
                    for part in index.split(self.batch_size)
                ]
            )

    def given(self, rows: Tensor) -> dict[str, Any]:
        return conditions.take(self.cond, rows)


def _by_gradient(
    problem: _Problem,
    precise: Tensor,
    learn: slice,
    iterations: int,
    learning_rate: float,
    seed: int,
    callback: Callable[[int, float], None] | None,
) -> Any:
    """Weights now and then, as Adam goes on."""
    start = universal()
    density = torch.zeros(3, max(problem.nfe, start.density.shape[1]), dtype=torch.float64)
    density[:, : start.density.shape[1]] = start.density
    first = {f.name: getattr(start, f.name) for f in fields(start)} | {
        "density": density,
        "out": start.out.repeat(problem.nfe, 1, 1),
        "constant": start.constant.repeat(problem.nfe, 1),
    }
    parameters = {name: value.clone().requires_grad_() for name, value in first.items()}
    optimiser = torch.optim.Adam(parameters.values(), lr=learning_rate, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(seed)
    for k in counted("iterations", range(iterations)):
        rate = min(1, (k + 1) / 10) * 0.5 * (1 + math.cos(math.pi * k / iterations))
        optimiser.param_groups[0]["lr"] = learning_rate * rate
        rows = torch.randperm(learn.stop, generator=generator)[: problem.batch_size]
        rows = rows.to(problem.x0.device)
        with torch.enable_grad():
            ends = _roll_out(problem, Weights(**parameters), rows)
            loss = (ends - precise[rows]).square().mean().log() / 2
            optimiser.zero_grad()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimiser.step()
        if callback is not None:
            callback(k, math.exp(float(loss.detach())))
        if k % 25 == 24 or k == iterations - 1:
            yield Weights(**{name: value.detach().clone() for name, value in parameters.items()})


def _roll_out(problem: _Problem, weights: Weights, rows: Tensor) -> Tensor:
    """The ends of trajectories, with gradients in the weights and so in the times."""
    solver, path, x = Learned(weights), problem.path, problem.x0[rows]
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    first, last = torch.atan2(path.alpha(ends), path.sigma(ends)).tolist()
    theta = spread(weights, problem.nfe, first, last)
    times = times_of_angles(theta.detach(), path)
    # The inverse of theta(t) need not be differentiable: dt = dtheta/theta'(t), between the ends.
    c = path.coefficients(times[1:-1])
    slope = (c.d_alpha * c.sigma - c.alpha * c.d_sigma) / (c.alpha**2 + c.sigma**2)
    inner = times[1:-1] + (theta - theta.detach())[1:-1] / slope
    grid = torch.cat((times[:1], inner, times[-1:])).to(x.device)[:, None].expand(-1, len(x))
    state, noise, given = solver.init(x, grid, path), Noise.batch(len(x), 0), problem.given(rows)
    for i in range(problem.nfe):
        x, state = solver.step(problem.field, x, grid[i], grid[i + 1], state, noise, **given)
    return x


def _by_least_squares(problem: _Problem, learn: slice) -> Any:
    """Weights by least squares, for several ridges."""
    grid = Learned().grid(problem.nfe, problem.path)
    refined = max(1, PRECISE // problem.nfe)
    inner = torch.arange(refined, dtype=grid.dtype) / refined
    fine = torch.cat(((grid[:-1, None] + inner * grid.diff()[:, None]).flatten(), grid[-1:]))
    index = torch.arange(learn.stop, device=problem.x0.device)
    targets: list[Tensor] = [torch.empty_like(problem.x0[learn]) for _ in range(problem.nfe)]
    with torch.no_grad():
        for rows in index.split(problem.batch_size):

            def keep(i: int, t: Tensor, x: Tensor, rows: Tensor = rows) -> None:
                if i and i % refined == 0:
                    targets[i // refined - 1][rows] = x

            x0, given = problem.x0[rows], problem.given(rows)
            integrate(Learned(None), problem.field, x0, fine, callback=keep, **given)
        for ridge in RIDGES:
            yield _solve_in_turn(problem, grid, index, targets, ridge)


def _solve_in_turn(
    problem: _Problem, grid: Tensor, index: Tensor, targets: list[Tensor], ridge: float
) -> Weights:
    start, x = universal(), problem.x0[: len(index)]
    home = grid.to(x.device)[:, None]
    width = len(start.bias) + 1
    plan, steps, *_ = Learned().init(x, home.expand(-1, len(x)), problem.path)
    network = plan.network
    assert network is not None
    e = strength(problem.nfe).to(network.inputs)
    values: list[Tensor] = []
    rows: Tensor | None = None
    out, constant = start.out.repeat(problem.nfe, 1, 1), start.constant.repeat(problem.nfe, 1)
    for i in range(problem.nfe):
        t = grid[i].to(x.device).expand(len(x))
        value = torch.cat(
            [
                problem.field(x[part], t[part], "v", **problem.given(part))
                for part in index.split(problem.batch_size)
            ]
        )
        values = [value, *values][:VALUES]
        seen = look(network, x, value, rows)
        hidden = hidden_units(network.inputs, steps[i], seen)
        rows = seen[len(x) : VALUES * len(x)]
        terms = plan.terms[i][0, :, : len(values)].to(x)
        basis = torch.stack([v.flatten(1) for v in values], 1)
        basis = terms @ basis * e[:, None].to(x)
        q = (factors(network, i, hidden) - 1) / e
        # Units of `basis`: x_s = scale x + sum_m basis_m (1/e_m + q_m), q without e_m.
        x_s = expand(plan.scale[i].expand(len(x)), x) * x
        now = ((1 / e + q).to(x)[:, None] @ basis)[:, 0]
        lack = (targets[i] - x_s).flatten(1) - now
        y = torch.cat((hidden, torch.ones_like(hidden[:, :1])), 1).double()
        inner = (basis @ basis.mT).double()
        normal = torch.einsum("bmn,bk,bl->mknl", inner, y, y).reshape(VALUES * width, -1)
        right = torch.einsum("bm,bk->mk", (basis @ lack[..., None])[..., 0].double(), y).flatten()
        # What is never different from 0, as differences that lack values, keeps its weight.
        size = normal.diagonal() + 1e-12 * normal.diagonal().max() + 1e-30
        change = torch.linalg.solve(normal + ridge * size.diag(), right).reshape(VALUES, width)
        out[i] += change[:, :-1].to(out)
        constant[i] += change[:, -1].to(constant)
        moved = (y @ change.mT).to(x)[:, None] @ basis
        x = x_s + (now + moved[:, 0]).reshape(x.shape)
    return Weights(start.density, start.step, start.history, start.bias, out, constant)
