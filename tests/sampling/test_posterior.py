"""Samples given observations, against the exact posteriors of Gaussian laws."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import pushforward as pf
from contracts.members import randn
from guidance.gaussians import COV, MEAN, STD, A, Y, gaussian, moments
from pushforward.core.conditions import Fill
from pushforward.core.spec import DataSpec, SamplingDefaults
from pushforward.guidance import NoSpread
from pushforward.guidance.operators import Downsample, Linear
from pushforward.models.latent import Latents
from pushforward.nets import AutoencoderKL

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


def labelled() -> pf.Model:
    torch.manual_seed(0)
    return pf.Model(pf.nets.MLP(3, 16, 1, classes=3), pf.CondOT(), shape=(3,), classes=3)


@pytest.mark.parametrize("kind", [list, tuple, np.asarray, torch.tensor])
def test_labels_of_observations_come_in_any_form_and_observations_as_arrays(kind):
    model, many = labelled(), torch.cat((Y, Y + 1, Y - 1)).float()
    got = pf.posterior(model, many.numpy(), Linear(A), STD, 2, nfe=4, label=kind([0, 2, 1]))
    alone = pf.posterior(model, many[1], Linear(A), STD, 2, nfe=4, label=2, start=2)
    assert torch.allclose(got[1], alone, atol=1e-5)
    in_parts = pf.posterior(
        model, many, Linear(A), STD, 2, nfe=4, label=kind([0, 2, 1]), batch_size=3
    )
    assert torch.allclose(got, in_parts, atol=1e-5)
    with pytest.raises(pf.InputError, match="label has 2 rows for 3 observations"):
        pf.posterior(model, many, Linear(A), STD, 2, label=kind([0, 2]))


class Reader:
    """Prompts as labels."""

    names, nulls = ("label",), {"label": Fill(-1)}

    def __call__(self, texts):
        return {"label": torch.tensor([("a", "b", "c").index(text) for text in texts])}


def test_prompts_have_one_for_each_observation_and_the_guidance_of_the_model():
    torch.manual_seed(0)
    net = pf.nets.MLP(3, 16, 1, classes=3)
    options = {"shape": (3,), "nulls": {"label": -1}, "encoders": {"prompt": Reader()}}
    model = pf.Model(net, pf.CondOT(), sampling=SamplingDefaults(prompt_guidance=3.0), **options)
    many = torch.cat((Y, Y + 1)).float()
    got = pf.posterior(model, many, Linear(A), STD, 2, nfe=4, prompt=["c", "a"])
    by_label = pf.posterior(model, many, Linear(A), STD, 2, nfe=4, label=[2, 0], guidance=3.0)
    assert torch.allclose(got, by_label, atol=1e-5)
    for_all = pf.posterior(model, many, Linear(A), STD, 2, nfe=4, prompt="c")
    assert torch.allclose(for_all[0], got[0], atol=1e-5)
    with pytest.raises(pf.InputError, match="prompt has 3 rows for 2 observations"):
        pf.posterior(model, many, Linear(A), STD, 2, prompt=["a", "b", "c"])
    with pytest.raises(pf.InputError, match="are n, and not num"):
        pf.posterior(model, many, Linear(A), STD, num=2)


def test_of_a_model_of_latents_the_operator_sees_what_is_returned():
    # x = B z + c with z Gaussian: y = A (B z + c) is one of z, and its posterior that of A B.
    b, c = randn(5, 3, seed=8), randn(5, seed=9)
    seen = randn(2, 5, seed=10)

    @dataclass(frozen=True)
    class Coded:
        field: Any
        codec: Any
        shape: tuple[int, ...] = (3,)

        @property
        def path(self):
            return self.field.path

        def __call__(self, x, t, want="velocity", **cond):
            return self.field(x, t, want, **cond)

    field = Coded(FIELD, SimpleNamespace(decode=lambda z: z @ b.T + c))
    y = randn(2, seed=11)
    got = pf.posterior(field, y, Linear(seen), STD, 4, nfe=20)
    latent = pf.posterior(FIELD, y - seen @ c, Linear(seen @ b), STD, 4, nfe=20)
    assert torch.allclose(got, latent @ b.T + c, atol=1e-9)
    kept = pf.posterior(field, Y[0], Linear(A), STD, 4, nfe=20, decode=False)
    assert torch.allclose(kept, pf.posterior(FIELD, Y[0], Linear(A), STD, 4, nfe=20), atol=1e-9)


def test_a_decoder_with_attention_can_be_seen_through():
    torch.manual_seed(0)
    codec = Latents(AutoencoderKL(1, 2, (8, 8), 1, 4, True))
    model = pf.Model(pf.nets.UNet(2, 8, (1,)), pf.CondOT(), spec=DataSpec((1, 8, 8)), codec=codec)
    x = pf.posterior(model, torch.zeros(1, 4, 4), Downsample(2), 0.3, 2, nfe=2)
    assert x.shape == (2, 1, 8, 8)
