"""A teacher and its students by network calls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pushforward.core.errors import InputError
from pushforward.evaluate.few_steps import TEACHER, Quality
from pushforward.evaluate.figures.curves import beside, calls_axis, logarithmic
from pushforward.evaluate.figures.page import QUIET, blank, colour, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Point(NamedTuple):
    """A figure at a number of calls, and its standard error: 0 where none is known."""

    calls: int
    value: float
    error: float


def few_steps(found: Quality) -> Figure:
    """Each figure against calls, the teacher's in black and at its full number of calls as a line across.

    Figures of which less is better have a logarithmic axis, unless one of them, less its error, is not positive: then
    the axis is linear around 0 and logarithmic beyond, and bars show two standard errors.
    """
    panels = found.names()
    if not panels:
        raise InputError("there are no figures to draw: the samples were judged by none")
    with style():
        drawn = blank(5.6 * len(panels) + 0.8, 4.4)
        axes = drawn.subplots(1, len(panels), squeeze=False)[0]
        for axis, (key, title, less) in zip(axes, panels, strict=True):
            axis.set_title(title, loc="left", fontsize=11)
            _panel(axis, found, key, less)
    return drawn


def points_of(rows: Mapping[int, Mapping[str, float]], key: str) -> list[Point]:
    """A figure by calls, in their order, where it is finite."""
    found = []
    for n in sorted(rows):
        value = rows[n].get(key, math.nan)
        if math.isfinite(value):
            found.append(Point(n, value, rows[n].get(f"{key}_error", 0.0)))
    return found


def _panel(axis: Axes, found: Quality, key: str, less: bool) -> None:
    others = {n for name, rows in found.figures.items() if name != TEACHER for n in rows}
    # The teacher's full number of calls is a line across, unless a student is asked at it, too.
    shown = sorted((others | set(found.figures[TEACHER])) - ({found.calls} - others))
    lines = {name: points_of(rows, key) for name, rows in found.figures.items()}
    full = next((p for p in lines[TEACHER] if p.calls == found.calls), None)
    everything = [point for points in lines.values() for point in points]
    bars = less and any(p.value <= 2 * p.error or p.value <= 0 for p in everything)
    calls_axis(axis, shown)
    ends: list[tuple[float, str, str]] = []
    for number, (name, points) in enumerate(lines.items()):
        points = [point for point in points if point.calls in shown]
        if not points:
            continue
        shade = "black" if name == TEACHER else colour(number - 1)
        width = 1.2 if name == TEACHER else 1.8
        calls, values, errors = zip(*points, strict=True)
        axis.plot(calls, values, marker="o", ms=4, lw=width, color=shade)
        if bars and any(errors):
            reach = [2 * error for error in errors]
            axis.errorbar(calls, values, reach, fmt="none", color=shade, lw=1, capsize=2)
        ends.append((values[-1], name, shade))
    if full is not None:
        axis.axhline(full.value, color=QUIET, lw=1, ls="--", zorder=1)
        ends.append((full.value, f"teacher, {found.calls} calls", QUIET))
    if not less:
        # A share: it ends at 1, and what is below the least one shown says nothing.
        lowest = min([0.9, *(value for value, _, _ in ends), axis.get_ylim()[0]])
        axis.set_ylim(lowest - 0.01, 1.005)
    elif bars:
        _around_zero(axis, everything)
    elif everything:
        logarithmic(axis)
    beside(axis, ends)


def _around_zero(axis: Axes, points: list[Point]) -> None:
    """Linear up to the typical size of what cannot be told from 0, logarithmic beyond, with 0 marked."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    small = sorted(
        max(abs(p.value), p.error) for p in points if p.value <= 2 * p.error or p.value <= 0
    )
    width = small[len(small) // 2] or 1e-12
    axis.set_yscale("symlog", linthresh=width)
    top = max(p.value + 2 * p.error for p in points)
    ticks = [0.0]
    power = 10.0 ** math.ceil(math.log10(width))
    while power <= max(top, width):
        ticks.append(power)
        power *= 10
    axis.set_yticks(ticks)
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.axhline(0, color="#999999", lw=0.8, zorder=0)
