"""Error and Frechet distance by calls of each path."""

from __future__ import annotations

from typing import Any

import torch

import pushforward as pf
from benchmarks.lectures.chart import Found, curves
from benchmarks.lectures.common import Judge, Work, cell, ends, labels
from benchmarks.lectures.five import THREE, trained
from benchmarks.measure import Report, Row
from pushforward.core.times import uniform
from pushforward.evaluate.compare import rmse
from pushforward.laws import EightGaussians
from pushforward.solvers import Midpoint

CALLS = (4, 6, 8, 10, 20, 40, 80)
EXACT = {"CondOT": pf.CondOT(), "Cosine": pf.Cosine(), "VP": pf.VP()}
NAMES = ("error, exact field in the plane", "error, trained on digits", "Frechet distance")
ABOUT = """Numerical error and quality by network calls, for each path.

After figure 7 of Lipman et al. 2023 (arXiv 2210.02747), which lecture 004 shows: the midpoint rule at equal steps of
time, and its root-mean-square difference over samples and pixels from the end of the same flow by Dormand and
Prince's method at 1e-5. Left, the exact velocity of the flow from noise to eight Gaussians (no network; the paths'
own error alone; 500 starting points, errors over the spread of the data) on three paths. Middle and right, the
networks of `five_ways` trained by score matching and by flow matching on the variance-preserving path, and by flow
matching on straight lines. Means over seeds of training, +- the standard error over them."""


def paths(work: Work) -> Found:
    judge = Judge()
    exact = {name: in_the_plane(path, work) for name, path in EXACT.items()}
    errors: dict[str, dict[int, list[float]]] = {way: {n: [] for n in CALLS} for way in THREE}
    distances: dict[str, dict[int, list[float]]] = {way: {n: [] for n in CALLS} for way in THREE}
    precise: list[float] = []
    for way in THREE:
        for seed in work.seeds:
            model, few = trained(work, way, seed), min(work.num, 100)
            label = labels(work.num)
            truth, off = ends(model, few, label=label[:few], seed=seed)
            precise.append(off)
            for n in CALLS:
                x = at(model, work.num, n, label=label, seed=seed)
                errors[way][n].append(rmse(x[:few], truth))
                distances[way][n].append(judge.frechet(x))
    rows: list[Row] = []
    for title, lines in zip(NAMES, (exact, errors, distances), strict=True):
        for name, line in lines.items():
            row: Row = {"figure": title, "path": name}
            rows.append(row | {f"{n} calls": cell(line[n], 4) for n in CALLS})
    floor = judge.floor()["Frechet distance"]
    figure = curves(
        list(zip(NAMES, (exact, errors, distances), strict=True)),
        floors={NAMES[2]: floor}, shades=[*THREE, *EXACT], width=4.9,
    )  # fmt: skip
    best = {
        n: min(THREE, key=lambda way, n=n: sum(errors[way][n]))
        for n in (CALLS[0], 10, CALLS[-1])  # type: ignore[misc]
    }
    more = f"Least error of the trained ones: {', '.join(f'{way} at {n} calls' for n, way in best.items())}.\n"
    more += f"The ends that errors are measured from move by {max(precise):.1g} at most with ten times the tolerance.\n"
    more += f"Frechet distance of the training half to the held-out one: {floor:.3f}."
    return Found(Report(rows, more), figure)


def at(model: Any, num: int, calls: int, **sampling: Any) -> torch.Tensor:
    grid = uniform(calls // Midpoint().calls)
    return pf.generate(model, num, solver=Midpoint(), grid=grid, **sampling)


def in_the_plane(path: Any, work: Work) -> dict[int, list[float]]:
    law = EightGaussians()
    field, num = law.field(path), min(work.num, 500)
    truth, _ = ends(field, num, seed=0)
    return {n: [rmse(at(field, num, n, seed=0), truth) / rmse(truth)] for n in CALLS}
