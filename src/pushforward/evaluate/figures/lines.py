"""Signals and sequences as lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.evaluate.figures.page import PAPER, bare, blank, colour, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Channels of a signal that are drawn as lines; more are drawn as a map.
LINES = 8


def lines(
    x: Tensor,
    columns: int,
    title: str = "",
    *,
    mask: Tensor | None = None,
    row_labels: Sequence[str] = (),
    channels: Sequence[str] = (),
    along: str = "",
) -> Figure:
    """Signals (N, C, L) row by row, a panel each: a line for each channel, or a map (C, L) of more than 8 channels.

    mask: (N, L), true where a signal has a value; nothing is drawn elsewhere. along: what runs from left to right.
    """
    if x.ndim != 3 or columns < 1 or len(x) < 1:
        raise InputError(f"signals must have shape (N, C, L), got {tuple(x.shape)}")
    x = x.detach().double().cpu()
    if mask is not None:
        x = x.masked_fill(~mask.cpu()[:, None, :], torch.nan)
    seen = x[x.isfinite()]
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
    margin = 0.05 * (high - low) or 1.0
    rows = -(-len(x) // columns)
    names = list(channels) if channels else [f"channel {k + 1}" for k in range(x.shape[1])]
    many = x.shape[1] > LINES
    with style():
        figure = blank(max(3.2, 1.9 * columns + 0.6), max(1.8, 1.15 * rows + 0.5))
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for i, axis in enumerate(axes.flat):
            row, column = divmod(i, columns)
            if i >= len(x):
                axis.set_facecolor(PAPER)
                axis.axis("off")
                continue
            if many:
                image = axis.imshow(
                    x[i].numpy(), aspect="auto", cmap="viridis", vmin=low, vmax=high, interpolation="nearest",
                )  # fmt: skip
            else:
                for k, channel in enumerate(x[i]):
                    mark = {"marker": ".", "ms": 3} if x.shape[2] == 1 or mask is not None else {}
                    axis.plot(channel.numpy(), lw=1.0, color=colour(k), label=names[k], **mark)
                axis.set(ylim=(low - margin, high + margin), xlim=(0, max(1, x.shape[2] - 1)))
            bare(axis)
            if column == 0 and row < len(row_labels):
                axis.set_ylabel(row_labels[row], rotation=0, ha="right", va="center")
            if row == rows - 1:
                axis.set_xlabel(along)
        if many:
            figure.colorbar(image, ax=axes, shrink=0.8, aspect=30)
        elif x.shape[1] > 1:
            figure.legend(
                *axes[0, 0].get_legend_handles_labels(),
                loc="outside upper right",
                ncols=min(4, x.shape[1]),
            )
        if title:
            figure.suptitle(title, fontsize=10, x=0.02, ha="left")
    return figure
