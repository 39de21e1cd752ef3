"""Methods that join two laws in the plane, after table 2 of the [SF]2M paper: python -m benchmarks.between_laws

Every case, a method on a task with a seed, is written to a file of its own when it is done, and not run again: the
command can be stopped and taken up, and several processes can share the work (`--share 0/2` and `--share 1/2`).
"""

from __future__ import annotations

import argparse
import inspect
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

import pushforward as pf
from benchmarks.measure import Report, Row, circumstances, write
from benchmarks.run import RESULTS
from pushforward.couplings import OptimalTransport
from pushforward.evaluate.metrics.measured import Measured
from pushforward.evaluate.metrics.transport import follow
from pushforward.evaluate.metrics.wasserstein import wasserstein
from pushforward.laws import EightGaussians, Moons, PlaneLaw, SCurve
from pushforward.nets import MLP
from pushforward.objectives import (
    BridgeMatching,
    FlowMatching,
    Objective,
    ProportionalFitting,
    ScoreAndFlowMatching,
)
from pushforward.train.ema import EMA
from pushforward.train.schedules import learning_rate

NUM, STEPS, BATCH, STD = 10_000, 3000, 256, 1.0
# Training draws, the pairs of a reflow, samples and data to judge by: each with keys of its own.
SOURCE_STEP, PAIRS_SEED, JUDGE_SEED, DATA_SEED = 2**31, 1000, 2000, 3000


@dataclass(frozen=True)
class Normal:
    """N(0, I) in the plane."""

    def draw(self, noise: pf.Noise) -> Tensor:
        return noise.normal((2,))


Law = Normal | PlaneLaw
EIGHT = EightGaussians(5.0, 0.1**0.5)
TASKS: dict[str, tuple[Law, PlaneLaw]] = {
    "N to 8gaussians": (Normal(), EIGHT),
    "moons to 8gaussians": (Moons(), EIGHT),
    "N to moons": (Normal(), Moons()),
    "N to s-curve": (Normal(), SCurve()),
}
# W2 and NPE as published, in the order of TASKS.
PUBLISHED: dict[str, tuple[tuple[float, ...], tuple[float, ...] | None]] = {
    "OT-CFM": ((0.303, 0.601, 0.130, 0.144), (0.031, 0.015, 0.083, 0.027)),
    "I-CFM": ((0.373, 1.557, 0.178, 0.242), (0.202, 2.680, 0.891, 0.856)),
    "rectified flow": ((0.421, 1.525, 0.283, 0.345), (0.044, 0.203, 0.130, 0.099)),
    "[SF]2M": ((0.275, 0.726, 0.124, 0.128), (0.016, 0.045, 0.053, 0.034)),
    "DSBM": ((0.315, 0.812, 0.140, 0.140), (0.022, 0.244, 0.383, 0.297)),
    "DSB": ((0.411, 0.987, 0.190, 0.272), None),
}

Batches = Callable[[int], pf.Batch]


@dataclass(frozen=True)
class Case:
    method: str
    task: str
    seed: int

    @property
    def file(self) -> str:
        return f"{self.method}, {self.task}, {self.seed}.json".replace(" ", "_")

    def batches(self, size: int) -> Batches:
        """Fresh draws of both laws at every step."""
        source, data = TASKS[self.task]

        def at(step: int) -> pf.Batch:
            x0 = source.draw(pf.Noise.batch(size, self.seed, step + SOURCE_STEP))
            return pf.Batch(data.draw(pf.Noise.batch(size, self.seed, step)), x0=x0)

        return at

    def fit(
        self, model: nn.Module, objective: Objective, batches: Batches, decay: float = 0.995
    ) -> nn.Module:
        """AdamW, a rate of 2e-3 that falls as a cosine, gradients clipped at 1: returns the average of the weights."""
        parameters = list(model.parameters())
        optimizer = torch.optim.AdamW(parameters, weight_decay=0.0, fused=True)
        ema = EMA(model, decay)
        for step in range(STEPS):
            batch = batches(step)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, STEPS, 2e-3, 100, "cosine")
            objective(batch, pf.Noise.batch(len(batch), self.seed, step))["loss"].mean().backward()
            clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            ema.update(model, step)
        return ema.model

    def draws(self, num: int, seed: int) -> Tensor:
        return TASKS[self.task][0].draw(pf.Noise.batch(num, self.seed + seed))


