from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.nn.utils import clip_grad_norm_

import pushforward as pf
from benchmarks.measure import Report, Row, medians, peak_bytes, table
from pushforward.evaluate.metrics.energy import energy_distance
from pushforward.laws.plane import EightGaussians
from pushforward.objectives import FlowMatching, MaximumLikelihood, Objective

SCALE, BATCH, RATE = 3.0, 256, 2e-3
LEVELS = (1.0, 0.7, 0.4)  # nats


def network() -> pf.Model:
    torch.manual_seed(0)
    return pf.Model(pf.nets.MLP(2, 64, 2), pf.CondOT(), shape=(2,))


@dataclass
class Run:
    """A model in training, judged now and then; judging takes no time of the run."""

    objective: Callable[[pf.Model], Objective]
    budget: float  # seconds of training
    seconds: float = 0.0
    steps: int = 0
    curve: list[tuple[float, int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.law, self.model = EightGaussians(), network()

    def train(self) -> None:
        loss_of, look = self.objective(self.model), self.budget / 20
        optimizer = torch.optim.Adam(self.model.parameters(), RATE)
        while self.seconds < self.budget:
            began = time.process_time()
            noise = pf.Noise.batch(BATCH, seed=0, step=self.steps)
            x1 = self.law.draw(pf.Noise.batch(BATCH, seed=1, step=self.steps)) / SCALE
            # One schedule for all, in the time that each has: up in a fiftieth, then down to a tenth.
            share = self.seconds / self.budget
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1.0, 50 * share + 0.02) * 0.1**share
            optimizer.zero_grad()
            loss_of(pf.Batch(x1), noise)["loss"].mean().backward()
            clip_grad_norm_(self.model.parameters(), 5.0)
            optimizer.step()
            self.seconds += time.process_time() - began
            self.steps += 1
            if self.seconds >= look:
                self.curve.append((self.seconds, self.steps, self.gap(200)))
                look = self.seconds + self.budget / 20

    def gap(self, points: int) -> float:
        """Relative entropy of the law to the model, in nats, at the same points and by the same fine grid for all."""
        x = self.law.sample(points, seed=7)
        grid = pf.times.uniform(30)
        found = pf.log_prob(self.model, x / SCALE, solver=pf.solvers.RK4(), grid=grid)
        change = 2 * torch.log(torch.tensor(SCALE))
        return float((self.law.log_prob(x) - found + change).mean())

    def reached(self, level: float) -> float | None:
        """Seconds after which the gap was below `level`, and stayed there."""
        below = len(self.curve)
        while below and self.curve[below - 1][2] < level:
            below -= 1
        return self.curve[below][0] if below < len(self.curve) else None


def maximum_likelihood() -> Report:
    """One network trained by flow matching and by maximum likelihood: the time to the same end law, and memory.

    Eight Gaussians, scaled to unit size; MLP of width 64 and 2 blocks, batches of 256, Adam, one schedule of rates
    over the budget of each. The gap is the relative entropy of the law to the model in nats, at 200 points (the last
    one at 2000), by 30 steps of RK4 for every model; `s to d` are the seconds of training after which it stayed below
    d, by looks at every twentieth of the budget. The energy distance is that of 4000 samples by the same 30 steps to
    4000 of the law. Maximum likelihood follows the flow by 8 steps of Heun's method at jittered times with the exact
    divergence and 0.01 of the Jacobian's norm, by plain backpropagation, which is the quicker one; `loss less
    entropy` is its own loss on new points. Memory is the most that tensors took during a step of training. Judging is
    not counted.
    """
    cases: dict[str, tuple[Callable[[pf.Model], Objective], float]] = {
        "flow matching": (FlowMatching, 8.0),
        "likelihood": (
            lambda model: MaximumLikelihood(
                model, 8, pf.solvers.Heun(), jacobian=0.01, adjoint=False
            ),
            55.0,
        ),
    }
    rows: list[Row] = []
    base: Run | None = None
    for name, (objective, budget) in cases.items():
        run = Run(objective, budget)
        run.train()
        base = base or run
        x = pf.generate(run.model, 4000, solver=pf.solvers.RK4(), grid=pf.times.uniform(30), seed=3)
        row: Row = {
            "trained by": name,
            "steps": run.steps,
            "ms/step": run.seconds / run.steps * 1e3,
        }
        for level in LEVELS:
            mine, other = run.reached(level), base.reached(level)
            row[f"s to {level}"] = mine if mine is not None else "not reached"
            row[f"times flow matching, {level}"] = mine / other if mine and other else None
        row["gap at the end"] = run.gap(2000)
        if run is not base:
            noise = pf.Noise.batch(2000, step=2**20)
            x1 = run.law.sample(2000, seed=7) / SCALE
            loss = objective(run.model)(pf.Batch(x1), noise)["loss"].mean().item()
            entropy = float(-run.law.log_prob(x1 * SCALE).mean()) - 2 * float(
                torch.log(torch.tensor(SCALE))
            )
            row["loss less entropy"] = loss - entropy
        row["energy distance"] = energy_distance(x * SCALE, run.law.sample(4000, seed=9))
        rows.append(row)
    return Report(rows, "\n".join(["A step of training, batch 256:", "", *table(memory())]))


def memory() -> list[Row]:
    rows: list[Row] = []
    x1, noise = torch.randn(BATCH, 2), pf.Noise.batch(BATCH)
    for steps in (5, 20):
        row: Row = {"steps of Heun": steps}
        for name, adjoint in (("plain", False), ("adjoint", True)):
            model = network()
            torch.nn.init.normal_(model.net.conv_out.weight, std=0.1)
            loss_of = MaximumLikelihood(model, steps, pf.solvers.Heun(), adjoint=adjoint)

            def step(loss_of: MaximumLikelihood = loss_of) -> None:
                loss_of(x1, noise)["loss"].mean().backward()

            step()
            row[f"{name}, MB"] = peak_bytes(step) / 1e6
            row[f"{name}, ms"] = medians({"step": step}, repeats=1)["step"] * 1e3
        rows.append(row)
    return rows
