"""Sinkhorn's plan against POT, the exact cost and the closed form of Gaussians; permutations against the plan."""

from __future__ import annotations

import itertools
import math

import ot
import pytest
import torch

import pushforward as pf
from contracts.members import rand, randn
from pushforward.couplings import OptimalTransport, Sinkhorn, sinkhorn, squared_euclidean
from pushforward.couplings.sinkhorn import rounded


def cost_of(n, m, dim=2, seed=0, dtype=torch.float64):
    x0, x1 = randn(n, dim, seed=seed), 0.6 * randn(m, dim, seed=seed + 1) + 1
    return (x0[:, None] - x1).square().sum(2).to(dtype)


@pytest.mark.parametrize("epsilon", [0.3, 2.0, 20.0])
@pytest.mark.parametrize(("n", "m"), [(8, 8), (10, 7)])
def test_the_plan_is_that_of_pot(n, m, epsilon):
    c = cost_of(n, m)
    plan = sinkhorn(c, epsilon, tolerance=1e-9)
    a, b = torch.full((n,), 1 / n).double().numpy(), torch.full((m,), 1 / m).double().numpy()
    truth = ot.sinkhorn(a, b, c.numpy(), epsilon, "sinkhorn_log", 2_000, 1e-8, warn=False)
    assert torch.allclose(plan.log.exp(), torch.from_numpy(truth), rtol=1e-6, atol=1e-12)
    # The potentials are those of the plan.
    log = (plan.f[:, None] + plan.g - c) / epsilon - math.log(n * m)
    assert torch.allclose(log, plan.log, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("relaxation", [0.3, 5.0])
def test_relaxed_marginals_give_the_plan_of_pot(relaxation):
    c = cost_of(12, 9)
    plan = sinkhorn(c, 0.5, 1e-12, relaxation=relaxation).log.exp()
    truth = ot.unbalanced.sinkhorn_unbalanced(
        [1 / 12] * 12, [1 / 9] * 9, c.numpy(), 0.5, relaxation, stopThr=1e-14, numItermax=100_000
    )
    assert torch.allclose(plan, torch.from_numpy(truth), rtol=1e-6, atol=1e-12)
    assert abs(float(plan.sum()) - 1) > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_marginals_are_kept_to_the_tolerance(dtype, tolerance):
    plan = sinkhorn(cost_of(50, 40, dtype=dtype), 0.5, tolerance).log.exp()
    assert plan.dtype == dtype
    assert float((plan.sum(1) - 1 / 50).abs().sum()) < tolerance * 1.01
    assert torch.allclose(plan.sum(0), torch.full((40,), 1 / 40, dtype=dtype), rtol=1e-4)


def test_rows_that_start_right_do_not_end_the_iteration_with_wrong_columns():
    weights = torch.tensor([[0.8, 1.2], [0.8, 1.2]], dtype=torch.float64)
    plan = sinkhorn(-2 * weights.log(), 2.0, 1e-9).log.exp()
    assert torch.allclose(plan, torch.full_like(plan, 0.25))


def test_the_cost_of_the_plan_falls_to_the_exact_one_with_the_regularisation():
    c = cost_of(20, 20)
    exact = float(ot.emd2([], [], c.numpy()))
    gaps = []
    for epsilon in (3.0, 1.0, 0.3, 0.1, 0.03):
        plan = sinkhorn(c, epsilon, 1e-3).log.exp()
        gaps.append(float((plan * c).sum()) - exact)
    assert all(later < gap for gap, later in itertools.pairwise(gaps))
    assert abs(gaps[-1]) < 0.02 * gaps[0]
    # Nothing overflows where exp(-c / epsilon) is 0 in all entries.
    plan = sinkhorn(1000 + 100 * c, 1.0, 1e-2)
    assert bool(plan.log.isfinite().all())
    assert bool(plan.f.isfinite().all())


def test_between_gaussians_the_pairs_have_the_covariance_of_the_closed_form():
    # Entropic transport of N(0, s^2) to N(0, r^2) for the cost |x - y|^2 and epsilon = 2 std^2:
    # covariance (sqrt(4 s^2 r^2 + std^4) - std^2)/2 (Janati et al. 2020, arXiv 2006.02572, thm. 1).
    s, r, std, n, draws = 1.0, 1.5, 0.9, 100, 30
    truth = (math.sqrt(4 * s**2 * r**2 + std**4) - std**2) / 2
    coupling, found = Sinkhorn(2 * std**2), []
    for step in range(draws):
        noise = pf.Noise.batch(n, seed=7, step=step)
        x0, x1 = s * noise.normal((1,), 2000), r * noise.normal((1,), 2001)
        i, j = coupling(x0, x1, noise)
        # Relative to the spread of this batch, which the plan follows.
        correlation = torch.corrcoef(torch.cat((x0[i], x1[j]), 1).T)[0, 1]
        found.append(correlation * s * r)
    found = torch.stack(found)
    assert float(found.std()) / math.sqrt(draws) < 0.012
    assert abs(float(found.mean()) - truth) < 4.5 * float(found.std()) / math.sqrt(draws)


def frequencies(plan, copies=40, calls=30):
    """How often each pair of a plan (n, n) of mass n comes up: many copies are rounded at once, as blocks of a plan."""
    n = len(plan)
    blocks = torch.block_diag(*[plan] * copies) / (n * copies)
    count = torch.zeros(n, n, dtype=torch.float64)
    column = torch.arange(n * copies)
    for step in range(calls):
        s = rounded(blocks, pf.Noise.batch(n * copies, seed=1, step=step))
        assert torch.equal(s.sort().values, column)
        assert torch.equal(s // n, column // n)
        count.index_put_((s % n, column % n), torch.ones(len(s)).double(), accumulate=True)
    return count / (copies * calls), copies * calls


@pytest.mark.parametrize("epsilon", [0.3, 2.0])
@pytest.mark.parametrize("n", [2, 3, 6])
def test_pairs_follow_the_plan(n, epsilon):
    x0, x1 = randn(n, 2, seed=n), randn(n, 2, seed=n + 1)
    plan = n * sinkhorn(squared_euclidean(x0, x1), epsilon, 1e-9).log.exp()
    share, draws = frequencies(plan)
    error = (plan * (1 - plan) / draws).sqrt() + 2 / draws
    assert ((share - plan).abs() < 4.5 * error).all()
    noise = pf.Noise.batch(n, seed=1)
    i, _ = Sinkhorn(epsilon, tolerance=1e-9)(x0, x1, noise)
    assert torch.equal(i, rounded(plan / n, noise))


def test_any_plan_is_rounded_without_bias():
    # Far from symmetric, with entries that are no multiples of 2^-b, zeros, and a row that is already whole.
    plan = torch.tensor(
        [[0.15, 0.35, 0.5, 0, 0], [0.05, 0.65, 0.3, 0, 0], [0.8, 0, 0.2, 0, 0], [0, 0, 0, 1, 0],
         [0, 0, 0, 0, 1]], dtype=torch.float64,
    )  # fmt: skip
    share, draws = frequencies(plan)
    assert ((share - plan).abs() <= 4.5 * (plan * (1 - plan) / draws).sqrt() + 1e-9).all()


def test_a_plan_that_is_a_permutation_is_returned_and_any_other_still_gives_one():
    s = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    plan = torch.zeros(30, 30)
    plan[s, torch.arange(30)] = 1 / 30
    assert torch.equal(rounded(plan, pf.Noise.batch(30)), s)
    # Marginals that are off are mended: the columns here are not exact at all.
    odd = rand(20, 20)
    s = rounded(odd / odd.sum(), pf.Noise.batch(20))
    assert torch.equal(s.sort().values, torch.arange(20))


def test_the_coupling_goes_from_the_exact_to_the_independent_one():
    x0, x1 = randn(20, 2, seed=1), randn(20, 2, seed=2) + 1
    noise = pf.Noise.batch(20)
    exact, _ = OptimalTransport()(x0, x1, noise)
    sharp, j = Sinkhorn(1e-3, relative=True, tolerance=1e-2)(x0, x1, noise)
    assert float((sharp == exact).double().mean()) > 0.9
    means = []
    for step in range(40):
        i, j = Sinkhorn(1e4)(x0, x1, noise.at(step))
        means.append((x0[i] * x1[j]).sum(1).mean())
    means = torch.stack(means)
    truth = x0.mean(0) @ x1.mean(0)
    assert abs(float(means.mean() - truth)) < 4.5 * float(means.std()) / math.sqrt(40)


def test_relative_regularisation_is_in_units_of_the_mean_cost():
    x0, x1 = randn(40, 2, seed=1), randn(40, 2, seed=2)
    noise, mean = pf.Noise.batch(40), float(squared_euclidean(x0, x1).mean())
    i, _ = Sinkhorn(0.2, relative=True)(x0, x1, noise)
    k, _ = Sinkhorn(0.2 * mean)(x0, x1, noise)
    assert torch.equal(i, k)
    scaled, _ = Sinkhorn(0.2, relative=True)(8 * x0, 8 * x1, noise)
    assert torch.equal(i, scaled)
    same = torch.ones(5, 2)
    i, _ = Sinkhorn(0.2, relative=True)(same, same, pf.Noise.batch(5))
    assert torch.equal(i.sort().values, torch.arange(5))


def test_a_plan_that_does_not_converge_and_arguments_that_do_not_fit_are_errors():
    with pytest.raises(pf.ConvergenceError, match="after 20 iterations"):
        sinkhorn(cost_of(20, 20), 1e-4, iterations=20)
    with pytest.raises(pf.ConvergenceError, match="raise the regularisation"):
        Sinkhorn(1e-6, iterations=30)(randn(20, 2), randn(20, 2, seed=1), pf.Noise.batch(20))
    for wrong in (cost_of(4, 4)[0], cost_of(4, 4).long(), torch.zeros(0, 3)):
        with pytest.raises(pf.InputError, match="floating tensor"):
            sinkhorn(wrong, 1.0)
    for epsilon in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(pf.InputError, match="epsilon"):
            sinkhorn(cost_of(4, 4), epsilon)
        with pytest.raises(pf.InputError, match="regularisation"):
            Sinkhorn(epsilon)
