"""Quality by the number of network calls: a teacher and its students, in one table and one figure."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pushforward import __version__
from pushforward.core.errors import InputError
from pushforward.core.fields import FlowMap
from pushforward.evaluate.compare import OTHERS, QUIET, beside, labels_apart

# What is drawn, where it was found: key of the figures, title, whether less is better.
DRAWN = (
    ("w2", "2-Wasserstein distance to the data", True),
    ("energy", "energy distance to the data", True),
    ("frechet", "Frechet distance to held-out data", True),
    ("agreement", "share of samples of the class asked for", False),
)
TEACHER = "teacher"
# Beside the colours of `evaluate.compare`, where there are many students.
MORE = ("#0072b2", "#d55e00", "#7f1d1d", "#134e4a", "#f472b6")


@dataclass(frozen=True)
class Quality:
    """figures: by model, number of calls and name of the figure. calls: the teacher's, in full."""

    figures: dict[str, dict[int, dict[str, float]]]
    calls: int

    def names(self) -> list[tuple[str, str, bool]]:
        """Of the figures that were found, as in DRAWN."""
        found = {name for rows in self.figures.values() for row in rows.values() for name in row}
        return [entry for entry in DRAWN if entry[0] in found]

    def ratio(self, model: str, nfe: int, name: str) -> float:
        """A figure over the teacher's at its full number of calls."""
        return self.figures[model][nfe][name] / self.figures[TEACHER][self.calls][name]

    def as_json(self) -> dict[str, Any]:
        return {"figures": self.figures, "teacher_calls": self.calls}


def quality(
    teacher: Any,
    students: Mapping[str, Any],
    judge: Callable[[Any, int], Mapping[str, float]],
    nfes: Sequence[int],
    calls: int = 100,
) -> Quality:
    """Figures of a teacher and its students at each number of calls.

    judge: figures of a model's samples at so many calls. A student of a fixed number of steps is judged at that one; a
    student that is a velocity, as of reflow, at the number that it was made for.
    """
    figures: dict[str, dict[int, dict[str, float]]] = {TEACHER: {}}
    for nfe in [*nfes, calls]:
        figures[TEACHER][nfe] = dict(judge(teacher, nfe))
    for name, student in students.items():
        figures[name] = {nfe: dict(judge(student, nfe)) for nfe in known(student, nfes)}
    return Quality(figures, calls)


def known(student: Any, nfes: Sequence[int]) -> list[int]:
    """The numbers of calls at which a student is to be asked."""
    if isinstance(student, FlowMap):
        return [len(student.jumps) - 1] if isinstance(student.jumps, tuple) else list(nfes)
    fixed = student.info.get("nfe")
    return list(nfes) if fixed is None else [int(fixed)]


def figure(found: Quality, settings: Mapping[str, Any]) -> bytes:
    """A PNG: each figure against calls, the teacher's in black and at its full number of calls as a line across."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    panels = found.names()
    if not panels:
        raise InputError("there are no figures to draw: the samples were judged by none")
    drawn, axes = plt.subplots(
        1, len(panels), figsize=(5.6 * len(panels) + 0.8, 4.4), layout="constrained", squeeze=False
    )
    names = list(found.figures)
    palette = OTHERS + MORE
    colours = dict(zip(names[1:], palette * (1 + len(names) // len(palette)), strict=False))
    for axis, (key, title, less) in zip(axes[0], panels, strict=True):
        axis.set(xscale="log", xlabel="network calls")
        axis.set_title(title, loc="left", fontsize=11)
        if less:
            axis.set_yscale("log")
        full = found.figures[TEACHER][found.calls].get(key, math.nan)
        others = {n for name, rows in found.figures.items() if name != TEACHER for n in rows}
        shown = sorted((others | set(found.figures[TEACHER])) - ({found.calls} - others))
        ends: list[tuple[float, str, str]] = []
        for name, rows in found.figures.items():
            points = [(n, rows[n][key]) for n in sorted(rows) if n in shown and key in rows[n]]
            points = [(n, v) for n, v in points if math.isfinite(v) and (v > 0 or not less)]
            if not points:
                continue
            colour = "black" if name == TEACHER else colours[name]
            width = 1.2 if name == TEACHER else 1.8
            axis.plot(*zip(*points, strict=True), marker="o", ms=4, lw=width, color=colour)
            ends.append((points[-1][1], name, colour))
        if math.isfinite(full) and (full > 0 or not less):
            axis.axhline(full, color=QUIET, lw=1, ls="--", zorder=1)
            ends.append((full, f"teacher, {found.calls} calls", QUIET))
        if not less and ends:
            # A share: its last hundredths are not worth the height of the figure.
            axis.set_ylim(
                min(0.9, *(value for value, _, _ in ends), axis.get_ylim()[0]) - 0.01, 1.01
            )
        axis.set_xlim(shown[0] / 1.1, shown[-1] * 1.1)
        axis.set_xticks(shown, labels_apart(shown) if len(shown) > 1 else [str(shown[0])])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if less:
            low, high = axis.get_ylim()
            if high / low > 30:
                axis.yaxis.set_minor_formatter(NullFormatter())
            else:
                axis.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.tick_params(axis="y", which="both", labelsize=9)
        axis.grid(color="#dddddd", lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        beside(axis, ends)
    buffer = io.BytesIO()
    text = json.dumps({"version": __version__, **settings}, sort_keys=True)
    drawn.savefig(buffer, format="png", dpi=120, metadata={"pushforward": text, "Software": None})
    plt.close(drawn)
    return buffer.getvalue()
