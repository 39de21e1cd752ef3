"""Optimal transport that keeps the source independent of the condition."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.core.conditions import Conditions, Tokens, check_size, leaves
from pushforward.core.errors import InputError
from pushforward.core.noise import Noise
from pushforward.couplings.costs import (
    Cost,
    check_finite,
    check_pair,
    cost_matrix,
    squared_euclidean,
)
from pushforward.couplings.minibatch import cheapest


@dataclass(frozen=True)
class ConditionalTransport:
    """Optimal transport among samples of like condition.

        min over permutations s of  sum_j cost(x0_s(j), x1_j) + w condition_cost(c_s(j), c_j)

    A source sample takes the condition of its row, which is independent of it. Plain transport sends to each condition
    the source samples that happen to be near, so that the law of x0 given c, from which sampling starts, is no longer
    the source. Here:

    integers:  different labels are never paired (w infinite): each class is solved separately, exactly, over as many
               source samples as data, and x0 given the label is the source. -1, no label, is one more class. Equal
               token sequences are a class.
    floats:    w is so large that a share `ratio` of the pairs i != j could still do better than their own row,

                   cost(x0_i, x1_j) + w condition_cost(c_i, c_j) <= cost(x0_i, x1_i).

               Each pair leaves this set at one value of w, so that w is an order statistic. As `ratio` falls the pairs
               tend to the independent ones and the law of x0 given c to the source; in between it differs from it.

    names: the conditions that count, groups included (`control` for `control.edges`); all by default. A batch without
    conditions is plain optimal transport. condition_cost: of all floating-point conditions, flattened and concatenated,
    with zeros where tokens are masked.

    Needs the extra "transport". Raises InputError as OptimalTransport does, and for conditions that are missing, not
    one for each sample, or not finite.
    Cheng & Schwing 2025, "The curse of conditions" (arXiv 2503.10636), who search w by bisection and count the pairs of
    a row with itself.
    """

    cost: Cost = squared_euclidean
    condition_cost: Cost = squared_euclidean
    ratio: float = 0.01
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise InputError(f"ratio is {self.ratio}; it is a share of pairs, from 0 to 1")

    def __call__(
        self, x0: Tensor, x1: Tensor, noise: Noise, cond: Conditions | None = None
    ) -> tuple[Tensor, Tensor]:
        check_pair(x0, x1)
        labels, values = self._conditions(cond or {}, len(x1))
        i = torch.empty(len(x1), dtype=torch.int64, device=x1.device)
        for rows in _classes(labels, x1):
            i[rows] = rows[self._pairs(x0[rows], x1[rows], [value[rows] for value in values])]
        return i, torch.arange(len(x1), device=x1.device)

    def _conditions(self, cond: Conditions, size: int) -> tuple[list[Tensor], list[Tensor]]:
        """Those that are labels and those that are numbers, (B, D) each."""
        check_size(cond, size)
        found = dict(leaves(cond))
        names = tuple(found) if self.names is None else self.names
        labels: list[Tensor] = []
        values: list[Tensor] = []
        for name in names:
            group = [key for key in found if key == name or key.startswith(f"{name}.")]
            if not group:
                raise InputError(
                    f"the batch has no condition {name}; it has {', '.join(found) or 'none'}"
                )
            for key in group:
                rows = _rows(found[key])
                if rows.is_floating_point():
                    check_finite(rows, f"condition {key}")
                (values if rows.is_floating_point() else labels).append(rows)
        return labels, values

    def _pairs(self, x0: Tensor, x1: Tensor, values: list[Tensor]) -> Tensor:
        c = cost_matrix(self.cost, x0, x1)
        if not values:
            return cheapest(c).to(x1.device)
        condition = torch.cat([value.double() for value in values], 1)
        apart = cost_matrix(self.condition_cost, condition, condition)
        w = weight(c, apart, self.ratio)
        if w < math.inf:
            return cheapest(c + w * apart).to(x1.device)
        i = torch.empty(len(x1), dtype=torch.int64, device=x1.device)
        for rows in _classes([condition], x1):
            i[rows] = rows[cheapest(c[rows][:, rows]).to(x1.device)]
        return i


def _rows(value: Tensor | Tokens) -> Tensor:
    """A condition as rows (B, D), equal where it is the same; what tokens hold beyond their mask does not count."""
    if isinstance(value, Tensor):
        return value.reshape(len(value), -1)
    mask = value.mask.reshape(*value.mask.shape, *[1] * (value.values.ndim - 2))
    values = torch.where(mask, value.values, torch.zeros_like(value.values))
    return torch.cat((values.flatten(1), value.mask.to(values.dtype)), 1)


def weight(cost: Tensor, apart: Tensor, ratio: float) -> float:
    """The w beyond which at most a share `ratio` of the pairs i != j has c_ij + w a_ij <= c_ii; infinite if more than
    that have equal conditions."""
    n = len(cost)
    off = ~torch.eye(n, dtype=torch.bool, device=cost.device)
    gain = (cost.diagonal()[:, None] - cost)[off]
    # The w from which on the pair does no better. What costs more from the start never did.
    limit = torch.where(gain >= 0, gain / apart[off], -1.0).nan_to_num(math.inf, math.inf)
    allowed = math.floor(ratio * n * (n - 1))
    if allowed >= len(limit):
        return 0.0
    return max(0.0, float(limit.topk(allowed + 1).values[-1]))


def _classes(labels: list[Tensor], x1: Tensor) -> list[Tensor]:
    """The rows of each combination of labels, in order."""
    if not labels:
        return [torch.arange(len(x1), device=x1.device)]
    key = torch.cat([label.to(x1.device) for label in labels], 1)
    which = key.unique(dim=0, return_inverse=True)[1]
    order = which.argsort(stable=True)
    return list(order.split(which.bincount().tolist()))
