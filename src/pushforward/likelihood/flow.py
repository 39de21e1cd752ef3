"""Log densities along the flow.

    d/dt ln p_t(X_t) = -div u_t(X_t)      so that      ln p_1(x) = ln p_0(X_0) - int_0^1 div u_t(X_t) dt

X is carried from x at t = 1 back to the source N(0, sigma(0)^2 I), the integral along with it, by the same solver.

Chen et al. 2018 (arXiv 1806.07366), thm. 1; Song et al. 2021 (arXiv 2011.13456), app. D.2; the estimate of the trace:
Hutchinson 1990, Grathwohl et al. 2019 (arXiv 1810.01367).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from pushforward.core import conditions, derivatives
from pushforward.core.errors import InputError, UndefinedError
from pushforward.core.fields import (
    Field,
    FlowMap,
    Masked,
    breaks_of,
    find_inside,
    parameters_of,
    within,
)
from pushforward.core.noise import PROBE, Noise
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction
from pushforward.core.progress import counted
from pushforward.core.shapes import check_mask, count_data, sum_data
from pushforward.core.times import straight, uniform
from pushforward.solvers import RK4, DormandPrince, Solver, integrate

# The most dimensions for which the divergence is computed exactly unless probes are asked for.
EXACT_DIMENSIONS = 64
# Steps by which densities are found in float32.
RK4_STEPS = 200


Density = Callable[[Tensor], Tensor]
Probe = Literal["rademacher", "gaussian"]


class Estimate(NamedTuple):
    """ln p (B,) and the standard error (B,) that random probes leave."""

    log_prob: Tensor
    standard_error: Tensor


def divergence(field: Field, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
    """(u, div u) at (x, t) exactly, (B, ...) and (B,), by one backward pass for each dimension."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        u = field(x, t, **cond)
        total = derivatives.divergence(u, x)
    return u.detach(), total.detach()


