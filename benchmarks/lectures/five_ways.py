"""Likelihood, Frechet distance and calls of one network trained five ways."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pushforward as pf
from benchmarks.lectures.chart import Found, dots
from benchmarks.lectures.common import (
    BIN,
    Judge,
    Work,
    cell,
    counting,
    halves,
    labels,
    mean_and_error,
)
from benchmarks.lectures.five import WAYS, trained
from benchmarks.measure import Report, Row
from pushforward.core.times import straight
from pushforward.evaluate.metrics.agreement import everything
from pushforward.likelihood import bits
from pushforward.solvers import RK4, DormandPrince

# Of the lecture's table, on CIFAR-10: bits per dimension, FID, calls.
LECTURE = {
    "DDPM": (3.12, 7.48, 274),
    "Score Matching": (3.16, 19.94, 242),
    "ScoreFlow": (3.09, 20.78, 428),
    "FM w/ Diffusion": (3.10, 8.06, 183),
    "FM w/ OT": (2.99, 6.35, 142),
}
FIGURES = ("bits/dim", "Frechet distance", "calls")
TOLERANCE, STEPS = 1e-4, 40
# Bits per dimension of a point whose flow backwards leaves every scale; evenly over the 17 levels it would be 4.1.
ESCAPED = 10.0
ABOUT = """Likelihood (bits per dimension), Frechet distance and network calls of ONE network trained in five ways.

After table 1 of Lipman et al. 2023 (arXiv 2210.02747), which lecture 004 shows ("Experiments"). The same network with
the same steps, batches, seeds and noise: the noise (DDPM); the score, whose errors are weighted by sigma^2 (Score
Matching); the noise, as errors of the score weighted by beta/2, a bound of the likelihood (ScoreFlow); the velocity
of the variance-preserving path (FM w/ Diffusion) and of straight lines (FM w/ OT). Samples by Dormand and Prince's
method with both tolerances at 1e-4 (1e-5 in the paper: three times as many calls here), from t = 0 to 1; calls are
the mean over samples. Likelihood of held-out digits given their class, spread over their bins, by 40 steps of Runge
and Kutta's method of fourth order on `times.straight`, with 2 probes of the divergence for each: the median over 200
digits, since some leave every scale on the way back to the noise, where networks are asked outside of what they were
trained on; `escaped` is their share (above 10 bits per dimension). Means over seeds of training, +- the standard
error over them."""


def five_ways(work: Work) -> Found:
    judge = Judge()
    found = {
        way: [judged(work, judge, trained(work, way, seed), seed) for seed in work.seeds]
        for way in WAYS
    }
    rows: list[Row] = []
    for way, runs in found.items():
        row: Row = {"trained by": way}
        for name, digits in zip(FIGURES, (3, 3, 0), strict=True):
            row[name] = cell([run[name] for run in runs], digits)
        row["escaped"] = cell([run["escaped"] for run in runs])
        for name, value in zip(FIGURES, LECTURE[way], strict=True):
            row[f"{name}, lecture"] = value
        rows.append(row)
    floor = judge.floor()["Frechet distance"]
    rows.append({"trained by": "(training half)", "Frechet distance": f"{floor:.3f}"})
    panels = [
        (name, {way: [run[name] for run in runs] for way, runs in found.items()})
        for name in FIGURES
    ]
    more = "\n\n".join(compared(name, k, found) for k, name in enumerate(FIGURES))
    return Found(Report(rows, more), dots(panels, floors={"Frechet distance": floor}))


def judged(work: Work, judge: Judge, model: Any, seed: int) -> dict[str, float]:
    solver, label = DormandPrince(TOLERANCE, TOLERANCE), labels(work.num)
    with counting(model) as rows:
        x = pf.generate(model, work.num, solver=solver, label=label, seed=seed)
    calls = rows[0] / work.num
    held_out, own = everything(halves()[1], work.points)
    grid, data = straight(STEPS, model.path), held_out.flatten(1)
    told = bits(model, data, BIN, probes=2, seed=seed, solver=RK4(), grid=grid, label=own).each
    escaped = ~(told < ESCAPED)
    return {
        "bits/dim": float(told.nan_to_num(nan=math.inf).median()),
        "Frechet distance": judge.frechet(x),
        "calls": calls,
        "escaped": float(escaped.double().mean()),
    }


def compared(name: str, place: int, found: Mapping[str, list[dict[str, float]]]) -> str:
    """The order of the five here and in the lecture, best first, and what straight lines change within a seed."""
    ours = {way: mean_and_error([run[name] for run in runs]) for way, runs in found.items()}
    order = sorted(ours, key=lambda way: ours[way][0])
    theirs = sorted(LECTURE, key=lambda way: LECTURE[way][place])
    pairs = [(a, b) for i, a in enumerate(theirs) for b in theirs[i + 1 :]]
    change, error = mean_and_error(
        [
            b[name] - a[name]
            for a, b in zip(found["FM w/ Diffusion"], found["FM w/ OT"], strict=True)
        ]
    )
    alike = sum(ours[a][0] < ours[b][0] for a, b in pairs)
    return (
        f"{name}: here {' < '.join(order)}; in the lecture {' < '.join(theirs)}. "
        f"{alike} of {len(pairs)} pairs are in the same order. FM w/ OT less FM w/ Diffusion, within a seed: "
        f"{change:.3g} ± {error:.2g}."
    )
