"""Entropic transport with penalised marginals: outliers may stay unpaired."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.core.conditions import Conditions
from pushforward.core.errors import InputError
from pushforward.core.noise import COUPLING, Noise
from pushforward.couplings.costs import Cost, cost_matrix, squared_euclidean
from pushforward.couplings.sinkhorn import sinkhorn


@dataclass(frozen=True)
class UnbalancedSinkhorn:
    """Pairs drawn from the plan of relaxed marginals: points far from all others are drawn less often, or never.

        min over P of  sum P c + epsilon KL(P | uniform) + rho KL(P 1 | 1/n) + rho KL(P^T 1 | 1/n)

    The marginals are NOT kept: a model trained on these pairs goes from the reweighted source to the reweighted data,
    which is the purpose where outliers or shares of classes should not be transported. The B pairs are independent, one
    from each B-th part of the plan's mass, rows in order.

    regularisation, relaxation: epsilon and rho, in units of the cost. rho = infinity is the balanced plan. With both
    far below the differences of the costs all mass goes to the cheapest pair.

    Raises ConvergenceError, InputError as Sinkhorn does, and InputError for a plan of four points or more that has
    collapsed to a single pair.
    Chizat et al. 2018 (arXiv 1607.05816); Eyring et al. 2024 (arXiv 2311.15100) for its use in flow matching.
    """

    regularisation: float
    relaxation: float
    tolerance: float = 1e-3
    iterations: int = 10_000
    cost: Cost = squared_euclidean

    def __post_init__(self) -> None:
        if not 0 < self.regularisation < math.inf or not self.relaxation > 0:
            raise InputError(
                f"regularisation is {self.regularisation} and relaxation {self.relaxation}; both must be positive, "
                f"and the first finite"
            )

    def __call__(
        self, x0: Tensor, x1: Tensor, noise: Noise, cond: Conditions | None = None
    ) -> tuple[Tensor, Tensor]:
        n, c = len(x1), cost_matrix(self.cost, x0, x1)
        log = sinkhorn(
            c, self.regularisation, self.tolerance, self.iterations, self.relaxation
        ).log.flatten()
        share = log.softmax(0)
        self._check_spread(share, c)
        cdf = share.cumsum(0)
        # One draw for each part: with one draw for all, rows that are alike would all take the same column.
        place = (torch.arange(n, device=c.device) + noise.to(c.device).uniform((), COUPLING)) / n
        pair = torch.searchsorted(cdf, place * cdf[-1]).clamp(max=n * n - 1).to(x1.device)
        return pair // n, pair % n

    def _check_spread(self, share: Tensor, cost: Tensor) -> None:
        """share: (n n,), of sum 1. 1/sum p^2, the effective number of pairs, must be 2 at least."""
        n = len(cost)
        if n < 4 or float(share.square().sum()) < 0.5:
            return
        pair = int(share.argmax())
        raise InputError(
            f"the plan has collapsed: the pair ({pair // n}, {pair % n}) of {n} x {n} holds {float(share.max()):.1%} "
            f"of its mass. It is cheaper to leave the other points than to pair them at regularisation "
            f"{self.regularisation:g} and relaxation {self.relaxation:g}: raise the relaxation towards the mean cost, "
            f"{float(cost.mean()):.3g}"
        )
