"""What every network keeps to."""

from __future__ import annotations

import io
import json
import math

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import pushforward as pf
from contracts.members import NETS, randn, relative
from pushforward.core import conditions
from pushforward.core.derivatives import jvp
from pushforward.nets import DiT

B = 3
# The bias of the last layer has no part in a derivative.
UNUSED = {"allow_unused": True, "materialize_grads": True}


def build(make, classes, trained=True):
    """A network, and inputs for it. `trained`: off its zero start, as after optimiser steps."""
    torch.manual_seed(0)
    net = make()
    if trained:
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1 * torch.randn_like(p))
    return net.eval(), told(net, classes)


def told(net, classes, size=B):
    """All conditions that a network takes: label, second time, continuous numbers, a control, a text with padding and
    its vector."""
    cond = {} if classes is None else {"label": torch.arange(size) % classes}
    if net.config.get("two_times"):
        cond["s"] = torch.linspace(0.95, 0.3, size)
    for k, name in enumerate(net.config.get("features") or ()):
        cond[name] = randn(size, seed=20 + k, dtype=torch.float32)
    if net.config.get("in_channels"):
        more = net.config["in_channels"] - net.config["channels"]
        sides = (6, 5, 4)[: net.dims]
        cond["control"] = randn(size, more, *sides, seed=30, dtype=torch.float32)
    if net.config.get("text"):
        there = torch.arange(4) <= torch.arange(size)[:, None] % 4
        values = randn(size, 4, net.config["text"], seed=40, dtype=torch.float32)
        cond["text"] = conditions.Tokens(values, there)
    if net.config.get("pooled"):
        cond["pooled"] = randn(size, net.config["pooled"], seed=41, dtype=torch.float32)
    return cond


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
    cond = told(net, classes, 8)
    if classes is not None:
        cond["label"] = torch.tensor([-1, *range(classes)] * 4)[:8]
    for name in net.config.get("features") or ():
        cond[name][::3] = math.nan
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    # Three layers in a row start at 0 (the second time's, a block's, the last), and each waits for the next one.
    for _ in range(4):
        optimiser.zero_grad()
        ((net(x, t, **cond) - randn(*x.shape, seed=2, dtype=torch.float32)) ** 2).mean().backward()
        optimiser.step()
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:  # in a published layout without a part in the result
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


@pytest.mark.parametrize(("make", "shape", "classes"), NETS)
def test_samples_do_not_mix_and_their_order_does_not_matter(make, shape, classes):
    net, _ = build(make, classes)
    width = shape[-1]
    for size in (1, 2, width, shape[0]):
        x, t = inputs(shape, size)
        cond = told(net, classes, size)
        whole = net(x, t, **cond)
        order = torch.arange(size).flip(0)
        turned = net(x[order], t[order], **conditions.take(cond, order))
        assert torch.allclose(turned, whole[order], atol=1e-5)
        for i in range(size):
            row = slice(i, i + 1)
            alone = net(x[row], t[row], **conditions.take(cond, row))
            assert torch.allclose(alone, whole[row], atol=1e-5)


@pytest.mark.parametrize(("make", "shape", "classes"), NETS)
def test_the_output_depends_on_state_both_times_and_label(make, shape, classes):
    net, cond = build(make, classes)
    x, t = inputs(shape)
    out = net(x, t, **cond)
    assert not torch.allclose(net(x + 0.5, t, **cond), out, atol=1e-4)
    assert not torch.allclose(net(x, t / 2, **cond), out, atol=1e-4)
    # In every sample, and on every coordinate.
    assert ((net(x, t / 2, **cond) - out).abs().flatten(1).amax(1) > 1e-6).all()
    if classes is not None:
        other = net(x, t, **cond | {"label": (cond["label"] + 1) % classes})
        assert ((other - out).abs().flatten(1).amax(1) > 1e-6).all()
    if "s" in cond:
        other = net(x, t, **cond | {"s": cond["s"] / 2})
        assert ((other - out).abs().flatten(1).amax(1) > 1e-6).all()


