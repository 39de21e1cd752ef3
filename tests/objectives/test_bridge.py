"""[SF]2M, bridge matching and half-bridges on Gaussians, where each phase has a closed form."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from scipy.integrate import quad
from torch import nn

import pushforward as pf
from contracts.members import randn
from laws.pairs import Curved, correlated, entropic
from pushforward.core.noise import LATENT, SOLVER, SOURCE
from pushforward.core.times import Uniform
from pushforward.nets import MLP
from pushforward.objectives import BridgeMatching, ProportionalFitting, ScoreAndFlowMatching

STD = 0.9
BRIDGE = pf.BrownianBridge(STD)


class Affine(nn.Module):
    """c0 + c1 x + c2 t x for each output: linear in its parameters, and wrong everywhere."""

    def __init__(self, outputs=1, seed=0):
        super().__init__()
        self.c = nn.Parameter(randn(outputs, 3, seed=seed))
        self.asked = []

    def forward(self, x, t, **cond):
        self.asked.append((x.detach(), t.detach(), cond))
        return torch.cat([c[0] + c[1] * x + c[2] * t[:, None] * x for c in self.c], dim=1)


class Polynomial(nn.Module):
    """The drift a(t) x + b(t) of one-dimensional Gaussians, a and b of degree 5 in t."""

    def __init__(self):
        super().__init__()
        self.c = nn.Parameter(torch.zeros(2, 6, dtype=torch.float64))

    def forward(self, x, t, **cond):
        powers = t[:, None] ** torch.arange(6)
        return (powers @ self.c[0])[:, None] * x + (powers @ self.c[1])[:, None]


def same(differences, scale):
    """That the mean of these gradients is 0 as far as their scatter says, and that it says much."""
    error = differences.std(0) / math.sqrt(len(differences))
    assert (differences.mean(0).abs() < 4.5 * error).all(), differences.mean(0) / error
    assert float(error.norm()) < 0.1 * float(scale.norm())


# [SF]2M.


@pytest.mark.parametrize(
    ("path", "weight"),
    [
        (BRIDGE, None), (BRIDGE, lambda t: 0.5 + 2 * t), (pf.Tube(0.4), None), (pf.SmoothBridge(0.7), None),
        (Curved(), None),
    ],
    ids=["BrownianBridge", "weighted", "Tube", "SmoothBridge", "Curved"],
)  # fmt: skip
def test_score_and_flow_matching_has_the_gradient_of_the_loss_against_the_exact_field(path, weight):
    pair = correlated()
    field, net, size = pair.field(path), Affine(2), 400
    objective = ScoreAndFlowMatching(pf.BridgeModel(net, path), weight=weight)
    differences, exact = [], []
    for k in range(40):
        noise = pf.Noise.batch(size, seed=1, step=k)
        x0, x1 = pair.draw(noise)
        net.asked.clear()
        loss = objective(pf.Batch(x1, x0=x0), noise)["loss"].mean()
        conditional = torch.autograd.grad(loss, net.c)[0]
        x, t, _ = net.asked[0]
        line, score = net(x, t).chunk(2, dim=1)
        u, true_score = field.with_score(x, t)
        true_line = u + path.growth(t)[:, None] * true_score
        w = 1 if weight is None else weight(t)[:, None]
        marginal = (line - true_line) ** 2 + w * (
            path.gamma(t)[:, None] * (score - true_score)
        ) ** 2
        exact.append(torch.autograd.grad(marginal.mean(), net.c)[0])
        differences.append(conditional - exact[-1])
    same(torch.stack(differences), torch.stack(exact).mean(0))


def test_the_exact_field_has_the_irreducible_loss_and_nothing_else_less():
    """Var[x1 - x0 | x_t] + Var[z | x_t], in one dimension with independent ends."""
    v0, v1, n = 0.5, 1.4, 20000
    pair = pf.GaussianPair([0.3], [[v0]], [-1.0], [[v1]])
    field = pair.field(BRIDGE)

    class Exact(nn.Module):
        def __init__(self, shift=0.0):
            super().__init__()
            self.shift = shift

        def forward(self, x, t, **cond):
            u, score = field.with_score(x, t)
            return torch.cat((u + BRIDGE.growth(t)[:, None] * score, score + self.shift), dim=1)

    def variance(t):
        total = t**2 * v1 + (1 - t) ** 2 * v0 + STD**2 * t * (1 - t)
        of_line = v0 + v1 - (t * v1 - (1 - t) * v0) ** 2 / total
        return of_line + 1 - STD**2 * t * (1 - t) / total

    noise = pf.Noise.batch(n, seed=2)
    x0, x1 = pair.draw(noise)
    loss = ScoreAndFlowMatching(pf.BridgeModel(Exact(), BRIDGE))(pf.Batch(x1, x0=x0), noise)["loss"]
    assert loss.shape == (n,)
    assert abs(float(loss.mean()) - quad(variance, 0, 1)[0]) < 4.5 * float(loss.std()) / n**0.5
    worse = ScoreAndFlowMatching(pf.BridgeModel(Exact(1.0), BRIDGE))(pf.Batch(x1, x0=x0), noise)
    more = worse["loss"] - loss  # on average gamma^2
    assert abs(float(more.mean()) - STD**2 / 6) < 4.5 * float(more.std()) / n**0.5


def test_conditions_follow_their_data_through_a_coupling_and_may_be_dropped():
    def reverse(x0, x1, noise, cond=None):
        return torch.arange(len(x1)), torch.arange(len(x1)).flip(0)

    net, x1 = Affine(2), randn(64, 2, seed=1)
    label, noise = torch.arange(64), pf.Noise.batch(64, seed=2)
    model = pf.BridgeModel(net, BRIDGE, nulls={"label": -1})
    ScoreAndFlowMatching(model, reverse)(pf.Batch(x1, {"label": label}), noise)
    x, t, cond = net.asked[0]
    x0, z = (noise.normal((2,), stream, torch.float64) for stream in (SOURCE, LATENT))
    t = t[:, None]
    there = t * x1.flip(0) + (1 - t) * x0 + STD * (t * (1 - t)).sqrt() * z
    assert torch.allclose(x, there)
    assert torch.equal(cond["label"], label.flip(0))
    ScoreAndFlowMatching(model, condition_dropout=0.5)(pf.Batch(x1, {"label": label}), noise)
    dropped = net.asked[1][2]["label"] == -1
    assert 16 <= int(dropped.sum()) <= 48


def test_targets_have_bounded_variance_up_to_the_ends_of_time():
    net = Affine(2)
    batch, noise = pf.Batch(randn(500, 2), x0=randn(500, 2, seed=1)), pf.Noise.batch(500)
    for times in (Uniform(0, 1e-9), Uniform(1 - 1e-9, 1)):
        loss = ScoreAndFlowMatching(pf.BridgeModel(net, BRIDGE), times=times)(batch, noise)["loss"]
        assert float(loss.detach().max()) < 500
        model = pf.HalfBridges(Affine(), Affine(), BRIDGE)
        assert float(BridgeMatching(model, times=times)(batch, noise)["loss"].detach().max()) < 500


# Bridge matching (DSBM).


class Exact(nn.Module):
    """The drift of a Gaussian pair's mixture of bridges, u + sign std^2/2 score, with a parameter to move it."""

    def __init__(self, pair, sign):
        super().__init__()
        self.field, self.sign = pair.field(BRIDGE), sign
        self.c = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, t, **cond):
        u, score = self.field.with_score(x, t)
        return u + self.sign * STD**2 / 2 * score + self.c


