"""Maximum likelihood of a continuous normalising flow: what flow matching replaced.

    loss = -ln p_1(x1) = -ln p_0(x(0)) + int_0^1 div u_t(x(t)) dt,      dx/dt = u_t(x), x(1) = x1

Each loss is a simulation: the flow is followed from the data back to the source, and the gradient through all of it.

Chen et al. 2018 (arXiv 1806.07366); the estimate of the divergence: Grathwohl et al. 2019 (arXiv 1810.01367); kinetic
energy and Jacobian norm: Finlay et al. 2020 (arXiv 2002.02798). Gradients are those of the discretised flow, by
`trajectory`; the continuous adjoint of Chen et al. integrates the state anew, and is off by the solver's error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from pushforward.core.adjoint import State, trajectory
from pushforward.core.errors import InputError
from pushforward.core.fields import Field
from pushforward.core.noise import PROBE, TIME, Noise
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction
from pushforward.core.shapes import sum_data
from pushforward.core.times import uniform
from pushforward.data.batch import Batch
from pushforward.models.model import Model
from pushforward.objectives.matching import refuse_mask
from pushforward.solvers import RK4
from pushforward.solvers.ode import RungeKutta

# The most dimensions for which the divergence is computed exactly unless probes are asked for.
EXACT_DIMENSIONS = 64


@dataclass(frozen=True)
class MaximumLikelihood:
    """The likelihood of the flow of a velocity, integrated by `steps` steps of a Runge-Kutta method.

        loss_i = -ln p_1(x1_i) + kinetic int |u|^2 dt + jacobian int |du/dx|_F^2 dt

    in nats, of the whole sample. Without the two extra terms it is `-pf.log_prob(model, x1)` with the same solver,
    times and probes.

    model:    its velocity is trained. A loss takes steps x solver.calls network calls, each with derivatives in x.
    probes:   None computes the divergence, by one backward pass for each dimension; K estimates it by K probes of
              signs (or Gaussian ones), drawn once for a trajectory: the loss and its gradient stay unbiased.
    kinetic, jacobian: weights of the energies of Finlay et al. 2020, eq. 5, which straighten the flow. With probes
              the Frobenius norm is estimated by the same ones, `E |v^T du/dx|^2`.
    grid:     times (n + 1,) that increase, instead of steps; they are walked backwards. A prediction without a
              velocity at an end of time is moved from it by the model's margin.
    jitter:   move the inner times of the grid at random by up to half a step, for each sample and training step anew.
              On a fixed grid a network that knows the time well lowers the loss by a field that is right at those
              times only: the loss is then no likelihood, which `pf.log_prob` on another grid tells (docs/log.md).
    source:   ln density of the law at the first time, from (B, ...) to (B,); that of N(0, sigma(0)^2 I) by default.
    adjoint:  one step's activations in memory instead of all, for one more evaluation of each step.
    """

    model: Model
    steps: int = 20
    solver: RungeKutta = field(default_factory=RK4)
    probes: int | None = None
    kind: Literal["rademacher", "gaussian"] = "rademacher"
    kinetic: float = 0.0
    jacobian: float = 0.0
    grid: Tensor | None = None
    jitter: bool = True
    source: Callable[[Tensor], Tensor] | None = None
    adjoint: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.solver, RungeKutta):
            raise InputError(
                f"{type(self.solver).__name__} keeps a state between steps, or chooses them: likelihoods take a "
                f"Runge-Kutta method of fixed steps, such as RK4() or Heun()"
            )
        if self.probes is not None and self.probes < 1:
            raise InputError(f"probes is {self.probes}; it must be at least 1")
        if self.kind not in ("rademacher", "gaussian"):
            raise InputError(f"probes are 'rademacher' or 'gaussian', not {self.kind!r}")
        if self.kinetic < 0 or self.jacobian < 0:
            raise InputError(
                f"kinetic = {self.kinetic}, jacobian = {self.jacobian}: weights are not negative"
            )
        if self.source is None:
            self.model.path.require_gaussian("density of the source")

    def __call__(self, batch: Batch | Tensor, noise: Noise) -> dict[str, Tensor]:
        """{"loss": (B,)}. batch: a Batch, or data (B, ...) alone; noise: keyed by the global ids of its samples."""
        refuse_mask(batch)
        if isinstance(batch, Tensor):
            batch = Batch(batch)
        if len(noise) != len(batch):
            raise InputError(f"{len(noise)} noise ids for a batch of {len(batch)}")
        if batch.x0 is not None:
            raise InputError(
                "the batch brings its own source samples; likelihoods take the density of their law: pass source="
            )
        x1, shape = batch.x1, batch.x1.shape[1:]
        if self.probes is None and shape.numel() > EXACT_DIMENSIONS:
            raise InputError(
                f"samples have {shape.numel()} dimensions, and an exact divergence takes as many backward passes: "
                f"pass probes=1, say, for an estimate"
            )
        energies = 2 if self.kinetic or self.jacobian else 0
        flow = _Flow(self.model, shape, self._probes(x1, noise.to(x1.device)), 1 + energies)
        times = self._times(noise.to(x1.device))

        def step(k: int, state: Tensor) -> State:
            return (self.solver.step(flow, state, times[k], times[k + 1], None, noise, **batch.cond)[0],)  # fmt: skip

        start = torch.cat((x1.flatten(1), x1.new_zeros(len(x1), 1 + energies)), dim=1)
        (end,) = trajectory(
            step, (start,), len(times) - 1, self.model.parameters(), adjoint=self.adjoint
        )
        # From 1 to 0: the integrals have the sign of int_1^0.
        size = shape.numel()
        x0, integrals = end[:, :size].reshape(x1.shape), end[:, size:].unbind(1)
        first = self._source(x0) if self.source is None else self.source(x0)
        loss = -first - integrals[0]
        for weight, integral in zip((self.kinetic, self.jacobian), integrals[1:], strict=False):
            loss = loss - weight * integral
        return {"loss": loss}

    def _times(self, noise: Noise) -> Tensor:
        """(n + 1, B) from the data to the noise."""
        grid = uniform(self.steps) if self.grid is None else self.grid.double()
        times = grid.to(noise.ids.device).flip(0)[:, None].expand(-1, len(noise))
        if not self.jitter:
            return times
        gaps = times.diff(dim=0)
        room = torch.maximum(gaps[1:], gaps[:-1])  # both negative: the smaller step
        moved = times.clone()
        moved[1:-1] += room * (noise.uniform((len(room),), TIME).T - 0.5)
        return moved

    def _source(self, x0: Tensor) -> Tensor:
        """ln N(x0; 0, sigma(0)^2 I)."""
        std = self.model.path.source_std
        return sum_data(-(x0**2) / (2 * std**2) - math.log(std * math.sqrt(2 * math.pi)))

    def _probes(self, x: Tensor, noise: Noise) -> Tensor | None:
        """(B, K, ...), those of `pf.log_prob`."""
        if self.probes is None:
            return None
        shape = (self.probes, *x.shape[1:])
        if self.kind == "gaussian":
            return noise.normal(shape, PROBE, x.dtype)
        return (noise.uniform(shape, PROBE) < 0.5).to(x.dtype) * 2 - 1


@dataclass(frozen=True)
class _Flow:
    """A Field on (x, l) or (x, l, e, j): u, div u, and |u|^2 and |du/dx|_F^2, with gradients where they are asked for.

    extra: 1 or 3, how many numbers there are beside x.
    """

    field: Field
    shape: torch.Size
    probes: Tensor | None
    extra: int

    @property
    def path(self) -> Path:
        return self.field.path

    def __call__(
        self, x: Tensor, t: Tensor | float, want: Prediction = "velocity", **cond: Any
    ) -> Tensor:
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            state = x[:, : -self.extra].reshape(-1, *self.shape)
            if not (wanted and state.requires_grad):
                state = state.detach().requires_grad_()
            u = self.field(state, t, **cond)
            trace, norm = _derivatives(u, state, self.probes, wanted)
            beside = torch.stack((trace, sum_data(u**2), norm)[: self.extra], 1)
            out = torch.cat((u.flatten(1), beside), 1)
        return out if wanted else out.detach()


def _derivatives(
    u: Tensor, x: Tensor, probes: Tensor | None, differentiable: bool
) -> tuple[Tensor, Tensor]:
    """(div u, |du/dx|_F^2), (B,) each, or their estimates by the probes v: v^T du/dx v and |v^T du/dx|^2."""
    if probes is None:
        units = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
        vectors = [unit.reshape(x.shape[1:]).expand_as(x) for unit in units]
    else:
        vectors = list(probes.unbind(1))
    trace = norm = x.new_zeros(len(x))
    for v in vectors if u.requires_grad else ():
        (row,) = torch.autograd.grad(
            u, x, v, retain_graph=True, create_graph=differentiable, allow_unused=True
        )
        if row is not None:  # a velocity without x in it has no divergence
            trace, norm = trace + sum_data(row * v), norm + sum_data(row**2)
    count = 1 if probes is None else len(vectors)
    return trace / count, norm / count