@pytest.mark.parametrize(("make", "shape", "classes"), NETS)
def test_no_label_is_label_minus_one_and_differs_from_every_class(make, shape, classes):
    net, cond = build(make, classes)
    x, t = inputs(shape)
    cond.pop("label", None)
    if classes is None:
        with pytest.raises(pf.InputError, match="without classes"):
            net(x, t, label=torch.zeros(B, dtype=torch.int64), **cond)
        return
    none = net(x, t, **cond)
    assert torch.equal(none, net(x, t, label=None, **cond))
    assert torch.allclose(none, net(x, t, label=torch.full((B,), -1), **cond), atol=1e-6)
    for k in range(classes):
        assert not torch.allclose(none, net(x, t, label=torch.full((B,), k), **cond), atol=1e-4)


@pytest.mark.parametrize(("make", "shape", "classes"), NETS)
def test_each_continuous_condition_and_the_control_have_their_part(make, shape, classes):
    net, cond = build(make, classes)
    x, t = inputs(shape)
    out = net(x, t, **cond)
    names = list(net.config.get("features") or ())
    for name in [*names, *(["control"] if "control" in cond else [])]:
        other = net(x, t, **cond | {name: cond[name] + 0.3})
        assert ((other - out).abs().flatten(1).amax(1) > 1e-6).all()
    for name in names:
        # Unknown is none given, for one sample as for all, and no number.
        unknown = net(x, t, **{key: value for key, value in cond.items() if key != name})
        assert torch.equal(net(x, t, **cond | {name: None}), unknown)
        assert torch.equal(net(x, t, **cond | {name: torch.full((B,), math.nan)}), unknown)
        assert ((unknown - out).abs().flatten(1).amax(1) > 1e-6).all()
        one = cond[name].clone()
        one[1] = math.nan
        some = net(x, t, **cond | {name: one})
        assert torch.allclose(some[[0, 2]], out[[0, 2]], atol=1e-6)
        assert torch.allclose(some[1], unknown[1], atol=1e-6)
    with pytest.raises(pf.InputError, match=r"'lable'.*did you mean 'label'"):
        net(x, t, lable=torch.zeros(B), **cond)
    if "control" not in cond and net.config.get("in_channels", 0) is None:
        with pytest.raises(pf.InputError, match="without one: build it with in_channels="):
            net(x, t, control=x, **cond)


@pytest.mark.parametrize(("make", "shape", "classes"), NETS)
def test_a_padded_sample_is_the_same_alone_or_a_mask_is_refused(make, shape, classes):
    net, cond = build(make, classes)
    x, t = inputs(shape)
    mask = torch.ones(B, *[1] * len(shape), dtype=torch.bool)
    if not (isinstance(net, DiT) and net.dims == 1 and net.patch == (1,)):
        with pytest.raises(pf.InputError, match="cannot take padded samples with a mask"):
            net(x, t, mask=mask, **cond)
        return
    cond.pop("control", None)
    axis = 1 if net.channels_last else 2
    length = x.shape[axis]
    there = torch.ones(B, length, dtype=torch.bool)
    there[0, 2:] = there[1, -1] = there[2, 0] = False  # padding at the end, and before
    mask = there[:, :, None] if net.channels_last else there[:, None]
    whole = torch.where(mask, x, math.nan)
    out = net(whole, t, mask=mask, **cond)
    assert (torch.where(mask, 0, out) == 0).all()
    for i in range(B):
        row = slice(i, i + 1)
        kept = there[i].nonzero()[:, 0]
        alone = net(x[row].index_select(axis, kept), t[row], **conditions.take(cond, row))
        assert (alone - out[row].index_select(axis, kept)).abs().max() <= 1e-6 * alone.abs().max()


@pytest.mark.parametrize(("make", "shape", "classes"), NETS)
def test_a_second_time_is_the_first_if_left_out_and_refused_where_there_is_none(
    make, shape, classes
):
    net, cond = build(make, classes)
    x, t = inputs(shape)
    s = cond.pop("s", None)
    if s is None:
        with pytest.raises(pf.InputError, match="two_times=True"):
            net(x, t, s=t, **cond)
        return
    assert torch.equal(net(x, t, **cond), net(x, t, s=t, **cond))
    assert torch.equal(net(x, t, s=None, **cond), net(x, t, s=t, **cond))
    assert not torch.allclose(net(x, t, s=s, **cond), net(x, t, **cond), atol=1e-4)