def net(outputs: int = 1) -> MLP:
    return MLP(2, 64, 3, outputs=outputs)


def flow_model() -> pf.Model:
    return pf.Model(net(), pf.CondOT(gaussian_source=False), shape=(2,))


def matching(case: Case, coupling: pf.couplings.Coupling | None = None) -> nn.Module:
    model = flow_model()
    objective = FlowMatching(model) if coupling is None else FlowMatching(model, coupling=coupling)
    return case.fit(model, objective, case.batches(BATCH))


def rectified(case: Case) -> nn.Module:
    """Twice: independent pairs, then the pairs (X_0, X_1) that the first flow makes."""
    first = matching(case)
    x0 = case.draws(20_000, PAIRS_SEED)
    flow = follow(first, x0, steps=20)
    x0, x1 = flow.start.float(), flow.end.float()

    def pairs(step: int) -> pf.Batch:
        rows = (pf.Noise.batch(BATCH, case.seed, step).uniform() * len(x0)).long()
        return pf.Batch(x1[rows], x0=x0[rows])

    model = flow_model()
    return case.fit(model, FlowMatching(model), pairs)


def sf2m(case: Case) -> nn.Module:
    model = pf.BridgeModel(net(2), pf.BrownianBridge(STD), shape=(2,))
    objective = ScoreAndFlowMatching(model, OptimalTransport())
    return case.fit(model, objective, case.batches(BATCH))


def halves() -> pf.HalfBridges:
    return pf.HalfBridges(net(), net(), pf.BrownianBridge(STD), shape=(2,))


def dsbm(case: Case) -> nn.Module:
    model = halves()
    return case.fit(model, BridgeMatching(model, every=600), case.batches(128), 0.99)


def dsb(case: Case) -> nn.Module:
    model = halves()
    return case.fit(model, ProportionalFitting(model, every=300), case.batches(64), 0.99)


METHODS: dict[str, Callable[[Case], nn.Module]] = {
    "OT-CFM": lambda case: matching(case, OptimalTransport()),
    "I-CFM": matching,
    "rectified flow": rectified,
    "[SF]2M": sf2m,
    "DSBM": dsbm,
    "DSB": dsb,
}


def optimum(case: Case) -> tuple[Tensor, Tensor, Measured]:
    """Samples of both laws, and W2 between them."""
    x0 = case.draws(NUM, JUDGE_SEED)
    x1 = TASKS[case.task][1].draw(pf.Noise.batch(NUM, case.seed + DATA_SEED))
    return x0, x1, wasserstein(x0, x1)


def judge(case: Case, optima: dict[tuple[str, int], tuple[Tensor, Tensor, Measured]]) -> Row:
    """W2 of what a method makes of the source to the data, and its normalised path energy."""
    torch.manual_seed(case.seed)
    began = time.process_time()
    model = METHODS[case.method](case)
    seconds = time.process_time() - began
    key = (case.task, case.seed)
    if key not in optima:
        optima[key] = optimum(case)
    x0, x1, w2 = optima[key]
    figures: Row = {"method": case.method, "task": case.task, "seed": case.seed, "s": seconds}
    if case.method == "DSB":  # its half-bridges need not agree on one flow
        end = pf.generate(
            model, NUM, source=x0, solver=pf.solvers.EulerMaruyama(STD), grid=pf.times.uniform(20),
            batch_size=NUM, seed=case.seed,
        )  # fmt: skip
    else:
        flow = follow(model, x0, batch_size=NUM)
        end, figures["NPE"] = flow.end, flow.normalised_path_energy(w2).value
    return figures | {"W2": wasserstein(end.float(), x1).value, "W2 of the laws": w2.value}