def traces(
    field: Field, x: Tensor, t: Tensor | float, probes: Tensor, **cond: Any
) -> tuple[Tensor, Tensor]:
    """(u, e) with `e_k = v_k . (du/dx) v_k`, whose mean over probes v of unit covariance is the divergence.

    probes: (B, K, ...); u: (B, ...), e: (B, K).
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        u = field(x, t, **cond)
        rows = [derivatives.quadratic_form(u, x, probe) for probe in probes.unbind(1)]
    return u.detach(), torch.stack(rows, dim=1).detach()


@dataclass(frozen=True)
class _WithTrace:
    """A Field on (x, l) (B, D + K): the velocity of x, and the traces of K probes (or the divergence) as that of l.

    The probes (B, K, ...) of each sample come as the condition `_probes`. A condition `mask` is of (x, l): where it is
    False, nothing moves.
    """

    field: Field
    shape: tuple[int, ...]

    @property
    def path(self) -> Path:
        return self.field.path

    @property
    def breaks(self) -> tuple[float, ...]:
        return breaks_of(self.field)

    def within(self, start: float, end: float) -> _WithTrace:
        return replace(self, field=within(self.field, start, end))

    def __call__(
        self, x: Tensor, t: Tensor | float, want: Prediction = "velocity", **cond: Any
    ) -> Tensor:
        probes, mask = cond.pop("_probes", None), cond.pop("mask", None)
        size = math.prod(self.shape)
        state = x[:, :size].reshape(-1, *self.shape)
        field = self.field
        if mask is not None:
            field = Masked(field, told=bool(find_inside(field, "takes_masks", False)))
            cond["mask"] = mask[:, :size].reshape(state.shape)
        if probes is None:
            u, trace = divergence(field, state, t, **cond)
            trace = trace[:, None]
        else:
            u, trace = traces(field, state, t, probes, **cond)
        return torch.cat((u.flatten(1), trace), dim=1)


@overload
def log_prob(
    field: Field, x: Tensor, *, probes: None = None, solver: Solver | None = None, grid: Tensor | None = None,
    source: Density | None = None, mask: Tensor | None = None, kind: Probe = "rademacher", seed: int = 0,
    ids: Tensor | None = None, batch_size: int | None = None, **cond: Any,
) -> Tensor: ...  # fmt: skip


@overload
def log_prob(
    field: Field, x: Tensor, *, probes: int, solver: Solver | None = None, grid: Tensor | None = None,
    source: Density | None = None, mask: Tensor | None = None, kind: Probe = "rademacher", seed: int = 0,
    ids: Tensor | None = None, batch_size: int | None = None, **cond: Any,
) -> Estimate: ...  # fmt: skip


def log_prob(
    field: Field,
    x: Tensor,
    *,
    probes: int | None = None,
    solver: Solver | None = None,
    grid: Tensor | None = None,
    source: Density | None = None,
    mask: Tensor | None = None,
    kind: Probe = "rademacher",
    seed: int = 0,
    ids: Tensor | None = None,
    batch_size: int | None = None,
    **cond: Any,
) -> Tensor | Estimate:
    """ln p_1(x), in nats, of the law that the flow carries the source to.

    x:      (B, ...) points at t = 1.
    probes: None computes the divergence exactly, one backward pass a dimension and call, in up to 64 dimensions. A
            number K estimates it by K probes for each sample, drawn ONCE for its whole trajectory and keyed by (seed,
            id): the estimate of the integral is then unbiased and its integrand smooth. Returned is an Estimate, with
            the standard error over the probes (infinite for K = 1). It does not hold what the solver leaves.
    solver: by default one that suits the precision, on times of its own (`usual_way`): in float64 Dormand-Prince at
            1e-7, in float32 800 calls of a method of order 4. Any deterministic solver will do.
    grid:   times (n + 1,) that increase; they are walked backwards. A field without a velocity at an end of time must
            stop short of it.
    source: ln density of the law at the first time of the grid, from (B, ...) to (B,). Left out, it is that of
            N(0, sigma(0)^2 I), in which samplers start: the result is then the density of what is sampled, which on VP,
            VE and the like differs from the data law's by what is left of the data at t = 0.
    mask:   bool, of x's number of dimensions, each as long or 1: the entries that are data. The others stay as they
            are, and are no dimensions: a padded sample has the density that it has alone.
    kind:   probes of signs, "rademacher", which have the least variance, or "gaussian" ones.
    ids:    (B,) int64, global ids of the samples, 0 ... B - 1 by default: with them a shard of a data set gives what
            the whole would. Nothing is exchanged between processes.
    batch_size: samples at a time; all of them by default.
    """
    path = field.path
    if source is None:
        path.require_gaussian("density of the source")
    x = check_points(field, x)
    if mask is not None:
        check_mask(mask, x)
    conditions.check_size(cond, len(x))
    ids = _ids(ids, x)
    parts = []
    for rows in counted("likelihood", _slices(len(x), batch_size)):
        part = None if mask is None else mask[rows]
        here = conditions.take(cond, rows)
        carry = Carry(field, solver, grid, probes, kind, part, Noise(seed, ids[rows]))
        x0, integral = carry(x[rows], backwards=True, **here)
        first = source_log_prob(path, x0, part) if source is None else source(x0)
        parts.append(first[:, None] + integral)
    return summary(torch.cat(parts), probes)


def check_points(field: Field, x: Any) -> Tensor:
    """Points (B, ...) as floating numbers on the field's device, and of the shape of its samples."""
    if not isinstance(x, Tensor):
        x = torch.as_tensor(x)
    if not x.is_floating_point():
        raise InputError(f"x must be floating numbers (B, ...), got {x.dtype} {tuple(x.shape)}")
    shape = tuple(find_inside(field, "shape", ()))
    if shape and tuple(x.shape[1:]) != shape and find_inside(field, "takes_masks") is not True:
        raise InputError(f"x has shape {tuple(x.shape)}; this model's samples are {shape}")
    weight = next(iter(parameters_of(field)), None)
    return x if weight is None else x.to(weight.device)


