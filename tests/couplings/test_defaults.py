"""What the default values of couplings do."""

from __future__ import annotations

import pytest
import torch

import pushforward as pf
from contracts.members import randn
from pushforward.couplings import (
    ConditionalTransport,
    Sinkhorn,
    UnbalancedSinkhorn,
    conditional,
    sinkhorn,
    squared_euclidean,
    unbalanced,
)

X0, X1 = randn(40, 2), 0.6 * randn(40, 2, seed=1) + 1
NOISE = pf.Noise.batch(40)


def test_a_plan_is_off_its_marginals_by_just_less_than_a_thousandth():
    # Where convergence is slow, the last step takes the error from just above the tolerance to just below.
    for seed in range(3):
        c = squared_euclidean(randn(30, 2, seed=seed), randn(30, 2, seed=seed + 9))
        plan = sinkhorn(c, 0.004 * float(c.mean())).log.exp()
        error = float((plan.sum(1) - 1 / 30).abs().sum())
        assert 0.9e-3 < error < 1e-3


def residual(plan, relaxation):
    """How far relaxed rows are from their condition of first order, `n P 1 = exp(-f/rho)`, on the average."""
    n = len(plan.f)
    return float((n * plan.log.exp().sum(1) * (plan.f / relaxation).exp() - 1).abs().mean())


def test_unbalanced_plans_meet_their_condition_to_just_less_than_a_thousandth(monkeypatch):
    plans = []

    def kept(*arguments):
        plans.append(sinkhorn(*arguments))
        return plans[-1]

    monkeypatch.setattr(unbalanced, "sinkhorn", kept)
    UnbalancedSinkhorn(0.02, 10.0)(X0, X1, NOISE)
    # A step moves f by epsilon/(epsilon + rho) less: seen from f, the tolerance is that of the shrunk step.
    assert 0.85e-3 < residual(plans[0], 10.0) < 1.01e-3


@pytest.mark.parametrize(
    "solve",
    [
        lambda c: sinkhorn(c, 1e-7),
        lambda c: Sinkhorn(1e-7, cost=lambda a, b: c)(X0, X1, NOISE),
        lambda c: UnbalancedSinkhorn(1e-7, 1e3, cost=lambda a, b: c)(X0, X1, NOISE),
    ],
    ids=["plan", "Sinkhorn", "UnbalancedSinkhorn"],
)
def test_a_plan_that_takes_far_too_long_is_given_up_after_ten_thousand_steps(solve):
    # Potentials move by epsilon a step, and have all of the costs' differences to go.
    with pytest.raises(pf.ConvergenceError, match="after 10000 iterations"):
        solve(squared_euclidean(X0, X1))


def test_one_pair_in_a_hundred_may_still_do_better_than_its_row(monkeypatch):
    seen = []
    weight = conditional.weight

    def kept(cost, apart, ratio):
        seen.append((cost, apart, weight(cost, apart, ratio)))
        return seen[-1][2]

    monkeypatch.setattr(conditional, "weight", kept)
    y = randn(40, 3, seed=2)
    ConditionalTransport()(X0, X1, NOISE, {"y": y})
    cost, apart, w = seen[0]
    better = cost + w * (1 + 1e-9) * apart <= cost.diagonal()[:, None]
    share = int(better.sum() - better.diagonal().sum()) / (40 * 39)
    assert 0.01 - 1.01 / (40 * 39) < share <= 0.01
    # Both costs are squared distances.
    assert torch.allclose(cost, torch.cdist(X0, X1) ** 2)
    assert torch.allclose(apart, torch.cdist(y, y) ** 2, atol=1e-12)
