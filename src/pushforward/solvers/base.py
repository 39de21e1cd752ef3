"""What a solver is, and the one driver for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from pushforward.core.errors import InputError, UndefinedError
from pushforward.core.fields import Field, FlowMap
from pushforward.core.noise import Noise
from pushforward.core.paths import Path

Callback = Callable[[int, Tensor, Tensor], None]


class Solver(Protocol):
    """One step of a sampler. Whatever it remembers between steps is in its State, never in itself.

    order: the power of the step size with which the error at a fixed time falls.
    calls: calls of the field in one step; 0 if it makes as many as it takes.
    """

    @property
    def order(self) -> float: ...

    @property
    def calls(self) -> int: ...

    def init(self, x: Tensor, grid: Tensor, path: Path) -> Any:
        """The State before the first step. grid: (n + 1, B) the times to come."""

    def step(
        self, field: Field, x: Tensor, t: Tensor, s: Tensor, state: Any, noise: Noise, **cond: Any
    ) -> tuple[Tensor, Any]:
        """x_t -> x_s. x: (B, ...), t and s: (B,), s > t towards the data and s < t towards the noise."""


def integrate(
    solver: Solver,
    field: Field | FlowMap,
    x: Tensor,
    times: Tensor,
    *,
    seed: int = 0,
    ids: Tensor | None = None,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """Carry x along the field through `times`: forward if they increase, backward if they decrease.

    By `FlowMapSampler`, what is given as the field is a flow map.

    x:        (B, ...) the state at times[0]; for sampling, `path.source_std` times standard normals.
    times:    (n + 1,), or (B, n + 1) for times of each sample's own, in [0, 1] and strictly monotone.
    seed, ids: key the randomness of stochastic solvers; ids (B,) int64 default to 0 ... B - 1. A sample with its id
              is the same in any batch.
    callback: called with (i, t (B,), x (B, ...)) at times[0], ..., times[n]: progress, trajectories.
    cond:     passed to the field at every call.

    Returns the state at times[n], in x's dtype. Gradients flow through; wrap in torch.no_grad() to sample.
    """
    check_followed(field, solver)
    grid = _check(x, times)
    if ids is None:
        ids = torch.arange(len(x), device=x.device)
    elif ids.shape != (len(x),):
        raise InputError(
            f"ids must have shape ({len(x)},), one for each sample, got {tuple(ids.shape)}"
        )
    noise = Noise(seed, ids.to(x.device))
    state = solver.init(x, grid, field.path)
    for i, t in enumerate(grid[:-1]):
        if callback is not None:
            callback(i, t, x)
        x, state = solver.step(cast(Field, field), x, t, grid[i + 1], state, noise.at(i), **cond)
    if callback is not None:
        callback(len(grid) - 1, grid[-1], x)
    return x


def check_followed(field: Any, solver: Any) -> None:
    """That a flow map is sampled by `FlowMapSampler`, which says by_map; all others follow a velocity."""
    if isinstance(field, FlowMap) and not getattr(solver, "by_map", False):
        raise UndefinedError(
            f"{type(solver).__name__} follows a velocity, and this is a flow map: take FlowMapSampler(), or "
            f"InstantaneousField(model) for the field of one that knows any jump"
        )


def _check(x: Tensor, times: Tensor) -> Tensor:
    """`times` as a float64 grid (n + 1, B) on x's device."""
    if not x.is_floating_point() or x.ndim < 1:
        raise InputError(f"x must be a floating tensor (B, ...), got {x.dtype} {tuple(x.shape)}")
    times = torch.as_tensor(times)
    per_sample = times.ndim == 2 and times.shape[0] == len(x)
    if not (times.ndim == 1 or per_sample) or times.shape[-1] < 2:
        raise InputError(
            f"times must have shape (n + 1,) or ({len(x)}, n + 1) with n >= 1, got {tuple(times.shape)}"
        )
    grid = times.detach().double()
    steps = grid.diff()
    if not bool(((grid >= 0) & (grid <= 1)).all()):
        raise InputError(
            f"times must lie in [0, 1], 0 the noise and 1 the data, got {_shown(grid)}"
        )
    if not (bool((steps > 0).all()) or bool((steps < 0).all())):
        raise InputError(
            f"times must increase strictly (towards the data) or decrease strictly (towards the noise), "
            f"got {_shown(grid)}"
        )
    if not bool(x.isfinite().all()):
        raise InputError("x holds NaN or infinite values before the first step")
    grid = grid.to(x.device)
    return grid[:, None].expand(-1, len(x)) if grid.ndim == 1 else grid.T


def _shown(grid: Tensor) -> str:
    """The first times of a grid, for an error."""
    values = grid.flatten().tolist()
    return str(values[:8]) if len(values) <= 8 else f"{str(values[:8])[:-1]}, ...]"
