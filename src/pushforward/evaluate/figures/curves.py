"""What curves against network calls share: the axis of calls, and names beside their ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from pushforward.evaluate.figures.page import bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def calls_axis(axis: Axes, nfes: Sequence[int], room: float = 1.1) -> None:
    """Network calls along x, on a logarithmic axis with these ticks and no others."""
    from matplotlib.ticker import NullLocator

    axis.set(xscale="log", xlabel="network calls")
    axis.set_xlim(nfes[0] / room, nfes[-1] * room)
    axis.set_xticks(nfes, labels_apart(nfes) if len(nfes) > 1 else [str(nfes[0])])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid()
    bare(axis)


def logarithmic(axis: Axes) -> None:
    """A logarithmic axis with three numbers or more, however few powers of ten it spans."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1,), (1, 3), (1, 2, 5)):
        ticks = [part * 10.0**power for power in powers for part in parts]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    else:
        ticks = [float(t) for t in MaxNLocator(5).tick_values(low, high) if low <= t <= high]
        axis.yaxis.set_minor_locator(NullLocator())
    axis.set_yticks(ticks)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(axis="y", which="minor", length=2)


def beside(axis: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names in their colours beside the ends of lines, (value, name, colour), moved apart where they would meet."""
    axis.set_ylim(axis.get_ylim())
    height = (axis.transData + axis.transAxes.inverted()).transform
    wanted = sorted((float(height((1.0, v))[1]), name, colour) for v, name, colour in ends)
    places = apart([y for y, _, _ in wanted], 0.05)
    for (_, name, colour), y in zip(wanted, places, strict=True):
        axis.annotate(
            name, (1.01, y), xycoords="axes fraction", va="center", fontsize=9, color=colour
        )


def apart(places: Sequence[float], room: float) -> list[float]:
    """The numbers y in [0, 1] nearest to the increasing `places`, by least squares, with y_{i+1} >= y_i + room.

    y_i - i room must not decrease: isotonic regression, by merging neighbours that do into their mean, then clipped.
    """
    groups: list[list[float]] = []
    for i, y in enumerate(places):
        groups.append([y - i * room])
        while len(groups) > 1 and fmean(groups[-2]) > fmean(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    most = max(0.0, 1 - (len(places) - 1) * room)
    flat = [min(max(fmean(group), 0.0), most) for group in groups for _ in group]
    return [y + i * room for i, y in enumerate(flat)]


def labels_apart(nfes: Sequence[int]) -> list[str]:
    """A label for each tick, but for those too near to the one before."""
    room, last, labels = math.log(nfes[-1] / nfes[0]) / 20, -math.inf, []
    for nfe in nfes:
        shown = math.log(nfe) - last >= room
        labels.append(str(nfe) if shown else "")
        last = math.log(nfe) if shown else last
    return labels
