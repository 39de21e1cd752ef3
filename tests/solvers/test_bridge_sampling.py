"""Sampling along interpolants: on Gaussian pairs a step is affine, and laws are known without drawing from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import pushforward as pf
from contracts.members import randn
from laws.pairs import correlated, entropic
from pushforward.core.noise import SOLVER
from pushforward.core.spec import SamplingDefaults
from pushforward.nets import MLP
from pushforward.solvers import (
    AnnealedLangevin,
    Euler,
    EulerMaruyama,
    Heun,
    Multistep,
    StochasticHeun,
)

STD = 0.8
BRIDGE = pf.BrownianBridge(STD)
PAIRS = {"correlated": correlated(), "entropic": entropic(2, STD)}
CASES = [
    ("entropic", BRIDGE, STD), ("correlated", BRIDGE, 1.3), ("correlated", pf.Tube(0.3), 0.6),
    ("entropic", pf.SmoothBridge(0.5), lambda t: 1.5 - t),
]  # fmt: skip


class Exact(nn.Module):
    """A network that answers with the exact line and score of a pair."""

    def __init__(self, field):
        super().__init__()
        self.field = field

    def forward(self, x, t, **cond):
        u, score = self.field.with_score(x, t)
        return torch.cat((u + pf.expand(self.field.path.growth(t), x) * score, score), dim=1)


class Drift(nn.Module):
    """The exact drift of a bridge: u + sign std^2/2 score."""

    def __init__(self, field, sign):
        super().__init__()
        self.field, self.sign = field, sign

    def forward(self, x, t, **cond):
        u, score = self.field.with_score(x, t)
        return u + self.sign * self.field.path.std**2 / 2 * score


class Asked:
    """A field that counts what it is asked."""

    def __init__(self, field):
        self.field, self.path, self.both, self.one = field, field.path, 0, 0

    def __call__(self, x, t, want="velocity", **cond):
        self.one += 1
        return self.field(x, t, want)

    def with_score(self, x, t, **cond):
        self.both += 1
        return self.field.with_score(x, t)


def step_of(solver, field, t, s, step, dim=2):
    """(A, b, C) with x_s = A x + b + C z, from the solver's own step: exact, since all is linear."""
    state = solver.init(torch.zeros(1, dim), torch.tensor([[t], [s]]), field.path)

    def go(x, ids):
        noise = pf.Noise(0, ids, step)
        times = [torch.full((len(x),), v, dtype=torch.float64) for v in (t, s)]
        return solver.step(field, x, *times, state, noise)[0], noise

    points = torch.cat((torch.zeros(1, dim), torch.eye(dim))).double()
    same, noise = go(points, torch.zeros(dim + 1, dtype=torch.int64))
    a = (same[1:] - same[0]).mT
    apart, noise = go(torch.zeros(4 * dim, dim).double(), torch.arange(4 * dim))
    z = torch.cat((noise.normal((dim,), SOLVER, torch.float64), torch.ones(4 * dim, 1)), 1)
    found = torch.linalg.lstsq(z, apart)
    assert torch.allclose(z @ found.solution, apart, atol=1e-10)
    return a, found.solution[dim], found.solution[:dim].mT


def laws(solver, field, n, backwards=False):
    """Mean, covariance and covariance with the start, of what n steps make of the exact law they start in."""
    times = torch.linspace(0, 1, n + 1, dtype=torch.float64).tolist()
    times = times[::-1] if backwards else times
    mean, cov = field.marginal(times[0])
    with_start = cov
    for k in range(n):
        a, b, c = step_of(solver, field, times[k], times[k + 1], k)
        mean, cov, with_start = a @ mean + b, a @ cov @ a.mT + c @ c.mT, a @ with_start
    return mean, cov, with_start