def usual_way(x: Tensor, path: Path, grid: Tensor | None) -> tuple[Solver, Tensor]:
    """The default solver and its times.

    In float64 Dormand-Prince at 1e-7, 1e-8. In shorter formats 200 steps of Runge and Kutta's fourth order, on
    `times.straight`: 800 calls, to about 1e-3 nats on trained networks. Adaptive steps are of no use there: rounding,
    and the fine structure in time that sinusoidal features give a network, are taken for errors, and steps become many
    and short. With a grid of the caller's, Dormand-Prince at 1e-5, 1e-6.
    """
    if x.dtype == torch.float64:
        return DormandPrince(1e-7, 1e-8), uniform(1) if grid is None else grid
    if grid is not None:
        return DormandPrince(1e-5, 1e-6), grid
    return RK4(), straight(RK4_STEPS, path)


@dataclass(frozen=True)
class Carry:
    """Carries points along the flow, and with them the integral of the divergence (its K estimates).

        x_a -> x_b,   int_a^b div u_t(X_t) dt

    Options are those of `log_prob`; noise keys the probes.
    """

    field: Field
    solver: Solver | None
    grid: Tensor | None
    probes: int | None
    kind: Probe
    mask: Tensor | None
    noise: Noise

    def __call__(self, x: Tensor, backwards: bool, **cond: Any) -> tuple[Tensor, Tensor]:
        """(B, ...), and (B, K) or (B, 1)."""
        if isinstance(self.field, FlowMap):
            raise UndefinedError(
                "a density takes a velocity, and this is a flow map: take InstantaneousField(model) if it knows any "
                "jump"
            )
        shape, probes = tuple(x.shape[1:]), self.probes
        size = math.prod(shape)
        if probes is None and size > EXACT_DIMENSIONS:
            raise InputError(
                f"samples have {size} dimensions, and an exact divergence takes as many backward passes a call: "
                f"pass probes=8, say, for an estimate with its standard error"
            )
        if probes is not None and probes < 1:
            raise InputError(f"probes is {probes}; it must be at least 1")
        if self.solver is None:
            solver, grid = usual_way(x, self.field.path, self.grid)
        else:
            solver = self.solver
            grid = uniform(1 if solver.calls == 0 else 100) if self.grid is None else self.grid
        noise = self.noise.masked(self.mask)
        start = torch.cat((x.flatten(1), x.new_zeros(len(x), probes or 1)), dim=1)
        if probes is not None:
            drawn = _draw(x, probes, self.kind, noise)
            cond["_probes"] = drawn if self.mask is None else drawn * self.mask[:, None]
        if self.mask is not None:
            beside = self.mask.new_ones(len(x), probes or 1)
            cond["mask"] = torch.cat((self.mask.expand_as(x).flatten(1), beside), dim=1)
        with torch.no_grad():
            end = integrate(
                solver,
                _WithTrace(self.field, shape),
                start,
                grid.flip(-1) if backwards else grid,
                **cond,
            )
        return end[:, :size].reshape(x.shape), end[:, size:]


def summary(each: Tensor, probes: int | None) -> Tensor | Estimate:
    """ln p from the values (B, K) of its probes, or from the exact one (B, 1)."""
    if probes is None:
        return each[:, 0]
    spread = (
        each.std(1) / math.sqrt(probes) if probes > 1 else torch.full_like(each[:, 0], math.inf)
    )
    return Estimate(each.mean(1), spread)


def source_log_prob(path: Path, x0: Tensor, mask: Tensor | None = None) -> Tensor:
    """ln N(x0; 0, sigma(0)^2 I), (B,), over the entries in the mask."""
    std = path.source_std
    each = -(x0**2) / (2 * std**2) - math.log(std * math.sqrt(2 * math.pi))
    return sum_data(each, mask)


