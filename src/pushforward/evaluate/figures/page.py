"""One style for all figures, and how a figure becomes a PNG file.

Matplotlib is imported when a figure is drawn, without its global state: no pyplot, no backend, no settings of the user.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pushforward.core.errors import InputError
from pushforward.core.version import __version__

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, QUIET, RULE, PAPER = "#282828", "#6b6b6b", "#dddddd", "#ffffff"
# Where a flow starts, where it ends, and what lies between.
START, END, LINE = "#b2182b", "#2166ac", "#8c8c8c"
# Colours of many lines or classes: Okabe and Ito's, then others that differ from them.
PALETTE = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#6a3d9a", "#a6bd0d", "#7f1d1d",
    "#134e4a", "#f472b6",
)  # fmt: skip
DPI = 110
STYLE: Mapping[str, Any] = {
    "figure.dpi": DPI,
    "savefig.dpi": "figure",
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.edgecolor": "#aaaaaa",
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
}


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's defaults with `STYLE`, whatever the user has set."""
    try:
        import matplotlib.style
    except ImportError as error:
        raise InputError("figures need matplotlib: pip install matplotlib") from error
    with matplotlib.style.context(["default", dict(STYLE)]):
        yield


def blank(width: float, height: float, **options: Any) -> Figure:
    """A figure of so many inches, with a constrained layout unless `options` choose another."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), **{"layout": "constrained"} | options)
    FigureCanvasAgg(figure)
    if "layout" not in options:
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    return figure


def png(figure: Figure, settings: Mapping[str, Any]) -> bytes:
    """The figure as a PNG file, with `settings` and the version as JSON under the key "pushforward"."""
    text = json.dumps({"version": __version__, **settings}, sort_keys=True)
    buffer = io.BytesIO()
    with style():
        figure.savefig(
            buffer,
            format="png",
            dpi=figure.dpi,
            metadata={"pushforward": text, "Software": None},
            pil_kwargs={"optimize": True},
        )
    return buffer.getvalue()


def bare(axis: Axes) -> None:
    """Take the upper and right-hand lines of a frame away."""
    axis.spines[["top", "right"]].set_visible(False)


def colour(number: int) -> str:
    """The colour of line or class `number`."""
    return PALETTE[number % len(PALETTE)]
