"""Relaxed marginals: outliers are left out, and without relaxation the plan is the balanced one."""

from __future__ import annotations

import math

import pytest
import torch

import pushforward as pf
from contracts.members import randn
from pushforward.couplings import UnbalancedSinkhorn, sinkhorn, squared_euclidean


def test_an_outlier_is_left_out_and_kept_when_marginals_are():
    x0, x1 = randn(40, 2), randn(40, 2, seed=1)
    x1[7] = 30.0
    plain, relaxed = [], []
    for step in range(8):
        noise = pf.Noise.batch(40, step=step)
        relaxed += UnbalancedSinkhorn(0.5, relaxation=5.0)(x0, x1, noise)[1].tolist()
        plain += UnbalancedSinkhorn(50.0, relaxation=math.inf)(x0, x1, noise)[1].tolist()
    assert 7 not in relaxed
    # Eight times on the average, and so is any other: no column is favoured.
    assert all(0 < plain.count(k) < 24 for k in range(40))


@pytest.mark.parametrize("relaxation", [0.5, math.inf])
def test_each_pair_comes_up_as_often_as_the_plan_says(relaxation):
    n, draws = 5, 400
    x0, x1 = randn(n, 2), randn(n, 2, seed=1)
    plan = sinkhorn(squared_euclidean(x0, x1), 2.0, 1e-3, relaxation=relaxation).log.exp()
    expected = n * plan / plan.sum()
    coupling, count = UnbalancedSinkhorn(2.0, relaxation), torch.zeros(n, n).double()
    for step in range(draws):
        i, j = coupling(x0, x1, pf.Noise.batch(n, seed=1, step=step))
        assert (i.diff() >= 0).all()
        count.index_put_((i, j), torch.ones(n).double(), accumulate=True)
    # Parts are independent, so that a pair varies no more than as many tosses of a coin.
    error = (expected / draws).sqrt()
    assert ((count / draws - expected).abs() < 4.5 * error + 2 / draws).all()


@pytest.mark.parametrize(("epsilon", "rho"), [(0.01, 0.01), (1.0, 0.01)])
def test_a_plan_that_collapses_to_one_pair_says_so_and_what_to_do(epsilon, rho):
    x0, x1 = randn(64, 20), randn(64, 20, seed=1)
    c = squared_euclidean(x0, x1)
    i, j = divmod(int(c.argmin()), 64)
    with pytest.raises(
        pf.InputError,
        match=rf"pair \({i}, {j}\) of 64 x 64 .*raise the relaxation.*{float(c.mean()):.3g}",
    ):
        UnbalancedSinkhorn(epsilon, rho)(x0, x1, pf.Noise.batch(64))
    # With the relaxation that it says, no pair holds much.
    i, j = UnbalancedSinkhorn(epsilon * 50, float(c.mean()))(x0, x1, pf.Noise.batch(64))
    assert len(i.unique()) > 32


def test_few_points_may_well_be_one_pair():
    near, far = torch.tensor([[0.0], [50.0]]), torch.tensor([[0.1], [-50.0]])
    i, j = UnbalancedSinkhorn(0.1, 0.1)(near, far, pf.Noise.batch(2))
    assert i.tolist() == j.tolist() == [0, 0]


def test_arguments_that_do_not_fit_are_errors():
    for arguments in ((0.0, 1.0), (math.inf, 1.0), (1.0, 0.0), (1.0, math.nan), (math.nan, 1.0)):
        with pytest.raises(pf.InputError, match="must be positive"):
            UnbalancedSinkhorn(*arguments)
    x0 = randn(4, 2)
    x0[2] = math.nan
    with pytest.raises(pf.InputError, match=r"x0 has .* 1 of 4 rows: 2"):
        UnbalancedSinkhorn(1.0, 1.0)(x0, randn(4, 2), pf.Noise.batch(4))
