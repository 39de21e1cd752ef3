"""What every regression objective keeps to: the gradient of the marginal loss, and its irreducible constant."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from scipy.integrate import quad
from torch import nn

import pushforward as pf
from contracts.members import COUPLINGS, OBJECTIVES, SCORE_OBJECTIVES, Lookup, mixture, randn
from pushforward.core.noise import SOURCE
from pushforward.core.times import Uniform
from pushforward.objectives import DenoisingScoreMatching, FlowMatching, Matching, NoisePrediction

# Away from the ends, where some losses have no variance to speak of.
MIDDLE = Uniform(0.15, 0.85)


class Affine(nn.Module):
    """c0 + c1 x + c2 t x: linear in its parameters, and wrong everywhere."""

    def __init__(self):
        super().__init__()
        self.c = nn.Parameter(torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64))
        self.asked = []

    def forward(self, x, t, **cond):
        self.asked.append((x.detach(), t, cond))
        return self.c[0] + self.c[1] * x + self.c[2] * t[:, None] * x


@pytest.mark.parametrize("path", [pf.CondOT(), pf.Cosine(), pf.VP()], ids=repr)
@pytest.mark.parametrize(("make", "measure"), OBJECTIVES + SCORE_OBJECTIVES)
def test_the_conditional_loss_has_the_gradient_of_the_marginal_loss(make, measure, path):
    law = mixture(2, 3)
    field, net = law.field(path), Affine()
    model = pf.Model(net, path, "data")
    objective = make(model, times=MIDDLE)
    differences, marginals, size = [], [], 200
    for k in range(60):
        noise = pf.Noise.batch(size, seed=1, step=k)
        net.asked.clear()
        loss = objective(law.draw(noise), noise)["loss"].mean()
        conditional = torch.autograd.grad(loss, net.c)[0]
        x, t, _ = net.asked[0]
        marginal = ((model(x, t, measure) - field(x, t, measure)) ** 2).mean()
        marginal = torch.autograd.grad(marginal, net.c)[0]
        differences.append(conditional - marginal)
        marginals.append(marginal)
    difference, marginal = torch.stack(differences), torch.stack(marginals)
    error = difference.std(0) / math.sqrt(len(difference))
    assert (difference.mean(0).abs() < 4.5 * error).all(), difference.mean(0) / error
    # And the interval is narrow: a gradient of another size, or of the opposite sign, lies far outside.
    assert float(error.norm()) < 0.1 * float(marginal.mean(0).norm())


def conditional_variance(measure: str, t: float, v: float) -> float:
    """Var[p x1 + q x0 | x_t] on CondOT for x1 ~ N(., v): (p sigma - q alpha)^2 v / (alpha^2 v + sigma^2)."""
    p, q = {
        "velocity": (1, -1), "data": (1, 0), "noise": (0, 1), "score": (0, -1 / (1 - t)), "v": (-(1 - t), t),
    }[measure]  # fmt: skip
    return (p * (1 - t) - q * t) ** 2 * v / (t**2 * v + (1 - t) ** 2)


@pytest.mark.parametrize(("make", "measure"), OBJECTIVES)
def test_the_exact_field_has_the_irreducible_loss_and_nothing_else_less(make, measure):
    law, path, v = pf.GaussianMixture([[0.7, -0.4]], 0.49), pf.CondOT(), 0.49
    exact = pf.Model(Lookup(law.field(path), "velocity"), path)
    n = 20000
    noise = pf.Noise.batch(n, seed=4)
    loss = make(exact, times=MIDDLE)(law.draw(noise), noise)["loss"]
    assert loss.shape == (n,)
    truth = quad(lambda t: conditional_variance(measure, t, v), 0.15, 0.85)[0] / 0.7
    assert abs(float(loss.mean()) - truth) < 4.5 * float(loss.std()) / math.sqrt(n)
    shifted = pf.Model(Shift(exact.net, 0.3), path)
    worse = make(shifted, times=MIDDLE)(law.draw(noise), noise)["loss"]
    assert float(worse.mean()) > float(loss.mean())


class Shift(nn.Module):
    def __init__(self, net, by):
        super().__init__()
        self.net, self.by = net, by

    def forward(self, x, t, **cond):
        return self.net(x, t, **cond) + self.by


@pytest.mark.parametrize(("make", "measure"), OBJECTIVES)
def test_the_loss_of_a_sample_is_its_mean_squared_error(make, measure):
    path = pf.VP()
    net = Affine()
    model = pf.Model(net, path, "noise")
    noise, x1 = pf.Noise.batch(6, seed=2, step=3), randn(6, 4, seed=1)
    loss = make(model, times=MIDDLE)(pf.Batch(x1), noise)["loss"]
    x, t, _ = net.asked[0]
    x0 = noise.normal((4,), SOURCE, torch.float64)
    alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
    assert torch.allclose(x, alpha * x1 + sigma * x0, rtol=1e-12)
    one = torch.ones_like(t)
    d_alpha, d_sigma = (
        torch.func.jvp(f, (t,), (one,))[1][:, None] for f in (path.alpha, path.sigma)
    )
    target = {
        "velocity": d_alpha * x1 + d_sigma * x0, "data": x1, "noise": x0, "score": -x0 / sigma,
        "v": alpha * x0 - sigma * x1,
    }[measure]  # fmt: skip
    truth = ((model(x, t, measure) - target) ** 2).sum(1) / 4
    assert torch.allclose(loss, truth, rtol=1e-9)


@pytest.mark.parametrize(("make", "measure"), OBJECTIVES + SCORE_OBJECTIVES)
def test_losses_do_not_depend_on_the_batch_and_weights_multiply_them(make, measure):
    path = pf.CondOT()
    model = pf.Model(Affine(), path)
    x1, noise = randn(12, 3, seed=1), pf.Noise.batch(12, seed=2)
    whole = make(model, times=MIDDLE)(x1, noise)["loss"]
    parts = [make(model, times=MIDDLE)(x1[i : i + 5], noise[i : i + 5])["loss"] for i in (0, 5, 10)]
    assert torch.allclose(torch.cat(parts), whole, rtol=1e-12)
    assert not torch.allclose(make(model, times=MIDDLE)(x1, noise.at(1))["loss"], whole)
    t = MIDDLE(noise)
    weighted = make(model, times=MIDDLE, weight=lambda t: 1 + t**2)(x1, noise)["loss"]
    assert torch.allclose(weighted, (1 + t**2) * whole, rtol=1e-12)


@pytest.mark.parametrize("path", [pf.CondOT(), pf.VP(), pf.EDM()], ids=repr)
def test_noise_prediction_is_score_matching_weighted_by_the_variance_of_the_noise(path):
    model = pf.Model(Affine(), path, "data")
    x1, noise = randn(50, 2, seed=1), pf.Noise.batch(50, seed=2)
    eps = NoisePrediction(model, times=MIDDLE)(x1, noise)["loss"]
    score = DenoisingScoreMatching(model, times=MIDDLE, weight=lambda t: path.sigma(t) ** 2)(
        x1, noise
    )["loss"]
    assert torch.allclose(eps, score, rtol=1e-8)


@pytest.mark.parametrize("prediction", pf.PREDICTIONS)
def test_without_a_measure_a_model_is_judged_by_its_own_prediction(prediction):
    net = Affine()
    model = pf.Model(net, pf.CondOT(), prediction)
    x1, noise = randn(5, 2, seed=1), pf.Noise.batch(5)
    own = Matching(model, times=MIDDLE)(x1, noise)["loss"]
    # What the network itself has answered, against what its prediction is of the pair.
    x, t, _ = net.asked[0]
    x0 = noise.normal((2,), SOURCE, torch.float64)
    a, s = t[:, None], 1 - t[:, None]
    goal = {"velocity": x1 - x0, "data": x1, "noise": x0, "score": -x0 / s, "v": a * x0 - s * x1}
    assert torch.allclose(own, ((net(x, t) - goal[prediction]) ** 2).mean(1), rtol=1e-9)


@pytest.mark.parametrize("drop", [0.0, 0.15, 0.5, 1.0])
def test_the_condition_of_that_fraction_of_samples_is_dropped_and_of_no_other(drop):
    net = Affine()
    objective = FlowMatching(
        pf.Model(net, pf.CondOT(), nulls={"label": -1, "text": 0}), condition_dropout=drop
    )
    n = 20000
    label, text = torch.arange(n) % 7, 1 + torch.rand(n, 3)
    x1, noise = randn(n, 2, seed=1), pf.Noise.batch(n, seed=3)
    full = objective(pf.Batch(x1, {"label": label, "text": text}), noise)["loss"]
    got = net.asked[0][2]
    dropped = got["label"] == -1
    assert abs(float(dropped.double().mean()) - drop) <= 4.5 * math.sqrt(drop * (1 - drop) / n)
    assert torch.equal(got["label"][~dropped], label[~dropped])
    assert torch.equal((got["text"] == 0).all(1), dropped)
    assert torch.equal(got["text"][~dropped], text[~dropped])
    # The same ones in any batch, at any time of day; others at another step; and nothing else changes.
    objective(pf.Batch(x1[50:80], {"label": label[50:80]}), noise[50:80])
    assert torch.equal(net.asked[1][2]["label"], got["label"][50:80])
    plain = dataclasses.replace(objective, condition_dropout=0.0)(
        pf.Batch(x1, {"label": label, "text": text}), noise
    )["loss"]
    assert torch.equal(plain, full)
    if 0 < drop < 1:
        objective(pf.Batch(x1, {"label": label}), noise.at(1))
        assert not torch.equal(net.asked[-1][2]["label"] == -1, dropped)
        # Neither the times nor the noise of a sample tell whether it is dropped.
        x, t, _ = net.asked[0]
        for value in (t, x[:, 0]):
            gap = value[dropped].mean() - value[~dropped].mean()
            spread = value.std() * math.sqrt(1 / int(dropped.sum()) + 1 / int((~dropped).sum()))
            assert abs(float(gap)) < 4.5 * float(spread)


def test_without_a_condition_nothing_is_dropped():
    net = Affine()
    model = pf.Model(net, pf.CondOT(), nulls={"label": -1})
    FlowMatching(model, condition_dropout=1.0)(randn(4, 2), pf.Noise.batch(4))
    assert net.asked[0][2] == {}


def reverse(x0, x1, noise, cond=None):
    n = len(x1)
    return torch.arange(n), torch.arange(n).flip(0)


def twist(x0, x1, noise, cond=None):
    n = len(x1)
    return (torch.arange(n) + 1) % n, torch.arange(n).flip(0)


@pytest.mark.parametrize("coupling", [reverse, twist])
def test_labels_and_all_else_follow_their_points_through_a_coupling(coupling):
    path, net = pf.CondOT(gaussian_source=False), Affine()
    objective = FlowMatching(pf.Model(net, path), coupling=coupling, times=MIDDLE)
    x1, label = randn(5, 2, seed=1), torch.arange(5)
    noise = pf.Noise.batch(5, seed=2)
    loss = objective(pf.Batch(x1, {"label": label, "text": x1 * 2}), noise)["loss"]
    x, t, cond = net.asked[0]
    i, j = coupling(None, x1, None)
    x0 = noise.normal((2,), SOURCE, torch.float64)[i]
    assert torch.equal(cond["label"], label[j])
    assert torch.equal(cond["text"], 2 * x1[j])
    assert torch.allclose(x, t[:, None] * x1[j] + (1 - t)[:, None] * x0)
    truth = ((net(x, t) - (x1[j] - x0)) ** 2).mean(1)
    assert torch.allclose(loss, truth, rtol=1e-10)


def test_source_samples_that_come_with_the_batch_are_used():
    path, net = pf.CondOT(gaussian_source=False), Affine()
    x0, x1 = randn(5, 2, seed=1), randn(5, 2, seed=2)
    loss = FlowMatching(pf.Model(net, path), times=MIDDLE)(pf.Batch(x1, x0=x0), pf.Noise.batch(5))[
        "loss"
    ]
    x, t, _ = net.asked[0]
    assert torch.allclose(x, t[:, None] * x1 + (1 - t)[:, None] * x0)
    assert torch.allclose(loss, ((net(x, t) - (x1 - x0)) ** 2).mean(1))


@pytest.mark.parametrize(("coupling", "independent"), COUPLINGS)
def test_a_coupling_returns_index_pairs_and_is_a_function_of_its_noise(coupling, independent):
    x0, x1, noise = randn(9, 2, seed=1), randn(9, 2, seed=2), pf.Noise.batch(9, seed=3)
    i, j = coupling(x0, x1, noise)
    assert i.shape == j.shape == (9,)
    assert i.dtype == j.dtype == torch.int64
    for index in (i, j):
        assert ((index >= 0) & (index < 9)).all()
    again = coupling(x0, x1, noise)
    assert torch.equal(again[0], i)
    assert torch.equal(again[1], j)
    if independent:
        assert torch.equal(i, torch.arange(9))
        assert torch.equal(j, torch.arange(9))


def test_what_contradicts_a_gaussian_source_is_an_error():
    model = pf.Model(Affine(), pf.CondOT())
    with pytest.raises(pf.InputError, match="gaussian_source=False"):
        FlowMatching(model, coupling=reverse)
    with pytest.raises(pf.InputError, match="gaussian_source=False"):
        FlowMatching(model)(pf.Batch(randn(4, 2), x0=randn(4, 2)), pf.Noise.batch(4))
    free = pf.Model(Affine(), pf.CondOT(gaussian_source=False))
    for kind in (DenoisingScoreMatching, NoisePrediction):
        with pytest.raises(pf.UndefinedError, match="Gaussian"):
            kind(free)


def test_arguments_that_do_not_fit_are_errors():
    model = pf.Model(Affine(), pf.CondOT(), nulls={"label": -1})
    for drop in (-0.1, 1.1):
        with pytest.raises(pf.InputError, match="probability"):
            FlowMatching(model, condition_dropout=drop)
    with pytest.raises(pf.InputError, match="3 noise ids for a batch of 4"):
        FlowMatching(model)(randn(4, 2), pf.Noise.batch(3))
    with pytest.raises(pf.InputError, match="no prediction"):
        Matching(model, loss_in="flow")
    FlowMatching(model, condition_dropout=0.0)
    FlowMatching(model, condition_dropout=1.0)
