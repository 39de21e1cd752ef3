"""DiffFlow: two processes whose densities are known where everything is linear and Gaussian."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

import pushforward as pf
from contracts.members import Lookup, mixture, randn
from pushforward.models.diffflow import DiffFlowModel
from pushforward.nets import MLP
from pushforward.objectives import DiffFlow, NoisePrediction

PATHS = [pf.VP(), pf.CondOT(), pf.Cosine(), pf.VE(0.2, 1.5), pf.CondOT(sigma_min=0.05), pf.SubVP()]


class Line(nn.Module):
    """`(c0 + c1 t) x + c2 + c3 t`, or a multiple of it by a path's sigma, as noise is."""

    def __init__(self, *c: float) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.tensor(c, dtype=torch.float64))

    def forward(self, x, t, **cond):
        t = t[:, None]
        return (self.c[0] + self.c[1] * t) * x + self.c[2] + self.c[3] * t


def line_model(path, drift=True, steps=5, dim=1, prediction="noise"):
    score = pf.Model(Line(0.9, -0.5, 0.1, 0.2), path, prediction, shape=(dim,))
    return DiffFlowModel(score, Line(0.7, -0.4, -0.5, 0.8) if drift else None, steps)


def chain(model):
    """Mean and variance of each y_k of the backward process, y_N first, from its definition as an SDE.

    y_k = y_{k+1} - [F h - v score] + sqrt(v) z, where F h = (a - 1) y + h drift is the step of the forward process.
    """
    path, times = model.score.path, model.grid.flip(0)
    mean, variance = torch.zeros(()).double(), torch.tensor(path.source_std).double() ** 2
    out = [(mean, variance)]
    for k in reversed(range(len(times) - 1)):
        t, s = times[k], times[k + 1]
        a = path.alpha(s) / (path.alpha(t) if k else 1.0)
        v = path.sigma(s) ** 2 - (a * path.sigma(t)) ** 2 if k else path.sigma(s) ** 2

        def after(y, a=a, v=v, h=t - s, s=s):
            y = y.reshape(1, 1)
            drift = 0 if model.drift is None else model.drift(y, s.reshape(1))
            step = (a - 1) * y + h * drift
            return (y - (step - v * model.score(y, s, "score"))).reshape(())

        slope = after(mean + 1) - after(mean)  # a line
        mean, variance = after(mean), slope**2 * variance + v
        out.append((mean.detach(), variance.detach()))
    return out


@pytest.mark.parametrize("drift", [True, False])
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_the_mean_of_exp_of_minus_the_bound_is_the_density_of_the_samples(path, drift):
    # E_q[p(y_0 ... y_N)/q(y_1 ... y_N | y_0)] = p(y_0), whatever the two processes are.
    model, n = line_model(path, drift), 40000
    mean, variance = chain(model)[-1]
    for shift in (-1.0, 0.5):
        x = mean + shift * variance.sqrt()
        with torch.no_grad():
            bound = model.bound(x.expand(n, 1), pf.Noise.batch(n, seed=3))
        weight = (-bound - Normal(mean, variance.sqrt()).log_prob(x)).exp()
        error = float(weight.std()) / math.sqrt(n)
        assert error < 0.1
        assert abs(float(weight.mean()) - 1) < 4.5 * error
        # And it is a bound, with something to spare.
        assert float(bound.mean()) > -float(Normal(mean, variance.sqrt()).log_prob(x))


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_samples_have_the_law_of_the_backward_process_at_every_step(path):
    model, n, states = line_model(path), 20000, []
    x = model.sample(n, seed=4, batch_size=n, callback=lambda i, t, y: states.append((t[0], y)))
    assert torch.equal(states[-1][1], x)
    assert torch.equal(torch.stack([t for t, _ in states]), model.grid)
    for (_, y), (mean, variance) in zip(states, chain(model), strict=True):
        std = variance.sqrt()
        assert abs(float(y.mean() - mean)) < 4.5 * float(std) / math.sqrt(n)
        assert float(y.var() / variance) == pytest.approx(1, abs=4.5 * math.sqrt(2 / n))


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_without_a_drift_the_forward_process_has_the_marginals_of_its_path(path):
    model, n = line_model(path, drift=False), 20000
    x = torch.full((n, 1), 0.8).double()
    states = model.diffuse(x, pf.Noise.batch(n, seed=5))
    for y, t in zip(states[1:], model.grid.flip(0)[1:], strict=True):
        mean, std = 0.8 * path.alpha(t), path.sigma(t)
        assert abs(float(y.mean() - mean)) < 4.5 * float(std) / math.sqrt(n)
        assert float(y.var() / std**2) == pytest.approx(1, abs=4.5 * math.sqrt(2 / n))
    assert torch.equal(states[0], x)