def order(errors, steps):
    return float(-np.polyfit(np.log(steps), np.log(errors), 1)[0])


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize(
    ("solver", "power"), [(EulerMaruyama, 1), (StochasticHeun, 2)], ids=lambda v: getattr(v, "__name__", "")
)  # fmt: skip
@pytest.mark.parametrize(("name", "path", "g"), CASES, ids=lambda v: getattr(v, "__name__", str(v)))
def test_any_noise_keeps_the_marginals_of_an_interpolant_with_the_order_of_the_solver(
    name, path, g, solver, power, backwards
):
    """From one end of time to the other, gamma' infinite or not."""
    field, steps = PAIRS[name].field(path), [16, 32, 64]
    truth = field.marginal(0.0 if backwards else 1.0)
    errors = []
    for n in steps:
        mean, cov, _ = laws(solver(g), field, n, backwards)
        errors.append(float((mean - truth[0]).norm() + (cov - truth[1]).norm()))
    assert order(errors, steps) > power - 0.3, errors
    assert errors[-1] < 0.2


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_with_the_noise_of_the_path_the_ends_are_coupled_as_by_the_schroedinger_bridge(backwards):
    """Euler's method has their covariance exactly, since E[x1 | x_t] is linear here and a martingale."""
    pair = PAIRS["entropic"]
    truth = pair.cross if backwards else pair.cross.mT
    for n in (1, 2, 9):
        found = laws(EulerMaruyama(STD), pair.field(BRIDGE), n, backwards)[2]
        assert torch.allclose(found, truth, rtol=1e-9)
    # Other noise, other processes of the same marginals.
    other = laws(EulerMaruyama(1.5 * STD), pair.field(BRIDGE), 64, backwards)[2]
    assert float((other - truth).norm()) > 0.1


@pytest.mark.parametrize(
    ("solver", "power"), [(Euler(), 1), (Heun(), 2), (Multistep("velocity", "time", 2), 2)],
    ids=["Euler", "Heun", "Adams-2"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["correlated", "entropic"])
def test_the_flow_of_a_brownian_bridge_converges_with_full_order_from_end_to_end(name, solver, power):  # fmt: skip
    field, steps, errors = PAIRS[name].field(BRIDGE), [20, 40, 80], []
    points = torch.cat((torch.zeros(1, 2), torch.eye(2))).double()
    (mean, cov), truth = field.marginal(0.0), field.marginal(1.0)
    for n in steps:
        ends = pf.integrate(solver, field, points, pf.times.uniform(n))
        a = (ends[1:] - ends[0]).mT
        error = (a @ mean + ends[0] - truth[0]).norm() + (a @ cov @ a.mT - truth[1]).norm()
        errors.append(float(error))
    assert order(errors, steps) > power - 0.2, errors
    assert errors[-1] < 0.2


def test_a_model_with_the_exact_line_and_score_draws_as_the_exact_field_does():
    for path in (BRIDGE, pf.Tube(0.3), pf.SmoothBridge(0.5)):
        field = PAIRS["entropic"].field(path)
        model = pf.BridgeModel(Exact(field), path, shape=(2,))
        x0 = randn(6, 2, seed=1)
        for t in (0.0, 0.4, 1.0):
            got, truth = model.with_score(x0, t), field.with_score(x0, t)
            for a, b, want in zip(got, truth, ("velocity", "score"), strict=True):
                assert torch.allclose(a, b, rtol=1e-10)
                assert torch.equal(a, model(x0, t, want))
        for solver in (None, EulerMaruyama(0.7), StochasticHeun(0.7)):
            got = pf.generate(model, 6, solver=solver, nfe=20, source=x0, seed=3)
            truth = pf.generate(field, 6, solver=solver, nfe=20, source=x0, seed=3)
            assert torch.allclose(got, truth, rtol=1e-9)


def test_half_bridges_with_the_exact_drifts_are_the_exact_field():
    field = PAIRS["entropic"].field(BRIDGE)
    model = pf.HalfBridges(Drift(field, 1), Drift(field, -1), BRIDGE, shape=(2,))
    x = randn(6, 2, seed=1)
    for t in (0.0, 0.4, 1.0):
        for a, b in zip(model.with_score(x, t), field.with_score(x, t), strict=True):
            assert torch.allclose(a, b, rtol=1e-9)
    got = pf.generate(model, 6, source=x)
    assert torch.allclose(got, pf.generate(field, 6, source=x), rtol=1e-9)


def test_the_process_follows_ahead_forwards_and_back_backwards_whatever_the_other():
    field = PAIRS["entropic"].field(BRIDGE)
    wrong = MLP(2, 8, 1).double()
    nn.init.normal_(wrong.conv_out.weight)
    x, times = randn(6, 2, seed=1), pf.times.uniform(10)
    for model, grid in (
        (pf.HalfBridges(Drift(field, 1), wrong, BRIDGE), times),
        (pf.HalfBridges(wrong, Drift(field, -1), BRIDGE), times.flip(0)),
    ):
        got = pf.integrate(EulerMaruyama(STD), model, x, grid, seed=2)
        assert torch.allclose(got, pf.integrate(EulerMaruyama(STD), field, x, grid, seed=2))
        other = pf.integrate(EulerMaruyama(STD), model, x, grid.flip(0), seed=2)
        assert not torch.allclose(
            other, pf.integrate(EulerMaruyama(STD), field, x, grid.flip(0), seed=2), rtol=0.1
        )


def test_velocity_and_score_are_asked_for_in_one_call():
    for solver, calls in ((EulerMaruyama(0.5), 1), (StochasticHeun(0.5), 2)):
        field = Asked(PAIRS["correlated"].field(pf.Tube(0.3)))
        pf.integrate(solver, field, randn(3, 2), pf.times.uniform(5))
        assert (field.both, field.one) == (5 * calls, 0)
    x, u = randn(3, 2), field(randn(3, 2), 0.5)
    drift = EulerMaruyama(0.5).drift(field, x, 0.5)
    assert torch.allclose(drift - u, 0.125 * field(x, 0.5, "score"))


def test_states_of_any_shape_have_their_two_answers_along_the_channels():
    net = pf.nets.UNet(3, 8, outputs=2)
    nn.init.normal_(net.conv_out.weight if hasattr(net, "leave") else list(net.parameters())[-2])
    model = pf.BridgeModel(net, BRIDGE, shape=(3, 8, 8))
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0.25, 0.75])
    raw = net(x, t)
    velocity, score = model.with_score(x, t)
    assert torch.equal(score, raw[:, 3:])
    growth = torch.tensor([0.16, -0.16]).reshape(2, 1, 1, 1)  # std^2 (1 - 2t)/2
    assert torch.allclose(velocity, raw[:, :3] - growth * score, atol=1e-6)


