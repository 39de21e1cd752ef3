"""Quality by calls of samplers for one trained diffusion model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pushforward as pf
from benchmarks.lectures.chart import Found, curves
from benchmarks.lectures.common import Judge, Work, cell, ends, labels
from benchmarks.lectures.five import trained
from benchmarks.measure import Report, Row
from pushforward.core import times
from pushforward.core.errors import NonFiniteError
from pushforward.evaluate.compare import rmse
from pushforward.solvers import DDIM, DDPM, DPMSolver, Euler

CALLS = (6, 12, 18, 24, 36, 60)
# A solver, and the rule of its times; None for what `pushforward sample` takes by default.
SAMPLERS: Mapping[str, tuple[Any, Callable[[int, Any], Any]] | None] = {
    "DDPM": (DDPM(), lambda n, path: times.uniform(n)),
    "Euler": (Euler(), lambda n, path: times.uniform(n)),
    "DDIM": (DDIM(), lambda n, path: times.uniform(n)),
    "DPM-Solver-1": (DPMSolver(1), times.log_snr),
    "DPM-Solver-2": (DPMSolver(2), times.log_snr),
    "DPM-Solver-3": (DPMSolver(3), times.log_snr),
    "default": None,
}
NAMES = ("Frechet distance", "error")
# Steps so long that samples are off the scale of all others are in the table.
TOPS = {"Frechet distance": 2.5, "error": 1.0}
ABOUT = """Quality by network calls of the samplers of one trained diffusion model.

After figure 2 of Lu et al. 2022 (arXiv 2206.00927), which lecture 004 shows ("Diffusion ODEs"): here the networks of
`five_ways` that predict the noise (DDPM) on the variance-preserving path. DDPM draws new noise in each step, Euler
steps on the velocity, and DDIM steps at equal times; DPM-Solver of order 1 (which is DDIM), 2 and 3 at equal steps of
log-SNR, with as many steps as the calls allow. `default` is what `pushforward sample` takes by itself. Error: root
mean square over samples and pixels, from the end of the same flow by Dormand and Prince's method at 1e-5; DDPM
follows no flow. Means over seeds of training, +- the standard error over them."""


def dpm_solver(work: Work) -> Found:
    judge, label = Judge(), labels(work.num)
    few = min(work.num, 100)
    found: dict[str, dict[str, dict[int, list[float]]]] = {
        name: {sampler: {n: [] for n in CALLS} for sampler in SAMPLERS} for name in NAMES
    }
    precise: list[float] = []
    for seed in work.seeds:
        model = trained(work, "DDPM", seed)
        truth, off = ends(model, few, label=label[:few], seed=seed)
        precise.append(off)
        for sampler in SAMPLERS:
            for n in CALLS:
                try:
                    x = drawn(model, work.num, sampler, n, label=label, seed=seed)
                except NonFiniteError:
                    values = (math.inf, math.inf)
                else:
                    values = (judge.frechet(x), rmse(x[:few], truth))
                for name, value in zip(NAMES, values, strict=True):
                    found[name][sampler][n].append(value)
    del found["error"]["DDPM"]
    rows: list[Row] = [
        {"figure": name, "sampler": sampler} | {f"{n} calls": cell(line[n], 3) for n in CALLS}
        for name, lines in found.items()
        for sampler, line in lines.items()
    ]
    floor = judge.floor()["Frechet distance"]
    figure = curves(
        list(found.items()), floors={NAMES[0]: floor}, tops=TOPS, shades=list(SAMPLERS), width=6.0
    )
    more = f"The ends that errors are measured from move by {max(precise):.1g} at most with ten times the tolerance.\n"
    more += f"Frechet distance of the training half to the held-out one: {floor:.3f}."
    return Found(Report(rows, more), figure)


def drawn(model: Any, num: int, sampler: str, calls: int, **sampling: Any) -> Any:
    chosen = SAMPLERS[sampler]
    if chosen is None:
        return pf.generate(model, num, nfe=calls, **sampling)
    solver, rule = chosen
    grid = rule(calls // solver.calls, model.path)
    return pf.generate(model, num, solver=solver, grid=grid, **sampling)
