"""Fit the universal weights of `solvers.Learned` to the flows of many random mixtures.

    python -m benchmarks.universal --laws 1800 --iterations 3000 --out src/pushforward/solvers/universal.json

Laws: mixtures of Gaussians in 1 to 64 dimensions, of seven kinds (`random_law`), at scales from about 1/4 to 4; none of
those of benchmarks/laws.py is among them. For each, some noise and the ends of its exact flow. In every iteration a
number of steps from 3 to 28 and some of the laws are drawn, and Adam lowers

    (1/b) ln mean exp(b ln(error/best)),        b = 1.5

over laws: the RMSE of the end points over that of the best of five classical methods, the worst laws counting most. On
CondOT alone, since in the angle all paths are one. With --start, a fit goes on from weights at hand; without, from the
classical method. Prints the ratio on laws that were held out. About an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import pushforward as pf
from pushforward.core.predictions import convert
from pushforward.sampling.generate import tune as tuning
from pushforward.solvers import Learned, Multistep
from pushforward.solvers.learned import PAIRS, VALUES, Weights

DIMENSIONS = (1, 2, 2, 2, 3, 4, 8, 16, 32, 64)
COUNTS = (1, 2, 3, 5, 8, 16, 32, 48)
STEPS = range(3, 29)
# The baseline is measured at these numbers of steps, and interpolated in ln n between them.
MEASURED = (3, 4, 6, 9, 14, 20, 28)
WORST = 1.5
PATH = pf.CondOT()


class Mixture(NamedTuple):
    """means (K, D), variances (K, D), weights (K,)."""

    means: Tensor
    variances: Tensor
    weights: Tensor


def random_law(g: np.random.Generator, spread: float | None) -> Mixture:
    """A mixture of unit standard deviation times exp(N(0, spread^2)); None: in the plane, times 10^U(-0.2, 0.65)."""
    kind = int(g.integers(0, 7)) if spread is not None else int(g.integers(0, 4))
    dim, count = int(g.choice(DIMENSIONS)), int(g.choice(COUNTS))
    if kind == 0:  # a ring
        count, std = int(g.integers(3, 13)), 10 ** g.uniform(-1.7, -0.6)
        angle = np.arange(count) * 2 * np.pi / count + g.uniform(0, 6)
        means = np.stack([np.cos(angle), np.sin(angle)], 1)
    elif kind == 1:  # a grid or a checkerboard
        side, std = int(g.integers(2, 7)), 10 ** g.uniform(-1.3, -0.3)
        means = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) * 1.0
        means = means[means.sum(1) % 2 == 0] if g.random() < 0.5 else means
    elif kind == 2:  # curves in two or three dimensions
        turn, u = g.uniform(0.5, 2) * 2 * np.pi, np.linspace(0, 1, int(g.integers(16, 49)))
        radius, std = 1 + g.uniform(-1, 2) * u, 10 ** g.uniform(-2, -0.7)
        rise = [u * g.uniform(0.5, 3)] if g.random() < 0.5 else []
        means = np.stack([radius * np.cos(turn * u), radius * np.sin(turn * u), *rise], 1)
        if g.random() < 0.5:
            shift = g.normal(0, 0.3, means.shape[1])
            means = np.concatenate([means[::2], shift - means[::2]])
    elif kind == 3:  # round components
        means, std = g.normal(size=(count, dim)) * g.uniform(0.3, 3), g.uniform(0.05, 1)
    elif kind == 4:  # axes and components of unlike scales
        means = g.normal(size=(count, dim)) * 10 ** g.uniform(-1, 0.5, size=(1, dim))
        std = 10 ** g.uniform(-1.5, 0.3, size=(count, dim))
    elif kind == 5:  # points of a curved manifold, as of a finite data set
        inner = int(g.integers(1, min(dim, 6) + 1))
        chart = g.normal(size=(inner, dim)) * g.uniform(0.3, 2)
        means = np.tanh(g.normal(size=(max(count, 8), inner)) @ chart)
        std = 10 ** g.uniform(-2, -0.5)
    else:  # few components around one centre
        count = int(g.choice([1, 1, 2, 4]))
        means = g.normal(size=(count, dim)) * g.uniform(0, 0.5)
        std = 10 ** (
            g.uniform(-1.5, 0.5, size=(count, 1)) + g.uniform(-0.5, 0.5, size=(count, dim))
        )
    weights = g.dirichlet(np.full(len(means), g.choice([1.0, 5.0, 100.0]))) + 1e-3
    weights = weights / weights.sum()
    variances = np.broadcast_to(np.square(std), means.shape)
    centre = weights @ means
    total = math.sqrt(float((weights @ (variances + (means - centre) ** 2)).mean()))
    if g.random() < 0.7:
        means = means - centre
    scale = math.exp(g.normal() * spread) if spread is not None else 10 ** g.uniform(-0.2, 0.65)
    return Mixture(
        *(
            torch.tensor(v)
            for v in (means * scale / total, variances * (scale / total) ** 2, weights)
        )
    )


class Mixtures:
    """The exact field of L mixtures of one dimension at once, for x (L B, D), law by law."""

    path = PATH

    def __init__(self, laws: list[Mixture]) -> None:
        count = max(len(law.means) for law in laws)

        def pad(value: Tensor, by: float) -> Tensor:
            rest = torch.full((count - len(value), *value.shape[1:]), by, dtype=value.dtype)
            return torch.cat((value, rest))

        self.means = torch.stack([pad(law.means, 0.0) for law in laws])
        self.variances = torch.stack([pad(law.variances, 1.0) for law in laws])
        self.log_weights = torch.stack([pad(law.weights.log(), -1e30) for law in laws])

    def __call__(self, x: Tensor, t: Any, want: pf.Prediction = "velocity", **cond: Any) -> Tensor:
        means, variances, log_weights = (
            v.to(x.dtype) for v in (self.means, self.variances, self.log_weights)
        )
        t = torch.as_tensor(t).reshape(-1)[0].to(x.dtype)
        y = x.reshape(len(means), -1, x.shape[1])
        total = t**2 * variances + (1 - t) ** 2
        inverse, shift = 1 / total, t * means
        square = (y * y) @ inverse.mT - 2 * y @ (shift * inverse).mT
        square = square + (shift**2 * inverse).sum(-1)[:, None]
        r = (log_weights[:, None] - square / 2 - total.log().sum(-1)[:, None] / 2).softmax(-1)
        gain = t * variances * inverse
        data = r @ (means - gain * shift) + y * (r @ gain)
        return convert(data.reshape(x.shape), x, t, PATH, "data", want)


class Group(NamedTuple):
    """Laws of one dimension, noise, the ends of their flows, and ln of the best classical error by number of steps."""

    problem: tuning._Problem
    ends: Tensor
    best: dict[int, Tensor]

    def log_errors(self, ends: Tensor) -> Tensor:
        laws = len(self.problem.field.means)  # type: ignore[attr-defined]
        square = (ends - self.ends.to(ends)).square().reshape(laws, -1).mean(1)
        return square.sqrt().clamp(min=1e-6).log()

    def log_best(self, n: int) -> Tensor:
        low, high = max(m for m in MEASURED if m <= n), min(m for m in MEASURED if m >= n)
        share = 0.0 if low == high else math.log(n / low) / math.log(high / low)
        return (1 - share) * self.best[low] + share * self.best[high]


def pool(seed: int, count: int, samples: int, size: int = 30) -> list[Group]:
    """`count` laws in groups of one dimension."""
    g = np.random.default_rng(seed)
    spreads = (0.25, 0.25, 0.7, 0.7, None)
    laws = [random_law(g, spreads[i % 5]) for i in range(count)]
    laws.sort(key=lambda law: (law.means.shape[1], len(law.means)))
    groups = []
    for dim in sorted({law.means.shape[1] for law in laws}):
        some = [law for law in laws if law.means.shape[1] == dim]
        for k in range(0, len(some), size):
            field = Mixtures(some[k : k + size])
            number = len(field.means) * samples
            x0 = pf.Noise.batch(number, seed, step=len(groups)).normal((dim,), dtype=torch.float64)
            problem = tuning._Problem(field, PATH, 0, x0, {}, number)
            group = Group(problem, problem.solve(Learned(None), 600), {})
            classical: list[tuple[Any, Any]] = [
                (Learned(None), Learned(None).grid),
                *((Multistep("velocity", "time", k), pf.times.straight) for k in (2, 3, 4)),
                (Multistep("data", "log_snr", 3, "always"), pf.times.straight),
            ]
            for n in MEASURED:
                errors = [
                    group.log_errors(pf.integrate(s, field, x0, grid(n, PATH)))
                    for s, grid in classical
                ]
                group.best[n] = torch.stack(errors).amin(0).clamp(min=math.log(1e-5))
            groups.append(group)
    return groups


def fresh(width: int, seed: int) -> Weights:
    """A network that begins as the classical method."""
    g = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    density = torch.zeros(3, 6, dtype=torch.float64)
    density[0, 1] = -0.4
    return Weights(
        density,
        0.5 * normal(width, 8),
        0.4 * normal(width, PAIRS.shape[1] + VALUES),
        0.3 * normal(width),
        torch.zeros(VALUES, width, dtype=torch.float64),
        torch.zeros(VALUES, dtype=torch.float64),
    )


def fit(
    start: Weights, groups: list[Group], iterations: int, rate: float, seed: int
) -> Iterator[Weights]:
    """The weights after every hundred iterations, and at the end."""
    g = np.random.default_rng(seed)
    weights = {f.name: getattr(start, f.name).clone().requires_grad_() for f in fields(start)}
    optimiser = torch.optim.Adam(weights.values(), lr=rate, betas=(0.9, 0.99))
    groups = [
        group._replace(problem=group.problem._replace(x0=group.problem.x0.float()))
        for group in groups
    ]
    seen, began = [], time.monotonic()
    for k in range(iterations):
        warm = min(1, (k + 1) / 50) * (0.02 + 0.98 * (1 + math.cos(math.pi * k / iterations)) / 2)
        optimiser.param_groups[0]["lr"] = rate * warm
        n = int(g.choice(STEPS))
        ratios = []
        for j in g.choice(len(groups), min(5, len(groups)), replace=False):
            problem = groups[j].problem._replace(nfe=n)
            ends = tuning._roll_out(problem, Weights(**weights), torch.arange(len(problem.x0)))
            ratios.append(groups[j].log_errors(ends) - groups[j].log_best(n))
        ratio = torch.cat(ratios)
        loss = (torch.logsumexp(WORST * ratio, 0) - math.log(len(ratio))) / WORST
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimiser.step()
        seen.append(float(ratio.detach().mean()))
        if k % 100 == 99 or k == iterations - 1:
            took = time.monotonic() - began
            print(f"{k + 1}: ratio {math.exp(np.mean(seen)):.3f}, {took:.0f} s", flush=True)
            seen.clear()
            yield Weights(**{name: value.detach().clone() for name, value in weights.items()})


def judge(weights: Weights, groups: list[Group]) -> dict[str, dict[str, float]]:
    """Ratio to the best of the classical methods on each law: geometric mean, median, largest, share above 1."""
    out = {}
    for n in (5, 8, 10, 15, 20):
        ratio = torch.cat(
            [g.log_errors(g.problem.solve(Learned(weights), n)) - g.log_best(n) for g in groups]
        )
        out[str(n)] = {
            "mean": float(ratio.mean().exp()),
            "median": float(ratio.median().exp()),
            "largest": float(ratio.max().exp()),
            "above 1": float((ratio > 0).double().mean()),
        }
        print(n, {name: round(value, 3) for name, value in out[str(n)].items()}, flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--laws", type=int, default=1800)
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--held-out", type=int, default=120)
    parser.add_argument("--iterations", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    groups = pool(2 * options.seed, options.laws, options.samples)
    held_out = pool(2 * options.seed + 1, options.held_out, 2 * options.samples)
    start = (
        fresh(options.width, options.seed)
        if options.start is None
        else Weights.from_json(json.loads(options.start.read_text())["weights"])
    )
    for weights in fit(start, groups, options.iterations, options.rate, options.seed):
        options.out.write_text(json.dumps({"weights": weights.as_json()}) + "\n")
    report = judge(weights, held_out)
    about = {
        k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k != "out"
    }
    text = json.dumps({"about": about, "held out": report, "weights": weights.as_json()})
    options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
