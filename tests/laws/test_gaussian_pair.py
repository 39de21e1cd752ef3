"""Pairs of Gaussians on interpolants, for which everything is known, and the entropic coupling among them."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from torch.autograd.functional import hessian, jacobian

import pushforward as pf
from contracts.members import randn
from laws.pairs import PATHS, correlated, covariance, entropic, law


@pytest.mark.parametrize("pair", [correlated(), entropic()], ids=["correlated", "entropic"])
@pytest.mark.parametrize("path", PATHS)
def test_the_marginal_of_a_gaussian_pair_is_that_of_its_samples(path, pair):
    n = 40000
    x0, x1 = pair.draw(pf.Noise.batch(n, seed=1))
    field = pair.field(path)
    for t in (0.0, 0.3, 0.8, 1.0):
        mean, cov = field.marginal(t)
        truth = law(pair, path, t)
        assert torch.allclose(mean, truth[0], rtol=1e-12, atol=1e-12)
        assert torch.allclose(cov, truth[1], rtol=1e-12, atol=1e-12)
        x = path.mix(x0, x1, randn(n, 2, seed=2), t)[0]
        white = torch.linalg.solve_triangular(
            torch.linalg.cholesky(cov), (x - mean).mT, upper=False
        )
        assert (white.mean(1).abs() < 4.5 / math.sqrt(n)).all()
        error = (white.cov() - torch.eye(2, dtype=torch.float64)).abs()
        assert (error < 4.5 * math.sqrt(2 / n)).all()


def test_pairs_are_drawn_with_their_cross_covariance_and_by_id():
    pair, n = correlated(), 40000
    x0, x1 = pair.draw(pf.Noise.batch(n, seed=1))
    x, y = x0 - pair.mean0, x1 - pair.mean1
    scale = (pair.cov0.diagonal()[:, None] * pair.cov1.diagonal()).sqrt()
    assert ((x.mT @ y / n - pair.cross).abs() / scale < 4.5 * math.sqrt(2 / n)).all()
    part = pair.draw(pf.Noise.batch(5, seed=1, start=100))
    assert torch.equal(part[0], x0[100:105])
    assert torch.equal(part[1], x1[100:105])


@pytest.mark.parametrize("pair", [correlated(), entropic()], ids=["correlated", "entropic"])
@pytest.mark.parametrize("path", PATHS)
def test_the_field_of_a_gaussian_pair_is_the_posterior_mean_and_the_gradient(path, pair):
    field, h = pair.field(path), 1e-6
    for t in (0.1, 0.5, 0.85):
        x = 2 * randn(6, 2, seed=4)
        velocity, score = field.with_score(x, t)
        mean, cov = law(pair, path, t)
        y = x.clone().requires_grad_()
        density = torch.distributions.MultivariateNormal(mean, cov).log_prob(y).sum()
        assert torch.allclose(score, torch.autograd.grad(density, y)[0], rtol=1e-9)
        # d/ds E[x_s | x_t] at s = t, one and the same z in both.
        means, covs = law(pair, path, t + h, t - h, t)
        gain = covs[:4, 4:] @ torch.linalg.inv(covs[4:, 4:])
        later, sooner = (means[:4, None] + gain @ (x - means[4:]).mT).mT.split(2, dim=1)
        assert torch.allclose(velocity, (later - sooner) / (2 * h), rtol=1e-6, atol=1e-7)
        assert torch.equal(velocity, field(x, t))
        assert torch.equal(score, field(x, t, "score"))


@pytest.mark.parametrize("g", [0.0, 0.8, 1.7])
@pytest.mark.parametrize("path", PATHS)
def test_the_fokker_planck_equation_holds_for_any_noise_both_ways(path, g):
    """d/dt p = -div(p b) + g^2/2 lap p for b = u + g^2/2 score, and with -g^2/2 in both places."""
    pair = correlated()
    field, h = pair.field(path), 1e-5

    def density(x, t):
        return torch.distributions.MultivariateNormal(*law(pair, path, t)).log_prob(x).exp()

    def flux(x, t, sign):
        u, score = field.with_score(x[None], t)
        return density(x, t) * (u + sign * g**2 / 2 * score)[0]

    for t, x in itertools.product((0.2, 0.7), pair.mean0 + randn(4, 2, seed=6)):
        rate = (density(x, t + h) - density(x, t - h)) / (2 * h)
        laplacian = hessian(partial(density, t=t), x).trace()
        for sign in (1, -1):
            divergence = jacobian(partial(flux, t=t, sign=sign), x).trace()
            truth = -divergence + sign * g**2 / 2 * laplacian
            assert torch.allclose(rate, truth, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("std", [0.3, 0.8, 2.0])
def test_the_entropic_coupling_is_the_gibbs_measure_of_the_inner_product(std):
    """pi ~ f(x0) g(x1) exp(x0.x1/std^2): the precision has -I/std^2 off the diagonal, and the ends are as given."""
    pair = entropic(3, std)
    precision = torch.linalg.inv(pair.joint)
    assert torch.allclose(
        precision[:3, 3:], -torch.eye(3, dtype=torch.float64) / std**2, rtol=1e-7, atol=1e-8
    )
    assert torch.allclose(pair.joint[:3, :3], covariance(3, 5))
    assert torch.allclose(pair.joint[3:, 3:], covariance(3, 6))


def test_the_entropic_coupling_lies_between_optimal_transport_and_independence():
    a, b = covariance(2, 5), covariance(2, 6)
    bures = torch.linalg.eigvals(a @ b).real.sqrt().sum()
    zero = torch.zeros(2)
    assert abs(pf.GaussianPair.entropic(zero, a, zero, b, 1e-3).cross.trace() - bures) < 1e-5
    assert pf.GaussianPair.entropic(zero, a, zero, b, 1e3).cross.abs().max() < 1e-5


def test_only_the_entropic_coupling_makes_a_mixture_of_brownian_bridges_markov():
    """x0 and x1 are independent given x_t for the entropic coupling, and not for others."""
    path, bridge = pf.BrownianBridge(0.8), entropic()
    others = [correlated(), pf.GaussianPair(bridge.mean0, bridge.cov0, bridge.mean1, bridge.cov1)]
    for pair, markov in ((bridge, True), *((other, False) for other in others)):
        _, cov = law(pair, path, 0.0, 0.4, 1.0)
        given = cov[:2, 4:] - cov[:2, 2:4] @ torch.linalg.solve(cov[2:4, 2:4], cov[2:4, 4:])
        assert (float(given.abs().max()) < 1e-9) == markov


def test_the_drifts_of_a_bridge_lead_to_the_means_of_its_ends():
    """u + std^2/2 score = (E[x1 | x_t] - x_t)/(1 - t) and u - std^2/2 score = (x_t - E[x0 | x_t])/t."""
    std, t, x = 0.8, 0.35, randn(5, 2, seed=7)
    for pair in (entropic(), correlated()):
        path = pf.BrownianBridge(std)
        u, score = pair.field(path).with_score(x, t)
        mean, cov = law(pair, path, 0.0, t, 1.0)
        gain = cov[:, 2:4] @ torch.linalg.inv(cov[2:4, 2:4])
        ends = mean + (x - mean[2:4]) @ gain.mT
        assert torch.allclose(u + std**2 / 2 * score, (ends[:, 4:] - x) / (1 - t), rtol=1e-9)
        assert torch.allclose(u - std**2 / 2 * score, (x - ends[:, :2]) / t, rtol=1e-9)


def test_arguments_of_a_pair_are_checked():
    one, zero = torch.eye(2), torch.zeros(2)
    for bad in (-one, torch.diag(torch.tensor([1.0, 0.0])), torch.tensor([[1.0, 0.5], [0.0, 1.0]])):
        with pytest.raises(pf.InputError, match="cov1 must be symmetric and positive definite"):
            pf.GaussianPair(zero, one, zero, bad)
    with pytest.raises(pf.InputError, match="negative eigenvalues"):
        pf.GaussianPair(zero, one, zero, one, 1.5 * one)
    with pytest.raises(pf.InputError, match=r"shape \(D,\)"):
        pf.GaussianPair(zero, one, torch.zeros(3), one)
    for std in (0.0, -1.0):
        with pytest.raises(pf.InputError, match="positive and finite"):
            pf.GaussianPair.entropic(zero, one, zero, one, std)
    with pytest.raises(pf.InputError, match="x has shape"):
        entropic().field(pf.Tube())(randn(3, 5), 0.5)
