"""Backpropagation one step at a time: the gradients of plain backpropagation, in memory that does not grow."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

import pushforward as pf
from contracts.members import randn
from pushforward.core.adjoint import trajectory
from pushforward.core.noise import SOLVER
from pushforward.nets import MLP


def networks(dtype=torch.float64, width=16):
    """Two networks at random weights, one parameter of which is not trained."""
    torch.manual_seed(0)
    nets = [MLP(3, width, 2).to(dtype), MLP(3, width, 1).to(dtype)]
    for net in nets:
        nn.init.normal_(net.conv_out.weight, std=0.3)
    nets[1].conv_in.bias.requires_grad_(False)
    return nets


def process(nets, noise, h=0.1):
    """A noisy path of x, whose state holds a sum over the way besides."""
    drift, score = nets

    def step(k, x, total):
        t = torch.full((len(x),), k * h, dtype=torch.float64)
        z = noise.at(k).normal(x.shape[1:], SOLVER, x.dtype)
        x = x + h * drift(x, t) + h**0.5 * z
        return x, total + ((score(x, t) - z) ** 2).sum(1) * (k + 1)

    return step


def gradients(adjoint, dtype, of_x=True, steps=7):
    nets = networks(dtype)
    x = randn(5, 3, seed=1).to(dtype).requires_grad_(of_x)
    parameters = [p for net in nets for p in net.parameters()]
    step = process(nets, pf.Noise.batch(5, seed=2))
    x_n, total = trajectory(step, (x, x.new_zeros(5)), steps, parameters, adjoint=adjoint)
    wanted = [p for p in parameters if p.requires_grad] + ([x] if of_x else [])
    return (x_n, total), torch.autograd.grad((x_n**3).sum() + total.sin().sum(), wanted)


@pytest.mark.parametrize("of_x", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_gradients_are_those_of_plain_backpropagation(dtype, tolerance, of_x):
    (ends, got), (same, truth) = (gradients(adjoint, dtype, of_x) for adjoint in (True, False))
    for a, b in zip(ends, same, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(got, truth, strict=True):
        assert float((a - b).detach().norm()) <= tolerance * float(b.detach().norm())
        assert float(b.detach().norm()) > 0


def test_gradients_are_those_of_finite_differences():
    w = randn(2, 2, seed=3).requires_grad_()
    x = randn(3, 2, seed=4).requires_grad_()
    b = randn(2, seed=5).requires_grad_()

    def last(x, w, b):
        return trajectory(
            lambda k, x, total: (x + 0.3 * torch.tanh(x @ w + b), total + (k + x[:, 0]) * b.sum()),
            (x, x.new_zeros(3)),
            4,
            (w, b),
        )

    assert torch.autograd.gradcheck(last, (x, w, b))


def test_the_formula_of_the_paper_with_the_last_step_counted_once():
    # dL/dx_{i-1} = (dL/dx_i) dx_i/dx_{i-1} + 1/2 d delta_i^2/dx_{i-1}: a line, where all of it is arithmetic.
    # x_i = a x_{i-1} and delta_i = x_{i-1} - c x_i, so that L = x_N^2/2 + 1/2 sum_i (1 - c a)^2 x_{i-1}^2.
    a, c, n = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.8, 0.5, 4))
    x = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)

    def step(k, x, total):
        there = a * x
        return there, total + (x - c * there) ** 2 / 2

    x_n, total = trajectory(step, (x, torch.zeros(1).double()), int(n), (a, c))
    (x_n**2 / 2 + total).sum().backward()
    powers = [0.8 ** (2 * i) for i in range(4)]
    assert float(x.grad) == pytest.approx(2 * (0.8**8 + 0.6**2 * sum(powers)), rel=1e-12)
    assert float(c.grad) == pytest.approx(-0.8 * 0.6 * 4 * sum(powers), rel=1e-12)
    in_a = 4 * 4 * 0.8**7 - 0.5 * 0.6 * 4 * sum(powers)
    in_a += 0.36 / 2 * 4 * sum(2 * i * 0.8 ** (2 * i - 1) for i in range(4))
    assert float(a.grad) == pytest.approx(in_a, rel=1e-12)


def test_what_a_step_leaves_unused_has_no_gradient_of_it():
    # b is not used in steps 0 and 1 but replaced; in step 2 a is not: x -> (x + w, x, x) -> ...
    def run(adjoint):
        w = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        a, b, c = (randn(3, seed=k).requires_grad_() for k in range(3))

        def step(k, a, b, c):
            if k < 2:
                return a * w, a.sin(), c
            return b * w, b + w, c * w

        ends = trajectory(step, (a, b, c), 3, (w,), adjoint=adjoint)
        loss = sum(((k + 1) * end**2).sum() for k, end in enumerate(ends))
        return torch.autograd.grad(loss, (w, a, b, c), allow_unused=True)

    for got, truth in zip(run(True), run(False), strict=True):
        truth = torch.zeros_like(got) if truth is None else truth
        assert torch.allclose(got, truth, rtol=1e-12, atol=0)


def most_bytes(adjoint, steps):
    """The most memory that tensors kept for the backward pass take at one time, parameters left out."""
    held = most = 0
    nets = networks(width=64)
    parameters = [p for net in nets for p in net.parameters()]
    ours = {p.untyped_storage().data_ptr() for p in parameters}

    class Kept:
        def __init__(self, tensor):
            nonlocal held, most
            self.tensor, self.size = tensor, tensor.nbytes
            if tensor.untyped_storage().data_ptr() in ours:
                self.size = 0
            held += self.size
            most = max(most, held)

        def __del__(self):
            nonlocal held
            held -= self.size

    x = randn(8, 3, seed=1)
    step = process(nets, pf.Noise.batch(8), h=0.01)
    with saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        x_n, total = trajectory(step, (x, x.new_zeros(8)), steps, parameters, adjoint=adjoint)
        (x_n.sum() + total.sum()).backward()
    del x_n, total
    return most


def test_activations_do_not_grow_with_the_number_of_steps():
    state = 8 * (3 + 1) * 8
    one, few, some, many = (most_bytes(True, n) for n in (1, 10, 40, 160))
    # What grows is the states themselves, to the byte.
    assert few - one == 9 * state
    assert some - one == 39 * state
    assert many - one == 159 * state
    plain, much = most_bytes(False, 10), most_bytes(False, 160)
    assert much / plain == pytest.approx(16, rel=0.05)
    assert much > 20 * many
    # And one step's activations are what plain backpropagation keeps for each.
    assert one < 1.2 * (much - plain) / 150


def test_a_step_may_hand_on_what_it_got_and_leave_parameters_unused():
    w, unused = randn(2, seed=1).requires_grad_(), randn(3).requires_grad_()
    x, same = randn(4, 2, seed=2).requires_grad_(), randn(4, seed=3).requires_grad_()
    end = trajectory(lambda k, x, same: (x * w, same), (x, same), 3, (w, unused, w))
    got = torch.autograd.grad(end[0].sum() + 2 * end[1].sum(), (x, same, w), retain_graph=True)
    assert torch.allclose(got[0], (w**3).expand(4, 2))
    assert torch.equal(got[1], torch.full((4,), 2.0).double())
    assert torch.allclose(got[2], 3 * w**2 * x.sum(0))
    assert torch.autograd.grad(end[0].sum(), unused, allow_unused=True) == (None,)


def test_what_needs_no_gradient_is_computed_without_one():
    net = networks()[0]
    net.requires_grad_(False)
    step = process((net, net), pf.Noise.batch(2))
    x = randn(2, 3)
    assert not trajectory(step, (x, x.new_zeros(2)), 2, net.parameters())[0].requires_grad
    net.requires_grad_(True)
    with torch.no_grad():
        assert not trajectory(step, (x, x.new_zeros(2)), 2, net.parameters())[0].requires_grad


def test_dropout_is_the_same_on_the_way_back_and_draws_go_on_as_if_there_had_been_none():
    net = nn.Sequential(nn.Linear(3, 20), nn.Dropout(0.5), nn.Linear(20, 3)).double()
    x, found = randn(5, 3, seed=1), []
    for adjoint in (True, False):
        torch.manual_seed(7)
        (end,) = trajectory(lambda k, x: (x + net(x),), (x,), 4, net.parameters(), adjoint=adjoint)
        after = torch.rand(1)
        loss = (end**2).sum()
        found.append([*torch.autograd.grad(loss, list(net.parameters())), after, torch.rand(1)])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-12)


def test_what_would_go_wrong_silently_is_an_error():
    nets = networks()
    step, x = process(nets, pf.Noise.batch(2)), randn(2, 3)
    state = (x, x.new_zeros(2))
    first = list(nets[0].parameters())
    with pytest.raises(pf.InputError, match="not among the parameters"):
        trajectory(step, state, 2, first)[1].sum().backward()
    everything = [p for net in nets for p in net.parameters()]
    with pytest.raises(pf.InputError, match="at least 1"):
        trajectory(step, state, 0, everything)
    end = trajectory(step, state, 2, everything)[1].sum()
    with pytest.raises(pf.UndefinedError, match="adjoint=False"):
        torch.autograd.grad(end, first[0], create_graph=True)
    end = trajectory(step, state, 2, everything)[1].sum()
    with torch.no_grad():
        first[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        end.backward()
