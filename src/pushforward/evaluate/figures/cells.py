"""Cells of one population carried to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pushforward.data.asinh import Asinh
from pushforward.evaluate.figures.page import END, START, blank, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOURCE, MAPPED, TARGET = START, END, "#4d4d4d"


def telling_channels(source: Tensor, target: Tensor, channels: Sequence[str]) -> tuple[int, int]:
    """The two channels, of two detectors, in which the populations (N, C), (M, C) differ most in the mean.

    A detector is what a channel is called before its last dash: V2-A and V2-H are its area and height.
    """
    apart = (source.mean(0) - target.mean(0)).abs().argsort(descending=True).tolist()
    first = apart[0]
    detector = channels[first].rpartition("-")[0]
    others = [c for c in apart[1:] if not detector or channels[c].rpartition("-")[0] != detector]
    return first, (others or apart[1:] or [first])[0]


def cells(
    source: Tensor,
    mapped: Tensor,
    target: Tensor,
    channels: Sequence[str],
    scale: Asinh,
    names: tuple[str, str],
) -> Figure:
    """Source, mapped and target cells in the two channels that differ most, and all channels one by one.

    source, mapped, target: (N, C) as the network sees them; axes are marked as measured, by `scale`.
    """
    x, y = telling_channels(source, target, channels)
    sets = [part.detach().cpu().double() for part in (source, mapped, target)]
    titles = (f"source: {names[0]}", f"{names[0]} mapped", f"target: {names[1]}")
    low, high = _range(torch.cat(sets))
    rows = -(-len(channels) // 5)
    with style():
        figure = blank(12, 4.1 + 2.1 * rows)
        heights = [4.1, 2.1 * rows]
        top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
        for axis, part, title in zip(top.subplots(1, 3), sets, titles, strict=True):
            axis.hexbin(
                *part[:, [x, y]].T.numpy(),
                gridsize=60,
                bins="log",
                cmap="Blues",
                mincnt=1,
                extent=(low[x], high[x], low[y], high[y]),
            )
            axis.set(xlim=(low[x], high[x]), ylim=(low[y], high[y]), title=title)
            axis.set(xlabel=channels[x], ylabel=channels[y])
            _measured(axis.xaxis, scale, x)
            _measured(axis.yaxis, scale, y)
        axes = bottom.subplots(rows, 5, squeeze=False).flatten()
        for c, axis in enumerate(axes):
            if c >= len(channels):
                axis.axis("off")
                continue
            for part, shade, title, width in zip(
                sets, (SOURCE, MAPPED, TARGET), titles, (1.0, 2.0, 1.0), strict=True
            ):
                axis.hist(
                    part[:, c].clamp(low[c], high[c]).numpy(),
                    bins=80,
                    range=(low[c], high[c]),
                    density=True,
                    histtype="step",
                    color=shade,
                    lw=width,
                    label=title,
                )
            axis.set(yticks=[], xlim=(low[c], high[c]))
            axis.set_title(channels[c], fontsize=9)
            _measured(axis.xaxis, scale, c)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _range(z: Tensor) -> tuple[list[float], list[float]]:
    """Where all but one in a thousand cells lie, channel by channel."""
    low, high = z.quantile(0.0005, 0), z.quantile(0.9995, 0)
    margin = 0.05 * (high - low) + 1e-6
    return (low - margin).tolist(), (high + margin).tolist()


def _measured(axis: Any, scale: Asinh, channel: int) -> None:
    """Ticks at powers of ten of what was measured."""
    low, high = axis.get_view_interval()
    values = torch.tensor([-1e3, -1e2, 0.0, 1e2, 1e3, 1e4, 1e5, 1e6], dtype=torch.float64)
    mean, std = scale.mean[channel], scale.std[channel]
    places = (((values / scale.cofactor).asinh() - mean) / std).tolist()
    names = ["-1k", "-100", "0", "100", "1k", "10k", "100k", "1M"]
    shown = [(place, name) for place, name in zip(places, names, strict=True) if low < place < high]
    axis.set_ticks([place for place, _ in shown], [name for _, name in shown], fontsize=7)
