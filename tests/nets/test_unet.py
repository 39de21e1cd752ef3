"""Options of the U-Net: attention to a context, scaled sums, normalised queries, recomputed activations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import silu

import pushforward as pf
from contracts.members import randn, relative
from pushforward.nets import UNet
from pushforward.nets.attention import RMSNorm, attend
from pushforward.nets.unet import ContextAttention, Layer, ResidualBlock, SelfAttention


def shaken(net: nn.Module, by: float = 0.1) -> nn.Module:
    """Off its zero start, as after training."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(by * torch.randn(p.shape, generator=generator))
    return net


def told_net(**more) -> UNet:
    torch.manual_seed(0)
    options = {"attention": (1,), "classes": 3, "context": 5} | more
    return shaken(UNet(2, 16, (1, 2), **options)).double()


def inputs(size: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return randn(size, 2, 6, 5, seed=1), torch.linspace(0.1, 0.9, size, dtype=torch.float64)


def softmax_attention(q, k, v, keep=None):
    """Heads (B, heads, N, d) by the definition, one sum at a time."""
    scores = torch.einsum("bhnd,bhld->bhnl", q, k) / math.sqrt(q.shape[-1])
    if keep is not None:
        scores = scores.masked_fill(~keep[:, None, None, :], -math.inf)
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return torch.einsum("bhnl,bhld->bhnd", weights, v)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_to_a_context_is_its_equation(masked):
    torch.manual_seed(0)
    layer = ContextAttention(64, 7, scale=0.7).double()
    x, context = randn(2, 64, 3, 4, seed=1), randn(2, 5, 7, seed=2)
    keep = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]]).bool() if masked else None
    assert torch.equal(
        layer(x, context, keep), 0.7 * x
    )  # the identity at the start, but for the scale
    shaken(layer)
    cross, pixels = layer.cross, layer.norm(x).flatten(2).transpose(1, 2)
    assert cross.heads == 2
    q = cross.q(pixels).reshape(2, 12, 2, 32).transpose(1, 2)
    k, v = cross.kv(context).reshape(2, 5, 2, 2, 32).permute(2, 0, 3, 1, 4)
    h = softmax_attention(q, k, v, keep).transpose(1, 2).reshape(2, 12, 64)
    truth = 0.7 * (x + cross.out(h).transpose(1, 2).reshape(2, 64, 3, 4))
    assert relative(layer(x, context, keep), truth) < 1e-12


@pytest.mark.parametrize("scale", [1.0, math.sqrt(0.5)])
def test_a_scaled_residual_block_is_its_equation(scale):
    torch.manual_seed(0)
    block = shaken(ResidualBlock(8, 16, 6, 0.0, scale)).double()
    x, condition = randn(2, 8, 5, 4), randn(2, 6, seed=1)
    gain, shift = (part[:, :, None, None] for part in block.modulate(condition).split(16, 1))
    h = block.norm2(block.conv1(silu(block.norm1(x)))) * (1 + gain) + shift
    assert relative(block(x, condition), scale * (block.skip(x) + block.conv2(silu(h)))) < 1e-12


def test_normalised_queries_and_keys_are_their_equation():
    torch.manual_seed(0)
    layer = shaken(SelfAttention(64, scale=0.5, qk_norm=True)).double()
    assert isinstance(layer.norm_q, RMSNorm)
    x = randn(2, 64, 3, 4)
    qkv = layer.qkv(layer.norm(x)).reshape(2, 3, 2, 32, 12)
    q, k, v = (qkv[:, i].transpose(-1, -2) for i in range(3))
    q = layer.norm_q.gain * q / (q.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    k = layer.norm_k.gain * k / (k.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    mixed = softmax_attention(q, k, v).transpose(-1, -2).reshape(2, 64, 3, 4)
    assert relative(layer(x), 0.5 * (x + layer.out(mixed))) < 1e-12


def test_the_options_reach_every_layer_that_has_a_use_for_them():
    net = UNet(1, 32, (1, 2), 2, (1,), context=5, qk_norm=True, residual_scale=0.5)
    scaled = [m for m in net.modules() if isinstance(m, ResidualBlock | SelfAttention | ContextAttention)]  # fmt: skip
    assert all(m.scale == 0.5 for m in scaled)
    layers = [m for m in net.modules() if isinstance(m, Layer)]
    attend_here = [m for m in layers if m.attention is not None]
    assert len(attend_here) == 1 + 2 + 3  # the middle, and level 1 down and up
    assert [m.cross is not None for m in layers] == [m.attention is not None for m in layers]
    assert all(isinstance(m.cross.cross.norm_q, RMSNorm) for m in attend_here)


def test_no_context_is_one_of_zeros_and_one_whose_mask_is_false():
    net, (x, t) = told_net(), inputs()
    none = net(x, t)
    assert relative(net(x, t, context=torch.zeros(3, 4, 5).double()), none) < 1e-12
    context = randn(3, 4, 5, seed=2)
    assert relative(net(x, t, context=context, mask=torch.zeros(3, 4).bool()), none) < 1e-12
    assert relative(net(x, t, context=context), none) > 1e-3


def test_tokens_that_are_masked_have_no_influence_and_others_have():
    net, (x, t) = told_net(), inputs()
    context, mask = randn(3, 4, 5, seed=2), torch.tensor([[1, 1, 0, 0]] * 3).bool()
    out = net(x, t, context=context, mask=mask)
    assert relative(net(x, t, context=context[:, :2]), out) < 1e-12
    other = context.clone()
    other[:, 2:] = math.nan
    assert relative(net(x, t, context=other, mask=mask), out) < 1e-12
    other[:, 1] += 1
    assert relative(net(x, t, context=other, mask=mask), out) > 1e-4
    # A token's place in the sequence is of no account.
    assert relative(net(x, t, context=context[:, [1, 0, 2, 3]], mask=mask), out) < 1e-12


def test_every_parameter_of_a_network_with_a_context_gets_a_gradient():
    net, (x, t) = told_net(qk_norm=True), inputs()
    (net(x, t, torch.tensor([0, 1, -1]), context=randn(3, 4, 5, seed=2)) ** 2).sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert (p.grad != 0).any(), name


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"context": torch.zeros(3, 4, 6)}, r"takes a context \(3, L, 5\)"),
        ({"context": torch.zeros(2, 4, 5)}, r"takes a context \(3, L, 5\)"),
        ({"context": torch.zeros(3, 4, 5), "mask": torch.zeros(3, 4)}, "is bool"),
        ({"mask": torch.zeros(3, 4).bool()}, "without a context"),
    ],
)
def test_a_context_that_does_not_fit_is_an_error(more, message):
    net, (x, t) = told_net(), inputs()
    with pytest.raises(pf.InputError, match=message):
        net(x, t, **more)