def _draw(x: Tensor, probes: int, kind: str, noise: Noise) -> Tensor:
    noise = noise.to(x.device)
    shape: Sequence[int] = (probes, *x.shape[1:])
    match kind:
        case "rademacher":
            return (noise.uniform(shape, PROBE) < 0.5).to(x.dtype) * 2 - 1
        case "gaussian":
            return noise.normal(shape, PROBE, x.dtype)
    raise InputError(f"probes are 'rademacher' or 'gaussian', not {kind!r}")


def _ids(ids: Tensor | None, x: Tensor) -> Tensor:
    if ids is None:
        return torch.arange(len(x), device=x.device)
    if ids.shape != (len(x),):
        raise InputError(
            f"ids must have shape ({len(x)},), one for each point, got {tuple(ids.shape)}"
        )
    return ids.to(x.device)


def _slices(count: int, size: int | None) -> list[slice]:
    """0 ... count in pieces; one empty piece of nothing."""
    if size is not None and size < 1:
        raise InputError(f"batch_size is {size}; it must be positive")
    step = max(count, 1) if size is None else size
    return [slice(i, min(i + step, count)) for i in range(0, max(count, 1), step)]


def bits_per_dimension(log_prob: Tensor, dimensions: int, bin_width: float) -> Tensor:
    """`-(ln p / D + ln bin_width) / ln 2`: bits that each dimension of quantised data takes.

    log_prob: of data dequantised by uniform noise over their bins (`dequantise`), in nats; the result is then an upper
    bound on that of the quantised data (Theis et al. 2016, arXiv 1511.01844, sec. 3.1). bin_width: distance of two
    neighbouring values, 2/256 for bytes scaled to [-1, 1].
    """
    return -(log_prob / dimensions + math.log(bin_width)) / math.log(2)


class Bits(NamedTuple):
    """Bits per dimension of each sample (B,), their mean, and its standard error over the samples."""

    each: Tensor
    mean: float
    standard_error: float


def bits(
    field: Field, x: Tensor, bin_width: float, *, probes: int | None = None, draws: int = 1,
    seed: int = 0, ids: Tensor | None = None, mask: Tensor | None = None, **options: Any,
) -> Bits:  # fmt: skip
    """Bits per dimension that the model takes for quantised data, dequantised by uniform noise.

        -E_u[ ln p(x + w u) ]/(D ln 2) - log2 w,   u uniform on (-1/2, 1/2)^D,   w the width of a bin

    x: (B, ...) data at the centres of their bins. draws: of u for each sample, which are averaged; one is unbiased.
    The rest is passed to `log_prob`; D counts the entries in the mask. In nats it is an upper bound on the model's
    -ln P(bin), by Jensen's inequality (Theis et al. 2016, arXiv 1511.01844, sec. 3.1).
    """
    if draws < 1 or not bin_width > 0:
        raise InputError(f"draws and bin_width must be positive, got {draws} and {bin_width}")
    noise = Noise(seed, _ids(ids, x))
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for draw in range(draws):
        # Step 0 is that of the probes: shifts and probes share no number.
        moved = dequantise(x, bin_width, noise.at(draw + 1))
        moved = moved if mask is None else torch.where(mask, moved, x)
        found: Any = log_prob(field, moved, probes=probes, seed=seed, ids=ids, mask=mask, **options)
        total += (found if probes is None else found.log_prob).double() / draws
    count = count_data(x, mask)
    each = -(total / count + math.log(bin_width)) / math.log(2)
    return Bits(each, *mean_and_error(each))


def mean_and_error(each: Tensor) -> tuple[float, float]:
    """Mean of (B,) values, and its standard error (infinite for one)."""
    spread = float(each.std()) / math.sqrt(len(each)) if len(each) > 1 else math.inf
    return float(each.mean()), spread


def dequantise(x: Tensor, bin_width: float, noise: Noise) -> Tensor:
    """x (B, ...) plus noise uniform on (-bin_width/2, bin_width/2), a function of (seed, id, step)."""
    shift = noise.to(x.device).uniform(x.shape[1:], PROBE) - 0.5
    return x + bin_width * shift.to(x.dtype)
