"""Log densities along the flow.

    d/dt ln p_t(X_t) = -div u_t(X_t)      so that      ln p_1(x) = ln p_0(X_0) - int_0^1 div u_t(X_t) dt

X is carried from x at t = 1 back to the source N(0, sigma(0)^2 I), the integral along with it, by the same solver.

Chen et al. 2018 (arXiv 1806.07366), thm. 1; Song et al. 2021 (arXiv 2011.13456), app. D.2; the estimate of the trace:
Hutchinson 1990, Grathwohl et al. 2019 (arXiv 1810.01367).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.fields import Field
from pushforward.core.noise import PROBE, Noise
from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction
from pushforward.core.shapes import sum_data
from pushforward.core.times import uniform
from pushforward.solvers import DormandPrince, Solver, integrate

# The most dimensions for which the divergence is worked out exactly unless probes are asked for.
EXACT_DIMENSIONS = 64


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
        flat = u.flatten(1)
        total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for i in range(
            flat.shape[1] if u.requires_grad else 0
        ):  # a velocity without x in it has none
            (row,) = torch.autograd.grad(flat[:, i].sum(), x, retain_graph=True)
            total = total + row.flatten(1)[:, i]
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
        u = u if u.requires_grad else u + 0 * x  # a velocity without x in it
        rows = [
            sum_data(torch.autograd.grad(u, x, probe, retain_graph=True)[0] * probe)
            for probe in probes.unbind(1)
        ]
    return u.detach(), torch.stack(rows, dim=1).detach()


@dataclass(frozen=True)
class _WithTrace:
    """A Field on (x, l) (B, D + K): the velocity of x, and the traces of K probes (or the divergence) as that of l."""

    field: Field
    shape: tuple[int, ...]
    probes: Tensor | None

    @property
    def path(self) -> Path:
        return self.field.path

    def __call__(
        self, x: Tensor, t: Tensor | float, want: Prediction = "velocity", **cond: Any
    ) -> Tensor:
        rows = cond.pop("_rows")
        size = math.prod(self.shape)
        state = x[:, :size].reshape(-1, *self.shape)
        if self.probes is None:
            u, trace = divergence(self.field, state, t, **cond)
            trace = trace[:, None]
        else:
            u, trace = traces(self.field, state, t, self.probes[rows], **cond)
        return torch.cat((u.flatten(1), trace), dim=1)


@overload
def log_prob(
    field: Field, x: Tensor, *, probes: None = None, solver: Solver | None = None, grid: Tensor | None = None,
    source: Density | None = None, kind: Probe = "rademacher", seed: int = 0, **cond: Any,
) -> Tensor: ...  # fmt: skip


@overload
def log_prob(
    field: Field, x: Tensor, *, probes: int, solver: Solver | None = None, grid: Tensor | None = None,
    source: Density | None = None, kind: Probe = "rademacher", seed: int = 0, **cond: Any,
) -> Estimate: ...  # fmt: skip


def log_prob(
    field: Field,
    x: Tensor,
    *,
    probes: int | None = None,
    solver: Solver | None = None,
    grid: Tensor | None = None,
    source: Density | None = None,
    kind: Probe = "rademacher",
    seed: int = 0,
    **cond: Any,
) -> Tensor | Estimate:
    """ln p_1(x), in nats, of the law that the flow carries the source to.

    x:      (B, ...) points at t = 1.
    probes: None works the divergence out exactly, one backward pass a dimension and call, in up to 64 dimensions. A
            number K estimates it by K probes for each sample, drawn ONCE for its whole trajectory and keyed by (seed,
            row): the estimate of the integral is then unbiased and its integrand smooth. Returned is an Estimate, with
            the standard error over the probes (infinite for K = 1). It does not hold what the solver leaves.
    solver: DormandPrince(1e-7, 1e-8) if left out; then no grid is needed. Any deterministic solver will do.
    grid:   times (n + 1,) that increase; they are walked backwards. A field without a velocity at an end of time must
            stop short of it.
    source: ln density of the law at the first time of the grid, from (B, ...) to (B,). Left out, it is that of
            N(0, sigma(0)^2 I), in which samplers start: the result is then the density of what is sampled, which on VP,
            VE and the like differs from the data law's by what is left of the data at t = 0.
    """
    path = field.path
    if source is None:
        path.require_gaussian("density of the source")
    shape, size = tuple(x.shape[1:]), x[0].numel()
    if probes is None and size > EXACT_DIMENSIONS:
        raise InputError(
            f"samples have {size} dimensions, and an exact divergence takes as many backward passes a call: "
            f"pass probes=8, say, for an estimate with its standard error"
        )
    if probes is not None and probes < 1:
        raise InputError(f"probes is {probes}; it must be at least 1")
    if solver is None:
        solver = DormandPrince(1e-7, 1e-8)
    grid = uniform(1 if solver.calls == 0 else 100) if grid is None else grid
    drawn = None if probes is None else _draw(x, probes, kind, seed)
    start = torch.cat((x.flatten(1), x.new_zeros(len(x), probes or 1)), dim=1)
    rows = torch.arange(len(x), device=x.device)
    with torch.no_grad():
        end = integrate(
            solver, _WithTrace(field, shape, drawn), start, grid.flip(-1), _rows=rows, **cond
        )
    x0, integral = end[:, :size], end[:, size:]
    x0 = x0.reshape(x.shape)
    first = source_log_prob(path, x0) if source is None else source(x0)
    total = first[:, None] + integral
    if probes is None:
        return total[:, 0]
    spread = (
        total.std(1) / math.sqrt(probes) if probes > 1 else torch.full_like(total[:, 0], math.inf)
    )
    return Estimate(total.mean(1), spread)


def source_log_prob(path: Path, x0: Tensor) -> Tensor:
    """ln N(x0; 0, sigma(0)^2 I), (B,)."""
    std = path.source_std
    return -sum_data(x0**2) / (2 * std**2) - x0[0].numel() * math.log(std * math.sqrt(2 * math.pi))


def _draw(x: Tensor, probes: int, kind: str, seed: int) -> Tensor:
    noise = Noise.batch(len(x), seed, device=x.device)
    shape: Sequence[int] = (probes, *x.shape[1:])
    match kind:
        case "rademacher":
            return (noise.uniform(shape, PROBE) < 0.5).to(x.dtype) * 2 - 1
        case "gaussian":
            return noise.normal(shape, PROBE, x.dtype)
    raise InputError(f"probes are 'rademacher' or 'gaussian', not {kind!r}")


def bits_per_dimension(log_prob: Tensor, dimensions: int, bin_width: float) -> Tensor:
    """`-(ln p / D + ln bin_width) / ln 2`: bits that each dimension of quantised data takes.

    log_prob: of data dequantised by uniform noise over their bins (`dequantise`), in nats; the result is then an upper
    bound on that of the quantised data (Theis et al. 2016, arXiv 1511.01844, sec. 3.1). bin_width: distance of two
    neighbouring values, 2/256 for bytes scaled to [-1, 1].
    """
    return -(log_prob / dimensions + math.log(bin_width)) / math.log(2)


def dequantise(x: Tensor, bin_width: float, noise: Noise) -> Tensor:
    """x (B, ...) plus noise uniform on (-bin_width/2, bin_width/2), a function of (seed, id, step)."""
    shift = noise.to(x.device).uniform(x.shape[1:], PROBE) - 0.5
    return x + bin_width * shift.to(x.dtype)
