"""The two processes of DiffFlow, both trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pushforward.core import conditions
from pushforward.core.adjoint import State, trajectory
from pushforward.core.errors import InputError
from pushforward.core.fields import Field
from pushforward.core.network import ask
from pushforward.core.noise import SOLVER, START, Noise
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction
from pushforward.core.shapes import as_time, sum_data
from pushforward.core.times import quadratic
from pushforward.models.base import ModelBase
from pushforward.models.model import Model

Callback = Callable[[int, Tensor, Tensor], None]


class DiffFlowModel(ModelBase):
    """The two processes of DiffFlow: a score, a drift on top of the noising process of its path, and N steps.

    score: a Model on a Gaussian path, best one that predicts the noise: what scales the score. Its path is that of
           the process without a drift.
    drift: (x (B, ...), t (B,), **cond) -> (B, ...), in the direction of the noise; starting at 0, as the networks of
           this library do, it starts from the diffusion model of the path. None for that model itself.
    steps: N; the grid is then `times.quadratic`, whose steps shrink towards the data.
    grid:  times (N + 1,) that increase from 0 to 1, instead of steps.

    As a field it answers with the velocity of the probability flow, `u = score's velocity - drift`, and with the
    score. With a drift its marginals are on no path that is known beforehand: `path` then says gaussian_source=False,
    and no other prediction follows. Raises InputError for a step that adds no noise.
    """

    def __init__(
        self,
        score: Model,
        drift: nn.Module | None = None,
        steps: int = 8,
        *,
        grid: Tensor | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        score.path.require_gaussian("process of DiffFlow")
        self.score, self.drift = score, drift
        if grid is None:
            grid = quadratic(steps)
        elif isinstance(grid, Tensor):
            grid = grid.detach().double().cpu()
        else:
            grid = torch.tensor(grid, dtype=torch.float64)
        if grid.ndim != 1 or len(grid) < 2 or not bool((grid.diff() > 0).all()):
            raise InputError("the grid of DiffFlow is one list of increasing times")
        if (float(grid[0]), float(grid[-1])) != (0.0, 1.0):
            raise InputError(
                f"the grid must go from 0 to 1, not from {float(grid[0]):g} to {float(grid[-1]):g}"
            )
        self.grid = grid
        times = grid.flip(0)
        alpha, sigma = score.path.alpha(times), score.path.sigma(times)
        alpha[0], sigma[0] = 1, 0  # the data themselves
        factor = alpha[1:] / alpha[:-1]
        variance = sigma[1:] ** 2 - (factor * sigma[:-1]) ** 2
        if not bool((variance > 0).all()):
            raise InputError(
                f"a step of {score.path} between the times {times.tolist()} adds no noise: DiffFlow divides by it"
            )
        self._times: list[float] = times.tolist()
        self._factor: list[float] = factor.tolist()
        self._variance: list[float] = variance.tolist()

    @property
    def steps(self) -> int:
        return len(self._factor)

    def _described(self) -> ModelBase:
        return self.score

    def to_config(self) -> dict[str, Any]:
        return {"score": self.score, "drift": self.drift, "grid": self.grid.tolist()}

    @property
    def path(self) -> Path:
        if self.drift is None:
            return self.score.path
        return replace(self.score.path, gaussian_source=False)

    def forward(
        self, x: Tensor, t: Tensor | float, want: Prediction = "velocity", **cond: Any
    ) -> Tensor:
        value = self.score(x, t, want, **cond)
        if self.drift is None or want == "score":
            return value
        if want != "velocity":
            raise InputError(
                f"DiffFlow with a drift knows its velocity and its score, not the {want}"
            )
        return value - self._drift(x, t, cond)

    def with_score(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """(velocity, score), for samplers of any noise level."""
        return self(x, t, "velocity", **cond), self(x, t, "score", **cond)

    def regrid(self, steps: int) -> DiffFlowModel:
        """The same networks with another number of steps: times linear in between, as functions of k/N."""
        if steps < 1:
            raise InputError(f"steps is {steps}; it must be at least 1")
        place = torch.linspace(0, self.steps, steps + 1, dtype=torch.float64)
        below = place.floor().long().clamp(max=self.steps - 1)
        grid = self.grid[below] + (place - below) * self.grid.diff()[below]
        grid[-1] = 1
        return DiffFlowModel(self.score, self.drift, grid=grid)

    # The two processes, step k between t_k and t_{k+1} < t_k.

    def noising_step(self, k: int, y: Tensor, drift: Tensor, z: Tensor) -> Tensor:
        """y_k -> y_{k+1}; drift at (y_k, t_k)."""
        h = self._times[k] - self._times[k + 1]
        return self._factor[k] * y + h * drift + self._variance[k] ** 0.5 * z

    def denoised_mean(self, k: int, y: Tensor, drift: Tensor, score: Tensor) -> Tensor:
        """The mean of y_k given y_{k+1}; drift and score at (y_{k+1}, t_{k+1})."""
        h = self._times[k] - self._times[k + 1]
        return (2 - self._factor[k]) * y - h * drift + self._variance[k] * score

    def backward_step(self, k: int, y: Tensor, z: Tensor, **cond: Any) -> Tensor:
        """y_{k+1} -> y_k."""
        s = self._times[k + 1]
        drift, score = self._drift(y, s, cond), self.score(y, s, "score", **cond)
        return self.denoised_mean(k, y, drift, score) + self._variance[k] ** 0.5 * z

    def _drift(self, x: Tensor, t: Tensor | float, cond: dict[str, Any]) -> Tensor:
        return (
            torch.zeros_like(x) if self.drift is None else ask(self.drift, x, as_time(t, x), cond)
        )

    def diffuse(self, x: Tensor, noise: Noise, **cond: Any) -> Tensor:
        """(N + 1, B, ...) the states of the forward process from the data x (B, ...), as `bound` meets them."""
        states, along = [x], _along(noise.to(x.device))
        for k in range(self.steps):
            y = states[-1]
            z = along.at(k).normal(x.shape[1:], SOLVER, x.dtype)
            states.append(self.noising_step(k, y, self._drift(y, self._times[k], cond), z))
        return torch.stack(states)

    def bound(self, x: Tensor, noise: Noise, *, adjoint: bool = True, **cond: Any) -> Tensor:
        """(B,) one draw of a bound on -ln p(x), in nats, by one path of the forward process.

            -ln N(y_N; 0, sigma(0)^2 I) + 1/2 sum_k (|delta_k|^2 - |z_k|^2)

        noise: with the ids, seed and step (of training) that key the path. Gradients go through `trajectory`.
        """
        along = _along(noise.to(x.device))

        def step(k: int, y: Tensor, drift: Tensor, total: Tensor) -> State:
            z = along.at(k).normal(y.shape[1:], SOLVER, y.dtype)
            there, s = self.noising_step(k, y, drift, z), self._times[k + 1]
            drift = self._drift(there, s, cond)
            mean = self.denoised_mean(k, there, drift, self.score(there, s, "score", **cond))
            delta = (y - mean) / self._variance[k] ** 0.5
            return there, drift, total + sum_data(delta**2 - z**2) / 2

        start = (x, self._drift(x, self._times[0], cond), x.new_zeros(len(x)))
        y, _, total = trajectory(step, start, self.steps, self.parameters(), adjoint=adjoint)
        std = self.score.path.source_std
        prior = torch.distributions.Normal(0.0, std, validate_args=False).log_prob(y)
        return total - sum_data(prior)

    @torch.no_grad()
    def sample(
        self,
        num: int,
        steps: int | None = None,
        *,
        seed: int = 0,
        batch_size: int = 256,
        callback: Callback | None = None,
        **cond: Tensor,
    ) -> Tensor:
        """(num, *shape) samples of the backward process, in `steps` steps or those it was trained with.

        Sample i is a function of (seed, i), whatever the batch size. callback: called with (i, t (B,), x (B, ...)) at
        each time from 0 to 1, batch by batch. cond: (num, ...) each.
        """
        if num < 1 or batch_size < 1:
            raise InputError(f"num and batch_size must be positive, got {num} and {batch_size}")
        if not self.shape:
            raise InputError("the shape of a sample is not known: build the score Model with it")
        if steps is not None and steps != self.steps:
            return self.regrid(steps).sample(
                num, None, seed=seed, batch_size=batch_size, callback=callback, **cond
            )
        weight = next(self.parameters())
        parts = []
        for start in range(0, num, batch_size):
            size = min(batch_size, num - start)
            noise = Noise.batch(size, seed, start=start, device=weight.device)
            here = conditions.take(cond, slice(start, start + size))
            y = self.score.path.source_std * noise.normal(self.shape, START, weight.dtype)
            for i, k in enumerate(reversed(range(self.steps))):
                s = self._times[k + 1]
                if callback is not None:
                    callback(i, as_time(s, y), y)
                z = noise.at(i).normal(self.shape, SOLVER, y.dtype)
                y = self.backward_step(k, y, z, **here)
            if callback is not None:
                callback(self.steps, as_time(1.0, y), y)
            parts.append(y)
        return torch.cat(parts)


def _along(noise: Noise) -> Noise:
    """Noise for the steps of a trajectory: keyed by a seed of this training step's own, so that step k is free."""
    one = Noise(noise.seed, torch.zeros(1, dtype=torch.int64), noise.step)
    high, low = one.words(2, SOLVER)[0].tolist()
    return Noise(high << 32 | low, noise.ids)


