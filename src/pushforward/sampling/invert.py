"""From data to the noise they come from, and interpolation there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.fields import Field
from pushforward.core.shapes import as_time
from pushforward.sampling.generate import generate
from pushforward.sampling.sampler import find_sampler
from pushforward.solvers import DDIM, Inverse, Solver


def invert(
    model: Field,
    x: Tensor,
    *,
    solver: Solver | None = None,
    nfe: int | None = None,
    grid: Tensor | None = None,
    exact: bool = True,
    **options: Any,
) -> Tensor:
    """The noise x0 (B, ...) from which `generate` makes the data x (B, ...).

        x0 = pf.invert(model, x, nfe=50)
        x  = pf.generate(model, len(x), solver=pf.solvers.DDIM(), nfe=50, source=x0)

    solver:    the one that is to lead back: a solver without noise, DDIM by default.
    nfe, grid: those of the way back, 50 calls by default.
    exact:     solve for the solver's own steps (`solvers.Inverse`): the way back then ends in x up to rounding, for
               about 7 calls in each step on smooth laws. False: run the solver backwards, one step a step; the error of
               there and back is then of the solver's order, and large for DDIM: an RMSE of 0.02 to 0.05 at 50 steps on
               mixtures in the plane. `Multistep("velocity", "time", 2)`, which cannot be solved for, has 0.0002 to
               0.004 there.
    options:   guidance, interval, label, batch_size, callback, conditions: as in `generate`, the same on both ways.

    Raises ConvergenceError where no such noise is found.

    Song, Meng, Ermon 2021 (arXiv 2010.02502), sec. 4.3 and 5.4.
    """
    solver = DDIM() if solver is None else solver
    grid = find_sampler(model, solver, grid, nfe).grid
    back = Inverse(solver) if exact else solver
    return generate(
        model, len(x), solver=back, grid=grid.flip(-1), source=x, decode=False, **options
    )


def slerp(a: Tensor, b: Tensor, w: Tensor | float) -> Tensor:
    """Spherical interpolation from a (w = 0) to b (w = 1), sample by sample.

        sin((1 - w) theta)/sin(theta) a + sin(w theta)/sin(theta) b,   theta the angle between a and b

    Between two draws of Gaussian noise the straight line leaves the sphere of radius sqrt(D) near which noise lies;
    this arc does not. a, b: (B, ...), w: one number or (B,). Parallel vectors are joined by the straight line, opposite
    ones by the half circle through an axis on which a is smallest, lengths going from |a| to |b|.

    Shoemake 1985; Song, Meng, Ermon 2021 (arXiv 2010.02502), eq. 67.
    """
    if a.shape != b.shape or not (a.is_floating_point() and b.is_floating_point()) or a.ndim < 2:
        raise InputError(
            f"a and b must be floating tensors (B, ...) of one shape, got {a.dtype} {tuple(a.shape)} and "
            f"{b.dtype} {tuple(b.shape)}"
        )
    w = as_time(w, a).double()
    flat_a, flat_b = a.flatten(1).double(), b.flatten(1).double()
    length_a, length_b = flat_a.norm(dim=1), flat_b.norm(dim=1)
    unit_a, unit_b = (
        v / size.clamp(min=1e-300)[:, None] for v, size in ((flat_a, length_a), (flat_b, length_b))
    )
    # Kahan's formula for the angle, which loses no digits at either end.
    theta = 2 * torch.atan2((unit_a - unit_b).norm(dim=1), (unit_a + unit_b).norm(dim=1))
    theta = torch.where((length_a > 0) & (length_b > 0), theta, 0.0)
    sine = theta.sin()
    near, far = sine < 1e-7, (sine < 1e-7) & (theta > 1)
    sine = torch.where(near, 1.0, sine)
    of_a = torch.where(near, 1 - w, ((1 - w) * theta).sin() / sine)
    of_b = torch.where(near, w, (w * theta).sin() / sine)
    out = of_a[:, None] * flat_a + of_b[:, None] * flat_b
    if bool(far.any()):
        axis = torch.zeros_like(flat_a).scatter_(1, unit_a.abs().argmin(1, keepdim=True), 1)
        side = axis - (axis * unit_a).sum(1, keepdim=True) * unit_a
        side = side / side.norm(dim=1, keepdim=True).clamp(min=1e-300)
        length = (1 - w) * length_a + w * length_b
        turned = (w * torch.pi).cos()[:, None] * unit_a + (w * torch.pi).sin()[:, None] * side
        out = torch.where(far[:, None], length[:, None] * turned, out)
    return out.reshape(a.shape).to(torch.promote_types(a.dtype, b.dtype))
