"""The derivative along a direction by one pass in forward mode."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

import pushforward as pf
from contracts.members import mixture, randn, relative
from pushforward.core.derivatives import jvp
from pushforward.models.flow_map import FlowMapModel
from pushforward.nets import MLP, ImageClassifier, MLPClassifier
from pushforward.nets.unet import SelfAttention

B = 4
CLASSIFIERS = [
    pytest.param(lambda: MLPClassifier(3, 4, 16, 2), (3,), id="MLPClassifier"),
    pytest.param(lambda: MLPClassifier(2, 3, 16, time="smooth"), (2,), id="MLPClassifier-smooth"),
    pytest.param(lambda: ImageClassifier(2, 5, 8), (2, 7, 6), id="ImageClassifier"),
    pytest.param(
        lambda: ImageClassifier(1, 3, 8, (1, 2, 2), time="fourier"),
        (1, 8, 8),
        id="ImageClassifier-fourier",
    ),
]


def shaken(make):
    torch.manual_seed(0)
    net = make().double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


def differences(function, at, ways, h=2e-7):
    with torch.no_grad():
        ahead = function(*(a + h * b for a, b in zip(at, ways, strict=True)))
        behind = function(*(a - h * b for a, b in zip(at, ways, strict=True)))
    return (ahead - behind) / (2 * h)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("make", "shape"), CLASSIFIERS)
def test_the_derivative_of_a_classifier_is_that_of_differences_and_of_two_backward_passes(
    make, shape, training
):
    net = shaken(make).train(training)
    at = (randn(B, *shape, seed=1), torch.linspace(0.1, 0.9, B, dtype=torch.float64))
    x, t = randn(B, *shape, seed=2), randn(B, seed=3)
    for ways in ((x, t), (x, 0 * t), (0 * x, t)):
        value, derivative = jvp(net, at, ways)
        assert relative(value.detach(), net(*at).detach()) < 1e-12
        assert relative(derivative.detach(), differences(net, at, ways)) < 1e-6
        truth = torch.autograd.functional.jvp(net, at, ways)[1]
        assert relative(derivative.detach(), truth) < 1e-11
        with torch.no_grad():
            _, silent = jvp(net, at, ways)
        assert not silent.requires_grad
        assert relative(silent, truth) < 1e-11
    weight = randn(*value.shape, seed=4)
    mine, theirs = (
        torch.autograd.grad((weight * out.log_softmax(1)).sum(), list(net.parameters()))
        for out in (value, net(*at))
    )
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-13)


class Attention(nn.Module):
    """What a user writes: attention by torch's own function, and no word about kernels."""

    def __init__(self, dim: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.qkv, self.dropout = nn.Linear(dim, 3 * dim), dropout

    def forward(self, x, t):
        q, k, v = (
            self.qkv(x * (1 + t[:, None, None])).unflatten(2, (2, -1)).transpose(1, 2).chunk(3, 3)
        )
        return (
            scaled_dot_product_attention(q, k, v, dropout_p=self.dropout).transpose(1, 2).flatten(2)
        )

    def by_definition(self, x, t):
        q, k, v = (
            self.qkv(x * (1 + t[:, None, None])).unflatten(2, (2, -1)).transpose(1, 2).chunk(3, 3)
        )
        weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)


