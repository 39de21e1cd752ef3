"""Trajectories of three models from the same noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import pushforward as pf
from benchmarks.lectures.chart import Found, tiles
from benchmarks.lectures.common import Work, cell, labels
from benchmarks.lectures.five import THREE, trained
from benchmarks.measure import Report, Row
from pushforward.core.times import uniform
from pushforward.evaluate.figures.page import bare, blank, colour, style
from pushforward.solvers import RK4

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = 40
SHOWN = (0, 8, 16, 24, 28, 32, 36, 40)
ABOUT = """Sample paths of three models from the same noise, and how noise disappears along them.

After figure 6 of Lipman et al. 2023 (arXiv 2210.02747), which lecture 004 shows: the networks of `five_ways` trained
by score matching and by flow matching on the variance-preserving path, and by flow matching on straight lines. Their
flows are followed from the same noise (and for the same class) by 40 equal steps of Runge and Kutta's method of
fourth order. Pictures: the states at some times, of the first seed. Curves: root mean square over samples and pixels
of what is left to go, x_t less the end, over that at t = 0; the diagonal is noise that is reduced linearly. `bend`:
the largest distance of the curve from the diagonal, in the mean over seeds. `length`: of the paths, the sum of the
steps' lengths over the distance of start and end, 1 for straight lines. Means over seeds of training, +- the standard
error over them."""


def trajectories(work: Work) -> Found:
    num = min(work.num, 100)
    grid = uniform(STEPS)
    curves: dict[str, list[Tensor]] = {way: [] for way in THREE}
    length: dict[str, list[float]] = {way: [] for way in THREE}
    shown: dict[str, Tensor] = {}
    for seed in work.seeds:
        for way in THREE:
            states = followed(trained(work, way, seed), num, grid)
            left = (states - states[-1]).double().square().flatten(1).mean(1).sqrt()
            curves[way].append(left / left[0])
            steps = states.diff(dim=0).flatten(2).norm(dim=2).sum(0)
            whole = (states[-1] - states[0]).flatten(1).norm(dim=1)
            length[way].append(float((steps / whole).mean()))
            shown.setdefault(way, states[list(SHOWN)])
    rows: list[Row] = []
    for way in THREE:
        row: Row = {"model": way}
        for i in SHOWN[1:-1]:
            row[f"left at t = {i / STEPS:g}"] = cell([float(c[i]) for c in curves[way]])
        row["bend"] = cell([float((c - (1 - grid)).abs().max()) for c in curves[way]])
        row["length"] = cell(length[way])
        rows.append(row)
    ends = {way: states[-1] for way, states in shown.items()}
    apart = float((ends[THREE[1]] - ends[THREE[2]]).square().mean().sqrt())
    # Samples of one class come ten apart.
    other = ends[THREE[2]]
    usual = float((other - other.roll(10, 0)).square().mean().sqrt())
    more = (
        f"From the same noise, the ends of {THREE[1]} and {THREE[2]} differ by {apart:.2f} in root mean square (of the "
        f"first seed), and two samples of one class by {usual:.2f}. In the lecture's figure they are different images."
    )
    return Found(Report(rows, more), picture(grid, curves, shown))


def followed(model: Any, num: int, grid: Tensor) -> Tensor:
    """(steps + 1, num, 64): the states from the noise of seed 0, whatever the model."""
    states: list[Tensor] = []
    noise = pf.Noise.batch(num, seed=0).normal((64,))
    pf.generate(
        model, num, solver=RK4(), grid=grid, source=noise * model.path.source_std, label=labels(num),
        batch_size=num, callback=lambda i, t, x: states.append(x.cpu()),
    )  # fmt: skip
    return torch.stack(states)


def picture(t: Tensor, curves: Mapping[str, list[Tensor]], shown: Mapping[str, Tensor]) -> Figure:
    """Two samples of each model by time, and the curves beside them."""
    samples = (3, 7)
    with style():
        drawn = blank(12.5, 4.9)
        left, axis = drawn.subplots(1, 2, width_ratios=(1.45, 1))
        images = torch.cat([x[:, list(samples)].transpose(0, 1) for x in shown.values()])
        names = [way if j == 0 else "" for way in shown for j in range(len(samples))]
        tiles(
            left, images.reshape(*images.shape[:2], 8, 8), names, [f"{i / STEPS:g}" for i in SHOWN]
        )
        left.set_title("t", fontsize=9)
        for label, k in zip(left.get_yticklabels(), range(len(names)), strict=True):
            label.set(color=colour(k // len(samples)), fontsize=9)
        axis.plot([0, 1], [1, 0], color="#999999", lw=1, ls="--")
        for k, (way, lines) in enumerate(curves.items()):
            for line in lines:
                axis.plot(t, line, color=colour(k), lw=1.4, label=way if line is lines[0] else None)
        axis.set(xlabel="t", xlim=(0, 1), ylim=(0, 1.02))
        axis.set_title("what is left to go, over that at t = 0", loc="left", fontsize=11)
        axis.legend(loc="lower left")
        axis.grid()
        bare(axis)
    return drawn