def reached(drift, sign, pair, steps):
    """The pair of where Euler steps of an affine drift start and end: from x0 (sign 1) or from x1 (sign -1)."""
    dim = len(pair.mean0)
    h, one = sign / steps, torch.eye(dim, dtype=torch.float64)
    mean, cov = (pair.mean0, pair.cov0) if sign > 0 else (pair.mean1, pair.cov1)
    start, total, cross = (mean, cov), mean, cov
    for k in range(steps):
        t = k / steps if sign > 0 else 1 - k / steps
        points = torch.cat((torch.zeros(1, dim, dtype=torch.float64), one))
        at = drift(points, torch.full((dim + 1,), t, dtype=torch.float64))
        a = one + h * (at[1:] - at[0]).mT
        total = a @ total + h * at[0]
        cov, cross = a @ cov @ a.mT + STD**2 / steps * one, cross @ a.mT  # Cov(start, now)
    ends = (*start, total, cov, cross) if sign > 0 else (total, cov, *start, cross.mT)
    return pf.GaussianPair(*(e.detach() for e in ends))


@pytest.mark.parametrize("phase", [0, 1, 2], ids=["both", "backward_drift", "forward_drift"])
def test_each_phase_of_bridge_matching_has_the_gradient_of_the_markovian_projection(phase):
    pair, steps = correlated(), 5
    model = pf.HalfBridges(Affine(seed=1), Affine(seed=2), BRIDGE)
    objective = BridgeMatching(model, every=1000, steps=steps, draws=3)
    # The pairs that a phase is trained on, and with them the drifts that it is after.
    pairs = {
        0: pair,
        1: reached(model.forward_drift, 1, pair, steps),
        2: reached(model.backward_drift, -1, pair, steps),
    }
    field = pairs[phase].field(BRIDGE)
    trained = {
        0: ("forward_drift", "backward_drift"),
        1: ("backward_drift",),
        2: ("forward_drift",),
    }[phase]
    differences, exact = [], []
    for k in range(60):
        noise = pf.Noise.batch(200, seed=1, step=1000 * phase + k)
        x0, x1 = pair.draw(noise)
        for net in (model.forward_drift, model.backward_drift):
            net.asked.clear()
        loss = objective(pf.Batch(x1, x0=x0), noise)["loss"]
        assert loss.shape == (200,)
        loss.mean().backward()
        assert (model.forward_drift.c.grad is not None) == ("forward_drift" in trained)
        assert (model.backward_drift.c.grad is not None) == ("backward_drift" in trained)
        got, truth = [], []
        for name in trained:
            net, sign = getattr(model, name), 1 if name == "forward_drift" else -1
            x, t, _ = net.asked[-1]
            assert len(x) == 600
            u, score = field.with_score(x, t)
            weight = ((1 - t) if sign > 0 else t)[:, None]
            error = weight * (net(x, t) - u - sign * STD**2 / 2 * score) ** 2
            truth.append(torch.autograd.grad(error.mean(), net.c)[0])
            got.append(net.c.grad)
            net.c.grad = None
        differences.append(torch.stack(got) - torch.stack(truth))
        exact.append(torch.stack(truth))
    same(torch.stack(differences), torch.stack(exact).mean(0))