@pytest.mark.parametrize(("make", "shape", "classes"), NETS)
def test_a_network_is_rebuilt_from_its_configuration_and_weights(make, shape, classes):
    net, cond = build(make, classes)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    config = json.loads(json.dumps(net.to_config()))
    other = type(net).from_config(config).eval()
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


def moving(make, shape, classes):
    """A network in float64 as a function of all in it that can move, (x, t) or (x, t, s); a point; directions there."""
    net, cond = build(make, classes)
    net, s = net.double(), cond.pop("s", None)
    at = [part.double() for part in (*inputs(shape), *([] if s is None else [s]))]

    def function(x, t, s=None):
        return net(x, t, **cond, **({} if s is None else {"s": s}))

    ways = [randn(*part.shape, seed=5 + k) for k, part in enumerate(at)]
    return net, function, tuple(at), tuple(ways)


@pytest.mark.parametrize(("make", "shape", "classes"), NETS)
def test_the_derivative_in_forward_mode_is_that_of_differences(make, shape, classes):
    _, function, at, ways = moving(make, shape, classes)
    h = 2e-7  # the fastest features turn by 1000 radians in a unit of time
    # Along all inputs at once, and along each of them with the others still.
    for chosen in (range(len(at)), *([k] for k in range(len(at)))):
        along = tuple(way if k in chosen else torch.zeros_like(way) for k, way in enumerate(ways))
        value, derivative = jvp(function, at, along)
        with torch.no_grad():
            ahead = function(*(a + h * b for a, b in zip(at, along, strict=True)))
            behind = function(*(a - h * b for a, b in zip(at, along, strict=True)))
            assert relative(value.detach(), function(*at)) < 1e-12
        assert (derivative.flatten(1).norm(dim=1) > 1e-6).all()
        assert relative(derivative.detach(), (ahead - behind) / (2 * h)) < 1e-6


@pytest.mark.parametrize(("make", "shape", "classes"), NETS)
def test_the_derivative_in_forward_mode_is_that_of_two_backward_passes(make, shape, classes):
    _, function, at, ways = moving(make, shape, classes)
    # (u^T J) is linear in u: its derivative along u, in turn, is J v.
    with sdpa_kernel(SDPBackend.MATH):
        truth = torch.autograd.functional.jvp(function, at, ways)[1]
    value, derivative = jvp(function, at, ways)
    assert relative(derivative.detach(), truth) < 1e-11
    assert derivative.dtype == torch.float64
    # Without a graph as with one.
    with torch.no_grad():
        again, silent = jvp(function, at, ways)
    assert not silent.requires_grad
    assert not again.requires_grad
    assert relative(silent, truth) < 1e-11
    assert relative(again, value.detach()) < 1e-12


@pytest.mark.parametrize(("make", "shape", "classes"), NETS)
def test_value_and_derivative_in_forward_mode_have_the_gradients_of_the_weights(
    make, shape, classes
):
    net, function, at, ways = moving(make, shape, classes)
    net.train()
    parameters = [p for p in net.parameters() if p.requires_grad]
    weight = randn(len(at[0]), *shape, seed=4)
    value, derivative = jvp(function, at, ways)
    with sdpa_kernel(SDPBackend.MATH):
        plain, truth = torch.autograd.functional.jvp(function, at, ways, create_graph=True)
    for got, wanted in ((value, function(*at)), (value, plain), (derivative, truth)):
        mine, theirs = (
            torch.autograd.grad((weight * out).sum(), parameters, retain_graph=True, **UNUSED)
            for out in (got, wanted)
        )
        scale = max(float(part.abs().max()) for part in theirs)
        assert scale > 1e-3
        for a, b in zip(mine, theirs, strict=True):
            assert (a - b).abs().max() <= 1e-11 * scale


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