def between_laws(found: list[Row], seeds: int) -> Report:
    """2-Wasserstein distance and normalised path energy of methods that join two laws in the plane, published and here.

    The protocol of Tong et al. 2024 (arXiv 2307.03672), table 2: means and standard deviations over seeds, distances
    between 10 000 samples each, exact. A residual MLP of three blocks of width 64, 3000 steps of AdamW on 256 fresh
    draws of each law (DSBM: 128 pairs with four bridge points each, 5 phases; DSB: 64 trajectories of 20 steps, 10
    phases); the rectified flow is trained twice, on 20 000 pairs the second time. Bridges have a diffusion of 1; [SF]2M
    and OT-CFM pair a batch by exact optimal transport. Samples by the flow, 50 steps of RK4; of DSB by its own process,
    20 steps. Moons here have Gaussian noise and the S is 4 by 8, the library's laws: there the published figures are
    for orientation. "data": W2 of two sets of 10 000 draws of the target, below which no method can come but by chance.
    """
    rows: list[Row] = []
    for method, (w2, npe) in PUBLISHED.items():
        row: Row = {"method": method}
        for k, task in enumerate(TASKS):
            of = [r for r in found if (r["method"], r["task"]) == (method, task)]
            row[f"W2, {task}"] = _cell([r["W2"] for r in of], w2[k])
        for k, task in enumerate(TASKS):
            of = [r for r in found if (r["method"], r["task"]) == (method, task) and "NPE" in r]
            row[f"NPE, {task}"] = _cell([r["NPE"] for r in of], npe[k] if npe else None)
        own = [r["s"] for r in found if r["method"] == method]
        row["s"] = statistics.mean(own) if own else None
        rows.append(row)
    floor: Row = {"method": "data"}
    for task, (_, data) in TASKS.items():
        a, b = (data.draw(pf.Noise.batch(NUM, DATA_SEED + k)) for k in (0, 100))
        floor[f"W2, {task}"] = f"{wasserstein(a, b).value:.3f}"
    counts = [
        sum((r["method"], r["task"]) == cell for r in found) for cell in product(METHODS, TASKS)
    ]
    more = (
        f"In brackets: published. Cases for each cell: {min(counts)} to {max(counts)} of {seeds} seeds. s: processor "
        f"time of training."
    )
    return Report([*rows, floor], more)


def _cell(values: list, published: float | None) -> str | None:
    if not values:
        return None
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    said = "" if published is None else f" ({published:.3f})"
    return f"{statistics.mean(values):.3f}{spread}{said}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.between_laws", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="seeds of each case")
    parser.add_argument("--share", default="0/1", help="which part of the cases, as in 0/2")
    parser.add_argument("--cases", type=Path, default=Path("runs/between_laws"), help="finished cases")  # fmt: skip
    parser.add_argument("--report", action="store_true", help="only write the table of what is there")  # fmt: skip
    parser.add_argument("--note", default="", help="a remark to keep with the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    facts = circumstances(f"python -m benchmarks.between_laws --seeds {options.seeds}", options.note)  # fmt: skip
    options.cases.mkdir(parents=True, exist_ok=True)
    cases = [Case(m, t, s) for s, t, m in product(range(options.seeds), TASKS, METHODS)]
    if not options.report:
        mine, parts = map(int, options.share.split("/"))
        optima: dict[tuple[str, int], tuple[Tensor, Tensor, Measured]] = {}
        # By task and seed, whose W2 between the laws is shared.
        groups = list(dict.fromkeys((c.seed, c.task) for c in cases))
        for case in cases:
            done = (options.cases / case.file).exists()
            if done or groups.index((case.seed, case.task)) % parts != mine:
                continue
            figures = judge(case, optima)
            part = options.cases / (case.file + ".part")
            part.write_text(json.dumps(figures))
            part.rename(options.cases / case.file)
            print(figures, flush=True)
    found = [json.loads(p.read_text()) for c in cases if (p := options.cases / c.file).exists()]
    if options.report or options.share == "0/1":
        report = between_laws(found, options.seeds)
        text = between_laws.__doc__ or ""
        write(
            RESULTS,
            "between_laws",
            inspect.cleandoc(text),
            report,
            facts,
            time.perf_counter() - began,
        )
        (RESULTS / "between_laws.cases.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
