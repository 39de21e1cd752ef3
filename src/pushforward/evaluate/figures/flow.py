"""Flows in the plane beside the exact ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.fields import Field
from pushforward.core.times import uniform
from pushforward.evaluate.figures.page import END, INK, LINE, START, blank, style
from pushforward.laws.exact_field import ExactField
from pushforward.sampling.generate import generate, home
from pushforward.solvers import Heun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXACT = "#f4a582"


def trajectories(field: Field, num: int, steps: int = 100, seed: int = 0) -> Tensor:
    """(steps + 1, num, ...) the states of `num` samples at equally spaced times."""
    states: list[Tensor] = []
    generate(
        field,
        num,
        solver=Heun(),
        grid=uniform(steps),
        seed=seed,
        batch_size=num,
        callback=lambda i, t, x: states.append(x.cpu()),
    )
    return torch.stack(states)


def flow_in_the_plane(
    field: Field,
    exact: ExactField,
    extent: float,
    times: Sequence[float] = (0.25, 0.5, 0.75),
    num: int = 160,
    seed: int = 0,
    side: int = 13,
) -> Figure:
    """Trajectories from noise to data, then the velocity at some times over the exact density.

    Wide light arrows are exact, thin dark ones the field's: where they agree, the dark one lies along the middle of the
    light one. side: arrows along each axis, drawn only where the density is at least e^-7 of its maximum.
    """
    if tuple(exact.shape) != (2,):
        raise InputError("this figure is for laws in the plane")
    states = trajectories(field, num, seed=seed)
    with style():
        figure = blank(4.2 * (1 + len(times)), 4.7)
        axes = figure.subplots(1, 1 + len(times), squeeze=False)[0]
        paths = axes[0]
        paths.plot(states[..., 0].numpy(), states[..., 1].numpy(), color=LINE, lw=0.6, alpha=0.6)
        paths.scatter(*states[0].T.numpy(), s=9, color=START, label="noise, t = 0", zorder=3)
        paths.scatter(*states[-1].T.numpy(), s=9, color=END, label="samples, t = 1", zorder=3)
        paths.legend(loc="upper right", frameon=True, framealpha=0.9)
        paths.set_title(f"{num} trajectories")
        for axis, t in zip(axes[1:], times, strict=True):
            _velocities(axis, field, exact, extent, t, side, states.dtype)
        for axis in axes:
            axis.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal")
    return figure


def _velocities(
    axis: Axes, field: Field, exact: ExactField, extent: float, t: float, side: int, dtype: Any
) -> None:
    from matplotlib.lines import Line2D

    def lattice(count: int, reach: float) -> Tensor:
        line = torch.linspace(-reach, reach, count, dtype=torch.float64)
        return torch.cartesian_prod(line, line)

    density = exact.log_prob(lattice(161, extent), t).exp().reshape(161, 161).T.numpy()
    axis.imshow(
        (density / density.max()) ** 0.5,
        origin="lower",
        extent=(-extent, extent, -extent, extent),
        cmap="Blues",
        vmin=0,
        vmax=1.8,  # light, so that arrows stand out
        interpolation="bilinear",
    )
    # Arrows only where there is mass: no sample comes elsewhere, and the network was never trained there.
    points = lattice(side, extent * (1 - 1 / side))
    mass = exact.log_prob(points, t)
    points = points[mass > float(mass.max()) - 7]
    with torch.no_grad():
        truth = exact(points, t)
        device, _ = home(field)
        learned = field(points.to(device, dtype), t).cpu().double()
    # The nine tenths quantile of speeds is as long as two cells of the lattice.
    scale = float(truth.norm(dim=1).quantile(0.9)) / (3.2 * extent / side) + 1e-9
    common: dict[str, Any] = {
        "angles": "xy", "scale_units": "xy", "scale": scale, "pivot": "tail", "units": "dots",
        "headwidth": 3.4, "headlength": 3.6, "headaxislength": 3.2,
    }  # fmt: skip
    axis.quiver(*points.T.numpy(), *truth.T.numpy(), color=EXACT, width=4.6, zorder=2, **common)
    axis.quiver(*points.T.numpy(), *learned.T.numpy(), color=INK, width=1.3, zorder=3, **common)
    error = float((learned - truth).square().sum().sqrt() / truth.square().sum().sqrt())
    axis.set_title(f"velocity at t = {t:g}")
    axis.set_xlabel(f"relative difference of the arrows: {error:.1%}")
    axis.legend(
        [Line2D([], [], color=EXACT, lw=4), Line2D([], [], color=INK, lw=1.3)],
        ["exact", "learned"],
        loc="upper right",
        frameon=True,
        framealpha=0.9,
    )
