"""Samples in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.evaluate.figures.page import END, PALETTE, QUIET, blank, colour, style
from pushforward.laws.law import Law

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Up to this many points are drawn as dots; of more, how many fall into each cell.
DOTS = 1500
BINS = 100


def plane(
    points: Tensor,
    extent: float | None = None,
    title: str = "",
    *,
    law: Law | None = None,
    label: Tensor | None = None,
    names: Sequence[str] = (),
) -> Figure:
    """Points (N, 2) in the square [-extent, extent]^2: as dots if they are few, else their density, darker for more.

    extent: by default the square that holds the points. law: its density is drawn behind dots.
    label:  (N,) classes, told apart by colour; names: of the classes 0, 1, ...
    """
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 1:
        raise InputError(f"points must have shape (N, 2), got {tuple(points.shape)}")
    xy = points.detach().double().cpu()
    if extent is None:
        extent = 1.05 * float(xy.abs().max()) or 1.0
    classes = [] if label is None else label.unique().tolist()
    few = len(points) <= DOTS or 1 < len(classes) <= len(PALETTE)
    with style():
        figure = blank(4.6, 4.4 + 0.3 * bool(title))
        axis = figure.add_subplot()
        if not few:
            heat(axis, xy, extent)
        elif law is not None:
            behind(axis, law, extent)
        if few:
            size = 14.0 if len(xy) <= 200 else 7.0 if len(xy) <= DOTS else 2.0
            dots: dict[str, Any] = {"s": size, "linewidths": 0, "alpha": 0.85}
            if len(classes) > 1 and label is not None:
                for c in classes:
                    chosen = xy[label.cpu() == c]
                    name = "none" if c < 0 else str(names[c]) if names else str(c)
                    shade = QUIET if c < 0 else colour(c)
                    axis.scatter(*chosen.T.numpy(), color=shade, label=name, **dots)
                axis.legend(loc="upper left", bbox_to_anchor=(1, 1), markerscale=1.5)
                figure.set_size_inches(5.6, figure.get_size_inches()[1])
            else:
                axis.scatter(*xy.T.numpy(), color=END, **dots)
        beyond = int((xy.abs() > extent).any(1).sum())
        note = f"{beyond} of {len(xy)} points lie outside" if beyond else ""
        axis.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal", xlabel=note)
        axis.set_title(title, loc="left")
    return figure


def heat(axis: Axes, xy: Tensor, extent: float, bins: int = BINS) -> None:
    """How many points fall into each of bins x bins cells, y upwards; colours go with the root of the number."""
    counts, _, _ = np.histogram2d(xy[:, 1].numpy(), xy[:, 0].numpy(), bins, [[-extent, extent]] * 2)
    top = max(1.0, float(np.quantile(counts[counts > 0], 0.99)) if counts.any() else 1.0)
    axis.imshow(
        np.clip(counts / top, 0, 1) ** 0.5,
        origin="lower",
        extent=(-extent, extent, -extent, extent),
        cmap="Blues",
        vmin=0,
        vmax=1,
        interpolation="nearest",
    )


def behind(axis: Axes, law: Law, extent: float, fine: int = 200) -> None:
    """The density of a law, in grey."""
    line = torch.linspace(-extent, extent, fine, dtype=torch.float64)
    x, y = torch.meshgrid(line, line, indexing="xy")
    points = torch.stack((x.flatten(), y.flatten()), 1)
    density = law.log_prob(points).exp().reshape(fine, fine)
    root = (density / density[density.isfinite()].max()).clamp(max=1).sqrt()
    axis.imshow(
        root.numpy(),
        origin="lower",
        extent=(-extent, extent, -extent, extent),
        cmap="Greys",
        vmin=0,
        vmax=2.5,
        interpolation="bilinear",
    )