def test_with_the_drift_the_forward_process_is_its_sde():
    # dy = [-beta/2 y + drift] ds + sqrt(beta) dw from the data: mean and variance by their ODEs.
    path, n, steps = pf.VP(0.1, 4.0), 20000, 200
    score = pf.Model(Line(1, 0, 0, 0), path, "noise", shape=(1,))
    model = DiffFlowModel(score, Line(0.7, -0.4, -0.5, 0.8), steps)
    y = model.diffuse(torch.full((n, 1), 0.8).double(), pf.Noise.batch(n, seed=6))[-1].detach()
    mean, variance, fine = 0.8, 0.0, 20000
    for i in range(fine):
        t = 1 - (i + 0.5) / fine
        beta = 0.1 + 3.9 * (1 - t)
        slope = -beta / 2 + 0.7 - 0.4 * t
        mean += (slope * mean - 0.5 + 0.8 * t) / fine
        variance += (2 * slope * variance + beta) / fine
    assert abs(float(y.mean()) - mean) < 4.5 * math.sqrt(variance / n) + 0.01
    assert float(y.var()) == pytest.approx(variance, rel=4.5 * math.sqrt(2 / n) + 0.01)


def test_the_velocity_is_that_of_the_probability_flow():
    # Of a linear drift from a Gaussian law the marginals stay Gaussian: u = d ln(std)/dt (x - mean) + mean'.
    path, kappa, c = pf.VP(), 0.9, 0.6

    def variance(t, fine=4000):
        """V' = (2 kappa - beta) V + beta in noise time, from V = 0.5; by RK4."""
        s_end, v = 1 - t, 0.5
        h = s_end / fine

        def slope(s, v):
            beta = 0.1 + 19.9 * s
            return (2 * kappa - beta) * v + beta

        for i in range(fine):
            s = i * h
            k1 = slope(s, v)
            k2 = slope(s + h / 2, v + h / 2 * k1)
            k3 = slope(s + h / 2, v + h / 2 * k2)
            v += h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(s + h, v + h * k3))
        return v

    t = 0.7
    v, before, after = variance(t), variance(t - 1e-4), variance(t + 1e-4)
    score = pf.Model(Line(-1 / v, 0, 0, 0), path, "score", shape=(1,))
    model = DiffFlowModel(score, Line(kappa, 0, 0, 0))
    x = torch.tensor([[c]], dtype=torch.float64)
    got = float(model(x, t))
    assert got == pytest.approx((math.log(after) - math.log(before)) / 4e-4 * c, rel=1e-5)
    velocity, found = model.with_score(x, t)
    assert float(velocity) == got
    assert float(found) == pytest.approx(-c / v)
    assert float(model(x, t, "score")) == pytest.approx(-c / v)


def test_with_an_exact_score_and_many_steps_nothing_is_lost():
    law, path = mixture(2), pf.VP()
    score = pf.Model(Lookup(law.field(path), "score"), path, "score", shape=(2,))
    x, noise = law.sample(300, seed=2), pf.Noise.batch(300, seed=1)
    gaps = []
    for steps in (50, 200):
        gap = DiffFlowModel(score, steps=steps).bound(x, noise) + law.log_prob(x)
        gaps.append((float(gap.mean()), float(gap.std())))
    (coarse, wide), (fine, narrow) = gaps
    assert 0 < fine < 0.4 * coarse
    assert fine < 0.12
    assert narrow < 0.7 * wide  # path by path, not only in the mean


def trained(steps=5, drift=True):
    torch.manual_seed(0)
    score = pf.Model(MLP(2, 16, 2).double(), pf.VP(), "noise", shape=(2,))
    return DiffFlowModel(score, MLP(2, 16, 2).double() if drift else None, steps)


