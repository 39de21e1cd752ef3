"""What a solver is, and the one driver for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.errors import InputError, UndefinedError
from pushforward.core.fields import Field, FlowMap, Masked, breaks_of, require_field, within
from pushforward.core.noise import Noise
from pushforward.core.paths import Path
from pushforward.core.shapes import check_mask

# glibc's limit for the memory that it keeps, in bytes.
MOST_KEPT = 32 << 20

Callback = Callable[[int, Tensor, Tensor], None]
Edit = Callable[[int, Tensor, Tensor], Tensor]


class Solver(Protocol):
    """One step of a sampler. Whatever it remembers between steps is in its State, never in itself.

    order: the power of the step size with which the error at a fixed time falls.
    calls: calls of the field in one step; 0 if it makes as many as it takes.
    stochastic: whether a sample is a function of more than the state at the start.
    """

    @property
    def order(self) -> float: ...

    @property
    def calls(self) -> int: ...

    @property
    def stochastic(self) -> bool: ...

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
    mask: Tensor | None = None,
    callback: Callback | None = None,
    edit: Edit | None = None,
    **cond: Any,
) -> Tensor:
    """Carry x along the field through `times`: forward if they increase, backward if they decrease.

    With `FlowMapSampler`, the field is a flow map.

    x:        (B, ...) the state at times[0]; for sampling, `path.source_std` times standard normals.
    times:    (n + 1,), or (B, n + 1) for times of each sample's own, in [0, 1] and strictly monotone.
    seed, ids: key the randomness of stochastic solvers; ids (B,) int64 default to 0 ... B - 1. A sample with its id
              is the same in any batch.
    mask:     bool, of x's number of dimensions, each as long or 1: the entries that are data. Padding stays as it is,
              and each sample is the one that it is alone. The field gets it as the condition `mask`.
    callback: called with (i, t (B,), x (B, ...)) at times[0], ..., times[n]: progress, trajectories.
    edit:     called with (i, t (B,), x (B, ...)) before step i, times[0] included and times[n] too: returns the state
              to go on from, for projections, inpainting or resampling.
    cond:     passed to the field at every call: tensors, Tokens, or groups of these, with one row for each sample.

    Where the field jumps in time (`breaks`, as under guidance in an interval), the grid is cut there, the break being
    one more time, and each side is asked on its own side: solvers keep their order.

    Returns the state at times[n], in x's dtype. Gradients flow through; wrap in torch.no_grad() to sample.
    """
    require_solver(solver)
    require_field(field)
    check_followed(field, solver)
    grid = check_grid(x, times)
    if ids is None:
        ids = torch.arange(len(x), device=x.device)
    elif ids.shape != (len(x),):
        raise InputError(
            f"ids must have shape ({len(x)},), one for each sample, got {tuple(ids.shape)}"
        )
    conditions.check_size(cond, len(x))
    _keep_memory(x)
    noise = Noise(seed, ids.to(x.device))
    if mask is not None:
        check_mask(mask, x)
        noise, cond["mask"] = noise.masked(mask), mask
        field = Masked(cast(Field, field))
    return follow(solver, field, x, grid, noise, callback, edit, **cond)


def follow(
    solver: Solver,
    field: Field | FlowMap,
    x: Tensor,
    grid: Tensor,
    noise: Noise,
    callback: Callback | None = None,
    edit: Edit | None = None,
    **cond: Any,
) -> Tensor:
    """The steps of `integrate`, of arguments that it has checked. grid: (n + 1, B), or (n + 1, 1) for all samples."""
    breaks = breaks_of(field)
    if breaks and not _alike(grid):
        return _one_by_one(solver, field, x, grid, noise, callback, edit, cond)
    i = 0
    for part, side in _pieces(field, grid, breaks):
        state = solver.init(x, part, field.path)
        for t, s in pairwise(part):
            if callback is not None:
                callback(i, t, x)
            if edit is not None:
                x = edit(i, t, x)
            x, state = solver.step(cast(Field, side), x, t, s, state, noise.at(i), **cond)
            i += 1
    if callback is not None:
        callback(i, grid[-1], x)
    return x if edit is None else edit(i, grid[-1], x)


def _keep_memory(x: Tensor) -> None:
    """Memory of ten states, taken and given back untouched.

    From then on glibc keeps so much of what is freed for the tensors to come. Otherwise it returns the memory of each
    state to the system and has it cleared again, page by page, which takes longer than a step with a small network.
    """
    size = 10 * x.nbytes
    if x.device.type == "cpu" and size <= MOST_KEPT:
        torch.empty(size, dtype=torch.uint8)


def _alike(grid: Tensor) -> bool:
    """Whether all samples have the same times."""
    return grid.shape[1] < 2 or bool((grid == grid[:, :1]).all())


def _pieces(
    field: Field | FlowMap, grid: Tensor, breaks: tuple[float, ...]
) -> Iterator[tuple[Tensor, Field | FlowMap]]:
    """(times, the field there) between neighbouring breaks; the whole grid of a field without."""
    if not breaks or grid.shape[1] == 0:
        yield grid, field
        return
    line = grid[:, 0]
    low, high = sorted((float(line[0]), float(line[-1])))
    inside = [b for b in breaks if low < b < high]
    cuts = sorted({low, high, *inside})
    segments = list(pairwise(cuts))
    if line[0] > line[-1]:
        segments = [(b, a) for a, b in reversed(segments)]
    for start, end in segments:
        first, last = min(start, end), max(start, end)
        between = line[(line > first) & (line < last)]
        ends = line.new_tensor([start]), line.new_tensor([end])
        part = torch.cat((ends[0], between, ends[1]))
        yield part[:, None].expand(-1, grid.shape[1]), within(field, first, last)


def _one_by_one(
    solver: Solver,
    field: Field | FlowMap,
    x: Tensor,
    grid: Tensor,
    noise: Noise,
    callback: Callback | None,
    edit: Edit | None,
    cond: dict[str, Any],
) -> Tensor:
    """Samples of times of their own along a field with breaks: those of equal times together."""
    if callback is not None or edit is not None:
        raise InputError(
            "callback and edit need one grid for all samples where the field jumps in time, as under guidance in an "
            "interval"
        )
    rows_of, which = grid.T.unique(dim=0, return_inverse=True)
    out = x.clone()
    for k, times in enumerate(rows_of):
        rows = (which == k).nonzero()[:, 0]
        part = conditions.take(cond, rows)
        end = x[rows]
        i = 0
        for piece, side in _pieces(field, times[:, None].expand(-1, len(rows)), breaks_of(field)):
            state = solver.init(end, piece, field.path)
            for t, s in pairwise(piece):
                moved = noise[rows].at(i)
                end, state = solver.step(cast(Field, side), end, t, s, state, moved, **part)
                i += 1
        out = out.index_copy(0, rows, end)
    return out


def require_solver(solver: Any) -> None:
    """That this is a solver object, not its class or its name."""
    if isinstance(solver, type):
        raise InputError(f"solver={solver.__name__} is a class: pass {solver.__name__}()")
    if isinstance(solver, str):
        raise InputError(f"solver={solver!r} is a name: pass an object, such as pf.solvers.Heun()")
    if not callable(getattr(solver, "step", None)):
        raise InputError(f"{type(solver).__name__} is no solver, such as pf.solvers.Heun()")


def check_followed(field: Any, solver: Any) -> None:
    """That a flow map is sampled by `FlowMapSampler`, which says by_map; all others follow a velocity."""
    if isinstance(field, FlowMap) and not getattr(solver, "by_map", False):
        raise UndefinedError(
            f"{type(solver).__name__} follows a velocity, and this is a flow map: take FlowMapSampler(), or "
            f"InstantaneousField(model) for the field of one that knows any jump"
        )


def check_grid(x: Tensor, times: Tensor) -> Tensor:
    """`times` as a float64 grid (n + 1, B) on x's device."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 1:
        what = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"x must be a floating tensor (B, ...), got {what}")
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
