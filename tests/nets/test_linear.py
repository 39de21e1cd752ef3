"""The quicker product is the product: values, first and second derivatives, in any order in memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from contracts.members import randn
from pushforward.core.derivatives import jvp
from pushforward.nets import linear as module
from pushforward.nets.linear import Linear, linear

ROWS, K, M = 300, 96, 80


@pytest.fixture
def counted(monkeypatch):
    """The shapes that go to oneDNN."""
    seen, product = [], module._product

    def count(x, weight, bias):
        seen.append((*x.shape, len(weight)))
        return product(x, weight, bias)

    monkeypatch.setattr(module, "_product", count)
    return seen


def parts(*shape):
    return [
        part.float().requires_grad_()
        for part in (randn(*shape, K), randn(M, K, seed=1) / K**0.5, randn(M, seed=2))
    ]


def apart(a, b):
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())


SHAPES = {
    "rows": lambda x: x,
    "batch": lambda x: x.unflatten(0, (3, -1)),
    "columns first": lambda x: x.unflatten(0, (3, -1)).transpose(1, 2).contiguous().transpose(1, 2),
    "a part": lambda x: torch.cat((x, x), dim=1)[:, : x.shape[1]],
}


@pytest.mark.parametrize("arrange", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    "loss", [torch.sum, lambda y: (y**2).mean(), lambda y: y.mT.flatten()[::3].sum()]
)
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients_are_those_of_double_precision(counted, arrange, loss, with_bias):
    x, weight, bias = parts(ROWS)
    exact = [part.detach().double().requires_grad_() for part in (x, weight, bias)]
    out = linear(arrange(x), weight, bias if with_bias else None)
    truth = functional.linear(arrange(exact[0]), exact[1], exact[2] if with_bias else None)
    assert out.shape == truth.shape
    assert apart(out, truth) < 1e-6
    loss(out).backward()
    loss(truth).backward()
    for got, wanted in zip((x, weight, bias), exact, strict=True):
        assert (got.grad is None) == (wanted.grad is None)
        assert got.grad is None or apart(got.grad, wanted.grad) < 1e-6
    assert sorted(counted) == sorted([(ROWS, K, M), (ROWS, M, K), (M, ROWS, K)])


def test_only_the_gradients_that_are_wanted_are_computed(counted):
    x, weight, bias = parts(ROWS)
    linear(x.detach(), weight, bias).sum().backward()
    assert counted == [(ROWS, K, M), (M, ROWS, K)]
    counted.clear()
    with torch.no_grad():
        assert not linear(x, weight, bias).requires_grad
    assert counted == [(ROWS, K, M)]


def test_second_derivatives_are_those_of_torch():
    found = []
    for call in (linear, functional.linear):
        x, weight, bias = parts(ROWS)
        out = torch.tanh(call(x, weight, bias))
        (dx,) = torch.autograd.grad((out**2).sum(), x, create_graph=True)
        (dx**2).sum().backward()
        found.append((x.grad, weight.grad, bias.grad))
    for a, b in zip(*found, strict=True):
        assert apart(a, b) < 1e-5


def test_torch_has_its_way_with_everything_else(counted):
    x, weight, bias = parts(ROWS)
    few = linear(x[:10], weight, bias)
    assert torch.equal(few, functional.linear(x[:10], weight, bias))
    linear(x.double(), weight.double(), bias.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    value, derivative = jvp(lambda v: linear(v, weight, bias), (x,), (x,))
    assert not counted
    assert apart(derivative, functional.linear(x, weight)) < 1e-6
    assert apart(value, linear(x, weight, bias)) < 1e-6
    assert len(counted) == 1


def test_a_layer_is_torchs_but_for_the_library(counted):
    torch.manual_seed(0)
    ours = Linear(K, M)
    torch.manual_seed(0)
    theirs = nn.Linear(K, M)
    assert all(
        torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
    )
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = randn(ROWS, K).float()
    assert apart(ours(x), theirs(x)) < 1e-6
    assert counted
