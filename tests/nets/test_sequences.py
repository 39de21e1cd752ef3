"""Sequences with padding: a sample has the answer and the gradients that it has alone."""

from __future__ import annotations

import math

import pytest
import torch

import pushforward as pf
from contracts.members import randn, relative
from pushforward.core import conditions
from pushforward.core.conditions import Tokens
from pushforward.core.derivatives import jvp
from pushforward.nets import DiT

B, C, L = 4, 2, 7
KINDS = [
    pytest.param({}, id="sincos"),
    pytest.param({"positions": "rope", "qk_norm": True}, id="rope"),
    pytest.param({"positions": "rope", "context": 5}, id="rope-cross"),
    pytest.param({"context": 5, "conditioning": "in-context"}, id="sincos-in"),
    pytest.param({"positions": "rope", "context": 5, "conditioning": "in-context"}, id="rope-in"),
    pytest.param({"in_channels": 3, "outputs": 2}, id="control"),
]
# All there; padding at the end, in front, and between.
THERE = torch.tensor(
    [[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1], [1, 0, 1, 0, 0, 1, 0]]
).bool()


def build(options, dtype=torch.float64):
    torch.manual_seed(0)
    net = DiT(C, 1, 16, 2, 2, classes=3, dims=1, **options).to(dtype).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


def inputs(options, dtype=torch.float64):
    x, t = randn(B, C, L, seed=1).to(dtype), torch.linspace(0.1, 0.9, B, dtype=torch.float64)
    cond = {"label": torch.tensor([2, -1, 0, 1])}
    if "context" in options:
        mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0], [0, 1, 1]]).bool()
        cond["context"] = Tokens(randn(B, 3, 5, seed=2).to(dtype), mask)
    if "in_channels" in options:
        cond["control"] = randn(B, 1, L, seed=3).to(dtype)
    return x, t, cond


def alone(net, x, t, cond, i):
    row = slice(i, i + 1)
    cond = conditions.take(cond, row)
    if "control" in cond:
        cond["control"] = cond["control"][:, :, THERE[i]]
    return net(x[row][:, :, THERE[i]], t[row], **cond)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("options", KINDS)
@torch.no_grad()
def test_a_padded_sample_has_the_answer_that_it_has_alone(options, dtype, bound):
    net = build(options, dtype)
    x, t, cond = inputs(options, dtype)
    mask = THERE[:, None]
    for padding in (0.0, 5.0, math.nan, math.inf):
        filled = torch.where(mask, x, padding)
        if "control" in cond:
            cond["control"] = torch.where(mask, cond["control"], padding)
        out = net(filled, t, mask=mask, **cond)
        assert out.shape == (B, C * options.get("outputs", 1), L)
        assert (torch.where(mask, 0, out) == 0).all()
        for i in range(B):
            truth = alone(net, x, t, cond, i)
            assert relative(out[i : i + 1][:, :, THERE[i]], truth) < bound
    whole = torch.ones(B, 1, L).bool()
    assert relative(net(x, t, mask=whole, **inputs(options, dtype)[2]),
                    net(x, t, **inputs(options, dtype)[2])) < bound  # fmt: skip


@pytest.mark.parametrize("options", KINDS)
def test_gradients_and_derivatives_are_those_of_the_samples_alone(options):
    net = build(options)
    x, t, cond = inputs(options)
    mask, parameters = THERE[:, None], list(net.parameters())
    out = net(torch.where(mask, x, math.nan), t, mask=mask, **cond)
    got = torch.autograd.grad((out**2).sum(), parameters)
    each = sum((alone(net, x, t, cond, i) ** 2).sum() for i in range(B))
    truth = torch.autograd.grad(each, parameters)
    for a, b in zip(got, truth, strict=True):
        assert (a - b).abs().max() <= 1e-11 * max(1, b.abs().max())
    ways = randn(*x.shape, seed=5), randn(B, seed=6)
    _, along = jvp(lambda x, t: net(x, t, mask=mask, **cond), (x, t), ways)
    for i in range(B):
        row = slice(i, i + 1)
        way = (ways[0][row][:, :, THERE[i]], ways[1][row])
        given = conditions.take(cond, row)
        if "control" in given:
            given["control"] = given["control"][:, :, THERE[i]]
        _, one = jvp(lambda x, t: net(x, t, **given), (x[row][:, :, THERE[i]], t[row]), way)  # noqa: B023
        assert relative(along[row][:, :, THERE[i]].detach(), one.detach()) < 1e-11


@torch.no_grad()
def test_a_token_is_there_if_any_of_its_channels_is_and_padding_of_a_channel_is_zero():
    net = build({"outputs": 2})
    x, t, _ = inputs({})
    mask = THERE[:, None].repeat(1, C, 1)
    mask[0, 1, 2:] = False
    x = torch.where(mask, x, 0)
    out = net(x, t, mask=mask)
    tokens = net(x, t, mask=THERE[:, None])
    assert torch.equal(out, torch.where(mask.repeat(1, 2, 1), tokens, 0))
    # Where what is returned has other channels, a token is there or not.
    net = build({"out_channels": 3})
    assert torch.equal(net(x, t, mask=mask), net(x, t, mask=mask.any(1, keepdim=True)))


def test_recomputed_and_compiled_networks_take_masks():
    options = {"positions": "rope", "context": 5}
    net = build(options)
    x, t, cond = inputs(options)
    mask, answers = THERE[:, None], []
    for net.checkpointing in (False, True):
        out = net(x, t, mask=mask, **cond)
        answers.append([out, *torch.autograd.grad((out**2).sum(), list(net.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    assert relative(compiled(x, t, mask=mask, **cond).detach(), answers[0][0].detach()) < 1e-12


def test_masks_that_do_not_fit_are_errors():
    x, t, _ = inputs({})
    net = build({})
    mask = THERE[:, None]
    for bad in (THERE, mask.float(), mask[:, :, :3], mask[:1], mask.repeat(1, 3, 1)):
        with pytest.raises(pf.InputError, match="the mask of sequences"):
            net(x, t, mask=bad)
    learned = DiT(C, 1, 16, 1, 2, dims=1, positions="learned", size=L)
    with pytest.raises(pf.InputError, match="padding would move them"):
        learned(x.float(), t, mask=THERE[:, None])
    for other, dims in ((DiT(C, 2, 16, 1, 2, dims=1), 1), (DiT(C, 1, 16, 1, 2), 2)):
        with pytest.raises(pf.InputError, match="only one of dims=1 and patch=1 can"):
            other(torch.zeros(B, C, *[L] * dims), t, mask=torch.ones(B, 1, *[1] * dims).bool())