def test_the_schroedinger_bridge_is_the_fixed_point_of_bridge_matching():
    """Started there, all of its phases leave it as it is; with the ends of the same laws and another coupling, no."""
    pair = entropic(2, STD)
    other = pf.GaussianPair(pair.mean0, pair.cov0, pair.mean1, pair.cov1)
    for start, fixed in ((pair, True), (other, False)):
        model = pf.HalfBridges(Exact(start, 1), Exact(start, -1), BRIDGE)
        crosses = [
            reached(model.forward_drift, 1, pair, 40).cross, reached(model.backward_drift, -1, pair, 40).cross
        ]  # fmt: skip
        for cross in crosses:
            assert (float((cross - start.cross).abs().max()) < 1e-9) == fixed


def least_squares(objective, net, batch, noise):
    """Solve a phase: the loss is quadratic in the parameters of `net`."""

    loss = objective(batch, noise)["loss"].mean()
    slope = torch.autograd.grad(loss, net.c, create_graph=True)[0].flatten()
    curvature = [torch.autograd.grad(one, net.c, retain_graph=True)[0].flatten() for one in slope]
    with torch.no_grad():
        net.c -= torch.linalg.solve(torch.stack(curvature), slope).reshape(net.c.shape)


def scalar(v0, v1, cross=0.0, mean0=0.3, mean1=-1.0):
    return pf.GaussianPair([mean0], [[v0]], [mean1], [[v1]], [[cross]])


def marginal_batch(pair, size, seed):
    """Independent draws from both ends of a pair, moments as they are to be (antithetic, standardised)."""
    x = randn(size // 2, 2, seed=seed)
    x = torch.cat((x, -x))
    white = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(x.mT.cov(correction=0))).mT
    x0 = pair.mean0 + white[:, :1] @ pair.cov0.sqrt()
    x1 = pair.mean1 + white[:, 1:] @ pair.cov1.sqrt()
    return pf.Batch(x1, x0=x0)


