from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

import pushforward as pf
from benchmarks.measure import Report, Row, medians, peak_bytes, table
from pushforward.evaluate.metrics.energy import energy_distance
from pushforward.laws.plane import Checkerboard
from pushforward.models.diffflow import DiffFlowModel
from pushforward.objectives import DiffFlow

LAW, SCALE = Checkerboard(), 2.3
STEPS, BATCH, RATE = 3, 256, 2e-3


class Faster(nn.Module):
    """Three times a network: a drift must cross the plane in a third of the time."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
        return 3 * self.net(x, t, **cond)


def build(beta_max: float, width: int, drift: int | None = None) -> DiffFlowModel:
    """A score of this width and a drift of that width or none, over the noise of beta up to beta_max."""
    torch.manual_seed(0)
    score = pf.Model(pf.nets.MLP(2, width, 3), pf.VP(0.02, beta_max), "noise", shape=(2,))
    moved = None if drift is None else Faster(pf.nets.MLP(2, drift, 3))
    return DiffFlowModel(score, moved, grid=pf.times.uniform(STEPS))


@dataclass
class Run:
    """A model trained for a number of steps, or for as many as fit into a time."""

    model: DiffFlowModel
    steps: int | None = None
    budget: float = float("inf")
    seconds: float = 0.0
    done: int = 0

    def train(self) -> Run:
        objective = DiffFlow(self.model, adjoint=False)
        optimizer = torch.optim.Adam(self.model.parameters(), RATE)
        while (share := self.share()) < 1:
            began = time.process_time()
            noise = pf.Noise.batch(BATCH, seed=0, step=self.done)
            x1 = LAW.draw(pf.Noise.batch(BATCH, seed=1, step=self.done)) / SCALE
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1.0, 50 * share + 0.02) * (1 - share) ** 0.5
            optimizer.zero_grad()
            objective(pf.Batch(x1), noise)["loss"].mean().backward()
            clip_grad_norm_(self.model.parameters(), 5.0)
            optimizer.step()
            self.seconds += time.process_time() - began
            self.done += 1
        return self

    def share(self) -> float:
        return max(self.seconds / self.budget, self.done / self.steps if self.steps else 0.0)

    def row(self, name: str) -> Row:
        x = self.model.sample(5_000, seed=5, batch_size=5_000) * SCALE
        data = LAW.sample(10_000, seed=8)
        with torch.no_grad():
            bound = self.model.bound(data / SCALE, pf.Noise.batch(10_000, seed=7)).double()
        bound = bound + 2 * torch.log(torch.tensor(SCALE)) + LAW.log_prob(data)
        return {
            "process": name,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "steps of training": self.done,
            "s": self.seconds,
            "bound less entropy": float(bound.mean()),
            "+-": float(bound.std()) / 100,
            "on the board": float(LAW.log_prob(x).isfinite().double().mean()),
            "energy distance": energy_distance(x, LAW.sample(5_000, seed=9)),
        }


def diffflow() -> Report:
    """A forward process that is trained, against fixed ones, in 3 steps on a law with sharp edges.

    The checkerboard, scaled to unit size; three steps at equal times of the variance-preserving path of beta from
    0.02 to the number given. Scores and drifts are MLPs of 3 blocks, of width 64 but for the wide score, which has
    the parameters of both networks together. All are trained by the same bound on -ln p, batches of 256, Adam, one
    schedule of rates; the fixed process may choose among three amounts of noise. The bound less the entropy of the
    law is in nats, 0 at best, from 10000 new points; `on the board` is the share of 5000 samples that lie on the
    black squares, whose edges are sharp; the energy distance is that of 5000 samples to 5000 of the law. The figure
    has the states of both processes on their way.
    """
    both = Run(build(1.5, 64, 64), 800).train()
    cases = {
        "DiffFlow, 1.5": both,
        "fixed, 1.5, the same score": Run(build(1.5, 64), 800).train(),
    }
    for beta in (1.5, 3.0, 6.0):
        name = f"fixed, {beta:g}, wide, equal time"
        cases[name] = Run(build(beta, 92), None, both.seconds).train()
    rows = [run.row(name) for name, run in cases.items()]
    shown = {"DiffFlow": both.model, "fixed": cases["fixed, 1.5, wide, equal time"].model}
    more = ["![processes](diffflow.png)", "", "One step of training, batch 256, DiffFlow:", ""]
    more += table(memory())
    return Report(rows, "\n".join(more), {"diffflow.png": figure(shown)})


def memory() -> list[Row]:
    rows: list[Row] = []
    x1, noise = torch.randn(BATCH, 2), pf.Noise.batch(BATCH)
    for steps in (3, 12, 48):
        row: Row = {"N": steps}
        model = build(1.5, 64, 64).regrid(steps)
        for name, adjoint in (("plain", False), ("adjoint", True)):
            objective = DiffFlow(model, adjoint=adjoint)

            def step(objective: DiffFlow = objective) -> None:
                objective(x1, noise)["loss"].mean().backward()

            step()
            row[f"{name}, MB"] = peak_bytes(step) / 1e6
            row[f"{name}, ms"] = medians({"step": step}, repeats=1)["step"] * 1e3
        rows.append(row)
    return rows


def figure(models: dict[str, DiffFlowModel], num: int = 4000) -> bytes:
    """Forward states from the data, and backward states from the noise, at each time of the grid."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    x = LAW.sample(num, seed=3) / SCALE
    drawn, axes = plt.subplots(
        2 * len(models), STEPS + 1, figsize=(2 * (STEPS + 1), 4 * len(models)), layout="constrained"
    )
    for i, (name, model) in enumerate(models.items()):
        with torch.no_grad():
            there = list(model.diffuse(x, pf.Noise.batch(num, seed=4)))
        back: list[Tensor] = []
        keep: Callable[[int, Tensor, Tensor], None] = lambda i, t, y, back=back: back.append(y)  # noqa: E731
        model.sample(num, seed=5, batch_size=num, callback=keep)
        for j, states in enumerate((there, back[::-1])):
            for k, state in enumerate(states):
                ax = axes[2 * i + j, k]
                ax.scatter(*(state * SCALE).T, s=0.4, c=("#2166ac", "#b2182b")[j], linewidths=0)
                ax.set(xlim=(-7, 7), ylim=(-7, 7), xticks=[], yticks=[], aspect="equal")
                ax.set_title(f"t = {float(model.grid.flip(0)[k]):.2g}", fontsize=8)
            axes[2 * i + j, 0].set_ylabel(f"{name}, {('forward', 'backward')[j]}", fontsize=8)
    data = io.BytesIO()
    drawn.savefig(data, dpi=80)
    plt.close(drawn)
    return data.getvalue()
