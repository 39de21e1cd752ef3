"""Samples given observations, against the exact posteriors of Gaussian laws."""

from __future__ import annotations

import pytest
import torch

import pushforward as pf
from contracts.members import randn
from guidance.gaussians import COV, MEAN, STD, A, Y, gaussian, moments
from pushforward.guidance import NoSpread
from pushforward.guidance.operators import Linear

FIELD = gaussian(MEAN, COV).field(pf.CondOT())


def test_samples_have_the_mean_and_covariance_of_the_posterior():
    n = 4000
    x = pf.posterior(FIELD, Y[0], Linear(A), STD, n, nfe=40)
    mean, cov = moments(MEAN, COV, A, Y[0])
    assert x.shape == (n, 3)
    error = (cov.diagonal() / n).sqrt()
    assert ((x.mean(0) - mean).abs() < 4.5 * error + 1e-3).all()
    spread = (cov.diagonal()[:, None] * cov.diagonal() + cov**2).div(n).sqrt()
    assert ((x.T.cov() - cov).abs() < 4.5 * spread + 1e-3).all()


def test_every_observation_has_its_own_samples():
    many = torch.cat((Y, Y + 1, Y - 2))
    x = pf.posterior(FIELD, many, Linear(A), STD, 5, nfe=20)
    assert x.shape == (3, 5, 3)
    one = pf.posterior(FIELD, many[0], Linear(A), STD, 5, nfe=20)
    assert torch.allclose(x[0], one, atol=1e-9)
    for k in range(3):
        seen = x[k] @ A.T
        assert float((seen - many[k]).norm(dim=1).median()) < 4 * STD


def test_a_method_is_chosen_and_a_network_is_taken_with_its_labels():
    torch.manual_seed(0)
    net = pf.nets.MLP(3, 16, 1, classes=2)
    model = pf.Model(net, pf.CondOT(), shape=(3,), classes=2)
    options = {"nfe": 6, "label": torch.tensor([0, 1])}
    many = torch.cat((Y, Y + 1)).float()
    full = pf.posterior(model, many, Linear(A), STD, 3, **options)
    other = pf.posterior(model, many, Linear(A), STD, 3, method=NoSpread(0.1), **options)
    assert full.shape == other.shape == (2, 3, 3)
    assert not torch.allclose(full, other, atol=1e-3)
    by_label = pf.posterior(model, many[1], Linear(A), STD, 3, nfe=6, label=1, seed=0)
    again = pf.posterior(model, many[1:], Linear(A), STD, 3, nfe=6, label=torch.tensor([1]))
    assert torch.allclose(by_label, again[0], atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((Y[0, :1], Linear(A), STD), "the operator makes"),
        ((Y[0] * float("inf"), Linear(A), STD), "not finite"),
        ((Y[0], Linear(A), STD, 0), "at least one sample"),
        ((Y[0], Linear(A), -1.0), "must be positive"),
        ((Y[:0], Linear(A), STD), "the operator makes"),
    ],
)
def test_bad_observations_are_refused_before_work(arguments, why):
    with pytest.raises(pf.InputError, match=why):
        pf.posterior(FIELD, *arguments)


def test_conditions_have_a_row_for_each_observation():
    law = pf.GaussianMixture(randn(2, 3), randn(2, 3, seed=3).abs() + 0.1, labels=[0, 1])
    with pytest.raises(pf.InputError, match="label has 3 rows for 1 observations"):
        pf.posterior(law.field(pf.CondOT()), Y, Linear(A), STD, 2, label=torch.tensor([0, 1, 0]))
