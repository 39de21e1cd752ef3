"""Entropic transport that may leave points out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import COUPLING, Noise
from pushforward.couplings.costs import Cost, cost_matrix, squared_euclidean
from pushforward.couplings.sinkhorn import sinkhorn


@dataclass(frozen=True)
class UnbalancedSinkhorn:
    """Pairs drawn from the plan of relaxed marginals: points far from all others come up less often, or not at all.

        min over P of  sum P c + epsilon KL(P | uniform) + rho KL(P 1 | 1/n) + rho KL(P^T 1 | 1/n)

    The marginals are NOT kept: a model trained on these pairs goes from the reweighted source to the reweighted data,
    which is the purpose where outliers or shares of classes should not be transported. The B pairs are independent, one
    from each B-th part of the plan's mass, rows in order.

    regularisation, relaxation: epsilon and rho, in units of the cost. rho = infinity is the balanced plan.

    Raises ConvergenceError, and InputError as Sinkhorn does.
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
        self, x0: Tensor, x1: Tensor, noise: Noise, cond: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        n, c = len(x1), cost_matrix(self.cost, x0, x1)
        log = sinkhorn(
            c, self.regularisation, self.tolerance, self.iterations, self.relaxation
        ).log.flatten()
        cdf = log.softmax(0).cumsum(0)
        # A draw of its own for each part: with one for all, rows that are alike would all take the same column.
        place = (torch.arange(n, device=c.device) + noise.to(c.device).uniform((), COUPLING)) / n
        pair = torch.searchsorted(cdf, place * cdf[-1]).clamp(max=n * n - 1).to(x1.device)
        return pair // n, pair % n
