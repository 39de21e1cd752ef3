"""What a flow costs as a transport, and how straight it is; each with its standard error.

run = follow(model, x0)                        # the flow of x0, its path energy and its straightness
run.straightness(), transport_costs(run.start, run.end)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.errors import InputError, NonFiniteError
from pushforward.core.fields import Field
from pushforward.core.progress import counted
from pushforward.core.shapes import sum_data
from pushforward.core.times import uniform
from pushforward.evaluate.metrics.measured import Measured, flat, mean, variance_of_mean
from pushforward.sampling.generate import evaluating, home
from pushforward.solvers import RK4, Solver, integrate

Cost = Callable[[Tensor], Tensor]
# Convex costs c(d) of displacements d = x1 - x0 (N, D): |d|, |d|^2, |d|_1.
COSTS: Mapping[str, Cost] = {
    "l2": lambda d: d.norm(dim=1),
    "l2 squared": lambda d: d.square().sum(1),
    "l1": lambda d: d.abs().sum(1),
}


def transport_costs(
    x0: Tensor, x1: Tensor, costs: Mapping[str, Cost] = COSTS
) -> dict[str, Measured]:
    """`E c(x1 - x0)` of pairs, for each of these costs; none of the convex ones rises by rectifying a flow.

    x0, x1: (N, ...), row by row. costs: from displacements (N, D) to (N,).

    Liu et al. 2022 (arXiv 2209.03003), thm. 3.5.
    """
    if x0.shape != x1.shape:
        raise InputError(f"pairs must have one shape, got {tuple(x0.shape)} and {tuple(x1.shape)}")
    x0, x1 = flat(x0, x1)
    return {name: mean(cost(x1 - x0)) for name, cost in costs.items()}


@dataclass(frozen=True)
class Flow:
    """Trajectories of a field from t = 0 to 1, by what remains of them.

    start, end: (N, ...) X_0 and X_1. energy: (N,) `int |u|^2 dt`. velocity: (N, ...) `int u dt`. All float64.
    """

    start: Tensor
    end: Tensor
    energy: Tensor
    velocity: Tensor

    def path_energy(self) -> Measured:
        """`PE = E int_0^1 |u(X_t, t)|^2 dt`, at least W2^2 of the laws that it joins (Benamou & Brenier 2000)."""
        return mean(self.energy)

    def normalised_path_energy(self, w2: Measured | float) -> Measured:
        """`NPE = |PE - W2^2| / W2^2`, 0 for the optimal transport.

        w2: the 2-Wasserstein distance, not squared, of the laws at t = 0 and 1: of samples of the source and of data.
        Tong et al. 2023 (arXiv 2302.00482), sec. 5; [SF]2M (arXiv 2307.03672), table 2.
        """
        squared, energy = float(w2) ** 2, self.path_energy()
        if not squared > 0:
            raise InputError(f"w2 is {float(w2)}; energies are measured in units of its square")
        error = 2 * float(w2) * w2.standard_error if isinstance(w2, Measured) else 0.0
        ratio = energy.value / squared
        spread = math.hypot(energy.standard_error, ratio * error) / squared
        return Measured(abs(ratio - 1), spread)

    def straightness(self, relative: bool = False) -> Measured:
        """`S = E int_0^1 |(X_1 - X_0) - u(X_t, t)|^2 dt`, 0 if and only if every trajectory is a straight line at
        constant speed. relative: over `E |X_1 - X_0|^2`.

        Liu et al. 2022 (arXiv 2209.03003), eq. 4.
        """
        d = self.end - self.start
        square = sum_data(d**2)
        deviation = (self.energy - 2 * sum_data(d * self.velocity) + square).clamp(min=0)
        if not relative:
            return mean(deviation)
        whole = float(square.mean())
        if whole == 0:
            raise InputError("nothing moves, so there is nothing to be relative to")
        ratio = float(deviation.mean()) / whole
        return Measured(ratio, math.sqrt(variance_of_mean(deviation - ratio * square)) / whole)


def follow(
    field: Field,
    x0: Tensor,
    *,
    steps: int = 50,
    solver: Solver | None = None,
    batch_size: int = 4096,
    **cond: Tensor,
) -> Flow:
    """Carry x0 (N, ...) along the velocity of a field and take its integrals on the way, by Simpson's rule.

    steps: equal ones, an even number of them. solver: a deterministic one, RK4 by default; each step takes one call
    of the field beside the solver's. cond: tensors (N, ...).
    """
    if steps < 2 or steps % 2:
        raise InputError(f"steps is {steps}; Simpson's rule takes an even number of them")
    weights = torch.tensor([1.0, *[4.0, 2.0] * (steps // 2)], dtype=torch.float64)
    weights[-1] = 1.0
    weights /= 3 * steps
    device, dtype = home(field, x0)
    parts = []
    with torch.no_grad(), evaluating(field):
        for rows in counted("trajectories", torch.arange(len(x0)).split(batch_size)):
            start = x0[rows].to(device, dtype)
            here: dict[str, Any] = conditions.to(conditions.take(cond, rows), device)
            energy = torch.zeros(len(rows), dtype=torch.float64, device=device)
            velocity = torch.zeros_like(start, dtype=torch.float64)

            def add(
                i: int,
                t: Tensor,
                x: Tensor,
                energy: Tensor = energy,
                velocity: Tensor = velocity,
                here: dict[str, Any] = here,
            ) -> None:
                u = field(x, t, **here).double()
                energy += weights[i] * sum_data(u**2)
                velocity += weights[i] * u

            end = integrate(solver or RK4(), field, start, uniform(steps), callback=add, **here)
            parts.append((start.double(), end.double(), energy, velocity))
    flow = Flow(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))
    bad = ~(flow.energy.isfinite() & flow.end.flatten(1).isfinite().all(1))
    if bool(bad.any()):
        raise NonFiniteError(
            f"{int(bad.sum())} of {len(bad)} trajectories are not finite: is the velocity at both ends of time?"
        )
    return flow


def path_energy(field: Field, x0: Tensor, **options: Any) -> Measured:
    """`Flow.path_energy` of x0 (N, ...) along a field. options: those of `follow`."""
    return follow(field, x0, **options).path_energy()


def normalised_path_energy(
    field: Field, x0: Tensor, w2: Measured | float, **options: Any
) -> Measured:
    """`Flow.normalised_path_energy` of x0 (N, ...) along a field. options: those of `follow`."""
    return follow(field, x0, **options).normalised_path_energy(w2)


def straightness(field: Field, x0: Tensor, relative: bool = False, **options: Any) -> Measured:
    """`Flow.straightness` of x0 (N, ...) along a field. options: those of `follow`."""
    return follow(field, x0, **options).straightness(relative)
