"""Score matching: every loss has the known score as its minimiser, and they differ by known constants."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import pushforward as pf
from contracts.members import Lookup, has_share, mixture, randn
from pushforward.core.times import Constant, Uniform
from pushforward.likelihood import divergence
from pushforward.nets import MLP, UNet
from pushforward.objectives import (
    ControlledDenoising,
    DenoisingScoreMatching,
    ExplicitScoreMatching,
    ImplicitScoreMatching,
    NoisePrediction,
    SlicedScoreMatching,
    weights,
)

MEAN = torch.tensor([0.8, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.9, 0.4], [0.4, 0.5]], dtype=torch.float64)
GAUSS = pf.GaussianMixture(MEAN[None], COVARIANCE[None])


def explicit(model, law=GAUSS, **options):
    return ExplicitScoreMatching(model, law.field(model.path), **options)


def plain(model, **options):
    return SlicedScoreMatching(model, variance_reduced=False, **options)


def min_snr(model, **options):
    return NoisePrediction(model, weight=weights.MinSNR(model.path, "noise"), **options)


def likelihood(model, **options):
    return NoisePrediction(model, weight=weights.Likelihood(model.path, "noise"), **options)


ALL = {
    "explicit": explicit,
    "implicit": ImplicitScoreMatching,
    "sliced": SlicedScoreMatching,
    "sliced-plain": plain,
    "denoising": DenoisingScoreMatching,
    "controlled": ControlledDenoising,
    "noise": NoisePrediction,
    "min-snr": min_snr,
    "likelihood": likelihood,
}
WITHOUT_NOISE = ("explicit", "implicit", "sliced", "sliced-plain")


class Linear(nn.Module):
    """A x + b, flattened: the six numbers of all linear scores in the plane."""

    def __init__(self, theta):
        super().__init__()
        self.theta = nn.Parameter(theta)

    def forward(self, x, t, **cond):
        return x @ self.theta[:4].reshape(2, 2).T + self.theta[4:]


def minimiser(make, path, t, n, seed):
    """The minimum of a loss that is quadratic in theta, from its gradients at 0 and at the unit vectors."""
    noise = pf.Noise.batch(n, seed=seed)
    x1 = GAUSS.draw(noise)

    def gradient(theta):
        net = Linear(theta)
        loss = make(pf.Model(net, path, "score"), times=Constant(t))(x1, noise)["loss"].mean()
        return torch.autograd.grad(loss, net.theta)[0]

    zero = torch.zeros(6, dtype=torch.float64)
    start = gradient(zero)
    hessian = torch.stack([gradient(unit) - start for unit in torch.eye(6).double()])
    return torch.linalg.solve(hessian, -start)


@pytest.mark.parametrize(
    ("name", "path", "t"),
    [(name, path, t) for path, t in ((pf.CondOT(), 0.6), (pf.VP(), 0.75)) for name in ALL]
    # At sigma = 0 there is no noise to predict.
    + [(name, pf.CondOT(), 1.0) for name in WITHOUT_NOISE],
    ids=str,
)
def test_among_linear_scores_the_minimiser_is_the_score_of_the_gaussian(name, path, t):
    one = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = path.alpha(one), path.sigma(one)
    precision = torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * torch.eye(2).double())
    truth = torch.cat((-precision.flatten(), precision @ (alpha * MEAN)))
    found = torch.stack([minimiser(ALL[name], path, t, 3000, seed) for seed in range(16)])
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - truth).abs() < 4.5 * error + 1e-9).all(), (found.mean(0), truth, error)
    assert float(error.max()) < 0.03 * float(truth.abs().max())


class Wrong(nn.Module):
    """A smooth function that is no score, with a full Jacobian."""

    def forward(self, x, t, **cond):
        flat = x.flatten(1)
        mixed = flat.roll(1, 1) * 0.7 + 0.4
        return (mixed.sin() - t[:, None] * flat + 0.3 * flat.cos()).reshape(x.shape)


def fisher(path, law, t):
    """E |grad ln p_t|^2/D of the Gaussian: the mean of the inverse variances."""
    values = torch.linalg.eigvalsh(COVARIANCE) if law is GAUSS else torch.full((6,), 0.3).double()
    one = torch.tensor(t, dtype=torch.float64)
    return float((1 / (path.alpha(one) ** 2 * values + path.sigma(one) ** 2)).mean())


ARRAYS = pf.GaussianMixture(randn(1, 2, 3, seed=5), 0.3)


@pytest.mark.parametrize("law", [GAUSS, ARRAYS], ids=["vectors", "arrays"])
@pytest.mark.parametrize(("path", "t"), [(pf.CondOT(), 0.5), (pf.VP(), 0.8), (pf.EDM(), 0.7)])
def test_the_losses_differ_by_the_fisher_information(law, path, t):
    n, times = 20000, Constant(t)
    noise = pf.Noise.batch(n, seed=3)
    x1, model = law.draw(noise), pf.Model(Wrong(), path, "score")
    base = explicit(model, law, times=times)(x1, noise)["loss"]
    assert float(base.mean()) > 0.05
    information = fisher(path, law, t)
    sigma = float(path.sigma(torch.tensor(t, dtype=torch.float64)))
    constants = {
        ImplicitScoreMatching: -information,
        SlicedScoreMatching: -information,
        plain: -information,
        DenoisingScoreMatching: 1 / sigma**2 - information,
        ControlledDenoising: 1 / sigma**2 - information,
    }
    for make, constant in constants.items():
        difference = make(model, times=times)(x1, noise)["loss"] - base
        error = float(difference.std()) / math.sqrt(n)
        assert abs(float(difference.mean()) - constant) < 4.5 * error, make
        assert error < 0.05 * max(1, abs(constant))


def test_a_projection_of_signs_sees_the_whole_trace_of_a_diagonal_jacobian_and_many_see_any():
    noise, x1 = pf.Noise.batch(50, seed=1), ARRAYS.sample(50)
    times = Constant(0.5)

    class Diagonal(nn.Module):
        def forward(self, x, t):
            return (2 * x).sin() - x**3

    model = pf.Model(Diagonal(), pf.CondOT(), "score")
    exact = ImplicitScoreMatching(model, times=times)(x1, noise)["loss"]
    assert torch.allclose(SlicedScoreMatching(model, times=times)(x1, noise)["loss"], exact)
    model = pf.Model(Wrong(), pf.CondOT(), "score")
    exact = ImplicitScoreMatching(model, times=times)(x1, noise)["loss"]
    for make in (SlicedScoreMatching, plain):
        one, many = (make(model, times=times, projections=k)(x1, noise)["loss"] for k in (1, 400))
        assert float((many - exact).std()) < 0.1 * float((one - exact).std())
    assert not torch.allclose(make(model, times=times)(x1, noise.at(1))["loss"], one)


def test_the_implicit_loss_is_the_square_and_the_divergence_of_the_score():
    path, t = pf.VP(), 0.6
    noise, x1 = pf.Noise.batch(7, seed=1), ARRAYS.sample(7)
    for prediction in ("noise", "velocity"):
        model = pf.Model(Wrong(), path, prediction)
        got = ImplicitScoreMatching(model, times=Constant(t))(x1, noise)["loss"]
        x_t = path.sample(noise.normal((2, 3), 0, torch.float64), x1, t)
        score, trace = divergence(lambda x, t, m=model: m(x, t, "score"), x_t, t)
        assert torch.allclose(got, ((score**2).flatten(1).sum(1) + 2 * trace) / 6)


def test_the_two_sliced_forms_differ_by_the_square_along_the_projection():
    class Same(nn.Module):
        def forward(self, x, t):
            return torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64).expand(len(x), 3)

    model = pf.Model(Same(), pf.CondOT(), "score")
    x1, noise = randn(64, 3, seed=1), pf.Noise.batch(64)
    assert torch.allclose(
        SlicedScoreMatching(model)(x1, noise)["loss"], torch.full((64,), 10.25 / 3).double()
    )
    # (v . s)^2 is one of four squares, over all signs.
    got = (plain(model)(x1, noise)["loss"] * 3).round(decimals=6)
    squares = torch.tensor([4.5, 2.5, 3.5, 1.5]).double() ** 2
    assert set(got.tolist()) == set(squares.tolist())


# The instability of denoising score matching at low noise, and what becomes of it.


class Slope(nn.Module):
    """-a x with one number a for each sample, so that one backward pass gives the gradient of each."""

    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(a)

    def forward(self, x, t):
        return -self.a * x


def gradient_and_loss(make, sigma, n=40000):
    """d loss / da for each sample, and the losses, at the exact score of x_t ~ N(0, 1 + sigma^2) with alpha = 1."""
    path = pf.VE(sigma_min=1e-6, sigma_max=1.0)
    t = float(path.time_of_edm_sigma(torch.tensor(sigma, dtype=torch.float64)))
    net = Slope(torch.full((n, 1), 1 / (1 + sigma**2), dtype=torch.float64))
    noise = pf.Noise.batch(n, seed=2)
    loss = make(pf.Model(net, path, "score"), times=Constant(t))(randn(n, 1, seed=3), noise)["loss"]
    (gradient,) = torch.autograd.grad(loss.sum(), net.a)
    return gradient[:, 0], loss.detach()


@pytest.mark.parametrize("sigma", [1.0, 0.1, 0.01, 0.001])
def test_the_variance_of_denoising_grows_as_its_closed_form_and_with_the_control_it_does_not(sigma):
    # The residual s + x0/sigma ~ N(0, V), V = 1/(sigma^2 (1 + sigma^2)), is independent of x_t ~ N(0, 1 + sigma^2).
    v = 1 / (sigma**2 * (1 + sigma**2))
    gradient, loss = gradient_and_loss(DenoisingScoreMatching, sigma)
    assert float(gradient.var()) == pytest.approx(4 * v * (1 + sigma**2), rel=0.1)
    assert float(loss.var()) == pytest.approx(2 * v**2, rel=0.1)
    # With the control: |s|^2 - 2 a x0^2 + 1/sigma^2 with s = -a x_t, x_t and x0 being correlated by sigma.
    a, root = 1 / (1 + sigma**2), 1 + sigma**2
    calm, loss_calm = gradient_and_loss(ControlledDenoising, sigma)
    covariance = 2 * sigma**2  # of x_t^2 and x0^2
    variance = a**4 * 2 * root**2 + 8 * a**2 - 4 * a**3 * covariance
    assert float(loss_calm.var()) == pytest.approx(variance, rel=0.1)
    assert float(calm.var()) == pytest.approx(8 * a**2 * root**2 + 8 - 8 * a * covariance, rel=0.1)
    # The expectations are the same: 0 for the gradient at the minimum, V for the loss.
    n = len(loss)
    for value, truth in ((gradient, 0.0), (calm, 0.0), (loss, v), (loss_calm, v)):
        assert abs(float(value.mean()) - truth) < 4.5 * float(value.std()) / math.sqrt(n)
    # Errors measured in the noise: the residual is multiplied by sigma, and the gradient by sigma^2.
    gradient, loss = gradient_and_loss(NoisePrediction, sigma)
    assert float(loss.var()) == pytest.approx(2 / root**2, rel=0.1)
    assert float(gradient.var()) == pytest.approx(4 * sigma**2, rel=0.1)


def test_at_vanishing_noise_the_controlled_loss_is_sliced_score_matching_of_the_noise():
    path, sigma = pf.VE(sigma_min=1e-5), 1e-5
    noise, x1 = pf.Noise.batch(20, seed=1), GAUSS.sample(20)
    model = pf.Model(Wrong(), path, "score")
    got = ControlledDenoising(model, times=Constant(1.0))(x1, noise)["loss"] - 1 / sigma**2
    v = noise.normal((2,), 0, torch.float64)
    one = torch.ones(20, dtype=torch.float64)
    score, along = torch.func.jvp(lambda x: model(x, one, "score"), (x1,), (v,))
    assert torch.allclose(got, ((score**2).sum(1) + 2 * (v * along).sum(1)) / 2, atol=1e-4)


# By training, on a law with several modes.

LAW = mixture(2, 3, "isotropic", seed=4)
SLOW = ("sliced-plain", "controlled", "likelihood", "explicit", "noise", "min-snr")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in ALL]
)
def test_a_network_trained_by_any_of_them_has_the_score_of_the_mixture(name):
    torch.manual_seed(0)
    path, steps, size = pf.CondOT(), 300, 256
    model = pf.Model(MLP(2, 48, 2), path, "noise")
    times = Uniform(0.2, 0.8, low_discrepancy=True)
    if name == "explicit":
        loss_of = explicit(model, LAW, times=times)
    elif name in (*WITHOUT_NOISE, "controlled", "denoising"):
        # sigma^2, so that all levels of noise count.
        loss_of = ALL[name](model, times=times, weight=weights.Unweighted(path, "score", "noise"))
    else:
        loss_of = ALL[name](model, times=times)
    data = LAW.sample(20000, seed=1).float()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps)
    for k in range(steps):
        noise = pf.Noise.batch(size, seed=2, step=k)
        loss = loss_of(data[noise.uniform().mul(len(data)).long()], noise)["loss"].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    t = torch.linspace(0.2, 0.8, 4000, dtype=torch.float64)
    noise = pf.Noise.batch(4000, seed=3)
    x = path.sample(noise.normal((2,), 0, torch.float64), LAW.draw(noise), t).float()
    with torch.no_grad():
        error = (model(x, t, "score") - LAW.field(path)(x, t, "score")) ** 2
    assert float(error.mean() / (LAW.field(path)(x, t, "score") ** 2).mean()) < 0.1


# What they share with all objectives.


@pytest.mark.parametrize("make", [ImplicitScoreMatching, SlicedScoreMatching, ControlledDenoising])
def test_images_and_attention_can_be_differentiated_twice(make):
    torch.manual_seed(0)
    net = UNet(2, 8, (1,), 1, (0,))
    assert any("attention" in type(m).__name__.lower() for m in net.modules())
    for p in net.parameters():
        p.data.normal_(0, 0.1)
    net = net.double()
    loss_of = make(pf.Model(net, pf.CondOT(), "score"), times=Constant(0.5))
    x1, noise = randn(2, 2, 4, 4, seed=1), pf.Noise.batch(2)
    parameter = net.get_parameter(next(n for n, _ in net.named_parameters() if "qkv" in n))
    (gradient,) = torch.autograd.grad(loss_of(x1, noise)["loss"].sum(), parameter)
    at = gradient.abs().flatten().argmax()
    values = []
    for h in (1e-5, -2e-5):
        parameter.data.view(-1)[at] += h
        values.append(float(loss_of(x1, noise)["loss"].sum()))
    slope = (values[0] - values[1]) / 2e-5
    assert slope == pytest.approx(float(gradient.flatten()[at]), rel=1e-4)
    assert abs(slope) > 1e-4


@pytest.mark.parametrize(
    "make", [explicit, *(ALL[n] for n in ("implicit", "sliced", "controlled"))]
)
def test_conditions_are_passed_on_and_dropped(make):
    told = []

    class Net(nn.Module):
        def forward(self, x, t, label):
            told.append(label)
            return -x * (1 + label[:, None])

    law = pf.GaussianMixture(randn(3, 2, seed=1), 0.3, labels=[0, 1, 2])
    model = pf.Model(Net(), pf.CondOT(), "score", nulls={"label": -1})
    if make is explicit:
        objective = explicit(model, law, times=Constant(0.5), condition_dropout=0.5)
    else:
        objective = make(model, times=Constant(0.5), condition_dropout=0.5)
    label, noise = torch.arange(300) % 3, pf.Noise.batch(300)
    x1 = law.draw(noise, label)
    loss = objective(pf.Batch(x1, {"label": label}), noise)["loss"]
    dropped = told[0] == -1
    assert has_share(dropped, 0.5)
    assert torch.equal(told[0][~dropped], label[~dropped])
    if make is explicit:
        x_t = 0.5 * (x1 + noise.normal((2,), 0, torch.float64))
        truth = law.field(model.path)(x_t, 0.5, "score", label=told[0])
        assert torch.allclose(
            loss, ((model(x_t, 0.5, "score", label=told[0]) - truth) ** 2).mean(1)
        )


def test_a_law_of_another_path_and_times_without_a_score_are_errors():
    model = pf.Model(Wrong(), pf.CondOT(), "velocity")
    with pytest.raises(pf.InputError, match="the model's path"):
        ExplicitScoreMatching(model, GAUSS.field(pf.VP()))
    with pytest.raises(pf.UndefinedError, match="let it predict the score"):
        SlicedScoreMatching(model, times=Constant(1.0))
    with pytest.raises(pf.InputError, match="at least 1"):
        SlicedScoreMatching(model, projections=0)
    with pytest.raises(pf.InputError, match="probability"):
        ImplicitScoreMatching(model, condition_dropout=2.0)
    with pytest.raises(pf.UndefinedError, match="Gaussian"):
        ImplicitScoreMatching(pf.Model(Wrong(), pf.CondOT(gaussian_source=False)))
    with pytest.raises(pf.InputError, match=r"pass MinSNR\(model.path, 'score'\)"):
        ImplicitScoreMatching(model, weight=weights.MinSNR(model.path, "noise"))
    with pytest.raises(pf.InputError, match=r"time is 1\.5"):
        Constant(1.5)


def test_an_exact_score_of_the_data_themselves_has_minus_their_fisher_information():
    model = pf.Model(Lookup(GAUSS.field(pf.CondOT()), "score"), pf.CondOT(), "score")
    noise = pf.Noise.batch(4000, seed=5)
    loss = ImplicitScoreMatching(model, times=Constant(1.0))(GAUSS.draw(noise), noise)["loss"]
    information = float((1 / torch.linalg.eigvalsh(COVARIANCE)).mean())
    # The model is asked at 1 - margin: its score is that of a law slightly blurred.
    assert float(loss.mean()) == pytest.approx(-information, rel=0.06)