def test_bridge_matching_follows_its_recursion_into_the_schroedinger_bridge():
    """The coupling of each phase is that of the Markov process with the drift of the one before."""
    pair, steps = scalar(0.5, 1.4), 40
    target = float(pf.GaussianPair.entropic([0.3], [[0.5]], [-1.0], [[1.4]], STD).cross)
    model = pf.HalfBridges(Polynomial(), Polynomial(), BRIDGE)
    objective = BridgeMatching(model, every=1, steps=steps, draws=6)
    truth, got = pair, []
    for phase in range(6):
        batch = marginal_batch(pair, 20000, phase)
        noise = pf.Noise.batch(20000, seed=3, step=phase)
        for name in (
            ("forward_drift", "backward_drift")
            if phase == 0
            else ("backward_drift",)
            if phase % 2
            else ("forward_drift",)
        ):
            least_squares(objective, getattr(model, name), batch, noise)
        sign = -1 if phase % 2 else 1
        found = reached(
            model.backward_drift if sign < 0 else model.forward_drift, sign, pair, steps
        )
        exact = reached(Exact(truth, sign), sign, pair, steps)
        assert torch.allclose(found.joint, exact.joint, atol=0.02), phase
        # The end that it runs into has the right law too, but for the steps.
        assert torch.allclose(exact.cov0, pair.cov0, rtol=0.1)
        assert torch.allclose(exact.cov1, pair.cov1, rtol=0.1)
        truth, got = found, [*got, float(found.cross)]
    assert target > 0.3
    assert abs(got[0] - target) > 0.05
    assert abs(got[-1] - target) < 0.03


# Iterative proportional fitting (DSB).


def half_bridge(pair, end, mean, cov):
    """The coupling nearest to `pair` with the given law at one end: the other is drawn given that end as before."""
    if end == 1:
        gain = pair.cross @ torch.linalg.inv(pair.cov1)
        m = pair.mean0 + gain @ (mean - pair.mean1)
        c = pair.cov0 + gain @ (cov - pair.cov1) @ gain.mT
        return pf.GaussianPair(m, c, mean, cov, gain @ cov)
    gain = pair.cross.mT @ torch.linalg.inv(pair.cov0)
    m = pair.mean1 + gain @ (mean - pair.mean0)
    c = pair.cov1 + gain @ (cov - pair.cov0) @ gain.mT
    return pf.GaussianPair(mean, cov, m, c, cov @ gain.mT)


def test_the_closed_recursion_of_half_bridges_ends_in_the_schroedinger_bridge():
    pair = entropic(2, STD)
    one = torch.eye(2, dtype=torch.float64)
    truth = pf.GaussianPair(pair.mean0, pair.cov0, pair.mean0, pair.cov0 + STD**2 * one, pair.cov0)
    for k in range(40):
        ends = (1, pair.mean1, pair.cov1) if k % 2 == 0 else (0, pair.mean0, pair.cov0)
        truth = half_bridge(truth, *ends)
    assert torch.allclose(truth.joint, pair.joint, atol=1e-6)


def test_each_phase_of_proportional_fitting_is_the_half_bridge_of_the_one_before():
    """In coupling and in both ends, phase after phase, into the Schroedinger bridge."""
    pair, steps, one = scalar(0.5, 1.4), 80, torch.eye(1, dtype=torch.float64)
    target = pf.GaussianPair.entropic([0.3], [[0.5]], [-1.0], [[1.4]], STD)
    model = pf.HalfBridges(Polynomial(), Polynomial(), BRIDGE)
    objective = ProportionalFitting(model, every=1, steps=steps)
    truth = pf.GaussianPair(pair.mean0, pair.cov0, pair.mean0, pair.cov0 + STD**2 * one, pair.cov0)
    for phase in range(6):
        back = phase % 2 == 0
        noise = pf.Noise.batch(3000, seed=5, step=phase)
        batch = marginal_batch(pair, 3000, phase)
        least_squares(
            objective, model.backward_drift if back else model.forward_drift, batch, noise
        )
        ends = (1, pair.mean1, pair.cov1) if back else (0, pair.mean0, pair.cov0)
        truth = half_bridge(truth, *ends)
        found = reached(
            model.backward_drift if back else model.forward_drift, -1 if back else 1, pair, steps
        )
        assert torch.allclose(found.joint, truth.joint, atol=0.04), phase
        assert torch.allclose(found.mean0, truth.mean0, atol=0.025)
        assert torch.allclose(found.mean1, truth.mean1, atol=0.025)
    assert torch.allclose(found.joint, target.joint, atol=0.03)