def randomised(model):
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model


def test_gradients_by_the_adjoint_are_those_of_plain_backpropagation():
    model, x, noise = randomised(trained()), randn(6, 2, seed=1), pf.Noise.batch(6, seed=2, step=3)
    found = []
    for adjoint in (True, False):
        loss = DiffFlow(model, adjoint=adjoint)(x, noise)["loss"]
        assert loss.shape == (6,)
        found.append((loss, *torch.autograd.grad(loss.sum(), list(model.parameters()))))
    for a, b in zip(*found, strict=True):
        assert float((a - b).detach().norm()) <= 1e-12 * float(b.detach().norm())
        assert float(b.detach().norm()) > 0


def test_losses_do_not_depend_on_the_batch_and_their_noise_is_keyed_by_seed_and_step():
    objective, x = DiffFlow(randomised(trained())), randn(7, 2, seed=1)
    noise = pf.Noise.batch(7, seed=2)
    whole = objective(x, noise)["loss"]
    part = objective(x[2:5], noise[2:5])["loss"]
    assert torch.allclose(whole[2:5], part, rtol=1e-10)
    for other in (noise.at(1), pf.Noise.batch(7, seed=3)):
        assert not torch.allclose(objective(x, other)["loss"], whole)
    # Steps of one trajectory, and of the next training step's, have nothing in common.
    flat = DiffFlowModel(objective.model.score, steps=5)
    states = [flat.diffuse(torch.zeros(2000, 2).double(), pf.Noise.batch(2000, step=i)) for i in (0, 1)]  # fmt: skip
    z = [
        (s[k + 1] - flat._factor[k] * s[k]) / flat._variance[k] ** 0.5
        for s in states
        for k in range(5)
    ]
    corr = torch.corrcoef(torch.stack(z).flatten(1))
    assert float((corr - torch.eye(10)).abs().max()) < 4.5 / math.sqrt(4000)
    assert torch.allclose(
        torch.stack(z).std((1, 2)), torch.ones(10).double(), atol=4.5 / math.sqrt(8000)
    )


def test_the_bound_meets_the_same_path_as_diffuse():
    model, x, noise = randomised(trained()), randn(3, 2, seed=1), pf.Noise.batch(3, seed=2, step=1)
    states, total = model.diffuse(x, noise), torch.zeros(3).double()
    times = model.grid.flip(0)
    for k in range(5):
        y, there = states[k], states[k + 1]
        t, s = (times[i].expand(3) for i in (k, k + 1))
        h, a, v = times[k] - times[k + 1], model._factor[k], model._variance[k]
        ahead = Normal(a * y + h * model.drift(y, t), v**0.5).log_prob(there)
        back = (
            (2 - a) * there - h * model.drift(there, s) + v * model.score(there, times[k + 1], "score")
        )  # fmt: skip
        total += (ahead - Normal(back, v**0.5).log_prob(y)).sum(1)
    total -= Normal(0.0, model.score.path.source_std).log_prob(states[-1]).sum(1)
    assert torch.allclose(model.bound(x, noise), total, rtol=1e-10)


def test_samples_do_not_depend_on_their_batch_and_other_numbers_of_steps_stretch_the_grid():
    model = randomised(trained())
    x = model.sample(7, seed=3)
    assert x.shape == (7, 2)
    assert torch.allclose(model.sample(7, seed=3, batch_size=3), x, rtol=1e-10)
    assert not torch.allclose(model.sample(7, seed=4), x)
    finer = model.regrid(10)
    assert torch.allclose(finer.grid[::2], model.grid)
    assert torch.allclose(finer.grid[1::2], (model.grid[1:] + model.grid[:-1]) / 2)
    assert torch.equal(model.sample(4, 10, seed=3), finer.sample(4, seed=3))
    assert torch.allclose(model.regrid(3).regrid(3).grid, model.regrid(3).grid)
    assert finer.steps == 10


