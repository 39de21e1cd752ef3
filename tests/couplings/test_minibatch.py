"""The exact coupling against POT, all permutations, and sorting; the errors of a user's cost."""

from __future__ import annotations

import builtins
import itertools
import warnings

import ot
import pytest
import torch

import pushforward as pf
from contracts.members import randn
from pushforward.couplings import OptimalTransport, squared_euclidean
from pushforward.couplings.minibatch import cheapest

NOISE = pf.Noise.batch(1)


def pairs(coupling, x0, x1):
    i, j = coupling(x0, x1, pf.Noise.batch(len(x0)))
    return x0[i], x1[j]


def clouds(n, dim, seed=0):
    centres = 4 * torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]).double()
    x1 = 0.3 * randn(n, dim, seed=seed + 1)
    x1[:, :2] += centres[torch.arange(n) % 3][:, : min(dim, 2)]
    return randn(n, dim, seed=seed), x1


@pytest.mark.parametrize("dim", [1, 2, 50])
@pytest.mark.parametrize("n", [1, 10, 63, 64, 67, 256])
def test_the_cost_is_that_of_pot(n, dim):
    x0, x1 = clouds(n, dim, seed=n + dim)
    a, b = pairs(OptimalTransport(), x0, x1)
    truth = ot.emd2([], [], ((x0[:, None] - x1) ** 2).sum(2).numpy())
    assert float((a - b).square().sum(1).mean()) == pytest.approx(float(truth), rel=1e-12)


@pytest.mark.parametrize("n", range(1, 7))
def test_no_permutation_costs_less(n):
    for seed in range(5):
        c = randn(n, n, seed=10 * n + seed)
        least = min(
            sum(float(c[s[j], j]) for j in range(n)) for s in itertools.permutations(range(n))
        )
        i = cheapest(c)
        assert float(c[i, torch.arange(n)].sum()) == pytest.approx(least, abs=1e-12)


def test_numbers_are_paired_in_order():
    x0, x1 = randn(300, 1, seed=1), randn(300, 1, seed=2).exp()
    a, b = pairs(OptimalTransport(), x0, x1)
    assert torch.equal(a.flatten().argsort(), b.flatten().argsort())


def test_a_translation_is_found_far_from_the_origin():
    x0 = randn(128, 2, seed=1) + 1e6
    turn = torch.randperm(128, generator=torch.Generator().manual_seed(1))
    a, b = pairs(OptimalTransport(), x0, x0[turn] + 1e6)
    assert torch.equal(a + 1e6, b)


def test_the_squared_distance_is_that_of_the_definition():
    x0, x1 = randn(7, 2, 3, seed=1), randn(7, 2, 3, seed=2)
    truth = (x0[:, None] - x1[None]).square().sum((2, 3))
    assert torch.allclose(squared_euclidean(x0, x1), truth, rtol=1e-12)
    far = squared_euclidean(x0 + 1e7, x1 + 1e7)
    assert torch.allclose(far, truth, rtol=1e-6)
    assert squared_euclidean(x0.float(), x1.float()).dtype == torch.float64


def test_a_cost_of_ones_own_is_what_is_minimised():
    x0, x1 = clouds(80, 2)
    cost = lambda x0, x1: (x0[:, None] - x1).abs().sum(2).sqrt()  # noqa: E731
    i, j = OptimalTransport(cost)(x0, x1, NOISE)
    truth = ot.emd2([], [], cost(x0, x1).numpy())
    assert float(cost(x0, x1)[i, j].mean()) == pytest.approx(float(truth), rel=1e-12)
    # Rows are the source: an asymmetric cost tells.
    score = torch.tensor([[0.0, 1.0, 5.0], [5.0, 0.0, 1.0], [1.0, 5.0, 0.0]]).T
    i, j = OptimalTransport(lambda x0, x1: score)(randn(3, 1), randn(3, 1), NOISE)
    assert float(score[i, j].sum()) == 0
    shifted = score.roll(1, 0)
    i, j = OptimalTransport(lambda x0, x1: shifted)(randn(3, 1), randn(3, 1), NOISE)
    assert float(shifted[i, j].sum()) == 0
    # A cost with parameters is not trained through.
    scale = torch.ones((), requires_grad=True)
    OptimalTransport(lambda x0, x1: scale * squared_euclidean(x0, x1))(x0, x1, NOISE)


@pytest.mark.parametrize("offset", [-100.0, -1e6, 1e6])
@pytest.mark.parametrize("n", [10, 64, 200])
def test_a_constant_added_to_the_cost_changes_no_plan_and_warns_of_nothing(n, offset):
    x0, x1 = clouds(n, 3)
    plain, _ = OptimalTransport()(x0, x1, NOISE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved, _ = OptimalTransport(lambda a, b: squared_euclidean(a, b) + offset)(x0, x1, NOISE)
        labels = {"label": torch.zeros(n, dtype=torch.int64)}
        by_class, _ = pf.couplings.ConditionalTransport(
            lambda a, b: squared_euclidean(a, b) + offset
        )(x0, x1, NOISE, labels)
    assert torch.equal(moved, plain)
    assert torch.equal(by_class, plain)


def test_the_dearest_permutation_is_that_of_the_cost_turned_round():
    x0, x1 = clouds(150, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        i, j = OptimalTransport(lambda a, b: -squared_euclidean(a, b))(x0, x1, NOISE)
    truth = ot.emd2([], [], (100 - squared_euclidean(x0, x1)).numpy())
    assert float((x0[i] - x1[j]).square().sum(1).mean()) == pytest.approx(100 - truth, rel=1e-10)


def test_what_a_cost_may_not_return():
    x0, x1 = randn(4, 2), randn(4, 2, seed=1)
    for wrong in (
        lambda a, b: (a - b).square().sum(1),
        lambda a, b: squared_euclidean(a, b)[:, :3],
    ):
        with pytest.raises(pf.InputError, match=r"must be a tensor \(4, 4\), got"):
            OptimalTransport(wrong)(x0, x1, NOISE)
    with pytest.raises(pf.InputError, match="got float"):
        OptimalTransport(lambda a, b: 1.0)(x0, x1, NOISE)
    with pytest.raises(pf.InputError, match="cost matrix has values that are not finite in 4 of 4"):
        OptimalTransport(lambda a, b: squared_euclidean(a, b) / 0)(x0, x1, NOISE)


def test_a_library_that_is_not_there_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.split(".")[0] == "ot":
            raise ImportError("No module named 'ot'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(pf.InputError, match=r"\.\[transport\]"):
        OptimalTransport()(randn(4, 2), randn(4, 2), NOISE)