@pytest.mark.parametrize("phase", [0, 1, 2])
def test_proportional_fitting_trains_one_network_on_trajectories_of_the_other(phase):
    model = pf.HalfBridges(Affine(seed=1), Affine(seed=2), BRIDGE)
    steps, noise = 4, pf.Noise.batch(3, seed=1, step=10 * phase + 7)
    batch = pf.Batch(randn(3, 2), {"label": torch.arange(3)}, randn(3, 2, seed=1))
    loss = ProportionalFitting(model, every=10, steps=steps)(batch, noise)["loss"]
    loss.sum().backward()
    trained, running = (
        (model.forward_drift, model.backward_drift)
        if phase == 1
        else (model.backward_drift, model.forward_drift)
    )
    assert trained.c.grad is not None
    assert running.c.grad is None
    x, t, cond = trained.asked[0]
    assert torch.equal(cond["label"], torch.arange(3).repeat(steps))
    x, t = x.reshape(steps, 3, 2), t.reshape(steps, 3)
    start = batch.x1 if phase == 1 else batch.x0
    h = -1 / steps if phase == 1 else 1 / steps
    times = [0.75, 0.5, 0.25, 0.0] if phase == 1 else [0.25, 0.5, 0.75, 1.0]
    assert torch.allclose(t[:, 0], torch.tensor(times, dtype=torch.float64))
    assert len(running.asked) == (0 if phase == 0 else steps)
    if phase > 0:
        states = torch.stack([asked[0] for asked in running.asked])
        assert torch.equal(states[0], start)
        assert torch.equal(states[1:], x[:-1])
        before = [1 - times[-1], *times[:-1]]
        z = [
            b - a - h * running(a, torch.full((3,), t).double())
            for a, b, t in zip(states, x, before, strict=True)
        ]
        z = torch.stack(z)
        drawn = noise.normal((steps, 2), SOLVER, torch.float64).transpose(0, 1)
        assert torch.allclose(z, STD * abs(h) ** 0.5 * drawn, atol=1e-12)
    goal = torch.cat((start[None], x)).diff(dim=0) / h
    error = (trained(x.reshape(-1, 2), t.flatten()).reshape(x.shape) - goal) ** 2
    assert torch.allclose(loss, error.mean((0, 2)) * abs(h) / STD**2)


# What both share.

SETTINGS = [
    pytest.param(lambda m: BridgeMatching(m, every=4, steps=3), id="BridgeMatching"),
    pytest.param(lambda m: ProportionalFitting(m, every=4, steps=3), id="ProportionalFitting"),
]


