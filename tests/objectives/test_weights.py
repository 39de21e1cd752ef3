"""Published weights: one loss, in whatever prediction errors are measured."""

from __future__ import annotations

import math

import pytest
import torch

import pushforward as pf
from contracts.members import PATHS, Lookup, mixture
from pushforward.core.noise import SOURCE
from pushforward.core.times import Constant, Uniform
from pushforward.models.preconditioning import EDMPreconditioning
from pushforward.objectives import (
    ExplicitScoreMatching,
    FlowMatching,
    ImplicitScoreMatching,
    Matching,
    NoisePrediction,
)
from pushforward.objectives.weights import (
    P2,
    ClampedVelocity,
    EDMWeight,
    Importance,
    Likelihood,
    MinSNR,
    Sigmoid,
    SNRPlusOne,
    TruncatedSNR,
    Unweighted,
)

WEIGHTS = (
    Likelihood, MinSNR, TruncatedSNR, SNRPlusOne, P2, EDMWeight, Sigmoid, Unweighted, ClampedVelocity,
)  # fmt: skip
THREE = [pf.CondOT(), pf.VP(), pf.EDM()]
LAW = mixture(2, 3)


class Wrong(torch.nn.Module):
    def forward(self, x, t):
        return (2 * x).sin() + t[:, None]


def losses(path, measure, weight):
    noise = pf.Noise.batch(30, seed=1)
    model = pf.Model(Wrong(), path, "v")
    return Matching(model, measure, Uniform(0.1, 0.9), weight)(LAW.draw(noise), noise)["loss"]


@pytest.mark.parametrize("path", THREE, ids=repr)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_the_weighted_loss_is_the_same_in_all_five_measures(kind, path):
    if kind is Unweighted:
        truth = FlowMatching(pf.Model(Wrong(), path, "v"), times=Uniform(0.1, 0.9))
        noise = pf.Noise.batch(30, seed=1)
        truth = truth(LAW.draw(noise), noise)["loss"]
    else:
        truth = losses(path, "data", kind(path, "data"))
    assert float(truth.min()) > 0
    for measure in pf.PREDICTIONS:
        got = losses(path, measure, kind(path, measure))
        assert torch.allclose(got, truth, rtol=1e-8), measure


def derivative(f, t):
    return torch.func.jvp(f, (t,), (torch.ones_like(t),))[1]


@pytest.mark.parametrize("path", [*THREE, pf.DDPMPath.cosine(50)], ids=repr)
def test_each_weight_has_its_published_forms(path):
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    snr = torch.exp(path.log_snr(t))
    rate, snr_rate = derivative(path.log_snr, t), derivative(lambda t: path.log_snr(t).exp(), t)
    sigmoid = 1 / (1 + snr * math.exp(-3))
    forms = [
        (MinSNR(path, "data"), torch.minimum(snr, torch.tensor(5.0))),
        (MinSNR(path, "noise", gamma=2), torch.minimum(snr, torch.tensor(2.0)) / snr),
        (TruncatedSNR(path, "data"), torch.maximum(snr, torch.tensor(1.0))),
        (TruncatedSNR(path, "noise"), torch.maximum(1 / snr, torch.tensor(1.0))),
        (SNRPlusOne(path, "data"), 1 + snr),
        (P2(path, "noise"), 1 / (1 + snr)),
        (P2(path, "noise", gamma=0.5, k=2.0), 1 / (2 + snr).sqrt()),
        (Likelihood(path, "noise"), rate / 2),
        (Likelihood(path, "data"), snr_rate / 2),
        (Likelihood(path, "score"), path.reverse_noise_level(t) ** 2 / 2),
        (Sigmoid(path, "noise", bias=3.0), rate / 2 * sigmoid),
        # SiD2 writes it for the data: e^b sigmoid(ln SNR - b).
        (Sigmoid(path, "data", bias=3.0), rate / 2 * math.exp(3) * (1 - sigmoid)),
        (Unweighted(path, "score", "noise"), path.sigma(t) ** 2),
    ]
    for weight, truth in forms:
        assert torch.allclose(weight(t), truth, rtol=1e-8), weight
    if isinstance(path, pf.EDM):
        # The error of the network inside the preconditioning is that of the data over c_out.
        out = EDMPreconditioning(0.7)(path, t).out
        assert torch.allclose(EDMWeight(path, "data", 0.7)(t), out**-2)
    else:
        for weight, truth in (
            (MinSNR(path, "v"), torch.minimum(snr, torch.tensor(5.0)) / (snr + 1)),
            (SNRPlusOne(path, "v"), torch.ones_like(t)),
        ):
            if not isinstance(path, pf.CondOT):  # alpha^2 + sigma^2 = 1
                assert torch.allclose(weight(t), truth)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_no_weight_is_undefined_at_an_end_of_time(kind, path):
    t = torch.tensor([0.0, 1.0], dtype=torch.float32)
    for measure in pf.PREDICTIONS:
        weight = kind(path, measure)(t)
        assert weight.isfinite().all()
        assert (weight >= 0).all()


