"""Stochastic processes between two laws: simulation-free, and by half-bridges trained in turn.

The Schroedinger bridge is the process nearest in KL to Brownian motion of diffusion std among those that lead from the
source to the data. It is the one process that is both Markov and a mixture of Brownian bridges; the coupling of its
ends is the entropic one. `ScoreAndFlowMatching` takes the coupling from a solver; `BridgeMatching` makes the process
Markov and a mixture of bridges in turn; `ProportionalFitting` gives it the right start and the right end in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core import conditions
from pushforward.core.errors import InputError
from pushforward.core.network import ask
from pushforward.core.noise import LATENT, SOLVER, Noise
from pushforward.core.shapes import as_time, expand, mean_data
from pushforward.core.times import TimeDraw, Uniform
from pushforward.couplings import Coupling, independent
from pushforward.data.batch import Batch
from pushforward.models.bridge import BridgeModel, HalfBridges
from pushforward.objectives.matching import Dropout, check_dropout, draw


@dataclass(frozen=True)
class ScoreAndFlowMatching:
    """[SF]2M: the velocity and the score of a mixture of bridges, without simulation.

        loss_i = mean |line(x_t, t) - (alpha' x1 + sigma' x0)|^2 + weight(t) mean |gamma score(x_t, t) + z|^2

    mean over dimensions, x_t = alpha x1 + sigma x0 + gamma z. The minimiser is the velocity and the score of the law of
    x_t, whatever the coupling; on `BrownianBridge(std)` with the entropic coupling of regularisation 2 std^2 for the
    cost |x0 - x1|^2, the Schroedinger bridge. Both targets have finite variance at all t.

    model:    a BridgeModel. coupling: how x0 and x1 are paired. times: the law of t.
    weight:   of the score, from (B,) to (B,); None for 1, which is lambda(t) = 2 gamma/std^2 of the paper.
    condition_dropout: probability of training a sample without its condition.

    Tong et al. 2024 (arXiv 2307.03672), eq. 10 and alg. 1; Albergo et al. 2023 (arXiv 2303.08797), sec. 2.
    """

    model: BridgeModel
    coupling: Coupling = independent
    times: TimeDraw = field(default_factory=Uniform)
    weight: Callable[[Tensor], Tensor] | None = None
    condition_dropout: Dropout = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.model, BridgeModel):
            raise InputError(
                f"[SF]2M trains a BridgeModel, which knows velocity and score, not a {type(self.model).__name__}"
            )
        check_dropout(self.condition_dropout, self.model)

    def __call__(self, batch: Batch | Tensor, noise: Noise) -> dict[str, Tensor]:
        """{"loss": (B,)}. batch: a Batch, or data (B, ...) alone; noise: keyed by the global ids of its samples."""
        path = self.model.path
        x0, x1, t, cond, mask = draw(
            self.model, batch, noise, self.times, self.condition_dropout, self.coupling, masks=True
        )
        z = noise.to(x1.device).masked(mask).normal(x1.shape[1:], LATENT, x1.dtype)
        gamma, t = expand(path.gamma(t), x1), as_time(t, x1)
        line, score = self.model.heads(path.sample(x0, x1, t) + gamma * z, t, **cond)
        of_score = mean_data((gamma * score + z) ** 2, mask)
        if self.weight is not None:
            of_score = self.weight(t).to(of_score.dtype) * of_score
        return {"loss": mean_data((line - path.velocity(x0, x1, t)) ** 2, mask) + of_score}


@dataclass(frozen=True)
class _Alternating:
    """Two networks trained in turn, `every` steps each. The one at rest gets no gradient, so that it stays as it is
    and all that it draws is a function of the seed and the step: a resumed run equals an uninterrupted one.

    model: HalfBridges. every: steps of a phase. steps: of the simulation, from 0 to 1 or back.
    """

    model: HalfBridges
    every: int = 1000
    steps: int = 20

    def __post_init__(self) -> None:
        if not isinstance(self.model, HalfBridges):
            raise InputError(
                f"{type(self).__name__} trains HalfBridges, not a {type(self.model).__name__}"
            )
        if min(self.every, self.steps) < 1:
            raise InputError(f"every and steps must be positive, got {self.every} and {self.steps}")

    def _ends(
        self, batch: Batch | Tensor, noise: Noise, coupling: Coupling
    ) -> tuple[Noise, Tensor, Tensor, dict[str, Any]]:
        x0, x1, _, cond, _ = draw(self.model, batch, noise, Uniform(), coupling=coupling)
        if x0.shape != x1.shape:
            raise InputError(
                f"source and data must have one shape, got {tuple(x0.shape)} and {tuple(x1.shape)}"
            )
        return noise.to(x1.device), x0, x1, cond

    @torch.no_grad()
    def _simulate(
        self,
        net: nn.Module | None,
        x: Tensor,
        noise: Noise,
        forwards: bool,
        cond: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """States (n + 1, B, ...) and times (n + 1,), in the order in which they are run through.

            x <- x + h net(x, t) + std sqrt(|h|) z,   h = 1/n forwards and -1/n backwards

        net: the drift; None for none.
        """
        n, std = self.steps, self.model.path.std
        h = 1 / n if forwards else -1 / n
        z = noise.normal((n, *x.shape[1:]), SOLVER, x.dtype)
        times = torch.linspace(0.0, 1.0, n + 1, dtype=torch.float64, device=x.device)
        times = times if forwards else times.flip(0)
        states = [x]
        for k in range(n):
            drift = 0.0 if net is None else h * ask(net, x, as_time(times[k], x), cond)
            x = x + drift + std * abs(h) ** 0.5 * z[:, k]
            states.append(x)
        return torch.stack(states), times


@dataclass(frozen=True)
class BridgeMatching(_Alternating):
    """DSBM: iterative Markovian fitting.

    A phase takes pairs (x0, x1), joins them by Brownian bridges (reciprocal projection) and fits the drift of the
    Markov process with the marginals of that mixture (Markovian projection):

        ahead:  mean (1 - t) |forward_drift(x_t, t) - (x1 - x_t)/(1 - t)|^2
        back:   mean t |backward_drift(x_t, t) - (x_t - x0)/t|^2

    mean over dimensions and `draws` of (t, z); the weights keep the variance of the targets finite. Phase 0 trains both
    networks on pairs of the coupling. From then on phase k = 1, 3, ... trains `back` on (x0, X_1), run from x0 by
    `ahead`, and k = 2, 4, ... `ahead` on (X_0, x1), run from x1 by `back`. The marginals of the limit are right at
    both ends, and it is the Schroedinger bridge.

    coupling: that of phase 0. times: the law of t. draws: (t, z) for each pair; pairs are what costs.

    Shi et al. 2023 (arXiv 2303.16852), alg. 1; Peluchetti 2023 (arXiv 2304.00917).
    """

    coupling: Coupling = independent
    times: TimeDraw = field(default_factory=Uniform)
    draws: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1:
            raise InputError(f"draws is {self.draws}; it must be positive")

    def __call__(self, batch: Batch | Tensor, noise: Noise) -> dict[str, Tensor]:
        """{"loss": (B,)}. batch: a Batch, or data (B, ...) alone; noise: keyed by the global ids of its samples."""
        model, phase = self.model, noise.step // self.every
        coupling = self.coupling if phase == 0 else independent
        noise, x0, x1, cond = self._ends(batch, noise, coupling)
        if phase % 2 == 1:
            x1 = self._simulate(model.forward_drift, x0, noise, True, cond)[0][-1]
        elif phase > 0:
            x0 = self._simulate(model.backward_drift, x1, noise, False, cond)[0][-1]
        x0, x1 = (x.repeat_interleave(self.draws, 0) for x in (x0, x1))
        cond = conditions.repeat(cond, self.draws)
        u = noise.uniform((self.draws,)).flatten()
        t = as_time(self.times.quantile(u), x1)
        z = noise.normal((self.draws, *x1.shape[1:]), LATENT, x1.dtype).flatten(0, 1)
        x_t = model.path.sample(x0, x1, t) + expand(model.path.gamma(t), x1) * z
        past, rest = expand(t.sqrt(), x1), expand((1 - t).sqrt(), x1)
        line, std = x1 - x0, model.path.std
        loss = x1.new_zeros(len(x1))
        if phase == 0 or phase % 2 == 0:
            # sqrt(1 - t) (x1 - x_t)/(1 - t), free of the division.
            goal = rest * line - std * past * z
            loss = loss + mean_data((rest * ask(model.forward_drift, x_t, t, cond) - goal) ** 2)
        if phase == 0 or phase % 2 == 1:
            goal = past * line + std * rest * z
            loss = loss + mean_data((past * ask(model.backward_drift, x_t, t, cond) - goal) ** 2)
        return {"loss": loss.reshape(-1, self.draws).mean(1)}


@dataclass(frozen=True)
class ProportionalFitting(_Alternating):
    """DSB: iterative proportional fitting, the EM algorithm of alternating half-bridges.

    Phase 0 runs Brownian motion from x0 and trains `back` to be its reversal; phase 1 runs `back` from x1 and trains
    `ahead`; phase 2 runs `ahead` from x0, and so on: each process has the right law at the end where it starts, and
    is the nearest to the one before. Along x_{k+1} = x_k + h ahead(x_k) + std sqrt(h) z the way back has the likelihood

        loss_i = mean over k and dimensions of h/std^2 |back(x_{k+1}, t_{k+1}) - (x_{k+1} - x_k)/h|^2

    whose minimiser steps to the mean of x_k given x_{k+1}; for `ahead` with the ends exchanged.

    De Bortoli et al. 2021 (arXiv 2106.01357), sec. 3; Vargas et al. 2021 (arXiv 2106.02081).
    """

    def __call__(self, batch: Batch | Tensor, noise: Noise) -> dict[str, Tensor]:
        """{"loss": (B,)}. batch: a Batch, or data (B, ...) alone; noise: keyed by the global ids of its samples."""
        noise, x0, x1, cond = self._ends(batch, noise, independent)
        model, phase = self.model, noise.step // self.every
        forwards = phase % 2 == 0
        running, trained = (
            (model.forward_drift, model.backward_drift)
            if forwards
            else (model.backward_drift, model.forward_drift)
        )
        states, times = self._simulate(
            None if phase == 0 else running, x0 if forwards else x1, noise, forwards, cond
        )
        n, h = self.steps, times[1] - times[0]
        x, t = states[1:].flatten(0, 1), times[1:].repeat_interleave(len(x0))
        cond = conditions.tile(cond, n)
        goal = (states.diff(dim=0) / h).flatten(0, 1)
        error = mean_data((ask(trained, x, as_time(t, x), cond) - goal) ** 2)
        return {"loss": error.reshape(n, -1).mean(0) / (n * model.path.std**2)}
