"""Trajectories, couplings and densities of many methods in one figure, drawn with matplotlib when one is drawn."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward import __version__
from pushforward.core.errors import InputError
from pushforward.core.fields import Field
from pushforward.core.times import uniform
from pushforward.evaluate.figures import END, LINE, START
from pushforward.sampling.generate import evaluating, home
from pushforward.solvers import Heun, Solver, integrate

ROWS = ("trajectories", "coupling", "density at t = 1")
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
    """The entry of any Field: x0 (N, 2) carried along it by Heun's method in 100 equal steps, or as told."""
    device, dtype = home(field, x0)
    states: list[Tensor] = []
    here: dict[str, Any] = {name: value.to(device) for name, value in cond.items()}
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
    entries: Sequence[Entry],
    data: Tensor,
    settings: Mapping[str, Any],
    *,
    lines: int = 120,
    columns: int = 5,
) -> bytes:
    """A PNG: for each method its trajectories, which start goes with which end, and the density of its ends.

    data: (M, 2) samples of the law that all are to reach, shown first, beneath the source. Axes and colours are shared:
    a line of a coupling is the darker the longer it is, and a density the darker the higher.

    lines: trajectories that are drawn; the density is that of all samples. columns: methods side by side.
    """
    if not entries:
        raise InputError("a gallery takes at least one method")
    if data.ndim != 2 or data.shape[1] != 2 or lines < 1 or columns < 1:
        raise InputError(
            f"data must have shape (M, 2), got {tuple(data.shape)}, and lines and columns be positive"
        )
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    data = data.detach().double().cpu()
    source = entries[0].states[0]
    low, high = _box([data, *(entry.states.flatten(0, 1) for entry in entries)])
    box = (low[0], high[0], low[1], high[1])
    edges = [torch.linspace(low[k], high[k], BINS + 1, dtype=torch.float64) for k in (0, 1)]

    def density(x: Tensor) -> np.ndarray:
        counts = torch.histogramdd(x.double().cpu(), edges).hist
        return (counts / len(x)).T.sqrt().numpy()

    top = float(density(data).max())
    far = torch.cat([_lengths(entry, lines) for entry in entries])
    norm = Normalize(float(far.quantile(0.02)), float(far.max()))
    bands = -(-len(entries) // columns)
    columns = -(-len(entries) // bands)
    side = 2.4
    figure, axes = plt.subplots(
        3 * bands,
        1 + columns,
        figsize=(side * (1 + columns), (side + 0.12) * 3 * bands + 0.3 * bands),
        layout=ConstrainedLayoutEngine(h_pad=0.03, hspace=0.01, compress=True),
        squeeze=False,
    )
    style: dict[str, Any] = {
        "origin": "lower", "extent": box, "interpolation": "bilinear", "vmin": 0, "vmax": top,
    }  # fmt: skip
    dots: dict[str, Any] = {"s": 5, "lw": 0, "zorder": 3}

    for band in range(bands):
        first, legend, last = axes[3 * band : 3 * band + 3, 0]
        first.imshow(density(source), cmap="Reds", **(style | {"vmax": None}))
        first.set_title("source", fontsize=10)
        last.imshow(density(data), cmap="Blues", **style)
        last.set_title("data", fontsize=10)
        legend.axis("off")
        legend.set_xticks([])
        if band == 0:
            bar = figure.colorbar(
                plt.cm.ScalarMappable(norm, "viridis_r"),
                ax=legend,
                location="left",
                fraction=0.12,
                shrink=0.8,
            )
            bar.set_label("distance from start to end", fontsize=8)
            bar.ax.tick_params(labelsize=7)
            legend.scatter([], [], color=START, **(dots | {"s": 18}), label="start, t = 0")
            legend.scatter([], [], color=END, **(dots | {"s": 18}), label="end, t = 1")
            legend.legend(loc="center", fontsize=8, frameon=False, handletextpad=0.2)
        for column in range(columns):
            number = band * columns + column
            paths, coupling, ends = (axes[3 * band + k, 1 + column] for k in range(3))
            if number >= len(entries):
                for axis in (paths, coupling, ends):
                    axis.axis("off")
                continue
            entry = entries[number]
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
            ends.imshow(density(entry.states[-1]), cmap="Blues", **style)
            paths.set_title(entry.name, fontsize=10)
            ends.set_xlabel(
                "\n".join(f"{name}  {value:.3g}" for name, value in entry.figures.items()),
                fontsize=8,
            )
            if column == 0:
                for axis, text in zip((paths, coupling, ends), ROWS, strict=True):
                    axis.set_ylabel(text, fontsize=9)
    for axis in axes.flat:
        if axis.axison:
            axis.set(xlim=box[:2], ylim=box[2:], aspect="equal", xticks=[], yticks=[])
            axis.spines[:].set(color="#bbbbbb", linewidth=0.6)
    buffer = io.BytesIO()
    text = json.dumps({"version": __version__, **settings}, sort_keys=True)
    figure.savefig(
        buffer,
        format="png",
        dpi=110,
        bbox_inches="tight",
        metadata={"pushforward": text, "Software": None},
    )
    plt.close(figure)
    return buffer.getvalue()


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