@dataclass(frozen=True)
class Backward:
    """The backward process of a `DiffFlowModel` as a solver: a step of its chain, from t_{k+1} to t_k, at each call.

    model: whose chain it is; the default solver of `generate` for it. The times are those of `grid` and no others, and
    the samples those of `DiffFlowModel.sample`.
    """

    model: DiffFlowModel

    order: ClassVar[float] = 1
    calls: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True

    def grid(self, n: int, path: Path) -> Tensor:
        """The times of the chain, (n + 1,)."""
        if n != self.model.steps:
            raise InputError(f"this chain has {self.model.steps} steps, not {n}: take model.regrid")
        return self.model.grid

    def init(self, x: Tensor, grid: Tensor, path: Path) -> None:
        times = self.model.grid.to(grid.device)
        if grid.shape[0] != len(times) or not bool((grid == times[:, None]).all()):
            raise InputError(
                "the backward process of DiffFlow takes the steps of its own chain: leave the grid out"
            )

    def step(
        self, field: Field, x: Tensor, t: Tensor, s: Tensor, state: None, noise: Noise, **cond: Any
    ) -> tuple[Tensor, None]:
        if not isinstance(field, DiffFlowModel):
            raise InputError(
                f"the chain of DiffFlow is that of its own drift and score, and {type(field).__name__} changes them: "
                f"sample without guidance"
            )
        k = self.model.steps - 1 - noise.step
        z = noise.normal(x.shape[1:], SOLVER, x.dtype)
        return self.model.backward_step(k, x, z, **cond), None
