"""What every coupling keeps to: both marginals, the noise it is given, and points rather than places."""

from __future__ import annotations

import pytest
import torch

import pushforward as pf
from contracts.members import COUPLINGS, randn
from pushforward.couplings import squared_euclidean

SIZES = [1, 2, 7, 64, 97]


def batch(n, *shape, dtype=torch.float64):
    """Two clouds whose rows have nothing to do with each other."""
    return randn(n, *shape, seed=1, dtype=dtype), 0.5 * randn(n, *shape, seed=2, dtype=dtype) + 1


def total(x0, x1, i, j):
    return float((x0[i] - x1[j]).square().sum())


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(("coupling", "independent"), COUPLINGS)
def test_each_point_is_used_once(coupling, independent, n):
    x0, x1 = batch(n, 3)
    for cond in (None, {}, {"label": torch.arange(n) % 3 - 1}, {"y": randn(n, seed=3)}):
        i, j = coupling(x0, x1, pf.Noise.batch(n, seed=3), cond)
        assert i.dtype == j.dtype == torch.int64
        assert torch.equal(i.sort().values, torch.arange(n))
        # And the data stay in place, so that what is keyed by the row stays with them.
        assert torch.equal(j, torch.arange(n))


@pytest.mark.parametrize(("coupling", "independent"), COUPLINGS)
def test_no_coupling_costs_more_than_the_independent_one(coupling, independent):
    costs = []
    for step in range(10):
        noise = pf.Noise.batch(50, seed=2, step=step)
        x0, x1 = noise.normal((2,), 2000), noise.normal((2,), 2001) + 1
        i, j = coupling(x0, x1, noise, {"label": torch.arange(50) % 2})
        costs.append(total(x0, x1, i, j) / total(x0, x1, j, j))
    assert max(costs) <= 1 + 1e-6
    assert independent == (min(costs) > 1 - 1e-6)


@pytest.mark.parametrize(("coupling", "independent"), COUPLINGS)
def test_pairs_do_not_depend_on_the_order_of_the_source(coupling, independent):
    n = 60
    x0, x1 = batch(n, 2)
    noise, turn = pf.Noise.batch(n), torch.randperm(n, generator=torch.Generator().manual_seed(0))
    i, _ = coupling(x0, x1, noise)
    k, _ = coupling(x0[turn], x1, noise)
    if isinstance(coupling, pf.couplings.Sinkhorn):
        # Its permutation is drawn: the plan is what the order leaves as it is.
        log = pf.couplings.sinkhorn(squared_euclidean(x0, x1), 1.0).log
        turned = pf.couplings.sinkhorn(squared_euclidean(x0[turn], x1), 1.0).log
        assert torch.allclose(turned, log[turn], rtol=1e-9, atol=1e-9)
    elif not independent:
        assert torch.equal(turn[k], i)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 4, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("coupling", "independent"), COUPLINGS)
def test_data_of_any_shape_are_flattened(coupling, independent, dtype, shape):
    x0, x1 = batch(12, *shape, dtype=torch.float32)
    x0, x1 = x0.to(dtype), x1.to(dtype)
    noise = pf.Noise.batch(12)
    i, _ = coupling(x0, x1, noise)
    k, _ = coupling(x0.reshape(12, -1), x1.reshape(12, -1), noise)
    assert torch.equal(i, k)


@pytest.mark.parametrize(("coupling", "independent"), COUPLINGS)
def test_the_choice_is_made_anew_from_the_noise_alone(coupling, independent):
    x0, x1 = batch(40, 2)
    noise, state = pf.Noise.batch(40, seed=5, step=7), torch.get_rng_state()
    assert torch.equal(coupling(x0, x1, noise)[0], coupling(x0, x1, noise)[0])
    assert torch.equal(torch.get_rng_state(), state)
    drawn = isinstance(coupling, pf.couplings.Sinkhorn)
    for other in (noise.at(8), pf.Noise.batch(40, seed=6, step=7)):
        assert torch.equal(coupling(x0, x1, noise)[0], coupling(x0, x1, other)[0]) != drawn


@pytest.mark.parametrize(("coupling", "independent"), COUPLINGS)
def test_what_cannot_be_paired_is_named(coupling, independent):
    if independent:
        return
    noise = pf.Noise.batch(6)
    x0, x1 = batch(6, 2)
    bad = x1.clone()
    bad[[1, 4], 0] = torch.tensor([float("nan"), float("inf")], dtype=torch.float64)
    with pytest.raises(pf.InputError, match=r"^x1 has .* in 2 of 6 rows: 1, 4\."):
        coupling(x0, bad, noise)
    with pytest.raises(pf.InputError, match=r"^x0 has .* in 2 of 6 rows: 1, 4\."):
        coupling(bad, x1, noise)
    for other in (x1[:, :1], x1[:5], x1[..., None]):
        with pytest.raises(pf.InputError, match="of one shape"):
            coupling(x0, other, noise)
    with pytest.raises(pf.InputError, match="nothing to pair"):
        coupling(x0[:0], x1[:0], pf.Noise.batch(0))
    assert torch.equal(coupling(x0[:1], x1[:1], pf.Noise.batch(1))[0], torch.zeros(1).long())