@pytest.mark.parametrize("make", SETTINGS)
def test_a_run_resumed_within_a_phase_equals_one_that_was_not_interrupted(make):
    def train(model, optimizer, first, last):
        objective, losses = make(model), []
        for step in range(first, last):
            batch = pf.Batch(randn(8, 2, seed=step).float(), x0=randn(8, 2, seed=-step).float())
            loss = objective(batch, pf.Noise.batch(8, seed=1, step=step))["loss"].mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
        return losses

    def fresh(state):
        model = pf.HalfBridges(MLP(2, 8, 1), MLP(2, 8, 1), BRIDGE)
        model.load_state_dict(state)
        return model, torch.optim.AdamW(model.parameters(), lr=1e-2)

    torch.manual_seed(0)
    state = copy.deepcopy(pf.HalfBridges(MLP(2, 8, 1), MLP(2, 8, 1), BRIDGE).state_dict())
    model, optimizer = fresh(state)
    losses = train(model, optimizer, 0, 6)  # in the middle of phase 1
    moved, again = fresh(copy.deepcopy(model.state_dict()))
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    rest = train(model, optimizer, 6, 11)
    assert train(moved, again, 6, 11) == rest
    assert len(set(losses + rest)) == 11
    for a, b in zip(model.parameters(), moved.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("make", SETTINGS)
def test_the_network_at_rest_stays_as_it_is_under_weight_decay_too(make):
    torch.manual_seed(0)
    model = pf.HalfBridges(MLP(2, 8, 1), MLP(2, 8, 1), BRIDGE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    objective = make(model)
    for step in range(12):
        before = copy.deepcopy(model)
        objective(randn(8, 2, seed=step).float(), pf.Noise.batch(8, step=step))[
            "loss"
        ].mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        phase = step // 4
        both = isinstance(objective, BridgeMatching) and phase == 0
        moves = {}
        for name in ("forward_drift", "backward_drift"):
            then, now = getattr(before, name).state_dict(), getattr(model, name).state_dict()
            moves[name] = any(not torch.equal(then[key], now[key]) for key in now)
        ahead = phase % 2 == (0 if isinstance(objective, BridgeMatching) else 1)
        assert moves == {"forward_drift": both or ahead, "backward_drift": both or not ahead}


@pytest.mark.parametrize("make", SETTINGS)
def test_draws_do_not_depend_on_the_batch_and_differ_from_step_to_step(make):
    torch.manual_seed(0)
    model = pf.HalfBridges(MLP(2, 8, 1).double(), MLP(2, 8, 1).double(), BRIDGE)
    for net in (model.forward_drift, model.backward_drift):
        nn.init.normal_(net.conv_out.weight, std=0.1)
    objective, x0, x1 = make(model), randn(6, 2), randn(6, 2, seed=1)
    for step in (1, 5, 9):
        noise = pf.Noise.batch(6, seed=1, step=step)
        whole = objective(pf.Batch(x1, x0=x0), noise)["loss"]
        part = objective(pf.Batch(x1[2:4], x0=x0[2:4]), noise[2:4])["loss"]
        assert torch.allclose(whole[2:4], part, rtol=1e-12)
        assert not torch.allclose(whole, objective(pf.Batch(x1, x0=x0), noise.at(step + 1))["loss"])


def test_the_first_phase_of_bridge_matching_takes_the_coupling_and_later_ones_their_own_pairs():
    def reverse(x0, x1, noise, cond=None):
        calls.append(len(x1))
        return torch.arange(len(x1)), torch.arange(len(x1)).flip(0)

    calls = []
    model = pf.HalfBridges(Affine(seed=1), Affine(seed=2), BRIDGE)
    objective = BridgeMatching(model, every=1, steps=2, coupling=reverse, draws=1)
    batch = pf.Batch(randn(4, 2), {"label": torch.arange(4)}, randn(4, 2, seed=1))
    seen = []
    for phase in range(3):
        objective(batch, pf.Noise.batch(4, step=phase))
        trained = model.backward_drift if phase == 1 else model.forward_drift
        seen.append(trained.asked[-1][2]["label"].tolist())
        assert len(calls) == 1
    assert seen == [[3, 2, 1, 0], [0, 1, 2, 3], [0, 1, 2, 3]]
    # Labels reach the network that runs, too.
    assert all(
        "label" in cond
        for _, _, cond in itertools.chain(model.forward_drift.asked, model.backward_drift.asked)
    )


def test_arguments_that_do_not_fit_are_errors():
    one = pf.BridgeModel(Affine(2), BRIDGE)
    two = pf.HalfBridges(Affine(), Affine(seed=1), BRIDGE)
    with pytest.raises(pf.InputError, match="trains a BridgeModel"):
        ScoreAndFlowMatching(two)
    for kind in (BridgeMatching, ProportionalFitting):
        with pytest.raises(pf.InputError, match="trains HalfBridges"):
            kind(one)
        for bad in ({"every": 0}, {"steps": 0}):
            with pytest.raises(pf.InputError, match="must be positive"):
                kind(two, **bad)
        with pytest.raises(pf.InputError, match=r"one shape|shapes must agree"):
            kind(two)(pf.Batch(randn(4, 2), x0=randn(4, 3)), pf.Noise.batch(4))
        with pytest.raises(pf.InputError, match="3 noise ids for a batch of 4"):
            kind(two)(randn(4, 2), pf.Noise.batch(3))
    with pytest.raises(pf.InputError, match="draws is 0"):
        BridgeMatching(two, draws=0)
    for drop in (-0.1, 1.1):
        with pytest.raises(pf.InputError, match="probability"):
            ScoreAndFlowMatching(one, condition_dropout=drop)
    with pytest.raises(pf.InputError, match="shapes must agree"):
        ScoreAndFlowMatching(one)(pf.Batch(randn(4, 2), x0=randn(4, 3)), pf.Noise.batch(4))