class Kernels(TorchDispatchMode):
    """The kernels of attention that were called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "scaled_dot_product" in str(function):
            self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def allowed():
    cuda = torch.backends.cuda
    return (
        cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled(),
        cuda.cudnn_sdp_enabled(),
    )  # fmt: skip


def chosen(net, at):
    with torch.no_grad(), Kernels() as kernels:
        net(*at)
    return kernels.names


def attention(dtype=torch.float64):
    torch.manual_seed(0)
    net = Attention().to(dtype)
    at = (randn(B, 6, 8, seed=1).to(dtype), torch.linspace(0.1, 0.9, B).to(dtype))
    return net, at, (randn(B, 6, 8, seed=2).to(dtype), randn(B, seed=3).to(dtype))


def test_attention_by_any_function_of_torch_has_its_derivative_in_forward_mode():
    net, at, ways = attention()
    # It would be a fused kernel, which has no derivative of that kind.
    (fused,) = chosen(net, at)
    assert "flash" in fused
    with pytest.raises(NotImplementedError, match="forward AD"):
        torch.func.jvp(net, at, ways)
    for graph in (True, False):
        with torch.set_grad_enabled(graph):
            value, derivative = jvp(net, at, ways)
        assert relative(value.detach(), net(*at).detach()) < 1e-12
        assert relative(derivative.detach(), differences(net, at, ways, 1e-6)) < 1e-7
        truth = torch.autograd.functional.jvp(net.by_definition, at, ways)[1]
        assert relative(derivative.detach(), truth) < 1e-12
        assert derivative.requires_grad is graph


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outside_of_the_derivative_kernels_are_what_they_were(dtype):
    net, at, ways = attention(dtype)
    layer = SelfAttention(8).to(dtype)
    inside = []

    def look(*at):
        inside.append(allowed())
        return net(*at)

    for limit in (
        None,
        SDPBackend.FLASH_ATTENTION,
        [SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION],
    ):
        with sdpa_kernel(limit) if limit else torch.enable_grad():
            before, kernels = allowed(), chosen(net, at)
            own = chosen(lambda x: layer(x), (randn(2, 8, 3, 3).to(dtype),))
            jvp(look, at, ways)
            assert allowed() == before
            assert chosen(net, at) == kernels
            assert chosen(lambda x: layer(x), (randn(2, 8, 3, 3).to(dtype),)) == own
            # Also after an error.
            with pytest.raises(ZeroDivisionError):
                jvp(lambda *at: 1 / 0, at, ways)
            assert allowed() == before
    assert set(inside) == {(False, False, True, False)}
    assert any("flash" in name for name in chosen(net, at))


def test_the_derivative_obeys_the_rules_of_the_product_and_the_chain():
    x, v = randn(B, 3, seed=1), randn(B, 3, seed=2)
    value, derivative = jvp(lambda x: x.sin() * x.exp(), (x,), (v,))
    assert torch.allclose(value, x.sin() * x.exp())
    assert torch.allclose(derivative, v * (x.cos() + x.sin()) * x.exp())
    # Linear in the direction.
    w = randn(B, 3, seed=3)
    _, other = jvp(lambda x: x.sin() * x.exp(), (x,), (w,))
    _, both = jvp(lambda x: x.sin() * x.exp(), (x,), (2 * v - w,))
    assert torch.allclose(both, 2 * derivative - other, atol=1e-12)


def test_what_does_not_look_at_its_argument_has_derivative_zero():
    x, t = randn(B, 3, seed=1), torch.rand(B, dtype=torch.float64)
    fixed = randn(B, 3, seed=2)
    value, derivative = jvp(lambda x, t: fixed, (x, t), (x, t))
    assert torch.equal(value, fixed)
    assert torch.equal(derivative, torch.zeros_like(fixed))
    _, derivative = jvp(lambda x, t: 3 * x, (x, t), (0 * x, torch.ones_like(t)))
    assert torch.equal(derivative, torch.zeros_like(x))


def test_nothing_of_the_derivative_is_left_in_what_comes_out_or_went_in():
    net = shaken(lambda: MLP(3, 16, two_times=True))
    x, t = randn(B, 3, seed=1), torch.rand(B, dtype=torch.float64)
    before = x.clone()
    value, derivative = jvp(net, (x, t), (x, t))
    assert torch.equal(x, before)
    assert x.grad_fn is None
    assert type(value) is type(derivative) is torch.Tensor
    # They are ordinary numbers: in another derivative they stand still, and they go to NumPy and to disk.
    _, still = jvp(lambda x: value + 0 * x, (x,), (x,))
    assert torch.equal(still.detach(), torch.zeros_like(x))
    assert value.detach().numpy().shape == derivative.detach().numpy().shape == (B, 3)


def test_one_time_for_all_samples_moves_all_of_them():
    field = pf.Model(shaken(lambda: MLP(3, 16, time="smooth")), pf.CondOT())
    x, v = randn(B, 3, seed=1), randn(B, 3, seed=2)
    one, each = torch.tensor(0.3, dtype=torch.float64), torch.full((B,), 0.3, dtype=torch.float64)
    truth = jvp(field, (x, each), (v, torch.ones_like(each)))[1]
    assert torch.allclose(jvp(field, (x, one), (v, torch.ones_like(one)))[1], truth, atol=1e-12)


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize(
    ("path", "prediction"),
    [(pf.CondOT(), "velocity"), (pf.Cosine(), "v"), (pf.VP(), "noise"), (pf.CondOT(), "data")],
)
def test_the_derivative_of_a_flow_map_in_its_start_is_that_of_differences(path, prediction, graph):
    net = shaken(lambda: MLP(2, 16, time="smooth", two_times=True))
    flow = FlowMapModel(pf.Model(net, path, prediction))
    x, t = randn(B, 2, seed=1), torch.linspace(0.1, 0.6, B, dtype=torch.float64)
    s = torch.linspace(0.7, 1.0, B, dtype=torch.float64)
    ways = (randn(B, 2, seed=2), torch.ones_like(t))

    def start(x, t):
        return flow(x, t, s)

    with torch.set_grad_enabled(graph):
        value, derivative = jvp(start, (x, t), ways)
    assert relative(value.detach(), start(x, t).detach()) < 1e-12
    assert relative(derivative.detach(), differences(start, (x, t), ways, 1e-6)) < 1e-6
    assert derivative.requires_grad is graph


def test_a_derivative_of_a_derivative_is_the_second():
    law = pf.ExactField(mixture(), pf.CondOT())
    x, t, v = randn(B, 2, seed=1), torch.full((B,), 0.4, dtype=torch.float64), randn(B, 2, seed=2)

    def first(x):
        return jvp(lambda y: law(y, t), (x,), (v,))[1]

    _, second = jvp(first, (x,), (v,))
    h = 1e-3
    with torch.no_grad():
        truth = (law(x + h * v, t) - 2 * law(x, t) + law(x - h * v, t)) / h**2
    assert relative(second, truth) < 1e-5
