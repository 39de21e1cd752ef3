"""MeanFlow: the exact map is its fixed point, and its loss and gradient are those of the identity."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import pushforward as pf
from contracts.flow_maps import ExactNet, Free, flow_model, gradient
from contracts.members import has_share, mixture, rand, randn
from pushforward.core.noise import SOURCE
from pushforward.core.times import LogitNormal, Uniform
from pushforward.nets import MLP
from pushforward.objectives import FlowMatching, MeanFlow

# Away from the ends, where the velocity of a pair on VP is infinite.
MIDDLE = Uniform(0.05, 0.9)


PREDICTED = [
    (pf.CondOT(), "velocity"), (pf.CondOT(), "v"), (pf.Cosine(), "velocity"), (pf.Cosine(), "v"),
    (pf.VP(), "velocity"), (pf.VP(), "v"), (pf.VP(), "data"), (pf.EDM(0.05, 10.0), "noise"),
]  # fmt: skip
LAWS = [pytest.param(mixture(3, 1), id="full"), pytest.param(mixture(1, 3), id="line")]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("path", "prediction"), PREDICTED)
def test_the_exact_map_is_the_fixed_point_of_meanflow_along_the_exact_velocity(
    path, prediction, law
):
    net = ExactNet(law, path, prediction)
    model, noise = flow_model(net, path, prediction), pf.Noise.batch(24, seed=1)
    objective = MeanFlow(model, law.field(path), times=MIDDLE, share=0.3, arrive=0.2)
    x1 = law.draw(noise)
    loss = objective(x1, noise)["loss"]
    scale = float(law.field(path)(x1, 0.5).square().mean())
    assert float(loss.detach().max()) < 1e-14 * (1 + scale)
    assert float(gradient(loss.mean(), net).abs()) < 1e-7
    # A little off it, neither is small.
    with torch.no_grad():
        net.theta.fill_(0.3)
    off = objective(x1, noise)["loss"]
    assert float(off.detach().mean()) > 1e-3
    assert float(gradient(off.mean(), net).abs()) > 1e-2
    wrong = MeanFlow(
        flow_model(ExactNet(law, path, prediction, factor=1.1), path, prediction),
        law.field(path), times=MIDDLE,
    )  # fmt: skip
    assert float(wrong(x1, noise)["loss"].detach().mean()) > 1e-4


def test_other_networks_that_could_pass_for_a_mean_velocity_do_not():
    law, path, noise = mixture(1, 3), pf.CondOT(), pf.Noise.batch(64, seed=1)
    exact, x1 = ExactNet(law, path, "velocity"), law.draw(noise)

    class Other(nn.Module):
        def __init__(self, ends):
            super().__init__()
            self.ends = ends

        def forward(self, x, t, s):
            return exact(x, t, self.ends(t, s))

    def loss(ends) -> float:
        model = flow_model(Other(ends), path)
        objective = MeanFlow(model, law.field(path), times=MIDDLE, share=0.0)
        return float(objective(x1, noise)["loss"].detach().mean())

    assert loss(lambda t, s: s) < 1e-14
    assert loss(lambda t, s: t) > 1e-3  # the velocity at t
    assert loss(lambda t, s: (t + s) / 2) > 1e-3  # half of the way
    assert loss(lambda t, s: 2 * t - s) > 1e-3  # as much back


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("teacher", [False, True])
def test_on_straight_paths_the_loss_and_its_gradient_are_those_of_the_paper(power, teacher):
    """U - (v + (s - t) dU/dt), dU/dt = v grad U + d_t U by quotients of differences; eq. 22 for the weight."""
    law, path, floor = mixture(2, 3), pf.CondOT(), 0.02
    net = Free()
    field = law.field(path) if teacher else None
    noise = pf.Noise.batch(24, seed=2)
    x1 = law.draw(noise)
    objective = MeanFlow(
        flow_model(net, path), field, times=MIDDLE, share=0.25, power=power, floor=floor
    )
    loss = objective(x1, noise)["loss"]
    x, t, s, _ = net.asked[-1]
    x0 = noise.normal((2,), SOURCE, torch.float64)
    torch.testing.assert_close(x, t[:, None] * x1 + (1 - t)[:, None] * x0)
    assert bool((s > t).any())
    assert bool((s == t).any())
    v = law.field(path)(x, t) if teacher else x1 - x0
    h = 1e-5
    with torch.no_grad():
        rate = (net(x + h * v, t + h, s) - net(x - h * v, t - h, s)) / (2 * h)
        target = v + (s - t)[:, None] * rate
    error = ((net(x, t, s) - target) ** 2).mean(1)
    torch.testing.assert_close(loss.detach(), error.detach(), rtol=1e-8, atol=1e-10)
    for i in (0, 5, 11):
        weight = float((error[i].detach() + floor) ** -power)
        truth = weight * gradient(error[i], net)
        torch.testing.assert_close(gradient(loss[i], net), truth, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("prediction", ["velocity", "v", "data", "noise"])
@pytest.mark.parametrize("path", [pf.Cosine(), pf.VP(), pf.EDM(0.05, 10.0)], ids=repr)
def test_on_any_path_the_value_is_how_fast_the_end_moves(path, prediction):
    """|dX/dt|^2 along the trajectory, and the gradient is that of the velocity that the network says."""
    net, law = Free(), mixture(2, 3)
    model, noise = flow_model(net, path, prediction), pf.Noise.batch(16, seed=3)
    x1 = law.draw(noise)
    loss = MeanFlow(model, times=MIDDLE, share=0.25, power=0.0)(x1, noise)["loss"]
    x, t, s, _ = net.asked[-1]
    x0 = noise.normal((2,), SOURCE, torch.float64)
    h = 1e-5
    with torch.no_grad():
        # The pair's line itself is where the start moves: no velocity is needed.
        ahead, behind = (model(path.sample(x0, x1, t + e), t + e, s) for e in (h, -h))
        bent = (path.sample(x0, x1, t + h) + path.sample(x0, x1, t - h) - 2 * x) / 2
        assert float(bent.abs().max()) < 1e-4
        rate = (ahead - behind) / (2 * h)
    torch.testing.assert_close(loss.detach(), (rate**2).mean(1), rtol=1e-6, atol=1e-7)
    u = model.model(x, t, "velocity", s=s)
    truth = gradient((-2 * rate * u).mean(), net)
    torch.testing.assert_close(gradient(loss.mean(), net), truth, rtol=1e-5, atol=1e-6)


class Affine(nn.Module):
    """Linear in its parameters, and wrong everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Parameter(torch.tensor([0.3, -0.5, 0.8, 0.4, -0.6], dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        t, s, c = t[:, None], s[:, None], self.c
        return c[0] + c[1] * x + c[2] * t * x + c[3] * (s - t) * x + c[4] * (s - t)


@pytest.mark.parametrize("path", [pf.CondOT(), pf.Cosine(), pf.VP()], ids=repr)
def test_from_scratch_its_gradient_is_on_average_that_along_the_exact_velocity(path):
    law, net = mixture(2, 3), Affine()
    model = flow_model(net, path, "v")
    objective = MeanFlow(model, times=Uniform(0.15, 0.85), share=0.3, power=0.0)
    taught = replace(objective, teacher=law.field(path))
    differences, along = [], []
    for k in range(60):
        noise = pf.Noise.batch(200, seed=1, step=k)
        x1 = law.draw(noise)
        mine, theirs = (gradient(o(x1, noise)["loss"].mean(), net) for o in (objective, taught))
        differences.append(mine - theirs)
        along.append(theirs)
    difference, along = torch.stack(differences), torch.stack(along).mean(0)
    error = difference.std(0) / math.sqrt(len(difference))
    assert bool((difference.mean(0).abs() < 4.5 * error).all()), difference.mean(0) / error
    assert float(error.norm()) < 0.1 * float(along.norm())


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_guided_samples_learn_the_guided_velocity_and_dropped_ones_their_own(scale):
    """v <- w v + (1 - w) u(x, t | none) for those that keep their label."""
    path, net, n = pf.CondOT(), Free(), 3000
    noise, x1 = pf.Noise.batch(n, seed=5), randn(n, 2, seed=6)
    batch = pf.Batch(x1, {"label": torch.arange(n) % 3})
    model = flow_model(net, path)
    objective = MeanFlow(model, times=MIDDLE, share=0.5, guidance=scale, condition_dropout=0.4)
    loss = objective(batch, noise)["loss"].detach()
    x, t, s, cond = net.asked[-1]
    dropped = cond["label"] == -1
    assert has_share(dropped, 0.4)
    assert torch.equal(cond["label"][~dropped], batch.cond["label"][~dropped])
    v = (x1 - x) / (1 - t)[:, None]
    with torch.no_grad():
        free = net(x, t, t, label=torch.full((n,), -1))
        own = net(x, t, t, label=cond["label"])
        assert float((free - own)[~dropped].abs().min()) > 1e-5
        guided = torch.where(dropped[:, None], v, scale * v + (1 - scale) * free)
        h = 1e-5
        ahead, behind = (model(x + e * guided, t + e, s, **cond) for e in (h, -h))
    truth = (((ahead - behind) / (2 * h)) ** 2).mean(1)
    torch.testing.assert_close(loss, truth, rtol=1e-6, atol=1e-8)
    # Without labels there is nothing to guide.
    plain = MeanFlow(model, times=MIDDLE, share=0.5)(x1, noise)["loss"]
    torch.testing.assert_close(objective(x1, noise)["loss"], plain)


def test_guided_at_the_same_time_the_target_is_the_guided_velocity_itself():
    """s = t: |u(x, t | y) - (w v + (1 - w) u(x, t | none))|^2, by which the exact guided field is not moved."""
    path, law = pf.CondOT(), mixture(2, 4, labels=[0, 1, 0, 1])
    scale, field = 2.5, law.field(path)

    class Guided(nn.Module):
        def forward(self, x, t, s, label):
            own, free = field(x, t, label=label), field(x, t, label=torch.full_like(label, -1))
            keeps = (label >= 0)[:, None]
            return torch.where(keeps, scale * own + (1 - scale) * free, free)

    totals = {}
    for name, shift in (("exact", 0.0), ("off", 0.2)):
        net = Shifted(Guided(), shift)
        objective = MeanFlow(
            flow_model(net, path),
            times=MIDDLE,
            share=1.0,
            power=0.0,
            guidance=scale,
            condition_dropout=0.5,
        )
        total = []
        for k in range(30):
            noise = pf.Noise.batch(200, seed=1, step=k)
            label = torch.arange(200) % 2
            batch = pf.Batch(law.draw(noise, label), {"label": label})
            total.append(gradient(objective(batch, noise)["loss"].mean(), net))
        totals[name] = torch.stack(total)
    error = totals["exact"].std(0) / math.sqrt(30)
    assert bool((totals["exact"].mean(0).abs() < 4.5 * error).all())
    assert bool((totals["off"].mean(0).abs() > 3 * totals["exact"].mean(0).abs()).all())
    assert float(totals["off"].mean(0).norm()) > 5 * float(error.norm())


class Shifted(nn.Module):
    """A network, and a constant that is 0 or not."""

    def __init__(self, net: nn.Module, shift: float) -> None:
        super().__init__()
        self.net = net
        self.shift = nn.Parameter(torch.full((2,), shift, dtype=torch.float64))

    def forward(self, x, t, s=None, **cond):
        return self.net(x, t, s, **cond) + self.shift


@pytest.mark.parametrize(("share", "arrive"), [(0.75, 0.0), (0.3, 0.4), (0.0, 1.0), (1.0, 0.5)])
def test_the_share_that_stays_and_the_share_that_arrives(share, arrive):
    n, net, times = 20000, Free(), LogitNormal(0.4, 1.0)
    objective = MeanFlow(flow_model(net, pf.CondOT()), times=times, share=share, arrive=arrive)
    objective(randn(n, 2, seed=1), pf.Noise.batch(n, seed=4))
    _, t, s, _ = net.asked[-1]
    assert bool((t <= s).all())
    assert bool(((t > 0) & (s <= 1)).all())
    stays, arrives = s == t, s == 1
    for rows, p in ((stays, share), (arrives, (1 - share) * arrive)):
        got = float(rows.double().mean())
        assert abs(got - p) <= 4.5 * math.sqrt(p * (1 - p) / n)

    def cdf(value):
        value = torch.as_tensor(value)
        return stats.norm.cdf((value / (1 - value)).log(), 0.4, 1.0)

    # Those that stay or arrive start at times of the law; of others t is the smaller of two and s the larger.
    others = ~(stays | arrives)
    for value, truth in (
        (t[stays], cdf), (t[arrives], cdf),
        (t[others], lambda v: 1 - (1 - cdf(v)) ** 2), (s[others], lambda v: cdf(v) ** 2),
    ):  # fmt: skip
        if len(value):
            assert stats.kstest(value.numpy(), truth).pvalue > 1e-4
    # Two independent times: the larger says nothing about where in [0, larger] the smaller lies.
    if len(t[others]) > 100:
        assert abs(stats.spearmanr(cdf(t[others]) / cdf(s[others]), s[others])[0]) < 0.05


def test_samples_that_stay_learn_by_flow_matching():
    path, net = pf.VP(), Free()
    model = pf.Model(net, path, "v")
    noise, x1 = pf.Noise.batch(32, seed=7), randn(32, 2, seed=8)
    objective = MeanFlow(pf.FlowMapModel(model), times=MIDDLE, share=1.0, power=0.0)
    mine = objective(x1, noise)["loss"]
    theirs = FlowMatching(model, times=MIDDLE)(x1, noise)["loss"]
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)
    for power in (0.5, 1.0):
        weighted = replace(objective, power=power, floor=0.1)(x1[:1], noise[:1])["loss"]
        plain = FlowMatching(model, times=MIDDLE)(x1[:1], noise[:1])["loss"]
        torch.testing.assert_close(weighted, plain, rtol=1e-9, atol=1e-10)
        truth = gradient(plain.mean(), net) / (float(plain.detach()) + 0.1) ** power
        torch.testing.assert_close(gradient(weighted.mean(), net), truth, rtol=1e-8, atol=1e-9)


def test_the_network_draws_the_same_dropout_for_the_derivative_and_for_the_value():
    """With one mask, U + dX/dt - U has no trace of it where U does not depend on x or t."""

    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Parameter(torch.ones(2, dtype=torch.float64))
            self.kept = []

        def forward(self, x, t, s):
            mask = (torch.rand(x.shape) < 0.5).double()
            self.kept.append(mask)
            return self.c * mask + 0 * x

    torch.manual_seed(0)
    net = Dropped()
    objective = MeanFlow(flow_model(net, pf.CondOT()), times=MIDDLE, share=0.0, power=0.0)
    for _ in range(2):
        objective(randn(8, 2), pf.Noise.batch(8))
    first, second, third, fourth = net.kept
    assert torch.equal(first, second)
    assert torch.equal(third, fourth)
    assert not torch.equal(first, third)


@pytest.mark.slow
def test_compiled_the_loss_and_its_gradient_are_the_same():
    model = pf.FlowMapModel(pf.Model(MLP(2, 16, 1, time="smooth", two_times=True), pf.CondOT()))
    with torch.no_grad():
        for k, p in enumerate(model.parameters()):
            p.copy_(0.3 * randn(*p.shape, seed=k, dtype=torch.float32))
    x1, noise = randn(32, 2, seed=1, dtype=torch.float32), pf.Noise.batch(32, seed=2)
    found = []
    for compiled in (False, True):
        model.zero_grad()
        loss = MeanFlow(model, share=0.3, compiled=compiled)(x1, noise)["loss"]
        loss.mean().backward()
        found.append((loss.detach(), [p.grad.clone() for p in model.parameters()]))
    (loss, slopes), (again, others) = found
    torch.testing.assert_close(again, loss, rtol=1e-4, atol=1e-5)
    for a, b in zip(slopes, others, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("low", [0.0, 1e-5])
def test_no_two_times_of_a_sample_depend_on_its_batch(low):
    net = Free()
    objective = MeanFlow(
        flow_model(net, pf.CondOT()), times=Uniform(low, 1.0), share=0.5, arrive=0.2
    )
    noise, x1 = pf.Noise.batch(20, seed=3, start=100), rand(20, 2, seed=1)
    whole = objective(x1, noise)["loss"]
    parts = [objective(x1[i : i + 7], noise[i : i + 7])["loss"] for i in (0, 7, 14)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(objective(x1, noise.at(1))["loss"], whole)


def test_arguments_that_do_not_fit_are_errors():
    law, path = mixture(2, 3), pf.CondOT()
    model = flow_model(Free(), path)
    for jumps in ("data", (0.0, 0.5, 1.0)):
        with pytest.raises(pf.InputError, match="jumps between any two times"):
            MeanFlow(flow_model(Free(), path, jumps=jumps))
    for other in (pf.Cosine(), pf.CondOT(0.05), pf.VP()):
        with pytest.raises(pf.InputError, match="the teacher flows along"):
            MeanFlow(model, law.field(other))
    with pytest.raises(pf.InputError, match="the teacher flows along"):
        MeanFlow(flow_model(Free(), pf.VP()), law.field(pf.VP(0.5, 8.0)))
    for name in ("share", "arrive"):
        for bad in (-0.1, 1.1):
            with pytest.raises(pf.InputError, match=f"{name} is {bad}; it lies in"):
                MeanFlow(model, **{name: bad})
    for bad in ({"power": -1.0}, {"floor": 0.0}):
        with pytest.raises(pf.InputError, match="need power >= 0 and floor > 0"):
            MeanFlow(model, **bad)
    with pytest.raises(pf.InputError, match="guide the teacher"):
        MeanFlow(model, law.field(path), guidance=2.0, condition_dropout=0.1)
    with pytest.raises(pf.InputError, match="condition_dropout > 0"):
        MeanFlow(model, guidance=2.0)
    with pytest.raises(pf.InputError, match="probability"):
        MeanFlow(model, condition_dropout=1.5)
