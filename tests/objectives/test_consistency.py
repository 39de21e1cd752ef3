"""Consistency: the exact map is its fixed point, in steps of any length and in none."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import pushforward as pf
from contracts.flow_maps import ExactNet, Free, flow_model, gradient
from contracts.members import has_share, mixture, randn
from objectives.test_meanflow import LAWS
from pushforward.core.noise import SOURCE
from pushforward.core.times import Constant, LogitNormal, Uniform
from pushforward.objectives import (
    ConsistencyDistillation,
    ConsistencyTraining,
    ContinuousConsistency,
    FlowMatching,
    Levels,
    PseudoHuber,
    squared,
)
from pushforward.solvers import Euler, Heun, SolverFlowMap

MIDDLE = Uniform(0.05, 0.9)


@dataclass(frozen=True)
class Pair:
    """In place of Levels: one pair of times for all."""

    t: float
    s: float

    def draw(self, path: pf.Path, noise: pf.Noise) -> tuple[Tensor, Tensor, Tensor]:
        t, s = (torch.full((len(noise),), v, dtype=torch.float64) for v in (self.t, self.s))
        return t, s, path.sigma(t) / path.alpha(t) - path.sigma(s) / path.alpha(s)


# Levels.


@pytest.mark.parametrize(
    ("path", "ends"),
    [
        (pf.EDM(), (80, 0.002)), (pf.CondOT(), (80, 0.002)), (pf.VP(), (80, 0.002)),
        (pf.VE(0.1, 5.0), (5, 0.1)), (pf.Cosine(), (80, 0.002)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("n", [1, 4, 18])
def test_levels_are_those_of_karras_within_the_paths_own(path, ends, n):
    times, k = Levels().table(path, n)
    roots = np.linspace(ends[0] ** (1 / 7), ends[1] ** (1 / 7), n + 1)
    np.testing.assert_allclose(k, roots**7, rtol=1e-9)
    inner = times[1:-1]
    np.testing.assert_allclose(path.sigma(inner) / path.alpha(inner), roots[1:-1] ** 7, rtol=1e-8)
    assert (float(times[0]), float(times[-1])) == (0.0, 1.0)
    assert bool((times.diff() > 0).all())
    if isinstance(path, pf.EDM):  # whose times are these levels
        torch.testing.assert_close(times, torch.linspace(0, 1, n + 1, dtype=torch.float64))
    other = Levels(largest=4.0, smallest=1.0, rho=2.0).table(path, 2)[1]
    np.testing.assert_allclose(other, [4.0, 2.25, 1.0])


@pytest.mark.parametrize(
    ("mean", "std"), [(-1.1, 2.0), (0.5, 0.7), (0.0, None)], ids=["paper", "other", "equal"]
)
def test_pairs_are_drawn_as_often_as_a_normal_law_of_the_log_level_says(mean, std):
    path, n, size = pf.EDM(0.02, 20.0), 7, 40000
    levels = Levels(n, n, mean=mean, std=std)
    times, k = levels.table(path, n)
    t, s, apart = levels.draw(path, pf.Noise.batch(size, seed=1))
    i = torch.searchsorted(times, t)
    assert torch.equal(times[i], t)
    assert torch.equal(times[i + 1], s)
    torch.testing.assert_close(apart, (path.sigma(t) - path.sigma(s)), rtol=1e-9, atol=1e-12)
    if std is None:
        share = np.full(n, 1 / n)
    else:
        share = -np.diff(stats.norm.cdf(np.log(k.numpy()), mean, std))
    counts = np.bincount(i.numpy(), minlength=n)
    keep = size * share / share.sum() > 5
    assert (
        stats.chisquare(counts[keep], (share / share[keep].sum())[keep] * counts[keep].sum()).pvalue
        > 1e-4
    )
    assert counts[~keep].sum() < 50


@pytest.mark.parametrize(
    ("first", "last", "steps"), [(10, 1280, 400_000), (10, 1280, 1000), (2, 16, 100), (5, 5, 50)]
)
def test_levels_double_as_the_paper_says(first, last, steps):
    """N(k) = min(s0 2^floor(k/K'), s1), K' = floor(K/(log2 floor(s1/s0) + 1)): Song & Dhariwal 2023, eq. 6."""
    levels = Levels(first, last, steps)
    whole = math.floor(steps / (math.log2(math.floor(last / first)) + 1))
    marks = {0, steps - 1, steps, 3 * steps}
    for j in range(1, 10):
        marks |= {j * whole - 1, j * whole}
    for k in sorted(marks):
        assert levels.count(k) == min(first * 2 ** math.floor(k / whole), last)
    assert levels.count(0) == first
    assert levels.count(steps) == last
    assert Levels(first, last).count(0) == last
    # The objective goes by the step of its noise.
    path = pf.EDM()
    for k in (0, whole):
        t, s, _ = levels.draw(path, pf.Noise.batch(50, step=k))
        torch.testing.assert_close(s - t, torch.full_like(t, 1 / levels.count(k)))


def test_levels_that_are_no_power_of_two_apart_double_until_the_last_of_them():
    """K' = floor(100/(log2 3 + 1)) = 38: 10, 20, and then 30 instead of 40."""
    levels = Levels(10, 30, 100)
    marks = {0: 10, 37: 10, 38: 20, 75: 20, 76: 30, 99: 30, 100: 30, 10**6: 30}
    assert {k: levels.count(k) for k in marks} == marks
    # Of a ratio that is not whole, the whole part: K' is as before, and not floor(100/(log2 3.5 + 1)) = 35.
    levels = Levels(10, 35, 100)
    marks = {0: 10, 35: 10, 37: 10, 38: 20, 75: 20, 76: 35, 100: 35}
    assert {k: levels.count(k) for k in marks} == marks


def test_levels_without_a_curriculum_are_the_last_throughout_however_few():
    levels = Levels(last=5)
    assert [levels.count(k) for k in (0, 7, 10**6)] == [5, 5, 5]
    t, s, _ = levels.draw(pf.EDM(), pf.Noise.batch(500, seed=1))
    pairs = {
        (round(5 * a, 9), round(5 * b, 9)) for a, b in zip(t.tolist(), s.tolist(), strict=True)
    }
    assert pairs == {(k, k + 1) for k in range(5)}


def test_the_pseudo_huber_distance_is_quadratic_near_by_and_a_length_far_away():
    d, c = 5, 0.00054 * math.sqrt(5)
    a, way = randn(4, d, seed=1), randn(4, d, seed=2)
    length = (way**2).sum(1).sqrt()
    near, far = (PseudoHuber()(a + e * way, a) for e in (1e-7, 10.0))
    torch.testing.assert_close(near, (1e-7 * length) ** 2 / (2 * c), rtol=1e-3, atol=0)
    torch.testing.assert_close(far, 10 * length - c, rtol=1e-6, atol=0)
    x = a.clone().requires_grad_()
    (slope,) = torch.autograd.grad(PseudoHuber()(x, a + way).sum(), x)
    torch.testing.assert_close(slope.norm(dim=1), torch.ones(4).double(), rtol=1e-4, atol=0)
    assert bool((PseudoHuber()(a, a) == 0).all())
    wide = PseudoHuber(0.5)(a, a + way)
    torch.testing.assert_close((wide + 0.5 * math.sqrt(d)) ** 2, length**2 + 0.25 * d)


# Steps.

STEPPED = [
    (pf.CondOT(), "velocity"), (pf.CondOT(), "data"), (pf.Cosine(), "v"), (pf.VP(), "v"), (pf.EDM(), "data"),
]  # fmt: skip


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("jumps", ["data", "any"])
@pytest.mark.parametrize(("path", "prediction"), STEPPED)
def test_the_exact_map_is_the_fixed_point_of_distillation_by_itself(path, prediction, jumps, law):
    net = ExactNet(law, path, prediction)
    model, noise = flow_model(net, path, prediction, jumps), pf.Noise.batch(40, seed=1)
    for distance in (PseudoHuber(), squared):
        objective = ConsistencyDistillation(
            model, Levels(last=12), distance, teacher=law.flow_map(path)
        )
        loss = objective(law.draw(noise), noise)["loss"]
        assert float(loss.detach().max()) < 1e-10
        assert float(gradient(loss.mean(), net).abs()) < 1e-6
        with torch.no_grad():
            net.theta.fill_(0.2)
        loss = objective(law.draw(noise), noise)["loss"]
        assert float(loss.detach().mean()) > 1e-4
        assert float(gradient(loss.mean(), net).abs()) > 1e-3
        with torch.no_grad():
            net.theta.fill_(0.0)


@pytest.mark.parametrize(("solver", "order"), [(Euler(), 1), (Heun(), 2)])
def test_by_one_step_of_a_solver_the_loss_falls_at_the_order_of_the_step(solver, order):
    """|f(x_s) - f(x_s')|^2 is the square of a local error, h^(2 (order + 1))."""
    law, path = mixture(1, 3), pf.CondOT()
    net = ExactNet(law, path, "velocity")
    noise = pf.Noise.batch(64, seed=2)
    values = []
    for h in (0.04, 0.02, 0.01):
        objective = ConsistencyDistillation(
            flow_model(net, path, jumps="data"), Pair(0.4, 0.4 + h), squared, weighted=False,
            teacher=SolverFlowMap(law.field(path), solver),
        )  # fmt: skip
        values.append(float(objective(law.draw(noise), noise)["loss"].detach().mean()))
    for coarse, fine in pairwise(values):
        assert math.log2(coarse / fine) == pytest.approx(2 * (order + 1), abs=0.4)


def test_with_a_good_solver_and_close_levels_the_exact_map_has_next_to_no_loss():
    law, path = mixture(3, 1), pf.EDM(0.05, 10.0)
    net, noise = ExactNet(law, path, "data"), pf.Noise.batch(64, seed=2)
    values = []
    for n in (16, 32, 64):
        objective = ConsistencyDistillation(
            flow_model(net, path, "data", "data"), Levels(last=n, std=None), squared,
            weighted=False, teacher=SolverFlowMap(law.field(path), Heun()),
        )  # fmt: skip
        values.append(float(objective(law.draw(noise), noise)["loss"].detach().mean()))
    assert math.log2(values[1] / values[2]) == pytest.approx(6, abs=0.7)
    assert values[2] < 1e-6


def hermite(law: pf.GaussianMixture, n: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """(x0, x1, weights): the mean over independent x0 ~ N(0, 1) and x1 ~ law, on the line, exactly."""
    z, w = np.polynomial.hermite_e.hermegauss(n)
    z, w = torch.from_numpy(z), torch.from_numpy(w / w.sum())
    centres, std = law.components.means, law.components.eigenvalues.sqrt()
    x1 = (centres + std * z).flatten()
    w1 = (law.log_weights.exp()[:, None] * w).flatten()
    x0, x1 = (part.reshape(-1, 1) for part in torch.meshgrid(z, x1, indexing="ij"))
    return x0, x1, torch.outer(w, w1).flatten()


@pytest.mark.parametrize("count", [1, 2])
def test_from_scratch_the_gradient_at_the_exact_map_vanishes_at_first_order(count):
    """Its expectation, by Gauss and Hermite, with the weight 1/(k_t - k_s); away from the map it does not."""
    law = mixture(1, count, seed=3)
    path = pf.CondOT(gaussian_source=False)  # so that x0 can be told
    net = ExactNet(law, path, "velocity")
    x0, x1, weights = hermite(law)
    batch, noise = pf.Batch(x1, x0=x0), pf.Noise.batch(len(x1))
    for theta, order in ((0.0, 1.0), (0.3, 0.0)):
        with torch.no_grad():
            net.theta.fill_(theta)
        slopes = []
        for h in (0.04, 0.02, 0.01):
            objective = ConsistencyTraining(
                flow_model(net, path, jumps="data"), Pair(0.45, 0.45 + h), squared
            )
            loss = (weights * objective(batch, noise)["loss"]).sum()
            slopes.append(float(gradient(loss, net)))
        assert math.log2(abs(slopes[1] / slopes[2])) == pytest.approx(order, abs=0.15)
    # In that limit it is the gradient of distillation by the exact flow.
    taught = ConsistencyDistillation(
        flow_model(net, path, jumps="data"), Pair(0.45, 0.46), squared, teacher=law.flow_map(path)
    )
    limit = float(gradient((weights * taught(batch, noise)["loss"]).sum(), net))
    assert slopes[2] == pytest.approx(limit, rel=0.05)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("path", [pf.CondOT(), pf.EDM(0.05, 10.0)], ids=repr)
def test_the_loss_is_the_distance_of_two_ends_over_that_of_their_levels(path, weighted):
    law, net, n = mixture(2, 3), Free(), 12
    noise = pf.Noise.batch(n, seed=3)
    x1 = law.draw(noise)
    x0 = noise.normal((2,), SOURCE, torch.float64)
    levels = Levels(6, 6, largest=5.0, smallest=0.1)
    t, s, _ = levels.draw(path, noise)
    k = [path.sigma(at) / path.alpha(at) for at in (t, s)]
    k = [torch.where(at == end, edge, level) for at, end, edge, level in
         zip((t, s), (0, 1), (5.0, 0.1), k, strict=True)]  # fmt: skip
    model, teacher = flow_model(net, path, "data"), SolverFlowMap(law.field(path), Heun())
    x_t = path.sample(x0, x1, t)
    scratch = ConsistencyTraining(model, levels, squared, weighted)
    taught = ConsistencyDistillation(model, levels, squared, weighted, teacher=teacher)
    for objective, x_s in ((scratch, path.sample(x0, x1, s)), (taught, teacher(x_t, t, s))):
        loss = objective(x1, noise)["loss"]
        here, there = model(x_t, t, 1.0), model(x_s, s, 1.0)
        truth = ((here - there) ** 2).mean(1) / ((k[0] - k[1]) if weighted else 1)
        torch.testing.assert_close(loss, truth, rtol=1e-9, atol=1e-12)
        # The second is held fixed.
        fixed = ((here - there.detach()) ** 2).mean(1) / ((k[0] - k[1]) if weighted else 1)
        torch.testing.assert_close(gradient(loss.sum(), net), gradient(fixed.sum(), net))


def test_both_ends_have_the_same_units_dropped_and_each_call_others():
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.dropout, self.seen = Free(), nn.Dropout(0.5), []

        def forward(self, x, t):
            y = self.dropout(self.inner(x, t))
            self.seen.append(y.detach() == 0)
            return y

    torch.manual_seed(1)
    law, path, noise = mixture(2, 3), pf.CondOT(), pf.Noise.batch(64, seed=1)
    net = Dropping()
    model = flow_model(net, path, jumps="data")
    for objective in (
        ConsistencyTraining(model, Pair(0.4, 0.4 + 1e-8), squared, False),
        ConsistencyTraining(model, Pair(0.4, 0.4 + 1e-8), squared, False, decay=0.9),
        ConsistencyDistillation(
            model, Pair(0.4, 0.4 + 1e-8), squared, False,
            teacher=SolverFlowMap(pf.Model(Dropping(), path), Euler()),
        ),
    ):  # fmt: skip
        loss = objective(law.draw(noise), noise)["loss"]
        assert float(loss.detach().max()) < 1e-12
        before = net.seen[0]
        net.seen.clear()
        objective(law.draw(noise), noise)
        assert not torch.equal(before, net.seen[0])
        net.seen.clear()
    apart = ConsistencyTraining(model, Pair(0.4, 0.4), squared, False)
    apart(law.draw(noise), noise)
    assert torch.equal(net.seen[0], net.seen[1])
    assert has_share(net.seen[0], 0.5)


def test_the_slow_copy_follows_as_a_moving_average_and_gives_the_second_end():
    law, path, noise, decay = mixture(1, 3), pf.CondOT(), pf.Noise.batch(16, seed=1), 0.8
    net = ExactNet(law, path, "velocity")
    model = flow_model(net, path, jumps="data")
    objective = ConsistencyTraining(model, Pair(0.3, 0.6), squared, False, decay=decay)
    assert ConsistencyTraining(model).state is None
    state = objective.state
    assert state is objective.state
    assert all(not p.requires_grad for p in state.parameters())
    values, slow = [0.5, -0.2, 0.9], 0.0
    for value in values:
        with torch.no_grad():
            net.theta.fill_(value)
        objective.advance()
        slow = decay * slow + (1 - decay) * value
        assert float(state.net.theta) == pytest.approx(slow, abs=1e-14)
        assert float(net.theta.detach()) == value
    # f of each is f of the exact map and theta (1 - t) times the same function.
    loss = objective(law.draw(noise), noise)["loss"]
    x0, x1 = noise.normal((1,), SOURCE, torch.float64), law.draw(noise)
    x_t, x_s = 0.3 * x1 + 0.7 * x0, 0.6 * x1 + 0.4 * x0
    flow = law.flow_map(path)
    here = flow(x_t, 0.3, 1.0) + 0.7 * 0.9 * (torch.sin(x_t) + 0.7 + 0.6)
    there = flow(x_s, 0.6, 1.0) + 0.4 * slow * (torch.sin(x_s) + 0.7 + 1.2)
    torch.testing.assert_close(loss, ((here - there) ** 2).mean(1))
    truth = (2 * (here - there) * 0.7 * (torch.sin(x_t) + 0.7 + 0.6)).mean()
    torch.testing.assert_close(gradient(loss.mean(), net)[0], truth)


# No steps.

ENDLESS = [
    (pf.CondOT(), "velocity"), (pf.CondOT(), "v"), (pf.Cosine(), "velocity"), (pf.Cosine(), "v"),
    (pf.VP(), "velocity"), (pf.VP(), "v"), (pf.EDM(0.05, 10.0), "data"),
]  # fmt: skip


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("jumps", ["data", "any"])
@pytest.mark.parametrize(("path", "prediction"), ENDLESS)
def test_the_exact_map_is_the_fixed_point_in_continuous_time(path, prediction, jumps, law):
    net = ExactNet(law, path, prediction)
    noise = pf.Noise.batch(12, seed=1)
    objective = ContinuousConsistency(
        flow_model(net, path, prediction, jumps), law.field(path), times=MIDDLE
    )
    x1 = law.draw(noise)
    loss = objective(x1, noise)["loss"]
    assert float(loss.detach().max()) < 1e-13
    assert float(gradient(loss.mean(), net).abs()) < 1e-5
    with torch.no_grad():
        net.theta.fill_(0.3)
    off = objective(x1, noise)["loss"]
    assert float(off.detach().mean()) > 1e-3
    assert float(gradient(off.mean(), net).abs()) > 1e-2


def tangent(
    objective: ContinuousConsistency, net: Shifted, x1: Tensor, noise: pf.Noise, per: float = 1.0
) -> Tensor:
    """g of one sample, from the gradient in a constant added to the network, which moves U by `per` as much.

    It is -2/D per w with w = g/(|g| + c), and |g| = c |w|/(1 - |w|).
    """
    loss = objective(x1, noise)["loss"]
    (slope,) = torch.autograd.grad(loss.sum(), net.shift)
    assert len(x1) == 1
    w = -slope * len(slope) / (2 * per)
    return w * objective.floor / (1 - w.square().mean().sqrt())


class Shifted(nn.Module):
    """A network of x and t, and a constant, at 0."""

    def __init__(self, dim: int = 2, seed: int = 0) -> None:
        super().__init__()
        self.inner = Free(dim, seed)
        self.shift = nn.Parameter(torch.zeros(dim, dtype=torch.float64))

    def forward(self, x, t, s=None, **cond):
        return self.inner(x, t, s, **cond) + self.shift


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("prediction", ["velocity", "v", "data"])
@pytest.mark.parametrize("path", [pf.CondOT(), pf.Cosine(), pf.VP(), pf.EDM(0.05, 10.0)], ids=repr)
def test_it_is_the_limit_of_consistency_in_small_steps(path, prediction, taught):
    """One sample: the gradients in all parameters are one, up to the positive factor that is known.

        discrete: 2 (f_t - f_s) b dU = -2 h df/dt b dU,   continuous: -2 g/(|g| + c) dU
    """  # fmt: skip
    law, net, h = mixture(2, 1), Free(), 1e-6
    model = flow_model(net, path, prediction, "data")
    for seed in range(3):
        noise = pf.Noise.batch(1, seed=seed)
        x1, t = law.draw(noise), (0.3, 0.55, 0.8)[seed]
        pair = Pair(t, t + h)
        discrete = (
            ConsistencyDistillation(model, pair, squared, False, teacher=law.flow_map(path))
            if taught
            else ConsistencyTraining(model, pair, squared, False)
        )
        whole = ContinuousConsistency(
            model, law.field(path) if taught else None, times=Constant(t), floor=0.3
        )
        theirs = gradient(discrete(x1, noise)["loss"].sum(), net) / h
        loss = whole(x1, noise)["loss"]
        mine = gradient(loss.sum(), net)
        assert float(torch.cosine_similarity(mine, theirs, dim=0)) > 0.999
        # b: how much of a change of U arrives, along the line alpha x1 + sigma x0 whose velocity changes.
        at = torch.tensor([t]).double()
        one = torch.ones_like(at)
        d_alpha, d_sigma = (torch.func.jvp(f, (at,), (one,))[1] for f in (path.alpha, path.sigma))
        arrive = torch.stack((path.alpha(one), path.sigma(one)))
        rows = torch.stack(
            (torch.cat((path.alpha(at), path.sigma(at))), torch.cat((d_alpha, d_sigma)))
        )
        b = torch.linalg.solve(rows.T, arrive)[1]
        truth = mine * (loss.detach().sqrt() + 0.3) * b
        torch.testing.assert_close(truth, theirs, rtol=2e-3, atol=2e-4 * float(theirs.abs().max()))


def test_on_the_trigonometric_path_it_is_the_published_tangent():
    """Lu & Song 2024, eq. 8 with sigma_d = 1 and r = 1, in their time tau = pi/2 (1 - t):

        g = -cos^2 tau (F - dx/dtau) - cos tau sin tau (x + dF/dtau) = cos tau df/dtau

    Here it is df/dt = -(pi/2) df/dtau, U being -(pi/2) F.
    """  # fmt: skip
    path, net = pf.Cosine(), Shifted()
    for seed, t in enumerate((0.15, 0.4, 0.7, 0.9)):
        objective = ContinuousConsistency(flow_model(net, path, "v", "data"), times=Constant(t))
        noise, x1 = pf.Noise.batch(1, seed=seed), randn(1, 2, seed=seed)
        z = noise.normal((2,), SOURCE, torch.float64)
        tau = math.pi / 2 * (1 - t)
        cos, sin = math.cos(tau), math.sin(tau)
        x, dx = cos * x1 + sin * z, cos * z - sin * x1

        def asked(x, tau):  # F of their time
            return net(x, torch.full((1,), 1 - 2 * tau / math.pi, dtype=torch.float64))

        h = 1e-5
        with torch.no_grad():
            d_net = (asked(x + h * dx, tau + h) - asked(x - h * dx, tau - h)) / (2 * h)
            published = -(cos**2) * (asked(x, tau) - dx) - cos * sin * (x + d_net)
        # The constant is added to F: U moves by -(pi/2) as much.
        got = tangent(objective, net, x1, noise, -math.pi / 2)
        torch.testing.assert_close(got, -math.pi / 2 * published[0] / cos, rtol=1e-7, atol=1e-8)


def test_tangents_are_made_shorter_than_one():
    """A constant for a network, on CondOT: g = v - U."""

    class Still(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Parameter(torch.tensor([0.4, -1.0], dtype=torch.float64))

        def forward(self, x, t):
            return self.c.expand_as(x)

    path, net = pf.CondOT(), Still()
    model = flow_model(net, path, jumps="data")
    for size in (1e-3, 1.0, 1e4):
        noise = pf.Noise.batch(1, seed=2)
        x1 = noise.normal((2,), SOURCE, torch.float64) + net.c.detach() + size * randn(1, 2)
        loss = ContinuousConsistency(model, times=MIDDLE, floor=0.2)(x1, noise)["loss"]
        g = size * randn(1, 2)
        length = g.square().mean().sqrt()
        torch.testing.assert_close(loss.detach()[0], length**2, rtol=1e-6, atol=0)
        slope = -gradient(loss.sum(), net)  # 2/D g/(|g| + c)
        torch.testing.assert_close(slope, (g / (length + 0.2))[0], rtol=1e-6, atol=0)
        assert float(slope.square().mean().sqrt()) < 1


@pytest.mark.parametrize("path", [pf.CondOT(), pf.Cosine(), pf.VP()], ids=repr)
def test_the_warmup_leads_from_flow_matching_to_consistency(path):
    net = Shifted()
    model = flow_model(net, path, jumps="data")
    noise, x1 = pf.Noise.batch(1, seed=3), randn(1, 2, seed=1)
    slow = ContinuousConsistency(model, times=Constant(0.4), warmup=8)
    for step in (0, 4, 8, 20):
        here = replace(noise, step=step)
        path_noise = here.normal((2,), SOURCE, torch.float64)
        none = ContinuousConsistency(model, times=Constant(0.4), warmup=10**9)
        full = ContinuousConsistency(model, times=Constant(0.4))
        g, first, last = (tangent(o, net, x1, here) for o in (slow, none, full))
        share = min(1.0, step / 8)
        assert float((last - first).norm()) > 1e-2
        torch.testing.assert_close(g, first + share * (last - first), rtol=1e-6, atol=1e-7)
        x_t = path.sample(path_noise, x1, 0.4)
        gap = path.velocity(path_noise, x1, 0.4) - net(x_t, torch.tensor([0.4]).double())
        torch.testing.assert_close(first, gap[0].detach(), rtol=1e-6, atol=1e-7)
    loss = slow(x1, noise)["loss"]
    # The value is that of the law itself, |df/dt|^2, from the first step.
    torch.testing.assert_close(
        loss, ContinuousConsistency(model, times=Constant(0.4))(x1, noise)["loss"]
    )
    theirs = FlowMatching(pf.Model(net, path), times=Constant(0.4))(x1, noise)["loss"]
    truth = gradient(theirs.sum(), net) / (theirs.detach().sqrt() + 0.1)
    torch.testing.assert_close(gradient(loss.sum(), net), truth)


def test_a_condition_reaches_the_teacher_and_both_ends():
    law, path = mixture(2, 4, labels=[0, 1, 0, 1]), pf.CondOT()
    noise, label = pf.Noise.batch(10, seed=1), torch.arange(10) % 2
    batch = pf.Batch(law.draw(noise, label), {"label": label})
    net = Free()
    model = flow_model(net, path)
    field, flow = law.field(path), SolverFlowMap(law.field(path), Heun())
    for k in (0, 1):
        rows = label == k
        part = pf.Batch(batch.x1[rows], {"label": label[rows]})
        for make in (
            lambda f: ContinuousConsistency(model, f, times=MIDDLE),
            lambda f: ConsistencyDistillation(
                model, Levels(5, 5), squared, teacher=SolverFlowMap(f, Heun())
            ),
        ):
            whole = make(field)(batch, noise)["loss"]
            told = make(Told(field, k))(part, noise[rows])["loss"]
            torch.testing.assert_close(whole[rows], told)
            other = make(Told(field, 1 - k))(part, noise[rows])["loss"]
            assert float((whole[rows] - other).detach().abs().max()) > 1e-6
    net.asked.clear()
    ConsistencyDistillation(model, Levels(5, 5), teacher=flow)(batch, noise)
    assert len(net.asked) == 2
    assert all(torch.equal(cond["label"], label) for *_, cond in net.asked)


class Told:
    """A field that is of one class, whatever it is told."""

    def __init__(self, field, k):
        self.field, self.path, self.k = field, field.path, k

    def __call__(self, x, t, want="velocity", label=None):
        return self.field(x, t, want, label=torch.full((len(x),), self.k))


def test_arguments_that_do_not_fit_are_errors():
    law, path = mixture(2, 1), pf.CondOT()
    model = flow_model(Free(), path, "data")
    grid = flow_model(Free(), path, "data", (0.0, 0.5, 1.0))
    flow = law.flow_map(path)
    for make in (
        ConsistencyTraining, ContinuousConsistency, lambda m: ConsistencyDistillation(m, teacher=flow),
    ):  # fmt: skip
        make(model)
        with pytest.raises(pf.InputError, match="goes to the data"):
            make(grid)
    with pytest.raises(pf.InputError, match="distillation takes a teacher"):
        ConsistencyDistillation(model)
    for make in (
        lambda: ConsistencyDistillation(model, teacher=law.flow_map(pf.Cosine())),
        lambda: ContinuousConsistency(model, law.field(pf.VP())),
    ):
        with pytest.raises(pf.InputError, match="the teacher flows along"):
            make()
    for decay in (-0.1, 1.0):
        with pytest.raises(pf.InputError, match="decay is"):
            ConsistencyTraining(model, decay=decay)
    for bad in ({"warmup": -1}, {"floor": 0.0}):
        with pytest.raises(pf.InputError, match="need warmup >= 0 and floor > 0"):
            ContinuousConsistency(model, **bad)
    for bad in (
        {"first": 0, "steps": 100}, {"first": 20, "last": 10, "steps": 100}, {"last": 0}, {"steps": -1},
    ):  # fmt: skip
        with pytest.raises(pf.InputError, match="need 1 <= first <= last, steps >= 0"):
            Levels(**bad)
    for bad in ({"smallest": 0.0}, {"largest": 0.001}, {"rho": 0.0}):
        with pytest.raises(pf.InputError, match="need 0 < smallest < largest"):
            Levels(**bad)
    with pytest.raises(pf.InputError, match=r"std is 0\.0; it must be positive"):
        Levels(std=0.0)
    for make in (ConsistencyTraining, ContinuousConsistency):
        with pytest.raises(pf.InputError, match="probability"):
            make(model, condition_dropout=-0.1)
    assert ContinuousConsistency(model).times == LogitNormal(0.0, 1.6)
