"""Entropic optimal transport: Sinkhorn's plan, and permutations whose pairs follow it.

The plan is computed here and not by POT: `ot.sinkhorn` of method "sinkhorn_stabilized" returns infinities for
epsilon = 1e-3 of the mean cost, "sinkhorn_log" is five to twenty times slower, neither uses the device of the data in
the log domain, and both return plans without the right marginals when they run out of iterations (docs/log.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pushforward.core.conditions import Conditions
from pushforward.core.errors import ConvergenceError, InputError
from pushforward.core.noise import COUPLING, Noise
from pushforward.couplings.costs import Cost, cost_matrix, squared_euclidean

BITS = 20


class Plan(NamedTuple):
    """`P_ij = exp((f_i + g_j - c_ij) / epsilon) / (n m)`."""

    log: Tensor  # (n, m) ln P
    f: Tensor  # (n,) potentials of the rows
    g: Tensor  # (m,) of the columns


@torch.no_grad()
def sinkhorn(
    cost: Tensor,
    epsilon: float,
    tolerance: float = 1e-3,
    iterations: int = 10_000,
    relaxation: float = math.inf,
) -> Plan:
    """The plan between uniform weights 1/n and 1/m that is least in cost and entropy:

        min over P of  sum P c + epsilon KL(P | 1/n x 1/m),   sum_j P_ij = 1/n,  sum_i P_ij = 1/m

        f_i <- -epsilon ln mean_j exp((g_j - c_ij) / epsilon),   g_j <- -epsilon ln mean_i exp((f_i - c_ij) / epsilon)

    in the log domain, where nothing under- or overflows, on the device and in the dtype of the cost. epsilon is halved
    from the range of the costs down to its value, then steps are taken until the rows are off their sum by less than
    `tolerance` (in total, of a mass of 1); the columns are exact. float32 reaches about 1e-7 max(c)/epsilon.

    relaxation: rho, for marginals that are penalised, rho KL(P 1 | 1/n) + rho KL(P^T 1 | 1/m), instead of constrained;
                both steps then shrink by rho/(rho + epsilon).

    Raises ConvergenceError after `iterations` steps.
    Cuturi 2013 (arXiv 1306.0895); Peyre & Cuturi 2019 (arXiv 1803.00567), sec. 4.4, and 10.2 for relaxation.
    """
    if cost.ndim != 2 or 0 in cost.shape or not cost.is_floating_point():
        raise InputError(
            f"the cost must be a floating tensor (n, m), got {cost.dtype} {tuple(cost.shape)}"
        )
    for name, value in (("epsilon", epsilon), ("tolerance", tolerance), ("relaxation", relaxation)):
        if not value > 0 or (value == math.inf and name != "relaxation"):
            raise InputError(f"{name} is {value}; it must be positive and finite")
    n, m = cost.shape
    f, g = cost.new_zeros(n), cost.new_zeros(m)
    spread = float(cost.max() - cost.min())
    level, last = max(epsilon, spread), math.inf
    for _ in range(iterations):
        shrink = 1 / (1 + level / relaxation)
        before = f
        f = -shrink * level * (((g - cost) / level).logsumexp(1) - math.log(m))
        # With g from the f before, the rows sum to exp((f_before - f) / epsilon) / n.
        change = float(((before - f) / (shrink * level)).expm1().abs().mean())
        if last == epsilon and change < tolerance:
            return Plan((before[:, None] + g - cost) / epsilon - math.log(n * m), before, g)
        g = -shrink * level * (((f[:, None] - cost) / level).logsumexp(0) - math.log(n))
        level, last = max(epsilon, level / 2), level
    raise ConvergenceError(
        f"Sinkhorn's rows are off by {change:.2g} after {iterations} iterations, more than the tolerance "
        f"{tolerance:g}, at epsilon {epsilon:g} for costs that spread over {spread:g}: raise the regularisation, the "
        f"tolerance or the iterations"
    )


@dataclass(frozen=True)
class Sinkhorn:
    """A random permutation whose pairs follow the entropic plan.

        P(s(j) = i) = n P_ij,   P least in  sum P c + epsilon KL(P | uniform)  among plans of uniform marginals

    Each point is used once, so that both marginals are kept exactly; pairs drawn from P independently would use two
    thirds of the points. The permutation is `rounded` from the plan.

    regularisation: epsilon, in units of the cost; times the mean cost of the batch if `relative`. The exact coupling is
                    the limit 0, the independent one infinity. The Schroedinger bridge of diffusion std s asks for
                    epsilon = 2 s^2 with the cost |x0 - x1|^2, which is s^2 with half of it.
    tolerance:      how far the plan's marginals may be off, in total, before rounding.

    Works on the data's device, in float64. x1 stays in place. Raises ConvergenceError, and InputError as
    OptimalTransport does. Cuturi 2013 (arXiv 1306.0895); Tong et al. 2024 (arXiv 2307.03672) for its use.
    """

    regularisation: float
    relative: bool = False
    tolerance: float = 1e-3
    iterations: int = 10_000
    cost: Cost = squared_euclidean

    def __post_init__(self) -> None:
        if not 0 < self.regularisation < math.inf:
            raise InputError(
                f"regularisation is {self.regularisation}; it must be positive and finite"
            )

    def __call__(
        self, x0: Tensor, x1: Tensor, noise: Noise, cond: Conditions | None = None
    ) -> tuple[Tensor, Tensor]:
        c = cost_matrix(self.cost, x0, x1)
        scale = float(c.mean()) if self.relative else 1.0
        if not scale > 0:  # points that all coincide: no pair is better than another
            scale = 1.0
        plan = sinkhorn(c, scale * self.regularisation, self.tolerance, self.iterations)
        i = rounded(plan.log.exp(), noise.to(c.device)).to(x1.device)
        return i, torch.arange(len(x1), device=x1.device)


def rounded(plan: Tensor, noise: Noise) -> Tensor:
    """A random permutation s, (n,) int64, with `P(s(j) = i) = n plan_ij`: row s(j) goes with column j. plan: (n, n).

    Dependent rounding, bit by bit from the last. With all entries multiples of 2^-b and all rows and columns of sum 1,
    each row and column has an even number of entries with an odd last bit. Paired there, they form cycles, along which
    2^-b is added and subtracted in turn, or the other way round, by the toss of a coin: sums and means stay, and the
    bit becomes 0. After the first bit the matrix is a permutation.

    What n plan lacks in multiples of 2^-b is added in order of the rows and columns, which moves at most n 2^-b of a
    row's mass of 1, besides the error of the plan's marginals. b = 20.
    Gandhi, Khuller, Parthasarathy, Srinivasan 2006, "Dependent rounding and its applications", for the martingale; the
    cycles are Euler's partition of Gabow 1976.
    """
    n = len(plan)
    one = 1 << BITS
    x = n * plan.double()
    x = x / x.sum(1, keepdim=True).clamp(min=1)
    x = x / x.sum(0).clamp(min=1)
    units = (x * one).floor().long()
    row, column = (
        torch.arange(n, device=plan.device).repeat_interleave(one - units.sum(dim))
        for dim in (1, 0)
    )
    units.view(-1).index_add_(0, row * n + column, torch.ones_like(row))
    # Two words for each sample; the coin of a cycle is a bit of those of its first entry.
    words = noise.words(2, COUPLING)
    number = torch.empty(n, n, dtype=torch.int32, device=plan.device)
    for bit in range(BITS):
        odd = (units >> bit & 1).bool()
        entry = odd.view(-1).nonzero().flatten()  # row by row, an even number in each
        # index_select on int32 is many times as fast as indexing.
        place = torch.arange(len(entry), dtype=torch.int32, device=plan.device)
        number[odd] = place
        by_column = number.T[odd.T]
        mate = torch.empty_like(place)
        mate[by_column.long()] = by_column.index_select(0, place ^ 1)
        # From entry to entry over two corners: a cycle falls into the entries that rise and those that fall.
        ahead, first = mate.index_select(0, place ^ 1), place
        for _ in range(len(entry).bit_length()):
            first = torch.minimum(first, first.index_select(0, ahead))
            ahead = ahead.index_select(0, ahead)
        other = first.index_select(0, place ^ 1)
        leader = entry.index_select(0, torch.minimum(first, other))
        coin = words[:, 0].index_select(0, leader // n) ^ words[:, 1].index_select(0, leader % n)
        rises = (first < other).long() ^ (coin >> bit & 1)
        units.view(-1).index_add_(0, entry, (2 * rises - 1) << bit)
    return units.argmax(0)
