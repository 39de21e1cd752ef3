from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

import pushforward as pf
from benchmarks.measure import Row
from pushforward.couplings import Sinkhorn
from pushforward.nets import MLP
from pushforward.objectives import (
    BridgeMatching,
    Objective,
    ProportionalFitting,
    ScoreAndFlowMatching,
)
from pushforward.train.ema import EMA
from pushforward.train.schedules import learning_rate

STD, SHIFT, NUM, STEPS = 1.0, 0.1, 10_000, 40
PATH = pf.BrownianBridge(STD)
Process = pf.BridgeModel | pf.HalfBridges
PUBLISHED = {
    "[SF]2M": {5: 0.007, 20: 0.029, 50: 0.124},
    "DSBM": {5: 0.015, 20: 0.132, 50: 0.528},
    "DSB": {5: 8.8, 20: 50.0, 50: 221.0},
}


def _halves(dim: int) -> pf.HalfBridges:
    return pf.HalfBridges(MLP(dim, 128, 2), MLP(dim, 128, 2), PATH, shape=(dim,))


def _flow(dim: int) -> tuple[pf.BridgeModel, Objective]:
    model = pf.BridgeModel(MLP(dim, 128, 2, outputs=2), PATH, shape=(dim,))
    return model, ScoreAndFlowMatching(model, Sinkhorn(2 * STD**2))


def _matching(dim: int) -> tuple[pf.HalfBridges, Objective]:
    model = _halves(dim)
    return model, BridgeMatching(model, every=150, steps=20, draws=4)


def _fitting(dim: int) -> tuple[pf.HalfBridges, Objective]:
    model = _halves(dim)
    return model, ProportionalFitting(model, every=100, steps=20)


# Method: (model and objective, optimiser steps, batch, decay of the EMA).
METHODS: dict[str, tuple[Callable[[int], tuple[Process, Objective]], int, int, float]] = {
    "[SF]2M": (_flow, 2000, 128, 0.995),
    "DSBM": (_matching, 1200, 128, 0.99),
    "DSB": (_fitting, 800, 64, 0.99),
}


def gaussian_bridge(
    dims: tuple[int, ...] = (5, 20, 50), methods: tuple[str, ...] = tuple(METHODS)
) -> list[Row]:
    """Schroedinger bridges between Gaussians in 5, 20 and 50 dimensions, against the closed form.

    From N(-0.1, I) to N(0.1, I), means with all entries -0.1 and 0.1, with diffusion 1 (DSBM, arXiv 2303.16852, sec. 6;
    table 3 of [SF]2M, arXiv 2307.03672). 10 000 paths of the learned SDE in 40 steps of Euler's method; a Gaussian is
    fitted to them at each time, and its KL from the exact marginal taken, in nats: at t = 1, and the mean over the 41
    times. "cross" is the mean of the diagonal of the covariance of X_0 and X_1, exactly (sqrt 5 - 1)/2 = 0.618, which
    says whether the process is the bridge: independent ends have 0 and the right marginals at the ends all the same.
    "exact" are as many paths of the closed form: what is left is the error of the fitted Gaussian, about
    d (d + 3)/(4 10^4), 0.066 at d = 50.

    One seed. [SF]2M: 2000 steps of 128 pairs by the Sinkhorn plan of each batch; DSBM: 1200 steps of 128, DSB 800 of
    64, in eight phases of 20 simulated steps. MLPs of 2 blocks of width 128, AdamW, 2e-3 with cosine decay. "seconds"
    are of processor time.
    """
    rows: list[Row] = []
    for dim in dims:
        mean, one = torch.full((dim,), SHIFT), torch.eye(dim)
        pair = pf.GaussianPair.entropic(-mean, one, mean, one, STD)
        for method in ("exact", *methods):
            began = time.process_time()
            torch.manual_seed(0)
            field = pair.field(PATH) if method == "exact" else _train(method, pair)
            seconds = time.process_time() - began
            rows.append(
                {
                    "d": dim,
                    "method": method,
                    **_judge(field, pair),
                    "published KL": PUBLISHED.get(method, {}).get(dim),
                    "seconds": None if method == "exact" else round(seconds),
                }
            )
    return rows


def _train(method: str, pair: pf.GaussianPair) -> Process:
    make, steps, size, decay = METHODS[method]
    model, objective = make(len(pair.mean0))
    ema = EMA(model, decay)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, 2e-3, 100, "cosine")
        noise = pf.Noise.batch(size, seed=1, step=step)
        # The ends of one pair with the ends of another: independent.
        x0, x1 = pair.draw(noise)[0].float(), pair.draw(pf.Noise.batch(size, 2, step))[1].float()
        objective(pf.Batch(x1, x0=x0), noise)["loss"].mean().backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(model, step)
    assert isinstance(ema.model, Process)
    return ema.model


@torch.no_grad()
def _judge(field: pf.ScoreField, pair: pf.GaussianPair) -> Row:
    kl: list[float] = []
    truth = pair.field(PATH)

    def look(i: int, t: Tensor, x: Tensor) -> None:
        mean, cov = truth.marginal(t[0])
        x = x.double()
        kl.append(_kl(x.mean(0), x.mT.cov(), mean, cov))

    x0 = pair.draw(pf.Noise.batch(NUM, seed=3))[0]
    x0 = x0.float() if isinstance(field, torch.nn.Module) else x0
    x1 = pf.integrate(
        pf.solvers.EulerMaruyama(STD), field, x0, pf.times.uniform(STEPS), seed=4, callback=look
    )
    x, y = x0 - x0.mean(0), x1 - x1.mean(0)
    cross = (x * y).mean(0).mean()
    return {"KL at t = 1": kl[-1], "mean KL": sum(kl) / len(kl), "cross": float(cross)}


def _kl(mean: Tensor, cov: Tensor, mean1: Tensor, cov1: Tensor) -> float:
    """KL(N(mean, cov) | N(mean1, cov1))."""
    inverse, shift = torch.linalg.inv(cov1), mean1 - mean
    spread = (inverse @ cov).trace() - len(mean) + shift @ inverse @ shift
    return float(spread + cov1.logdet() - cov.logdet()) / 2