def test_a_context_is_refused_where_there_is_no_place_for_it():
    x, t = inputs()
    with pytest.raises(pf.InputError, match="without one: build it with context="):
        UNet(2, 8)(x.float(), t, context=torch.zeros(3, 4, 5))
    for bad in ({"context": 0}, {"residual_scale": 0.0}, {"residual_scale": math.inf}):
        with pytest.raises(pf.InputError, match=next(iter(bad))):
            UNet(2, 8, **bad)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_activations_change_neither_values_nor_gradients(dropout):
    x, t = inputs()
    context, outcomes, kept = randn(3, 4, 5, seed=2), [], []
    for checkpointing in (False, True):
        net = told_net(dropout=dropout).train()
        net.checkpointing = checkpointing
        torch.manual_seed(3)
        count = 0

        def keep(tensor):
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = net(x, t, context=context)
        out.square().sum().backward()
        outcomes.append([out.detach(), *(p.grad for p in net.parameters())])
        kept.append(count)
    for a, b in zip(*outcomes, strict=True):
        assert relative(a, b) < 1e-12
    assert kept[1] < 0.6 * kept[0]
    assert "checkpointing" not in told_net().config


def test_a_compiled_network_gives_the_same():
    net, (x, t) = told_net(), inputs()
    context = randn(3, 4, 5, seed=2)
    truth = net(x, t, context=context)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    assert relative(compiled(x, t, context=context), truth) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_in_half_the_bits_is_that_of_float32_rounded_once(dtype, masked):
    q, k, v = (randn(2, 3, n, 8, seed=s).to(dtype) for s, n in enumerate((5, 7, 7)))
    keep = torch.tensor([[1, 0, 1, 1, 1, 0, 1]] * 2).bool() if masked else None
    truth = softmax_attention(*(x.double() for x in (q, k, v)), keep).transpose(1, 2).flatten(2)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = attend(q, k, v, keep)
        assert found.dtype == dtype
        half = 0.5 * torch.finfo(dtype).eps
        assert ((found.double() - truth).abs() <= 1.01 * half * truth.abs() + 1e-6).all()


def test_under_autocast_the_network_is_itself_within_the_rounding_of_bfloat16():
    net, (x, t) = told_net().float(), inputs()
    truth = net(x.float(), t)
    with torch.autocast("cpu", torch.bfloat16):
        found = net(x.float(), t).float()
    assert 1e-6 < relative(found, truth) < 0.05


def test_a_configuration_of_before_these_options_builds_the_same_network():
    torch.manual_seed(0)
    net = shaken(UNet(1, 8, (1, 2), attention=(1,), classes=3))
    new = ("context", "qk_norm", "residual_scale")
    old = {key: value for key, value in net.config.items() if key not in new}
    again = UNet(**old)
    assert again.config == net.config
    assert list(again.state_dict()) == list(net.state_dict())
    assert not any("cross" in name or "norm_q" in name for name in net.state_dict())
    again.load_state_dict(net.state_dict())
    x, t = randn(2, 1, 6, 6, dtype=torch.float32), torch.rand(2)
    assert torch.equal(again(x, t), net(x, t))
