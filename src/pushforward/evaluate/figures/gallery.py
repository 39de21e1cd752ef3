"""Sources, trajectories, couplings and densities of many methods in one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.errors import InputError
from pushforward.core.fields import Field
from pushforward.core.times import uniform
from pushforward.evaluate.figures.page import END, LINE, START, blank, style
from pushforward.sampling.generate import evaluating, home
from pushforward.solvers import Heun, Solver, integrate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = ("density at t = 0", "trajectories", "coupling", "density at t = 1")
BINS = 80


@dataclass(frozen=True)
class Entry:
    """A method in the gallery.

    states:  (T, N, 2) trajectories from t = 0 to t = 1, of an ODE or an SDE; states[0] is coupled with states[-1].
    figures: what to write beneath, numbers by name.
    """

    name: str
    states: Tensor
    figures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.states.ndim != 3 or self.states.shape[2] != 2 or 0 in self.states.shape:
            raise InputError(
                f"{self.name}: states must be (T, N, 2), in the plane, got {tuple(self.states.shape)}"
            )
        if not bool(self.states.isfinite().all()):
            raise InputError(f"{self.name}: the states hold NaN or infinite values")


def trace(
    name: str,
    field: Field,
    x0: Tensor,
    *,
    solver: Solver | None = None,
    grid: Tensor | None = None,
    seed: int = 0,
    figures: Mapping[str, float] | None = None,
    **cond: Tensor,
) -> Entry:
    """The entry of any Field: x0 (N, 2) carried along it, by default by Heun's method in 100 equal steps."""
    device, dtype = home(field, x0)
    states: list[Tensor] = []
    here = conditions.to(cond, device)
    with torch.no_grad(), evaluating(field):
        integrate(
            solver or Heun(),
            field,
            x0.to(device, dtype),
            uniform(100) if grid is None else grid,
            seed=seed,
            callback=lambda i, t, x: states.append(x.double().cpu()),
            **here,
        )
    return Entry(name, torch.stack(states), figures or {})


