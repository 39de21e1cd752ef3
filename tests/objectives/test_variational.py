"""The variational bound as a loss: unbiased, exact where all is known, and better with a learned variance."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

import pushforward as pf
from contracts.members import Lookup, has_share, mixture, randn
from pushforward.core.chain import Steps, bin_log_prob
from pushforward.core.noise import SOURCE
from pushforward.likelihood import variational_bound
from pushforward.nets import MLP, UNet
from pushforward.objectives import Hybrid, NoisePrediction, VariationalBound, important_steps

MEAN, C = torch.tensor([0.4, -0.7], dtype=torch.float64), 0.3
GAUSS = pf.GaussianMixture(MEAN[None], C)
DDPM = pf.DDPMPath.linear(12, 0.01, 0.5)
DENSITY = {"bin_width": None}
TWO = ("prediction", "variance")


def close(got, truth, sigmas=4.5):
    """Draws (n,) whose mean is `truth` within their own error."""
    error = float(got.std()) / math.sqrt(len(got))
    assert abs(float(got.mean()) - truth) < sigmas * error, (float(got.mean()), truth, error)


def exact(law, path, share=None):
    """A Model that answers with the exact data, and, given a share, a variance b^share b~^(1 - share)."""
    if share is None:
        return pf.Model(Lookup(law.field(path), "data"), path, "data")
    return pf.Model(Both(law, path, share), path, "data", outputs=TWO)


class Both(nn.Module):
    def __init__(self, law, path, share):
        super().__init__()
        self.field, self.share = law.field(path), share

    def forward(self, x, t):
        return torch.cat((self.field(x, t, "data"), torch.full_like(x, self.share)), 1)


def reference(path, times, share):
    """(L_T, L_k, L_0) in nats for each dimension, expected over GAUSS, and what they are made of; in plain floats.

    Given x_t the data are normal with variance tau = C sigma^2/(alpha^2 C + sigma^2), which is E |x - E[x | x_t]|^2.
    The two means differ by what x1 counts in that of q times the error of the predicted data.
    """
    a = [float(path.alpha(t)) for t in times]
    s = [float(path.sigma(t)) for t in times]
    tau = [C * q**2 / (p**2 * C + q**2) for p, q in zip(a, s, strict=True)]
    terms, parts = [], []
    for k in range(len(times) - 1):
        b = s[k] ** 2 - (a[k] / a[k + 1]) ** 2 * s[k + 1] ** 2
        # q(x_s | x_t, x1) ~ N(x_s; alpha_s x1, sigma_s^2) N(x_t; alpha_t/alpha_s x_s, b): precisions add up.
        tilde = 1 / (1 / s[k + 1] ** 2 + (a[k] / a[k + 1]) ** 2 / b)
        pull = tilde * a[k + 1] / s[k + 1] ** 2
        v = b**share * tilde ** (1 - share)
        terms.append((math.log(v / tilde) + tilde / v - 1 + pull**2 * tau[k] / v) / 2)
        parts.append((b, tilde, pull**2 * tau[k]))
    v = s[-1] ** (2 * share) * parts[-1][1] ** (1 - share)
    decoder = (math.log(2 * math.pi * v) + tau[-1] / v) / 2
    prior = a[0] ** 2 * (C + float((MEAN**2).mean())) / (2 * s[0] ** 2)
    return prior, terms, decoder, parts


CHAINS = [
    pytest.param(DDPM, None, id="DDPM"),
    pytest.param(pf.CondOT(), pf.times.uniform(6), id="CondOT"),
    pytest.param(pf.VE(0.1, 5.0), pf.times.uniform(5), id="VE"),
]


@pytest.mark.parametrize(
    ("variance", "share"), [("beta", 1.0), ("beta-tilde", 0.0), ("learned", 0.3)]
)
@pytest.mark.parametrize(("path", "grid"), CHAINS)
def test_for_gaussian_data_the_loss_is_the_closed_form_in_bits_per_dimension(
    path, grid, variance, share
):
    n = 40000
    steps = Steps(path, grid, low_discrepancy=True)
    model = exact(GAUSS, path, share if variance == "learned" else None)
    noise = pf.Noise.batch(n, seed=1)
    loss = VariationalBound(model, variance, steps=steps, **DENSITY)(GAUSS.draw(noise), noise)[
        "loss"
    ]
    assert loss.shape == (n,)
    prior, terms, decoder, _ = reference(path, list(steps.levels), share)
    truth = (prior + sum(terms) + decoder) / math.log(2)
    close(loss, truth)
    assert float(loss.std()) / math.sqrt(n) < 0.05 * abs(truth) + 0.02


def test_for_white_data_and_variance_beta_the_bound_is_the_likelihood():
    # Every reverse step is then Gaussian of variance beta exactly: only the mismatch at t = 0 is lost.
    white, x = pf.GaussianMixture(torch.zeros(1, 3), 1.0), randn(3, seed=4)
    path, n = pf.DDPMPath([0.3, 0.5, 0.6]), 20000
    loss = VariationalBound(exact(white, path), "beta", **DENSITY)
    got = loss(x.expand(n, 3), pf.Noise.batch(n))["loss"] * 3 * math.log(2)
    a2 = float(path.alpha(torch.zeros(()).double())) ** 2
    square = float((x**2).sum())
    nll = 3 / 2 * math.log(2 * math.pi) + square / 2
    known = (a2 * square + 3 * (1 - a2 - 1 - math.log(1 - a2))) / 2  # KL(q(x_T | x) || N(0, I))
    close(got, nll - known + a2 * square / (2 * (1 - a2)))


@pytest.mark.parametrize(
    "probabilities", [None, torch.arange(1, 13) ** 2 / 7, torch.rand(12).flip(0) + 0.1]
)
def test_one_term_drawn_at_random_estimates_the_whole_bound_and_its_gradient(probabilities):
    n, x = 30000, torch.tensor([0.9, 0.1], dtype=torch.float64)
    net = Shifted(GAUSS.field(DDPM))
    model = pf.Model(net, DDPM, "data")
    loss = VariationalBound(
        model, "beta", steps=Steps(DDPM, probabilities=probabilities), **DENSITY
    )
    net.by = torch.full((n, 1), 0.2, dtype=torch.float64, requires_grad=True)
    got = loss(x.expand(n, 2), pf.Noise.batch(n, seed=5))["loss"]
    (gradient,) = torch.autograd.grad(got.sum(), net.by)
    truth = {}
    for by in (0.19, 0.2, 0.21):
        net.by = torch.full((1, 1), by, dtype=torch.float64)
        whole = variational_bound(model, x.expand(3000, 2), variance="beta", **DENSITY)
        truth[by] = whole.bits(2)
    error = math.hypot(float(got.std()) / math.sqrt(n), float(truth[0.2].std()) / math.sqrt(3000))
    assert abs(float(got.mean() - truth[0.2].mean())) < 4.5 * error
    slope = (truth[0.21] - truth[0.19]) / 0.02  # of a square: exact, and of the same noise
    error = math.hypot(float(gradient.std()) / math.sqrt(n), float(slope.std()) / math.sqrt(3000))
    assert abs(float(gradient.mean() - slope.mean())) < 4.5 * error
    assert error < 0.2 * abs(float(slope.mean()))


class Shifted(nn.Module):
    """The exact data, wrong by a number."""

    def __init__(self, field):
        super().__init__()
        self.field = field

    def forward(self, x, t):
        return self.field(x, t, "data") + self.by


# Which steps.


def test_simple_loss_draws_each_step_of_the_schedule_alike():
    steps = Steps(DDPM)
    assert len(steps) == 12
    t = steps(pf.Noise.batch(24000))
    k = DDPM.step_of_time(t)
    assert torch.allclose(k, k.round(), atol=1e-9)
    counts = torch.bincount(k.round().long(), minlength=13)
    assert int(counts[0]) == 0
    assert ((counts[1:] - 2000).abs() < 4.5 * math.sqrt(2000)).all()
    # k = 12 is the noisiest, state 0; every index is found again.
    assert torch.equal(steps.index(t), 12 - k.round().long())
    noise, x1 = pf.Noise.batch(50, seed=2), randn(50, 2, seed=1)
    loss = NoisePrediction(exact(GAUSS, DDPM), times=steps)(x1, noise)["loss"]
    k = DDPM.step_of_time(steps(noise)).round()
    alpha_bar = (
        torch.tensor(DDPM.betas).double().neg().log1p().cumsum(0).exp()[k.long() - 1][:, None]
    )
    x0 = noise.normal((2,), SOURCE, torch.float64)
    x_t = alpha_bar.sqrt() * x1 + (1 - alpha_bar).sqrt() * x0
    eps = GAUSS.field(DDPM)(x_t, 1 - k / 12, "noise")
    assert torch.allclose(loss, ((eps - x0) ** 2).mean(1), rtol=1e-8)


def test_steps_are_drawn_with_their_probabilities():
    p = torch.tensor([0.1, 0.4, 0.2, 0.3])
    steps = Steps(pf.CondOT(), pf.times.uniform(4), p * 5)
    assert torch.allclose(steps.shares, p.double())
    for discrepancy in (False, True):
        drawn = dataclasses.replace(steps, low_discrepancy=discrepancy)(pf.Noise.batch(20000))
        counts = torch.bincount(steps.index(drawn), minlength=4) / 20000
        assert torch.allclose(counts, p, atol=4.5 * math.sqrt(0.24 / 20000))
        assert set(drawn.tolist()) == {0.0, 0.25, 0.5, 0.75}


def test_important_steps_are_drawn_as_the_root_mean_square_of_their_terms():
    # For a Gaussian of D dimensions: L = D c + w sum e^2, e ~ N(0, tau): mean D (c + w tau), variance 2 D (w tau)^2.
    x = GAUSS.sample(20000, seed=3)
    _, _, _, parts = reference(DDPM, list(Steps(DDPM).levels), 0.0)
    a, q = (float(f(Steps(DDPM).levels[-1])) for f in (DDPM.alpha, DDPM.sigma))
    tau = C * q**2 / (a**2 * C + q**2)
    for variance, best in (("beta-tilde", False), ("optimal", True)):
        got = important_steps(GAUSS.field(DDPM), x, variance=variance, uniform=1e-9, **DENSITY)
        sizes = []
        for _, tilde, away in parts:
            v = tilde + away if best else tilde
            c, w = (math.log(v / tilde) + tilde / v - 1) / 2, away / (2 * v)
            sizes.append(math.sqrt((2 * (c + w)) ** 2 + 4 * w**2))
        v = tau if best else parts[-1][1]
        c, w = math.log(2 * math.pi * v) / 2, tau / (2 * v)
        sizes.append(math.sqrt((2 * (c + w)) ** 2 + 4 * w**2))
        truth = torch.tensor(sizes).double()
        assert torch.allclose(got.shares, truth / truth.sum(), rtol=0.05)
    mixed = important_steps(GAUSS.field(DDPM), x, variance="beta-tilde", uniform=0.4, **DENSITY)
    pure = important_steps(GAUSS.field(DDPM), x, variance="beta-tilde", uniform=1e-9, **DENSITY)
    assert torch.allclose(mixed.shares, 0.6 * pure.shares + 0.4 / 12)


def test_importance_by_a_gaussian_like_the_data_lowers_the_variance_of_the_bound():
    law, path = mixture(2, 3), pf.DDPMPath.linear(100, 1e-3, 0.1)
    x = law.sample(20000, seed=1)
    gauss = pf.GaussianMixture(x.mean(0)[None], float(x.var()))
    steps = important_steps(gauss.field(path), x[:200], **DENSITY)
    model, noise = exact(law, path), pf.Noise.batch(len(x), seed=2)
    plain = VariationalBound(model, **DENSITY)(x, noise)["loss"]
    better = VariationalBound(model, steps=steps, **DENSITY)(x, noise)["loss"]
    error = math.sqrt(float(plain.var() + better.var()) / len(x))
    assert abs(float(plain.mean() - better.mean())) < 4.5 * error
    assert float(better.var()) < 0.5 * float(plain.var())


# A learned variance.


class Table(nn.Module):
    """The exact data, and a number for each step."""

    def __init__(self, law, steps):
        super().__init__()
        self.field, self.steps = law.field(steps.path), steps
        self.share = nn.Parameter(torch.full((len(steps),), 0.9, dtype=torch.float64))

    def forward(self, x, t):
        share = self.share[self.steps.index(t)][:, None].expand_as(x)
        return torch.cat((self.field(x, t, "data"), share), 1)


def improves(model, x):
    """The bound with each variance, in bits for each dimension, on the same noise."""
    return {
        v: float(variational_bound(model, x, variance=v, **DENSITY).bits(x[0].numel()).mean())
        for v in ("beta", "beta-tilde", "learned")
    }


@pytest.mark.parametrize("make", [lambda m, **k: VariationalBound(m, "learned", **k), Hybrid])
def test_the_learned_variance_is_the_optimal_one_between_the_two(make):
    steps = Steps(pf.DDPMPath.linear(8, 0.05, 0.6), low_discrepancy=True)
    net = Table(GAUSS, steps)
    model = pf.Model(net, steps.path, "data", outputs=TWO)
    loss_of, x = make(model, steps=steps, **DENSITY), GAUSS.sample(40000, seed=1)
    optimiser = torch.optim.Adam([net.share], 0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 120)
    for k in range(120):
        noise = pf.Noise.batch(1000, seed=2, step=k)
        optimiser.zero_grad()
        loss_of(x[k % 40 * 1000 :][:1000], noise)["loss"].mean().backward()
        optimiser.step()
        schedule.step()
    _, _, _, parts = reference(steps.path, list(steps.levels), 0.0)
    for share, (b, tilde, away) in zip(net.share.tolist(), parts, strict=False):
        best = tilde + away  # Bao et al. 2022, thm. 1
        assert tilde < best < b
        assert 0 < share < 1
        assert b**share * tilde ** (1 - share) == pytest.approx(best, rel=0.05)
    bits = improves(model, x[:8000])
    assert bits["learned"] < min(bits["beta"], bits["beta-tilde"]) - 0.01


def test_a_trained_network_has_a_variance_between_the_two_that_improves_the_bound():
    # Of variance less than 1: the best variance of a step is then below beta (and above beta-tilde for any law).
    torch.manual_seed(0)
    law = pf.GaussianMixture([[0.7, 0.5], [-0.6, 0.4], [0.1, -0.7]], 0.03)
    path, total = pf.DDPMPath.linear(10, 0.05, 0.6), 300
    model = pf.Model(MLP(2, 32, 2, outputs=2), path, "noise", outputs=TWO)
    loss_of = Hybrid(model, steps=Steps(path, low_discrepancy=True), **DENSITY)
    data = law.sample(20000, seed=1).float()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=total)
    for k in range(total):
        noise = pf.Noise.batch(256, seed=2, step=k)
        loss = loss_of(data[noise.uniform().mul(len(data)).long()], noise)["loss"].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    x = law.sample(4000, seed=9).float()
    bits = improves(model, x)
    assert bits["learned"] < min(bits["beta"], bits["beta-tilde"]) - 0.02
    steps = loss_of.chain
    for j, t in enumerate(steps.levels[:-1]):
        added, tilde, pull = (float(value[j]) for value in steps.table)
        x_t = path.sample(randn(4000, 2, dtype=torch.float32, seed=j), x, t)
        with torch.no_grad():
            share = float(model.with_variance(x_t, t)[1].mean())
        best = tilde + pull**2 * float(((law.field(path)(x_t, t, "data") - x) ** 2).mean())
        assert tilde < best < added
        # Near the noise, where the two all but agree, any share will do.
        if added > 1.5 * tilde:
            assert 0 < share < 1
            assert added**share * tilde ** (1 - share) == pytest.approx(best, rel=0.15)
    assert added > 3 * tilde  # so some steps were looked at


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([0.4, 0.2], dtype=torch.float64))
        self.share = nn.Parameter(torch.tensor([0.3, 0.1], dtype=torch.float64))

    def forward(self, x, t):
        return torch.cat((self.mean[0] * x + self.mean[1], self.share[0] + self.share[1] * x), 1)


def test_the_hybrid_trains_the_mean_by_the_simple_loss_and_the_variance_by_the_bound():
    steps = Steps(DDPM, probabilities=torch.arange(1, 13))
    net = TwoHeads()
    model, noise, x = (
        pf.Model(net, DDPM, "noise", outputs=TWO),
        pf.Noise.batch(500, seed=1),
        GAUSS.sample(500),
    )

    def gradients(objective):
        loss = objective(x, noise)["loss"]
        return loss.detach(), *torch.autograd.grad(
            loss.sum(), (net.mean, net.share), allow_unused=True
        )

    weight = 1 / (12 * steps.shares)
    simple = NoisePrediction(model, times=steps, weight=lambda t: weight[steps.index(t)])
    hybrid = gradients(Hybrid(model, vlb_weight=0.02, steps=steps, **DENSITY))
    simple = gradients(simple)
    bound = gradients(VariationalBound(model, "learned", steps=steps, **DENSITY))
    assert torch.allclose(hybrid[0], simple[0] + 0.02 * bound[0])
    assert torch.allclose(hybrid[1], simple[1], rtol=1e-8)
    assert torch.allclose(hybrid[2], 0.02 * bound[2], rtol=1e-8)
    assert not torch.allclose(bound[1], torch.zeros(2).double())


# Quantised data, images.


def test_the_bound_of_quantised_images_is_that_of_the_likelihood_module():
    torch.manual_seed(0)
    net = UNet(1, 8, (1,), 1, outputs=2).double()
    for p in net.parameters():
        p.data.add_(torch.randn_like(p) * 0.05)
    path = pf.DDPMPath.linear(4, 0.001, 0.3)
    model = pf.Model(net, path, "noise", outputs=TWO)
    x = (torch.rand(1, 1, 4, 4) * 15).round().double() * 2 / 15 - 1
    x[0, 0, 0, :2] = torch.tensor([-1.0, 1.0])
    options = {"bin_width": 2 / 15}
    truth = variational_bound(model, x.expand(400, 1, 4, 4), variance="learned", **options).bits(16)
    with torch.no_grad():
        got = VariationalBound(model, "learned", **options)(
            x.expand(3000, 1, 4, 4), pf.Noise.batch(3000)
        )["loss"]
    error = math.hypot(float(got.std()) / math.sqrt(3000), float(truth.std()) / math.sqrt(400))
    assert abs(float(got.mean() - truth.mean())) < 4.5 * error
    for objective in (VariationalBound(model, "learned", **options), Hybrid(model, **options)):
        net.zero_grad()
        objective(x.expand(8, 1, 4, 4), pf.Noise.batch(8))["loss"].mean().backward()
        for name, p in net.named_parameters():
            assert p.grad.isfinite().all(), name
            assert (p.grad != 0).any(), name
    with pytest.raises(pf.InputError, match="do not lie on the values"):
        VariationalBound(model, **options)(x.expand(50, 1, 4, 4) + 0.03, pf.Noise.batch(50))


@pytest.mark.parametrize("x", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("mean", [-2.5, -0.99, 0.3, 4.0])
def test_the_gradient_of_a_bins_mass_is_finite_and_right_at_the_ends_of_the_range_too(x, mean):
    def of(numbers):
        return bin_log_prob(
            torch.full((1, 1), x).double(), *numbers[:, None, None], 0.5, (-1.0, 1.0)
        )

    numbers = torch.tensor([mean, 0.04], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(of, (numbers,), eps=1e-7, atol=1e-4, rtol=1e-4)


# What they share with all objectives.


def test_losses_do_not_depend_on_the_batch_and_conditions_are_dropped():
    told = []

    class Net(nn.Module):
        def forward(self, x, t, label):
            told.append(label)
            return torch.cat((0.1 * x * label[:, None], 0.5 + 0 * x), 1)

    model = pf.Model(Net(), DDPM, "noise", outputs=TWO, nulls={"label": -1})
    n = 2000
    x1, label, noise = randn(n, 2, seed=1), torch.arange(n) % 3, pf.Noise.batch(n, seed=2)
    for make in (VariationalBound, Hybrid):
        objective = make(model, condition_dropout=0.3, **DENSITY)
        told.clear()
        whole = objective(pf.Batch(x1, {"label": label}), noise)["loss"]
        dropped = told[0] == -1
        assert has_share(dropped, 0.3)
        assert torch.equal(told[0][~dropped], label[~dropped])
        part = objective(pf.Batch(x1[15:30], {"label": label[15:30]}), noise[15:30])["loss"]
        assert torch.allclose(part, whole[15:30], rtol=1e-12)
        assert not torch.allclose(
            objective(pf.Batch(x1, {"label": label}), noise.at(1))["loss"], whole
        )
        float32 = objective(pf.Batch(x1.float(), {"label": label}), noise)["loss"]
        assert float32.dtype == torch.float32
        assert torch.allclose(float32.double(), whole, rtol=1e-3)


@pytest.mark.parametrize("prediction", pf.PREDICTIONS)
@pytest.mark.parametrize("path", [pf.CondOT(), pf.Cosine(), pf.VP(), pf.EDM()], ids=repr)
def test_every_model_on_every_path_has_a_finite_loss_at_every_step(path, prediction):
    net = TwoHeads()
    model, steps = pf.Model(net, path, prediction, outputs=TWO), Steps(path, pf.times.uniform(5))
    x1, noise = GAUSS.sample(60), pf.Noise.batch(60)
    assert set(steps.index(steps(noise)).tolist()) == set(range(len(steps)))
    for make in (Hybrid, lambda m, **k: VariationalBound(m, "learned", **k)):
        loss = make(model, steps=steps, **DENSITY)(x1, noise)["loss"]
        gradients = torch.autograd.grad(loss.sum(), (net.mean, net.share))
        assert loss.isfinite().all()
        assert all(g.isfinite().all() and (g != 0).all() for g in gradients)


def test_what_does_not_fit_is_an_error():
    model = exact(GAUSS, DDPM)
    with pytest.raises(pf.InputError, match="variance is one of"):
        VariationalBound(model, "gamma")
    with pytest.raises(pf.UndefinedError, match="variational bound"):
        VariationalBound(pf.Model(nn.Identity(), pf.CondOT(gaussian_source=False)))
    with pytest.raises(pf.InputError, match="the model's path"):
        VariationalBound(model, steps=Steps(pf.CondOT()))
    with pytest.raises(pf.InputError, match="probability"):
        Hybrid(model, condition_dropout=1.5)
    with pytest.raises(pf.InputError, match="vlb_weight"):
        Hybrid(model, vlb_weight=-1.0)
    with pytest.raises(pf.InputError, match="gives no variance"):
        Hybrid(model, **DENSITY)(randn(3, 2), pf.Noise.batch(3))
    for p in (torch.ones(3), torch.zeros(12), torch.full((12,), math.nan)):
        with pytest.raises(pf.InputError, match="12 steps"):
            Steps(DDPM, probabilities=p)
    with pytest.raises(pf.InputError, match="at least two times"):
        Steps(pf.CondOT(), torch.tensor([0.5, 1.0]))
    with pytest.raises(pf.InputError, match="uniform is 0"):
        important_steps(GAUSS.field(DDPM), randn(3, 2), uniform=0.0)