def test_limits_at_the_ends_are_taken_where_factors_are_infinite():
    path, ends = pf.CondOT(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    truth = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert torch.allclose(MinSNR(path, "noise")(ends), truth, atol=1e-8)
    assert torch.allclose(Unweighted(path, "noise")(ends)[1:], 1 - truth[1:], atol=1e-8)


class Guess(torch.nn.Module):
    """Some picture, whatever is asked."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.7))

    def forward(self, x, t):
        return self.scale * x.cos() + t[:, None]


def jit_loss(net, x, noise, t, eps=0.05):
    """As in the code of Li & He 2025: z_t = t x + (1 - t) e, both velocities over max(1 - t, eps)."""
    s = t[:, None]
    z = s * x + (1 - s) * noise
    below = (1 - s).clamp_min(eps)
    return (((net(z, t) - z) / below - (x - z) / below) ** 2).mean(1)


@pytest.mark.parametrize("time", [0.0, 0.3, 0.94, 0.951, 0.99, 1 - 1e-6])
@pytest.mark.parametrize("loss_in", ["velocity", "data"])
def test_the_loss_of_jit_is_that_of_its_code_up_to_the_data(loss_in, time):
    ids, net, path = pf.Noise.batch(6, seed=2), Guess().double(), pf.CondOT()
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = ClampedVelocity(path, loss_in)
    model = pf.Model(net, path, "data")
    got = Matching(model, loss_in, Constant(time), weight)(x, ids)["loss"]
    e = ids.normal((3,), SOURCE, torch.float64)
    truth = jit_loss(net, x, e, torch.full((6,), time, dtype=torch.float64))
    assert torch.allclose(got, truth, rtol=1e-7)
    assert torch.allclose(
        *(torch.autograd.grad(v.sum(), net.scale)[0] for v in (got, truth)), rtol=1e-7
    )


@pytest.mark.parametrize("loss_in", ["velocity", "data"])
def test_the_loss_of_jit_is_bounded_at_the_data_in_single_precision(loss_in):
    ids, net, path = pf.Noise.batch(64, seed=3), Guess(), pf.CondOT()
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    error = (net(x, torch.ones(64)) - x).square().mean(1).detach()
    for time in (1 - 1e-4, 1 - 1e-7, 1.0):
        model = pf.Model(net, path, "data")
        loss = Matching(model, loss_in, Constant(time), ClampedVelocity(path, loss_in))(x, ids)
        # The plain loss of velocities is error/(1 - t)^2 there, 10^8 times as large and more.
        assert float(loss["loss"].detach().max()) < 1.01 * float(error.max()) / 0.05**2
        loss["loss"].sum().backward()
    assert net.scale.grad.isfinite()


def test_the_clamp_is_one_over_the_larger_of_sigma_and_the_least():
    t = torch.tensor([0.2, 0.9, 0.99], dtype=torch.float64)
    got = ClampedVelocity(pf.CondOT(), "data", least=0.1)(t)
    assert torch.allclose(got, torch.tensor([1 / 0.64, 100, 100], dtype=torch.float64))
    # Where nothing is clamped it is the loss of velocities on any path.
    for path in (pf.VP(), pf.EDM()):
        got = ClampedVelocity(path, "velocity", least=1e-9)(t)
        assert torch.allclose(got, torch.ones_like(t)), path
    with pytest.raises(pf.InputError, match="must be positive"):
        ClampedVelocity(pf.CondOT(), "data", least=0.0)


def gaussian_kl(m, a, n, b):
    """KL(N(m, a) || N(n, b)), summed over dimensions."""
    return float((torch.log(b / a) + (a + (m - n) ** 2) / b - 1).sum() / 2)


@pytest.mark.parametrize("path", [pf.CondOT(), pf.VP(), pf.VE()], ids=repr)
def test_the_likelihood_weighted_error_of_a_score_is_the_loss_of_likelihood(path):
    # If the score is that of the diffusion of another law, KL falls from p_t to p_s by int g^2/2 E|s - s'|^2.
    m, a = torch.tensor([0.3, -0.8, 0.5]).double(), torch.tensor([0.4, 0.9, 0.2]).double()
    n, b = torch.tensor([0.0, 0.1, 0.9]).double(), torch.tensor([0.7, 0.5, 0.5]).double()
    law, other = pf.GaussianMixture(m[None], a[None]), pf.GaussianMixture(n[None], b[None])
    start, end, size = 0.1, 0.9, 20000
    model = pf.Model(Lookup(other.field(path), "score"), path, "score")
    loss_of = ExplicitScoreMatching(
        model,
        law.field(path),
        times=Uniform(start, end, low_discrepancy=True),
        weight=Likelihood(path, "score"),
    )
    noise = pf.Noise.batch(size, seed=1)
    loss = loss_of(law.draw(noise), noise)["loss"]
    kls = []
    for t in (start, end):
        alpha, sigma = (f(torch.tensor(t).double()) for f in (path.alpha, path.sigma))
        kls.append(
            gaussian_kl(alpha * m, alpha**2 * a + sigma**2, alpha * n, alpha**2 * b + sigma**2)
        )
    found = 3 * (end - start) * float(loss.mean())
    error = 3 * (end - start) * float(loss.std()) / math.sqrt(size)
    assert abs(found - (kls[1] - kls[0])) < 4.5 * error
    assert error < 0.05 * found


# Importance.


@pytest.mark.parametrize("cells", [7, 4096])
def test_times_drawn_by_importance_estimate_the_same_with_their_weights(cells):
    weight = lambda t: 0.2 + t**3  # noqa: E731
    times = Importance(weight, 0.2, 0.9, cells)
    u = (torch.arange(100000, dtype=torch.float64) + 0.5) / 100000
    t = times.quantile(u)
    assert ((t >= 0.2) & (t <= 0.9)).all()
    assert (t.diff() > 0).all()

    def integral(k):  # of (0.2 + t^3) t^k from 0.2 to 0.9
        return sum(
            c * (0.9 ** (k + p + 1) - 0.2 ** (k + p + 1)) / (k + p + 1)
            for c, p in ((0.2, 0), (1, 3))
        )

    for k in (0, 1, 4):
        got = float((times.weight(t) * t**k).mean())
        assert got == pytest.approx(integral(k) / 0.7, rel=1e-4)
    if cells == 4096:
        # The density follows the weight, and what is left of the weight does not vary.
        for quantile in (0.1, 0.5, 0.8):
            at = float(times.quantile(torch.tensor([quantile]).double()))
            mass = (0.2 * (at - 0.2) + (at**4 - 0.2**4) / 4) / integral(0)
            assert mass == pytest.approx(quantile, abs=1e-3)
        assert float(times.weight(t).std() / times.weight(t).mean()) < 1e-2


def test_the_likelihood_by_importance_is_the_same_with_less_variance():
    path = pf.CondOT()
    likelihood = Likelihood(path, "noise")
    model = pf.Model(Lookup(LAW.field(path), "noise"), path, "noise")
    noise = pf.Noise.batch(20000, seed=1)
    x1 = LAW.draw(noise)
    plain = NoisePrediction(model, times=Uniform(0.01, 0.99), weight=likelihood)(x1, noise)["loss"]
    times = Importance(likelihood, 0.01, 0.99)
    better = NoisePrediction(model, times=times, weight=times.weight)(x1, noise)["loss"]
    error = math.hypot(float(plain.std()), float(better.std())) / math.sqrt(len(plain))
    assert abs(float(plain.mean() - better.mean())) < 4.5 * error
    assert float(better.var()) < 0.8 * float(plain.var())


def test_weights_that_do_not_fit_are_errors():
    model = pf.Model(Wrong(), pf.VP(), "noise")
    with pytest.raises(pf.InputError, match=r"pass MinSNR\(model.path, 'noise'\)"):
        Matching(model, weight=MinSNR(model.path, "data"))
    with pytest.raises(pf.InputError, match="MinSNR was made"):
        FlowMatching(model, weight=MinSNR(pf.CondOT(), "velocity"))
    with pytest.raises(pf.UndefinedError, match="Gaussian"):
        Likelihood(pf.CondOT(gaussian_source=False), "velocity")
    Matching(model, weight=MinSNR(model.path, "noise"))
    ImplicitScoreMatching(model, weight=Likelihood(model.path, "score"), times=Constant(0.5))
    for options in ({"start": 0.5, "end": 0.5}, {"cells": 0}):
        with pytest.raises(pf.InputError, match="need 0 <= start"):
            Importance(torch.ones_like, **options)
    with pytest.raises(pf.InputError, match="positive and finite"):
        Importance(lambda t: t - 0.5)