def gallery(
    entries: Sequence[Entry], data: Tensor, *, lines: int = 120, columns: int = 5
) -> Figure:
    """For each method the density of its starts, its trajectories, which start goes with which end, and its ends.

    data: (M, 2) samples of the law that all are to reach, shown at the left. Axes and colours are shared: a line of a
    coupling is the darker the longer it is, and a density the darker the higher.

    lines: trajectories that are drawn; densities are of all samples. columns: methods side by side.
    """
    if not entries:
        raise InputError("a gallery takes at least one method")
    if data.ndim != 2 or data.shape[1] != 2 or lines < 1 or columns < 1:
        raise InputError(
            f"data must have shape (M, 2), got {tuple(data.shape)}, and lines and columns be positive"
        )
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize

    data = data.detach().double().cpu()
    low, high = _box([data, *(entry.states.flatten(0, 1) for entry in entries)])
    box = (low[0], high[0], low[1], high[1])
    edges = [torch.linspace(low[k], high[k], BINS + 1, dtype=torch.float64) for k in (0, 1)]

    def density(points: Tensor) -> np.ndarray:
        """The square root of the density of points (N, 2) in each cell, y upwards."""
        at = points.double().cpu()
        counts, _ = torch.histogramdd(at, edges)
        cell = float(edges[0][1] - edges[0][0]) * float(edges[1][1] - edges[1][0])
        found: np.ndarray = (counts / (len(at) * cell)).sqrt().T.numpy()
        return found

    top = float(np.quantile(density(data), 0.999)) or 1.0
    norm = Normalize(0, max(float(_lengths(entry, lines).max()) for entry in entries) or 1.0)
    columns = min(columns, len(entries))
    bands = -(-len(entries) // columns)
    count = len(ROWS)
    dots: dict[str, Any] = {"s": 5, "lw": 0, "zorder": 3}
    with style():
        figure = blank(1.75 * columns + 2.0, bands * (1.75 * count + 0.6))
        axes = figure.subplots(
            count * bands, 1 + columns, squeeze=False, width_ratios=[1.0, *[1.0] * columns]
        )
        shown: dict[str, Any] = {
            "origin": "lower", "extent": box, "vmin": 0, "vmax": top, "cmap": "Blues", "interpolation": "nearest",
        }  # fmt: skip
        for band in range(bands):
            for row in range(count):
                side = axes[count * band + row, 0]
                if ROWS[row] == "density at t = 1":
                    side.imshow(density(data), **shown)
                    side.set_title("data", fontsize=9)
                else:
                    side.axis("off")
            key = axes[count * band + 1, 0]
            key.scatter([], [], color=START, **(dots | {"s": 18}), label="start, t = 0")
            key.scatter([], [], color=END, **(dots | {"s": 18}), label="end, t = 1")
            key.legend(loc="center", handletextpad=0.2)
            bar = figure.colorbar(
                ScalarMappable(norm, "viridis_r"),
                ax=axes[count * band + 2, 0],
                location="left",
                fraction=0.12,
                shrink=0.8,
            )
            bar.set_label("distance from start to end", fontsize=8)
            bar.ax.tick_params(labelsize=7)
            for column in range(columns):
                number = band * columns + column
                starts, paths, coupling, ends = (
                    axes[count * band + row, 1 + column] for row in range(count)
                )
                if number >= len(entries):
                    for axis in (starts, paths, coupling, ends):
                        axis.axis("off")
                    continue
                entry = entries[number]
                starts.imshow(density(entry.states[0]), **shown)
                drawn = entry.states[:, :lines].detach().double().cpu()
                paths.plot(*drawn.permute(2, 0, 1).numpy(), color=LINE, lw=0.5, alpha=0.55)
                pairs = drawn[[0, -1]].transpose(0, 1)
                order = _lengths(entry, lines).argsort()
                coupling.add_collection(
                    LineCollection(
                        list(pairs[order].numpy()),
                        array=_lengths(entry, lines)[order].numpy(),
                        cmap="viridis_r",
                        norm=norm,
                        lw=0.8,
                        alpha=0.85,
                    )
                )
                for axis in (paths, coupling):
                    axis.scatter(*pairs[:, 0].T.numpy(), color=START, **dots)
                    axis.scatter(*pairs[:, 1].T.numpy(), color=END, **dots)
                ends.imshow(density(entry.states[-1]), **shown)
                starts.set_title(entry.name)
                ends.set_xlabel(
                    "\n".join(f"{name}  {value:.3g}" for name, value in entry.figures.items()),
                    fontsize=8,
                )
                if column == 0:
                    for axis, text in zip((starts, paths, coupling, ends), ROWS, strict=True):
                        axis.set_ylabel(text)
        for axis in axes.flat:
            if axis.axison:
                axis.set(xlim=box[:2], ylim=box[2:], aspect="equal", xticks=[], yticks=[])
                axis.spines[:].set(color="#bbbbbb", linewidth=0.6)
    return figure


def _lengths(entry: Entry, lines: int) -> Tensor:
    """(n,) how far the drawn samples go."""
    return (entry.states[-1, :lines] - entry.states[0, :lines]).double().norm(dim=1).cpu()


def _box(parts: Sequence[Tensor]) -> tuple[list[float], list[float]]:
    """The square that holds all but the outermost points of each part, with a margin."""
    some = [part[:: max(1, len(part) // 20_000)].double().cpu() for part in parts]
    low = torch.stack([x.quantile(0.001, dim=0) for x in some]).amin(0)
    high = torch.stack([x.quantile(0.999, dim=0) for x in some]).amax(0)
    middle, reach = (low + high) / 2, 0.54 * float((high - low).max()) or 1.0
    return (middle - reach).tolist(), (middle + reach).tolist()