def test_labels_reach_both_networks():
    torch.manual_seed(0)
    nets = [MLP(2, 8, 1, classes=3).double() for _ in range(2)]
    model = randomised(
        DiffFlowModel(pf.Model(nets[0], pf.VP(), "noise", shape=(2,), classes=3), nets[1], 3)
    )
    x, noise, label = randn(4, 2), pf.Noise.batch(4), torch.tensor([0, 1, 2, -1])
    loss = DiffFlow(model)(pf.Batch(x, {"label": label}), noise)["loss"]
    for net in nets:
        weight = net.conditioning.label.table.weight
        (gradient,) = torch.autograd.grad(loss.sum(), weight, retain_graph=True)
        assert (gradient.abs().sum(1) > 0).all()
    one = model.sample(4, seed=1, label=label, batch_size=3)
    assert not torch.allclose(one, model.sample(4, seed=1, label=torch.zeros(4).long()))
    assert model.classes == 3


def test_training_lowers_the_bound_and_a_drift_lowers_it_further():
    # A path that ends off the centre, with a trace of the data: the drift can take them there.
    law = pf.GaussianMixture([[1.2, 1.2]], 0.25)
    entropy = 1 + math.log(2 * math.pi * 0.25)
    found = {}
    for drift in (False, True):
        torch.manual_seed(0)
        nets = [Line(0.0, 0.0, 0.0, 0.0) for _ in range(2)]
        score = pf.Model(nets[0], pf.VP(0.1, 2.0), "noise", shape=(2,))
        model = DiffFlowModel(score, nets[1] if drift else None, 3)
        optimizer = torch.optim.Adam(model.parameters(), 0.08)
        for step in range(100):
            noise = pf.Noise.batch(128, step=step)
            loss = DiffFlow(model)(law.draw(noise), noise)["loss"].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            found[drift] = float(model.bound(law.sample(4000), pf.Noise.batch(4000)).mean())
    assert entropy < found[True] < found[False] - 0.2


def test_it_is_a_field_that_solvers_take():
    model = randomised(trained())
    assert isinstance(model, pf.Field)
    assert not model.path.gaussian_source
    x = pf.integrate(pf.solvers.Heun(), model, randn(3, 2), pf.times.uniform(4))
    assert x.isfinite().all()
    fixed = trained(drift=False)
    assert fixed.path == pf.VP()
    # Without a drift it is a diffusion model as any other, and can be trained as one.
    loss = NoisePrediction(fixed.score)(randn(3, 2), pf.Noise.batch(3))["loss"]
    assert loss.isfinite().all()
    x, t = randn(3, 2), 0.4
    assert torch.equal(fixed(x, t, "data"), fixed.score(x, t, "data"))


def test_what_does_not_fit_is_an_error():
    score = pf.Model(MLP(2, 8, 1), pf.VP(), "noise", shape=(2,))
    for grid in (pf.times.uniform(3).flip(0), pf.times.uniform(3)[:1], torch.zeros(2, 3)):
        with pytest.raises(pf.InputError, match="increasing"):
            DiffFlowModel(score, grid=grid)
    with pytest.raises(pf.InputError, match="from 0 to 1"):
        DiffFlowModel(score, grid=pf.times.uniform(3, 0.1))
    with pytest.raises(pf.UndefinedError, match="Gaussian"):
        DiffFlowModel(pf.Model(MLP(2, 8, 1), pf.CondOT(gaussian_source=False)))
    model = DiffFlowModel(score, MLP(2, 8, 1), 3)
    with pytest.raises(pf.InputError, match="velocity and its score"):
        model(torch.zeros(2, 2), 0.5, "data")
    with pytest.raises(pf.InputError, match="noise ids"):
        DiffFlow(model)(torch.zeros(3, 2), pf.Noise.batch(2))
    with pytest.raises(pf.InputError, match="source samples"):
        DiffFlow(model)(pf.Batch(torch.zeros(2, 2), x0=torch.zeros(2, 2)), pf.Noise.batch(2))
    for bad in ({"num": 0}, {"num": 2, "batch_size": 0}, {"num": 2, "steps": 0}):
        with pytest.raises(pf.InputError, match=r"positive|at least 1"):
            model.sample(**bad)
    with pytest.raises(pf.InputError, match="shape"):
        DiffFlowModel(pf.Model(MLP(2, 8, 1), pf.VP(), "noise")).sample(2)
