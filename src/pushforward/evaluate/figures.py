"""Figures of flows in the plane, drawn with matplotlib, which is imported when one is drawn."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward import __version__
from pushforward.core.errors import InputError
from pushforward.core.fields import Field
from pushforward.core.times import uniform
from pushforward.laws.mixture import ExactField
from pushforward.sampling.generate import generate
from pushforward.solvers import Heun

START, END, LINE = "#b2182b", "#2166ac", "#8c8c8c"


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
    settings: Mapping[str, Any],
    times: Sequence[float] = (0.25, 0.5, 0.75),
    num: int = 160,
    seed: int = 0,
) -> bytes:
    """A PNG: trajectories from noise to data, then the velocity at some times over the exact density there.

    Arrows in black are the field's, those in red, beneath them and wider, the exact ones: red shows where they differ.
    """
    if tuple(exact.shape) != (2,):
        raise InputError("this figure is for laws in the plane")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    states = trajectories(field, num, seed=seed)
    figure, axes = plt.subplots(
        1, 1 + len(times), figsize=(4 * (1 + len(times)), 4.4), layout="constrained", squeeze=False
    )
    paths = axes[0, 0]
    paths.plot(states[..., 0].numpy(), states[..., 1].numpy(), color=LINE, lw=0.6, alpha=0.6)
    paths.scatter(*states[0].T.numpy(), s=9, color=START, label="noise, t = 0", zorder=3)
    paths.scatter(*states[-1].T.numpy(), s=9, color=END, label="samples, t = 1", zorder=3)
    paths.legend(loc="upper right", fontsize=8, framealpha=0.9)
    paths.set_title(f"{num} trajectories")

    def lattice(count: int) -> Tensor:
        line = torch.linspace(-extent, extent, count, dtype=torch.float64)
        return torch.cartesian_prod(line, line)

    fine, coarse = lattice(161), lattice(19)
    dtype = states.dtype
    for axis, t in zip(axes[0, 1:], times, strict=True):
        density = exact.log_prob(fine, t).exp().reshape(161, 161).T.numpy()
        axis.imshow(
            density**0.5,
            origin="lower",
            extent=(-extent, extent) * 2,
            cmap="Blues",
            interpolation="bilinear",
        )
        # Arrows only where there is mass: elsewhere no sample comes, and a network has never been.
        mass = exact.log_prob(coarse, t)
        points = coarse[mass > mass.max() - 7]
        with torch.no_grad():
            truth = exact(points, t)
            device = (
                next(field.parameters()).device if isinstance(field, torch.nn.Module) else "cpu"
            )
            learned = field(points.to(device, dtype), t).cpu().double()
        scale = 14 * float(truth.norm(dim=1).quantile(0.9)) + 1e-9
        style: dict[str, Any] = {"angles": "xy", "scale": scale, "pivot": "mid"}
        axis.quiver(
            *points.T.numpy(), *truth.T.numpy(), color=START, alpha=0.45, width=0.009, **style
        )
        axis.quiver(*points.T.numpy(), *learned.T.numpy(), color="black", width=0.004, **style)
        axis.set_title(f"velocity at t = {t:g}: learned black, exact red", fontsize=10)
    for axis in axes[0]:
        axis.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal")
        axis.tick_params(labelsize=8)
    buffer = io.BytesIO()
    text = json.dumps({"version": __version__, **settings}, sort_keys=True)
    figure.savefig(buffer, format="png", dpi=110, metadata={"pushforward": text, "Software": None})
    plt.close(figure)
    return buffer.getvalue()
