"""Precision and recall by guidance and by calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pushforward as pf
from benchmarks.lectures.chart import Found
from benchmarks.lectures.common import Judge, Work, labels, mean_and_error, rows_of
from benchmarks.lectures.consistency import drawn
from benchmarks.lectures.five import trained
from benchmarks.measure import Report, Row
from pushforward.evaluate.figures.page import QUIET, bare, blank, colour, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GUIDANCE = (1.0, 1.5, 2.0, 3.0, 5.0)
NFE = 20
CALLS = (2, 3, 4, 6, 20)
ABOUT = """Precision and recall: of one model by guidance and by calls, and of few-step models at one and two calls.

Lecture 004 shows the precision and recall of distilled and trained models (table 1 and 2 of Song et al. 2023, arXiv
2303.01469); guidance, which the same lecture introduces, trades one for the other. Left: the network of `five_ways`
trained by flow matching on straight lines, by scales of classifier-free guidance (`w`, 20 calls a sample of the
guided field), and by network calls without guidance. Right: the methods of `consistency` at one and two calls.
Precision: the share of samples within the balls of held-out digits to their fifth neighbours; recall: the share of
held-out digits within those of samples (Kynkaanniemi et al. 2019, arXiv 1904.06991), on the pixels. Means over seeds
of training, +- the standard error over them."""

Points = Mapping[str, Sequence[Mapping[str, float]]]


def precision(work: Work) -> Found:
    judge, label = Judge(), labels(work.num)
    guided: dict[str, list[dict[str, float]]] = {}
    by_calls: dict[str, list[dict[str, float]]] = {}
    few: dict[str, list[dict[str, float]]] = {}
    for seed in work.seeds:
        model = trained(work, "FM w/ OT", seed)
        options: dict[str, Any] = {"label": label, "seed": seed}
        for w in GUIDANCE:
            x = pf.generate(model, work.num, nfe=NFE, guidance=w, **options)
            guided.setdefault(f"w = {w:g}", []).append(judge.figures(x))
        for n in CALLS:
            x = pf.generate(model, work.num, nfe=n, **options)
            by_calls.setdefault(f"{n} calls", []).append(judge.figures(x))
        for name, x in drawn(work, seed).items():
            few.setdefault(name, []).append(judge.figures(x))
    floor = judge.floor()
    rows = rows_of(guided, "samples", {}) + rows_of(by_calls, "samples", {})
    rows += rows_of(few, "samples", {})
    last: Row = {"samples": "(training half)"}
    rows.append(last | {key: f"{value:.3f}" for key, value in floor.items()})
    return Found(Report(rows, said(guided)), picture(guided, by_calls, few, floor))


def said(guided: Points) -> str:
    """What guidance changes within a seed."""
    first = guided[f"w = {GUIDANCE[0]:g}"]
    words = []
    for w in GUIDANCE[2::2]:
        parts = []
        for key in ("precision", "recall", "Frechet distance"):
            pairs = zip(first, guided[f"w = {w:g}"], strict=True)
            mean, error = mean_and_error([b[key] - a[key] for a, b in pairs])
            parts.append(f"{key} by {mean:+.3f} ± {error:.3f}")
        words.append(
            f"From w = {GUIDANCE[0]:g} to w = {w:g}, changes within a seed: {', '.join(parts)}."
        )
    return "\n".join(words)


def picture(guided: Points, by_calls: Points, few: Points, floor: Mapping[str, float]) -> Figure:
    # 20 calls are those of w = 1, and one or two Euler steps of the teacher have next to no recall.
    by_calls = {name: runs for name, runs in by_calls.items() if name != f"{NFE} calls"}
    few = {name: runs for name, runs in few.items() if name not in ("teacher, 1", "teacher, 2")}
    with style():
        drawn = blank(11.5, 4.8)
        left, right = drawn.subplots(1, 2)
        lines = {f"guidance w, {NFE} calls": guided, "calls, w = 1": by_calls}
        for number, (name, points) in enumerate(lines.items()):
            along = [means(runs)[:2] for runs in points.values()]
            left.plot(*zip(*along, strict=True), color=colour(number), lw=1.2, label=name)
            mark(left, points, colour(number), below=number > 0, before=number == 0)
        left.legend(loc="lower right")
        methods = list(dict.fromkeys(name.split(",")[0] for name in few))
        middle = sorted(means(runs)[0] for runs in few.values())[len(few) // 2]
        for name, runs in few.items():
            shade = colour(methods.index(name.split(",")[0]))
            below = name.startswith("2-")
            mark(right, {name: runs}, shade, below=below, before=means(runs)[0] < middle)
        for axis, title in (
            (left, "one model"),
            (right, "few-step models and their teacher, by calls"),
        ):
            axis.set_title(title, loc="left", fontsize=11)
            axis.plot(floor["recall"], floor["precision"], "*", ms=11, color=QUIET)
            axis.annotate("training data", (floor["recall"], floor["precision"]), xytext=(-6, -12),
                          textcoords="offset points", fontsize=8, color=QUIET, ha="right")  # fmt: skip
            axis.set(xlabel="recall", ylabel="precision")
            axis.margins(x=0.16)
            axis.grid()
            bare(axis)
    return drawn


def means(runs: Sequence[Mapping[str, float]]) -> tuple[float, float, float, float]:
    """Recall, precision, and their standard errors (0 of one seed)."""
    values = [mean_and_error([run[key] for run in runs]) for key in ("recall", "precision")]
    errors = [0.0 if len(runs) < 2 else error for _, error in values]
    return values[0][0], values[1][0], errors[0], errors[1]


def mark(
    axis: Any, points: Points, shade: str, *, below: bool = False, before: bool = False
) -> None:
    """Means with their bars, and names above or below them, behind or before."""
    bars = {"fmt": "o", "ms": 5, "capsize": 2, "elinewidth": 1, "color": shade}
    for name, runs in points.items():
        x, y, across, along = means(runs)
        axis.errorbar(x, y, xerr=across, yerr=along, **bars)
        text = {"fontsize": 8, "color": shade, "ha": "right" if before else "left"}
        place = (-5 if before else 5, -11 if below else 5)
        axis.annotate(name, (x, y), xytext=place, textcoords="offset points", **text)
