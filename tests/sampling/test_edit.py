"""Edited data: the laws of SDEdit on a mixture, what inpainting keeps and how far it is off, inversion."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm
from torch import nn

import pushforward as pf
from contracts.members import mixture
from pushforward.core.noise import START
from pushforward.sampling.edit import extended, time_of_strength

PATHS = [pf.CondOT(), pf.VP(), pf.Cosine()]
MEANS, STDS, WEIGHTS = (
    np.array([-2.0, 0.5, 3.0]),
    np.array([0.4, 0.3, 0.7]),
    np.array([0.3, 0.5, 0.2]),
)
LAW = pf.GaussianMixture(
    torch.tensor(MEANS)[:, None], torch.tensor(STDS**2), weights=torch.tensor(WEIGHTS)
)
NUMBER = 4000


def cdf(x, alpha=1.0, sigma=0.0):
    """Of the marginal alpha x1 + sigma x0."""
    stds = np.sqrt((alpha * STDS) ** 2 + sigma**2)
    return (WEIGHTS * norm.cdf((np.asarray(x)[..., None] - alpha * MEANS) / stds)).sum(-1)


def quantile(p, alpha, sigma):
    grid = np.linspace(-12, 12, 200_001)
    return np.interp(p, cdf(grid, alpha, sigma), grid)


def at(path, t):
    c = path.coefficients(torch.tensor([t], dtype=torch.float64))
    return float(c.alpha), float(c.sigma) * float(path.source_std)


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("strength", [0.3, 0.6, 0.85])
def test_the_law_of_sdedit_by_the_ode_is_that_of_the_noised_guide_under_the_flow(path, strength):
    # On the line the flow keeps quantiles: x1 <= y just where x_t0 <= F_t0^{-1}(F_1(y)), and x_t0 is Gaussian.
    guide = 1.4
    x = torch.full((NUMBER, 1), guide, dtype=torch.float64)
    found = pf.edit(LAW.field(path), x, strength=strength, nfe=60)[:, 0].numpy()
    alpha, sigma = at(path, time_of_strength(strength, path))

    def edited(y, mean=alpha * guide):
        return norm.cdf((quantile(cdf(y), alpha, sigma) - mean) / sigma)

    assert kstest(found, edited).pvalue > 1e-3
    # The test would see a guide that is moved, or another amount of noise.
    assert kstest(found, lambda y: edited(y, alpha * guide + 0.2 * sigma)).pvalue < 1e-3
    assert kstest(found, lambda y: cdf(y)).pvalue < 1e-3


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("strength", [0.3, 0.6, 0.85])
def test_the_law_of_sdedit_by_the_sde_is_the_posterior_over_the_noised_guide(path, strength):
    guide = 1.4
    x = torch.full((NUMBER, 1), guide, dtype=torch.float64)
    found = pf.edit(LAW.field(path), x, strength=strength, sde=True, nfe=200)[:, 0].numpy()
    alpha, sigma = at(path, time_of_strength(strength, path))
    # Nodes of x_t0 ~ N(alpha guide, sigma^2), and the posterior mixture of x1 at each.
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    state = (alpha * guide + sigma * nodes)[:, None]
    spread = np.sqrt((alpha * STDS) ** 2 + sigma**2)
    share = WEIGHTS * norm.pdf((state - alpha * MEANS) / spread) / spread
    share /= share.sum(1, keepdims=True)
    gain = alpha * STDS**2 / spread**2
    mean, std = MEANS + gain * (state - alpha * MEANS), STDS * sigma / spread

    def edited(y):
        inside = (share * norm.cdf((np.asarray(y)[..., None, None] - mean) / std)).sum(-1)
        return inside @ (weights / weights.sum())

    assert kstest(found, edited).pvalue > 1e-3
    by_ode = pf.edit(LAW.field(path), x, strength=strength, nfe=60)[:, 0].numpy()
    assert kstest(by_ode, edited).pvalue < 1e-3


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_strength_is_the_share_of_noise(path):
    for strength in (0.1, 0.5, 0.9):
        alpha, sigma = (
            float(v)
            for v in (
                path.coefficients(
                    torch.tensor([time_of_strength(strength, path)], dtype=torch.float64)
                )[:2]
            )
        )
        assert math.isclose(sigma / (alpha + sigma), strength, rel_tol=1e-9)
    assert time_of_strength(0, path) == 1
    assert time_of_strength(1, path) == 0
    x = LAW.sample(5, seed=1)
    assert torch.equal(pf.edit(LAW.field(path), x, strength=0), x)
    whole = pf.edit(LAW.field(path), x, strength=1, nfe=20, seed=3)
    assert torch.allclose(whole, pf.generate(LAW.field(path), 5, nfe=20, seed=3), atol=1e-9)


def test_repeats_bring_more_of_the_law_and_less_of_the_guide():
    x = torch.full((NUMBER, 1), -2.0, dtype=torch.float64)
    means = [
        float(pf.edit(LAW.field(pf.CondOT()), x, strength=0.5, repeats=k, nfe=20).mean())
        for k in (1, 2, 6)
    ]
    error = 4 * 1.9 / math.sqrt(NUMBER)
    assert -2 < means[0] < means[1] - error < means[2] - 2 * error < float(WEIGHTS @ MEANS)


# Inpainting: the second coordinate of a correlated pair, given the first.
ANGLE = 0.6
TURN = torch.tensor(
    [[math.cos(ANGLE), -math.sin(ANGLE)], [math.sin(ANGLE), math.cos(ANGLE)]], dtype=torch.float64
)
COVARIANCE = TURN @ torch.diag(torch.tensor([1.0, 0.1], dtype=torch.float64)) @ TURN.T
PAIR = pf.GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), COVARIANCE[None])


@pytest.mark.parametrize(("sde", "low", "high"), [(True, 0.4, 0.6), (False, 0.8, 1.0)])
def test_inpainting_keeps_the_rest_exactly_and_misses_the_conditional_law_as_stated(sde, low, high):
    given = 1.2
    x = torch.tensor([[given, 9.0]], dtype=torch.float64).expand(NUMBER, 2)
    mask = torch.tensor([[False, True]])
    field = PAIR.field(pf.CondOT())
    found = pf.edit(field, x, strength=1, mask=mask, nfe=100, sde=sde)
    assert (found[:, 0] == given).all()
    slope = float(COVARIANCE[0, 1] / COVARIANCE[0, 0])
    std = math.sqrt(float(COVARIANCE[1, 1] - COVARIANCE[0, 1] ** 2 / COVARIANCE[0, 0]))
    # Towards the mean of the law without the condition, 0.
    assert low < (slope * given - float(found[:, 1].mean())) / std < high
    if sde:
        assert torch.equal(found, pf.edit(field, x, strength=1, mask=mask, nfe=100))
    # What is masked in the guide has no part in the result, and what is kept has.
    other = pf.edit(
        field, torch.tensor([[given, -5.0]], dtype=torch.float64).expand(NUMBER, 2),
        strength=1, mask=mask, nfe=100, sde=sde,
    )  # fmt: skip
    assert torch.allclose(found, other, atol=1e-9)
    moved = pf.edit(field, -x, strength=1, mask=mask, nfe=100, sde=sde)
    assert float((moved[:, 1].mean() - found[:, 1].mean()) / std) < -1


def test_an_edited_sample_is_the_same_in_any_batch():
    field, x = mixture(3).field(pf.CondOT()), mixture(3).sample(7, seed=2)
    mask = torch.tensor([[True, False, True]])
    for options in ({}, {"sde": True}, {"mask": mask}, {"repeats": 2}):
        whole = pf.edit(field, x, nfe=10, **options)
        parts = pf.edit(field, x, nfe=10, batch_size=3, **options)
        alone = pf.edit(field, x[4:5], nfe=10, start=4, **options)
        assert torch.allclose(whole, parts, atol=1e-12)
        assert torch.allclose(whole[4:5], alone, atol=1e-12)


def test_inversion_to_another_class_keeps_the_image_of_its_own():
    means = torch.tensor([[-3.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    law = pf.GaussianMixture(means, torch.tensor([0.5, 0.5]), labels=torch.tensor([0, 1]))
    field = law.field(pf.VP())
    x = means[:1] + torch.tensor([[0.2, 0.7], [-0.4, -0.3]], dtype=torch.float64)
    same = pf.edit_by_inversion(field, x, {"label": 0}, {"label": 0}, nfe=50)
    assert torch.allclose(same, x, atol=1e-9)
    # Two Gaussians that differ by their means: the other class has the same offset from its mean.
    moved = pf.edit_by_inversion(field, x, {"label": 0}, {"label": 1}, nfe=50)
    assert torch.allclose(moved - means[1], x - means[0], atol=5e-2)


class Halves:
    """A codec of pictures: means of 2 x 2 pixels, and back by repeating them."""

    factor, channels, digest = 2, 1, "halves"

    def latent_shape(self, shape):
        return (shape[0], shape[1] // 2, shape[2] // 2)

    def encode(self, x):
        return nn.functional.avg_pool2d(x, 2)

    def decode(self, z):
        return z.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_pictures_of_a_model_of_latents_are_encoded_masked_and_decoded():
    torch.manual_seed(0)
    net = pf.nets.UNet(1, 8, (1,))
    model = pf.Model(net, pf.CondOT(), shape=(1, 8, 8), codec=Halves())
    x = torch.rand(3, 1, 8, 8)
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., 3:5, 3:5] = True  # of pixels in four latents
    found = pf.edit(model, x, mask=mask, nfe=4)
    assert found.shape == x.shape
    assert torch.equal(found[..., :3, :], x[..., :3, :])
    assert (found[..., 3:5, 3:5] != x[..., 3:5, 3:5]).any()
    # Latents of which a quarter is masked are painted, not kept.
    other = pf.edit(model, x, mask=mask, nfe=4, seed=1)
    assert (found[..., 3:5, 3:5] != other[..., 3:5, 3:5]).all()
    assert pf.generate(model, 2, nfe=2).shape == (2, 1, 8, 8)
    assert pf.generate(model, 2, nfe=2, decode=False).shape == (2, 1, 4, 4)


def test_a_margin_is_masked():
    wide, mask = extended(torch.rand(2, 3, 4, 5), left=1, bottom=2)
    assert wide.shape == (2, 3, 6, 6)
    assert mask.sum() == 6 * 6 - 4 * 5
    assert not mask[..., :4, 1:].any()
    for left in (0, -1, 1.5):
        with pytest.raises(pf.InputError, match="margin"):
            extended(torch.rand(1, 1, 2, 2), left)
    with pytest.raises(pf.InputError, match="images are"):
        extended(torch.rand(1, 2, 2), 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strength": 1.2}, "share of noise, from 0 to 1"),
        ({"strength": None}, "share of noise, from 0 to 1"),
        ({"repeats": 0}, "repeats is 0"),
        ({"repeats": 1.5}, "repeats is 1.5"),
        ({"batch_size": 0}, "batch_size must be positive"),
        ({"start": -1}, "ids count from 0"),
        ({"source": torch.zeros(2, 3)}, "edit chooses source itself"),
        ({"grid": pf.times.uniform(5)}, "edit chooses grid itself"),
        ({"strenght": 0.5}, "did you mean strength"),
        ({"strenght": 0.5, "strength": 0}, "did you mean strength"),
        ({"mask": torch.ones(1, 3)}, "a mask is bool"),
        ({"mask": torch.ones(1, 2, dtype=torch.bool)}, "a mask is bool"),
        ({"mask": torch.zeros(1, 3, dtype=torch.bool)}, "the mask is empty"),
    ],
)
def test_what_cannot_be_edited_is_said(options, words):
    field, x = mixture(3).field(pf.CondOT()), mixture(3).sample(2)
    with pytest.raises(pf.InputError, match=words):
        pf.edit(field, x, nfe=5, **options)
    with pytest.raises(pf.InputError, match="finite floating numbers"):
        pf.edit(field, x * math.nan)


def test_each_image_is_edited_under_its_own_conditions_in_any_batch():
    law = pf.GaussianMixture(
        torch.tensor([[-3.0], [0.0], [3.0]], dtype=torch.float64),
        torch.tensor([0.5, 0.5, 0.5]),
        labels=torch.arange(3),
    )
    field, x = law.field(pf.CondOT()), torch.zeros(5, 1, dtype=torch.float64)
    # An interval has two ends, whatever the number of images.
    for n, options in (
        (5, {"label": [0, 2, 1, 2, 0]}),
        (5, {"label": 1, "negative": {"label": [0, 2, 1, 2, 0]}, "guidance": 2.0}),
        (5, {"label": 1, "negative": {"label": 2}, "guidance": 2.0}),
        (2, {"label": [0, 2], "guidance": 2.0, "interval": (0.1, 0.9)}),
    ):
        whole = pf.edit(field, x[:n], nfe=10, **options)
        parts = pf.edit(field, x[:n], nfe=10, batch_size=1, **options)
        assert torch.allclose(whole, parts, atol=1e-12)
        assert len(whole.unique()) == n
    moved = pf.edit(field, x, nfe=20, label=[0, 2, 1, 2, 0], strength=0.9)[:, 0]
    assert (moved[[0, 4]] < -1).all()
    assert (moved[[1, 3]] > 1).all()
    with pytest.raises(pf.InputError, match="label has 2 entries for 5 samples"):
        pf.edit(field, x, nfe=5, label=[0, 1], batch_size=2)


def test_what_is_no_image_is_said():
    field, x = mixture(3).field(pf.CondOT()), mixture(3).sample(2)
    for images, words in ((x.numpy(), "not a ndarray"), (x[:0], "num .* must be positive")):
        with pytest.raises(pf.InputError, match=words):
            pf.edit(field, images, nfe=5)
    with pytest.raises(pf.InputError, match="conditions are a mapping"):
        pf.edit_by_inversion(field, x, "a cross", {"label": 1})


@pytest.mark.parametrize("sde", [False, True])
def test_each_repeat_has_noise_of_its_own(sde):
    field, x = mixture(3).field(pf.CondOT()), mixture(3).sample(4, seed=2)
    once = pf.edit(field, x, strength=0.5, nfe=6, seed=3, sde=sde)
    fresh = pf.Noise(3, torch.arange(4), step=1).normal((3,), START, torch.float64)
    solver = pf.solvers.Multistep(eta=1) if sde else None
    again = pf.generate(
        field, 4, source=0.5 * once + 0.5 * fresh, from_time=0.5, nfe=6, seed=4, solver=solver
    )
    assert torch.allclose(pf.edit(field, x, strength=0.5, nfe=6, seed=3, sde=sde, repeats=2), again)


def test_inversion_is_guided_on_the_way_back_and_exact_unless_it_is_not_to_be():
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    law = pf.GaussianMixture(means, torch.tensor([0.5, 0.5]), labels=torch.tensor([0, 1]))
    field, x = law.field(pf.VP()), means[:1]
    moved = [
        float(pf.edit_by_inversion(field, x, {"label": 0}, {"label": 1}, nfe=10, guidance=w)[0, 0])
        for w in (None, 3.0)
    ]
    assert moved[1] > moved[0] + 0.5
    exact, rough = (
        pf.edit_by_inversion(field, x + 0.5, {"label": 0}, {"label": 0}, nfe=10, exact=e)
        for e in (True, False)
    )
    assert torch.allclose(exact, x + 0.5, atol=1e-9)
    assert not torch.allclose(rough, x + 0.5, atol=1e-3)