def test_a_field_that_does_not_know_the_score_is_refused():
    model = pf.Model(MLP(2, 8, 1), pf.Tube(), shape=(2,))
    for solver in (EulerMaruyama(0.5), StochasticHeun(0.5)):
        with pytest.raises(pf.UndefinedError, match="does not know the score"):
            pf.generate(model, 3, solver=solver, nfe=4, source=torch.zeros(3, 2))
    with pytest.raises(pf.UndefinedError):
        pf.generate(PAIRS["entropic"].field(BRIDGE), 3, solver=AnnealedLangevin(0.1, 2), nfe=4)
    bridge = pf.BridgeModel(MLP(2, 8, 1, outputs=2), BRIDGE)
    with pytest.raises(pf.UndefinedError, match="adds noise on the way"):
        bridge(torch.zeros(3, 2), 0.5, "data")


def test_arguments_of_bridges_are_checked():
    net = MLP(2, 8, 1)
    with pytest.raises(pf.InputError, match="goes along an interpolant"):
        pf.BridgeModel(net, pf.CondOT())
    with pytest.raises(pf.InputError, match="build the network with outputs=2"):
        pf.BridgeModel(net, BRIDGE)
    with pytest.raises(pf.InputError, match="go along a BrownianBridge"):
        pf.HalfBridges(net, MLP(2, 8, 1), pf.Tube())
    with pytest.raises(pf.InputError, match="share parameters"):
        pf.HalfBridges(net, net, BRIDGE)
    two = MLP(2, 8, 1, outputs=2)
    assert math.isfinite(pf.BridgeModel(two, BRIDGE, sampling=SamplingDefaults(nfe=7)).sampling.nfe)
