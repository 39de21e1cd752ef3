"""How the figures of the lectures are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.lectures.common import mean_and_error
from benchmarks.measure import Report
from pushforward.evaluate.figures.curves import beside, calls_axis, logarithmic
from pushforward.evaluate.figures.page import QUIET, bare, blank, colour, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Values over the seeds, by line and by number of calls.
Lines = Mapping[str, Mapping[int, Sequence[float]]]


@dataclass(frozen=True)
class Found:
    """A table with what is said of it, and its picture."""

    report: Report
    figure: Figure


def curves(
    panels: Sequence[tuple[str, Lines]],
    *,
    floors: Mapping[str, float] | None = None,
    tops: Mapping[str, float] | None = None,
    shades: Sequence[str] = (),
    width: float = 5.6,
) -> Figure:
    """Each line by calls, both axes logarithmic, bars of one standard error over the seeds.

    floors: a line across the panel of this title; tops: where it is cut off. shades: names in the order of their
    colours, the same in all panels.
    """
    order = list(dict.fromkeys([*shades, *(name for _, lines in panels for name in lines)]))
    with style():
        drawn = blank(width * len(panels) + 0.6, 4.4)
        axes = drawn.subplots(1, len(panels), squeeze=False)[0]
        for axis, (title, lines) in zip(axes, panels, strict=True):
            axis.set_title(title, loc="left", fontsize=11)
            calls_axis(axis, sorted({n for line in lines.values() for n in line}))
            ends = []
            for name, line in lines.items():
                shade = colour(order.index(name))
                last = _line(axis, line, shade)
                if last is not None:
                    ends.append((last, name, shade))
            floor = (floors or {}).get(title)
            if floor is not None:
                axis.axhline(floor, color=QUIET, lw=1, ls="--", zorder=1)
                ends.append((floor, "training data", QUIET))
            axis.set_yscale("log")
            if tops and title in tops:
                axis.set_ylim(top=tops[title])
            logarithmic(axis)
            beside(axis, ends)
    return drawn


def _line(axis: Axes, line: Mapping[int, Sequence[float]], shade: str) -> float | None:
    """One line with its bars; where it ends, None if no value is finite."""
    points = []
    for calls in sorted(line):
        value, error = mean_and_error(line[calls])
        if math.isfinite(value):
            points.append((calls, value, 0.0 if math.isnan(error) else error))
    if not points:
        return None
    x, y, bars = zip(*points, strict=True)
    # A bar that reaches 0 has no lower end on a logarithmic axis.
    low = [min(bar, 0.9 * value) for bar, value in zip(bars, y, strict=True)]
    marks: dict[str, Any] = {"marker": "o", "ms": 3.5, "lw": 1.6, "capsize": 2, "elinewidth": 1}
    axis.errorbar(x, y, yerr=(low, bars), color=shade, **marks)
    return float(y[-1])


def dots(
    panels: Sequence[tuple[str, Mapping[str, Sequence[float]]]],
    *,
    floors: Mapping[str, float] | None = None,
    logs: Sequence[str] = (),
) -> Figure:
    """Names down the side; in each panel the mean of each name with a bar of one standard error, and its seeds.

    floors: a line across the panel of this title. logs: titles of panels with a logarithmic axis.
    """
    names = list(panels[0][1])
    with style():
        drawn = blank(3.2 * len(panels) + 1.2, 0.42 * len(names) + 1.0)
        axes = drawn.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (title, values) in zip(axes, panels, strict=True):
            axis.set_title(title, loc="left", fontsize=11)
            for k, name in enumerate(names):
                mean, error = mean_and_error(values[name])
                bar = None if math.isnan(error) else error
                axis.plot(
                    values[name],
                    [k] * len(values[name]),
                    "o",
                    ms=4,
                    alpha=0.3,
                    color=colour(k),
                    mew=0,
                )
                axis.errorbar([mean], [k], xerr=bar, fmt="o", ms=6, color=colour(k), capsize=3)
            floor = (floors or {}).get(title)
            if floor is not None:
                axis.axvline(floor, color=QUIET, lw=1, ls="--", zorder=1)
            if title in logs:
                logarithmic_across(axis)
            if floor is not None:
                # On the side where there is room.
                place = axis.transAxes.inverted().transform(axis.transData.transform((floor, 0)))
                side = "left" if place[0] < 0.5 else "right"
                text = {"fontsize": 8, "color": QUIET, "va": "center", "ha": side}
                axis.annotate(" training data ", (floor, -0.42), **text)
            axis.set_yticks(range(len(names)), names)
            axis.set_ylim(len(names) - 0.4, -0.6)
            axis.grid(axis="x")
            bare(axis)
    return drawn


def logarithmic_across(axis: Axes) -> None:
    """A logarithmic axis along x with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def tiles(axis: Axes, images: Tensor, rows: Sequence[str], columns: Sequence[str] = ()) -> None:
    """Images (R, C, 8, 8) in one picture, a pixel apart, with names of rows and columns.

    Values beyond black and white, as noise has them, are cut off.
    """
    number, across, height, width = images.shape
    page = torch.full((number * (height + 1) - 1, across * (width + 1) - 1), math.nan)
    for i in range(number):
        for j in range(across):
            y, x = i * (height + 1), j * (width + 1)
            page[y : y + height, x : x + width] = images[i, j].clamp(-1, 1)
    axis.imshow(page.numpy(), cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    axis.set_yticks([i * (height + 1) + height / 2 for i in range(number)], rows)
    axis.set_xticks([j * (width + 1) + width / 2 for j in range(across)][: len(columns)], columns)
    axis.tick_params(length=0, top=bool(columns), labeltop=bool(columns), labelbottom=False)
    axis.spines[:].set_visible(False)
