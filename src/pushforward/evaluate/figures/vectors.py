"""Vectors: how each dimension is distributed, and each pair of them if they are few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.evaluate.figures.page import END, PALETTE, QUIET, blank, colour, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Up to this many dimensions in pairs; of more, this many by themselves.
PAIRS, ALONE, COLUMNS = 5, 20, 5


def vectors(
    x: Tensor,
    title: str = "",
    *,
    channels: Sequence[str] = (),
    label: Tensor | None = None,
    names: Sequence[str] = (),
) -> Figure:
    """Samples (N, D): histograms of each dimension and, up to 5 dimensions, of each pair; of more the first 20.

    channels: names of the dimensions. label: (N,) classes, told apart by colour in the histograms of one dimension.
    """
    if x.ndim != 2 or x.shape[1] < 1 or len(x) < 1:
        raise InputError(f"vectors must have shape (N, D), got {tuple(x.shape)}")
    x = x.detach().double().cpu()
    size = x.shape[1]
    axes_names = list(channels) if channels else [f"x{i + 1}" for i in range(size)]
    low, high = _ranges(x)
    with style():
        if size <= PAIRS:
            side = 1.75
            figure = blank(max(3.4, side * size + 0.6), max(2.8, side * size + 0.3 * bool(title)))
            axes = figure.subplots(size, size, squeeze=False)
            for i in range(size):
                for j in range(size):
                    axis = axes[i, j]
                    if j > i:
                        axis.set_visible(False)
                        continue
                    if i == j:
                        _marginal(axis, x[:, i], low[i], high[i], label, names)
                    else:
                        _pair(axis, x[:, j], x[:, i], (low[j], high[j], low[i], high[i]))
                    axis.tick_params(labelbottom=i == size - 1, labelleft=j == 0 and i > 0)
                    axis.set_xlabel(axes_names[j] if i == size - 1 else "")
                    axis.set_ylabel(axes_names[i] if j == 0 and i > 0 else "")
            first, rest = axes[0, 0], ""
        else:
            shown = min(size, ALONE)
            rows = -(-shown // COLUMNS)
            figure = blank(2.0 * COLUMNS, 1.6 * rows + 0.3)
            axes = figure.subplots(rows, COLUMNS, squeeze=False)
            for i, axis in enumerate(axes.flat):
                if i >= shown:
                    axis.set_visible(False)
                    continue
                _marginal(axis, x[:, i], low[i], high[i], label, names)
                axis.set_title(axes_names[i], fontsize=9)
            first = axes[0, 0]
            rest = f"the first {shown} of {size} dimensions" if shown < size else ""
        heading = ", ".join(part for part in (title, rest) if part)
        if heading:
            figure.suptitle(heading, fontsize=10, x=0.02, ha="left")
        if first.get_legend_handles_labels()[1]:
            figure.legend(*first.get_legend_handles_labels(), loc="outside right upper")
    return figure


def _ranges(x: Tensor) -> tuple[list[float], list[float]]:
    """Where each dimension lies, but for a thousandth at each end, with a margin."""
    some = x[:: max(1, len(x) // 20_000)]
    low, high = some.quantile(0.001, dim=0), some.quantile(0.999, dim=0)
    reach = torch.where(high > low, 0.04 * (high - low), torch.ones_like(low))
    return (low - reach).tolist(), (high + reach).tolist()


def _marginal(
    axis: Axes, x: Tensor, low: float, high: float, label: Tensor | None, names: Sequence[str]
) -> None:
    classes = [] if label is None else label.unique().tolist()
    several = 1 < len(classes) <= len(PALETTE)
    groups = [(c, x[label.cpu() == c]) for c in classes] if several and label is not None else [(None, x)]  # fmt: skip
    for c, part in groups:
        shade = END if c is None else QUIET if c < 0 else colour(c)
        name = None if c is None else "none" if c < 0 else str(names[c]) if names else str(c)
        bins = max(10, min(60, round(len(part) ** 0.5)))
        axis.hist(
            part.numpy(),
            bins=bins,
            range=(low, high),
            density=True,
            histtype="step" if several else "stepfilled",
            color=shade,
            label=name,
            lw=1.2,
            alpha=1.0 if several else 0.55,
        )
    axis.set(yticks=[], xlim=(low, high))
    axis.spines[["top", "right", "left"]].set_visible(False)


def _pair(axis: Axes, x: Tensor, y: Tensor, box: tuple[float, float, float, float]) -> None:
    if len(x) <= 500:
        axis.scatter(x.numpy(), y.numpy(), s=5, color=END, alpha=0.6, linewidths=0)
    else:
        axis.hexbin(
            x.numpy(), y.numpy(), gridsize=36, bins="log", mincnt=1, extent=box, cmap="Blues", lw=0
        )
    axis.set(xlim=box[:2], ylim=box[2:])
