"""What every network keeps to."""

from __future__ import annotations

import io
import json

import pytest
import torch
from torch import nn

import pushforward as pf
from contracts.members import NETS, randn
from pushforward.nets import NETS as SAVED

B = 3


def build(make, classes, trained=True):
    """A network, and inputs for it. `trained`: off its zero start, as after optimiser steps."""
    torch.manual_seed(0)
    net = make()
    if trained:
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1 * torch.randn_like(p))
    cond = {} if classes is None else {"label": torch.arange(B) % classes}
    return net.eval(), cond


def inputs(shape, size=B):
    return randn(size, *shape, seed=1, dtype=torch.float32), torch.linspace(0.1, 0.9, size)


@pytest.mark.parametrize(("make", "shape", "classes"), NETS)
def test_a_network_starts_at_zero(make, shape, classes):
    net, cond = build(make, classes, trained=False)
    x, t = inputs(shape)
    out = net(x, t, **cond)
    assert out.shape == x.shape
    assert (out == 0).all()


@pytest.mark.parametrize(("make", "shape", "classes"), NETS)
def test_every_parameter_gets_a_gradient_after_steps_off_the_zero_start(make, shape, classes):
    torch.manual_seed(0)
    net = make().train()
    x, t = inputs(shape, 8)
    cond = {} if classes is None else {"label": torch.tensor([-1, *range(classes)] * 4)[:8]}
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(3):
        optimiser.zero_grad()
        ((net(x, t, **cond) - randn(*x.shape, seed=2, dtype=torch.float32)) ** 2).mean().backward()
        optimiser.step()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


@pytest.mark.parametrize(("make", "shape", "classes"), NETS)
def test_samples_do_not_mix_and_their_order_does_not_matter(make, shape, classes):
    net, _ = build(make, classes)
    width = shape[-1]
    for size in (1, 2, width, shape[0]):
        x, t = inputs(shape, size)
        cond = {} if classes is None else {"label": torch.arange(size) % classes}
        whole = net(x, t, **cond)
        order = torch.arange(size).flip(0)
        turned = net(x[order], t[order], **{k: v[order] for k, v in cond.items()})
        assert torch.allclose(turned, whole[order], atol=1e-5)
        for i in range(size):
            alone = net(x[i : i + 1], t[i : i + 1], **{k: v[i : i + 1] for k, v in cond.items()})
            assert torch.allclose(alone, whole[i : i + 1], atol=1e-5)


@pytest.mark.parametrize(("make", "shape", "classes"), NETS)
def test_the_output_depends_on_state_time_and_label(make, shape, classes):
    net, cond = build(make, classes)
    x, t = inputs(shape)
    out = net(x, t, **cond)
    assert not torch.allclose(net(x + 0.5, t, **cond), out, atol=1e-4)
    assert not torch.allclose(net(x, t / 2, **cond), out, atol=1e-4)
    # In every sample, and on every coordinate.
    assert ((net(x, t / 2, **cond) - out).abs().flatten(1).amax(1) > 1e-6).all()
    if classes is not None:
        other = net(x, t, label=(cond["label"] + 1) % classes)
        assert ((other - out).abs().flatten(1).amax(1) > 1e-6).all()


@pytest.mark.parametrize(("make", "shape", "classes"), NETS)
def test_no_label_is_label_minus_one_and_differs_from_every_class(make, shape, classes):
    net, _ = build(make, classes)
    x, t = inputs(shape)
    if classes is None:
        with pytest.raises(pf.InputError, match="without classes"):
            net(x, t, label=torch.zeros(B, dtype=torch.int64))
        return
    none = net(x, t)
    assert torch.equal(none, net(x, t, label=None))
    assert torch.allclose(none, net(x, t, label=torch.full((B,), -1)), atol=1e-6)
    for k in range(classes):
        assert not torch.allclose(none, net(x, t, label=torch.full((B,), k)), atol=1e-4)


@pytest.mark.parametrize(("make", "shape", "classes"), NETS)
def test_a_network_is_rebuilt_from_its_configuration_and_weights(make, shape, classes):
    net, cond = build(make, classes)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    config = json.loads(json.dumps(net.config))
    other = SAVED[type(net).__name__](**config).eval()
    assert other.config == net.config
    other.load_state_dict(torch.load(file))
    x, t = inputs(shape)
    assert torch.equal(other(x, t, **cond), net(x, t, **cond))


@pytest.mark.parametrize(("make", "shape", "classes"), NETS)
def test_the_gradient_in_the_state_is_that_of_differences(make, shape, classes):
    net, cond = build(make, classes)
    net = net.double()
    x, t = inputs(shape)
    x, t = x.double(), t.double()
    direction, weight, h = randn(*x.shape, seed=3), randn(*x.shape, seed=4), 1e-5
    gradient = torch.autograd.grad((weight * net(x.requires_grad_(), t, **cond)).sum(), x)[0]
    with torch.no_grad():
        difference = net(x + h * direction, t, **cond) - net(x - h * direction, t, **cond)
    assert float((gradient * direction).sum()) == pytest.approx(
        float((weight * difference).sum() / (2 * h)), rel=1e-6
    )


@pytest.mark.parametrize(("make", "shape", "classes"), NETS)
def test_states_of_another_shape_are_errors(make, shape, classes):
    net, _ = build(make, classes)
    with pytest.raises(pf.InputError, match="takes"):
        net(torch.zeros(B, *shape, 2), torch.zeros(B))


@pytest.mark.parametrize(("make", "shape", "classes"), NETS)
def test_a_network_knows_nothing_of_paths_and_serves_any(make, shape, classes):
    net, cond = build(make, classes)
    assert isinstance(net, nn.Module)
    x, _ = inputs(shape)
    for path, prediction in ((pf.CondOT(), "velocity"), (pf.VP(), "noise")):
        assert pf.Model(net, path, prediction)(x, 0.5, **cond).shape == x.shape
