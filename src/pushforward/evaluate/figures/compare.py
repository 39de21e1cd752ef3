"""Samplers against each other: error, and distance to the data, by network calls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pushforward.evaluate.compare import Comparison
from pushforward.evaluate.figures.curves import beside, calls_axis, logarithmic
from pushforward.evaluate.figures.page import PALETTE, QUIET, blank, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours of the learned method and of fitted ones; the others take theirs in turn.
LEARNED, TUNED = PALETTE[:2]
OTHERS = PALETTE[2:]


def comparison(result: Comparison) -> Figure:
    """Error against calls, and distance against calls if there is one, all axes logarithmic."""
    panels = [("error (RMSE)", result.errors)]
    if result.distances is not None:
        panels.append((result.measure or "", result.distances))
    names = list(dict.fromkeys(name for _, rows in panels for name in rows))
    colours = iter(OTHERS * (1 + len(names) // len(OTHERS)))
    looks: dict[str, dict[str, Any]] = {}
    for name in names:
        bold = {"learned": LEARNED, "tuned": TUNED}.get(name)
        looks[name] = {
            "color": bold or next(colours),
            "lw": 2.2 if bold else 1.3,
            "zorder": 3 if bold else 2,
        }
    with style():
        drawn = blank(6.6 * len(panels), 4.6)
        axes = drawn.subplots(1, len(panels), squeeze=False)[0]
        for axis, (title, rows) in zip(axes, panels, strict=True):
            axis.set_title(title, loc="left", fontsize=11)
            calls_axis(axis, result.nfes, 1.08)
            ends: list[tuple[float, str, str]] = []
            for name, row in rows.items():
                points = [(nfe, v) for nfe, v in row.items() if 0 < v < math.inf]
                if not points:
                    continue
                # Fitted samplers are points: nothing is known between them.
                fitted = name == "tuned"
                marks: dict[str, Any] = (
                    {"marker": "*", "ms": 11, "ls": ""} if fitted else {"marker": "o", "ms": 3}
                )
                ends.append((points[-1][1], "★ tuned" if fitted else name, looks[name]["color"]))
                axis.plot(*zip(*points, strict=True), **marks, **looks[name])
            if rows is result.distances and (result.reference_distance or 0) > 0:
                axis.axhline(result.reference_distance, color=QUIET, lw=1, ls="--", zorder=1)
                ends.append((result.reference_distance or 0, "reference", QUIET))
            elif rows is result.errors:
                note = f"reference: {result.steps} steps, precise to {result.accuracy:.0e}"
                axis.set_title(note, loc="right", fontsize=8, color=QUIET)
            if ends:
                logarithmic(axis)
            beside(axis, ends)
    return drawn
