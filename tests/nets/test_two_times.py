"""Networks that are told where they go: a second time s, which makes no difference until it is learned."""

from __future__ import annotations

import math

import pytest
import torch

import pushforward as pf
from contracts.members import randn
from pushforward.core.derivatives import jvp
from pushforward.models.flow_map import FlowMapModel
from pushforward.nets import MLP, ImageClassifier, MLPClassifier, UNet
from pushforward.nets.layers import Conditioning, SinusoidalTime, time_features

TIMES = ("sinusoidal", "fourier", "smooth")
B = 5
# (class, arguments, shape of a sample, number of classes)
KINDS = [
    pytest.param(MLP, {"dim": 3, "width": 16, "depth": 2}, (3,), None, id="MLP"),
    pytest.param(MLP, {"dim": 2, "width": 12, "classes": 3}, (2,), 3, id="MLP-classes"),
    pytest.param(UNet, {"channels": 1, "width": 8, "attention": (0,)}, (1, 5, 6), None, id="UNet"),
    pytest.param(
        UNet, {"channels": 2, "width": 8, "outputs": 2, "classes": 4}, (2, 6, 6), 4, id="UNet-2"
    ),
]


def shaken(net, scale=0.1):
    """The network off its zero start."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(scale * torch.randn_like(p))
    return net


def point(shape, classes):
    cond = {} if classes is None else {"label": torch.arange(B) % (classes + 1) - 1}
    t = torch.linspace(0.05, 0.8, B)
    return randn(B, *shape, seed=1, dtype=torch.float32), t, cond


def per_sample(difference):
    return difference.abs().flatten(1).amax(1)


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize(("kind", "arguments", "shape", "classes"), KINDS)
def test_with_the_weights_of_one_time_the_second_makes_no_difference(
    kind, arguments, shape, classes, time
):
    torch.manual_seed(0)
    one = shaken(kind(**arguments, time=time))
    two = kind(**arguments, time=time, two_times=True)
    missing, unexpected = two.load_state_dict(one.state_dict(), strict=False)
    # What is new is the second time's own way into the condition, and no more.
    assert unexpected == []
    assert missing == [
        f"conditioning.way.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")
    ]
    x, t, cond = point(shape, classes)
    truth = one(x, t, **cond)
    assert (per_sample(truth) > 1e-3).all()
    for s in (None, t, torch.ones(B), torch.zeros(B), torch.rand(B)):
        assert torch.equal(two(x, t, s=s, **cond), truth)
    # It is a start and no fixture: the way's first layer is drawn at random, so that the last one learns.
    s = torch.ones(B)
    (two(x, t, s=s, **cond) ** 2).sum().backward()
    assert (two.conditioning.way[2].weight.grad != 0).any()


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize(("kind", "arguments", "shape", "classes"), KINDS)
def test_after_steps_of_training_every_answer_depends_on_the_second_time(
    kind, arguments, shape, classes, time
):
    torch.manual_seed(0)
    net = kind(**arguments, time=time, two_times=True)
    x, t, cond = point(shape, classes)
    s = torch.linspace(0.9, 0.3, B)
    with torch.no_grad():
        target = torch.ones_like(net(x, t, **cond)) * (s - t).reshape(-1, *[1] * len(shape))
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(6):
        optimiser.zero_grad()
        ((net(x, t, s=s, **cond) - target) ** 2).mean().backward()
        optimiser.step()
    with torch.no_grad():
        still = net(x, t, **cond)
        assert torch.equal(net(x, t, s=t, **cond), still)
        for other in (s, torch.ones(B), t + 0.1):
            assert (per_sample(net(x, t, s=other, **cond) - still) > 1e-6).all()
        # One sample's second time is nobody else's.
        moved = s.clone()
        moved[2] = 1.0
        changed = per_sample(net(x, t, s=moved, **cond) - net(x, t, s=s, **cond))
    assert changed[2] > 1e-6
    assert (changed[[0, 1, 3, 4]] < 1e-6).all()


@pytest.mark.parametrize("time", TIMES)
def test_what_the_second_time_adds_is_a_function_of_how_far_it_is(time):
    torch.manual_seed(0)
    part = shaken(Conditioning(8, 3, time, two_times=True), 0.3).double()
    t = torch.tensor([0.1, 0.4, 0.2], dtype=torch.float64)
    s = torch.tensor([0.5, 0.8, 0.9], dtype=torch.float64)
    label = torch.tensor([0, 2, -1])

    def added(t, s):
        return part(t, label, s) - part(t, label)

    whole = added(t, s)
    assert torch.allclose(added(t + 0.1, s + 0.1), whole, atol=1e-12)
    assert torch.allclose(whole[0], whole[1], atol=1e-12)  # both are 0.4 away
    assert not torch.allclose(whole[0], whole[2], atol=1e-3)
    assert not torch.allclose(added(t, 2 * t - s), whole, atol=1e-3)  # and in which direction
    assert torch.equal(added(t, t), torch.zeros(3, 8).double())
    # The label and the first time go on as they did.
    assert not torch.allclose(part(t, label, s), part(t + 0.1, label, s + 0.1), atol=1e-3)
    other = torch.tensor([1, 0, 0])
    assert torch.allclose(
        part(t, other, s) - part(t, label, s),
        part.label.table.weight[other] - part.label(label, 3),
    )


@pytest.mark.parametrize(("kind", "arguments", "shape", "classes"), KINDS)
def test_a_network_of_one_time_refuses_a_second(kind, arguments, shape, classes):
    net = shaken(kind(**arguments))
    x, t, cond = point(shape, classes)
    assert "two_times" in net.config
    assert net.config["two_times"] is False
    with pytest.raises(pf.InputError, match=r"second time.*two_times=True"):
        net(x, t, s=t, **cond)
    # Told so by a flow map of any jumps as well; one to the data alone does not tell it.
    model = pf.Model(shaken(kind(**(arguments | {"outputs": 1}))), pf.CondOT())
    with pytest.raises(pf.InputError, match="two_times=True"):
        FlowMapModel(model)(x, t, 1.0, **cond)
    assert FlowMapModel(model, "data")(x, t, 1.0, **cond).isfinite().all()


@pytest.mark.parametrize("dim", [4, 8, 64])
def test_smooth_features_turn_by_at_most_eight_radians_and_tell_times_apart(dim):
    features = time_features("smooth", dim).double()
    w = features.frequencies
    assert float(w.max()) == pytest.approx(8.0)
    assert (w > 0).all()
    assert len(w.unique()) == dim // 2
    # Each pair of features is a point on a circle: its speed is its frequency, at every time.
    t = torch.linspace(0, 1, 401, dtype=torch.float64)
    value, speed = jvp(features, (t,), (torch.ones_like(t),))
    speeds = torch.hypot(*speed.chunk(2, dim=1))
    assert torch.allclose(speeds, w.expand(401, -1), atol=1e-10)
    assert speed.abs().max() <= 8.0 + 1e-9
    assert (speed.norm(dim=1) <= 8 * math.sqrt(dim / 2) + 1e-9).all()
    # A times apart by d are 2 |sin(w d/2)| apart in each: at least a fixed share of d for every two times in [-1, 1],
    # which is where t and s - t are.
    grid = torch.linspace(-1, 1, 401, dtype=torch.float64)
    apart, d = (
        torch.cdist(features(grid), features(grid)),
        torch.cdist(grid[:, None], grid[:, None]),
    )
    different = ~torch.eye(401, dtype=torch.bool)
    assert (apart / d)[different].min() > 0.7
    assert value.shape == (401, dim)


@pytest.mark.parametrize("time", ["sinusoidal", "fourier"])
def test_other_features_turn_faster_than_smooth_ones(time):
    torch.manual_seed(0)
    t = torch.rand(50, dtype=torch.float64)
    rates = {}
    for name in (time, "smooth"):
        _, rate = jvp(time_features(name, 32).double(), (t,), (torch.ones_like(t),))
        rates[name] = float(rate.abs().max())
    assert rates["smooth"] < 8.0
    assert rates[time] > 10 * rates["smooth"]


@pytest.mark.parametrize("two_times", [False, True])
def test_the_name_of_the_features_is_what_the_network_has(two_times):
    for name in ("smooth", "sinusoidal"):
        net = MLP(2, 16, time=name, two_times=two_times)
        truth = SinusoidalTime(16, 8.0, 100.0) if name == "smooth" else SinusoidalTime(16)
        assert torch.equal(net.conditioning.features.frequencies, truth.frequencies)
        assert net.config["time"] == name
        assert MLP(**net.config).config == net.config


@pytest.mark.parametrize("name", ["smoth", "", "Smooth", "linear"])
def test_features_of_another_name_are_errors(name):
    for make in (
        lambda: MLP(2, time=name),
        lambda: UNet(1, 8, time=name, two_times=True),
        lambda: MLPClassifier(2, 3, time=name),
        lambda: ImageClassifier(1, 3, time=name),
        lambda: Conditioning(8, None, name),
    ):
        with pytest.raises(pf.InputError, match=r"'smooth', not"):
            make()
