"""The parts of the networks against their equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import silu

import pushforward as pf
from contracts.members import randn
from pushforward.nets import MLP, FourierTime, LabelEmbedding, SinusoidalTime, UNet
from pushforward.nets.layers import Conditioning, FeatureEmbedding, zero
from pushforward.nets.unet import ResidualBlock, SelfAttention, group_norm


@pytest.mark.parametrize(
    ("dim", "scale", "period"), [(8, 1000.0, 10000.0), (2, 1.0, 10.0), (6, 30.0, 100.0)]
)
def test_sinusoidal_features_are_those_of_vaswani(dim, scale, period):
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    k = np.arange(dim // 2)
    angle = scale * t.numpy()[:, None] * period ** (-k / (dim / 2))
    truth = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    assert np.allclose(SinusoidalTime(dim, scale, period)(t), truth, atol=1e-3 * scale / 1000)
    assert np.allclose(
        SinusoidalTime(dim, scale, period).frequencies, scale * period ** (-k / (dim / 2))
    )


def test_sinusoidal_features_default_to_the_steps_of_ddpm():
    a, b = SinusoidalTime(4), SinusoidalTime(4, 1000.0, 10000.0)
    assert torch.equal(a.frequencies, b.frequencies)
    assert torch.allclose(a.frequencies, torch.tensor([1000.0, 10.0]))


def test_fourier_features_are_waves_of_gaussian_frequencies():
    torch.manual_seed(0)
    features = FourierTime(4000, scale=3.0)
    w = features.frequencies / (2 * math.pi)
    assert float(w.std()) == pytest.approx(3.0, rel=0.06)
    assert float(w.mean()) == pytest.approx(0, abs=0.3)
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    angle = 2 * math.pi * t[:, None] * w.double()
    assert torch.allclose(features(t).double(), torch.cat((angle.cos(), angle.sin()), 1), atol=1e-5)
    assert "frequencies" in features.state_dict()
    assert "frequencies" not in SinusoidalTime(4).state_dict()
    torch.manual_seed(0)
    assert torch.allclose(FourierTime(4000).frequencies, features.frequencies * 16 / 3)


def test_angles_are_worked_out_in_the_precision_of_the_time():
    t = torch.tensor([0.123456789], dtype=torch.float64)
    features = SinusoidalTime(4).bfloat16()
    assert features(t).dtype == torch.bfloat16
    exact = math.cos(1000 * 0.123456789)
    assert float(SinusoidalTime(4)(t)[0, 0]) == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("dim", [0, 3, -2])
def test_features_that_do_not_come_in_pairs_are_errors(dim):
    for kind in (SinusoidalTime, FourierTime):
        with pytest.raises(pf.InputError, match="pairs"):
            kind(dim)


def test_labels_have_a_vector_each_and_one_more_for_none():
    table = LabelEmbedding(3, 5)
    rows = table.table.weight
    assert rows.shape == (4, 5)
    assert torch.equal(table(torch.tensor([2, 0, -1]), 3), rows[[2, 0, 3]])
    assert torch.equal(table(None, 2), rows[[3, 3]])


def test_the_condition_is_the_time_mixed_plus_the_label():
    torch.manual_seed(0)
    part = Conditioning(6, 3, "sinusoidal")
    t, label = torch.tensor([0.2, 0.9]), torch.tensor([1, -1])
    first, _, second = part.mix
    truth = second(silu(first(part.features(t)))) + part.label(label, 2)
    assert torch.allclose(part(t, label), truth)
    assert torch.allclose(
        Conditioning(6, None, "fourier")(t, None).shape[1] * torch.ones(1), torch.tensor([6.0])
    )
    with pytest.raises(pf.InputError, match="sinusoidal"):
        Conditioning(6, None, "linear")


def test_continuous_conditions_are_mixed_with_what_is_known_of_them():
    torch.manual_seed(0)
    part = FeatureEmbedding({"dose": 1, "clip": 2}, 6)
    nan = math.nan
    dose, clip = torch.tensor([0.5, nan, 2.0]), torch.tensor([[1.0, 2.0], [nan, 3.0], [nan, nan]])
    known = torch.tensor([[0.5, 1, 2, 0, 0, 0], [0, 0, 3, 1, 1, 0], [2, 0, 0, 0, 1, 1]])
    first, _, second = part.mix
    truth = second(silu(first(known)))
    like = torch.zeros(1)
    assert torch.allclose(part({"dose": dose, "clip": clip}, like, 3), truth, atol=1e-6)
    assert torch.equal(
        part({"dose": dose[:, None], "clip": clip.double()}, like, 3),
        part({"dose": dose, "clip": clip}, like, 3),
    )
    unknown = second(silu(first(torch.tensor([0.0, 0, 0, 1, 1, 1]))))
    assert torch.allclose(part({}, like, 2), unknown.expand(2, -1))
    for bad in (torch.zeros(2), torch.zeros(3, 3), torch.zeros(3, 2, 1)):
        with pytest.raises(pf.InputError, match=r"clip must have shape \(3, 2\)"):
            part({"dose": dose, "clip": bad}, like, 3)
    with pytest.raises(pf.InputError, match=r"dose must have shape \(3,\)"):
        part({"dose": clip, "clip": clip}, like, 3)
    both = Conditioning(6, 2, "smooth", columns={"dose": 1})
    t, label = torch.tensor([0.1, 0.4, 0.9]), torch.tensor([0, 1, -1])
    added = both(t, label, None, {"dose": dose}) - both.columns({"dose": dose}, like, 3)
    assert torch.allclose(added, both.mix(both.features(t)) + both.label(label, 3), atol=1e-6)
    assert Conditioning(6, 2, "smooth").columns is None


def test_the_mlp_is_its_equation():
    torch.manual_seed(0)
    net = MLP(3, 8, 2, classes=2)
    nn.init.normal_(net.conv_out.weight)
    x, t, label = randn(4, 3, dtype=torch.float32), torch.rand(4), torch.tensor([0, 1, -1, 0])
    e = silu(net.conditioning(t, label))
    h = net.conv_in(x)
    for i in range(2):
        h = h + net.second[i](silu(net.first[i](silu(h)) + net.modulate[i](e)))
    assert torch.allclose(net(x, t, label), net.conv_out(silu(h)), atol=1e-6)
    for bad in ((0, 8, 1), (3, 0, 1), (3, 8, 0)):
        with pytest.raises(pf.InputError, match="positive"):
            MLP(*bad)


@pytest.mark.parametrize(("inner", "outer"), [(8, 8), (8, 16)])
def test_the_residual_block_is_its_equation(inner, outer):
    torch.manual_seed(0)
    block = ResidualBlock(inner, outer, 6, dropout=0.0)
    x, condition = (
        randn(2, inner, 5, 4, dtype=torch.float32),
        randn(2, 6, seed=1, dtype=torch.float32),
    )
    assert torch.equal(block(x, condition), block.skip(x))  # the identity, at the start
    if inner == outer:
        assert torch.equal(block(x, condition), x)
    nn.init.normal_(block.conv2.weight)
    gain, shift = (part[:, :, None, None] for part in block.modulate(condition).split(outer, 1))
    h = block.norm2(block.conv1(silu(block.norm1(x)))) * (1 + gain) + shift
    assert torch.allclose(block(x, condition), block.skip(x) + block.conv2(silu(h)), atol=1e-5)


@pytest.mark.parametrize(("channels", "heads"), [(8, 1), (32, 1), (64, 2), (96, 3), (48, 1)])
def test_attention_is_its_equation(channels, heads):
    torch.manual_seed(0)
    layer = SelfAttention(channels)
    assert layer.heads == heads
    x = randn(2, channels, 3, 4, dtype=torch.float32)
    assert torch.equal(layer(x), x)
    nn.init.normal_(layer.out.weight)
    d = channels // heads
    qkv = layer.qkv(layer.norm(x)).reshape(2, 3, heads, d, 12)
    q, k, v = (qkv[:, i].transpose(-1, -2) for i in range(3))
    weights = (q @ k.transpose(-1, -2) / math.sqrt(d)).softmax(-1)
    mixed = (weights @ v).transpose(-1, -2).reshape(2, channels, 3, 4)
    assert torch.allclose(layer(x), x + layer.out(mixed), atol=1e-4)


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(8, 1), (16, 2), (32, 4), (64, 8), (256, 32), (512, 32), (7, 1), (24, 3)],
)
def test_groups_hold_at_least_eight_channels_and_are_at_most_thirty_two(channels, groups):
    norm = group_norm(channels)
    assert norm.num_groups == groups


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (28, 28), (2, 2), (5, 3)])
@pytest.mark.parametrize("multipliers", [(1,), (1, 2), (1, 1, 2)])
def test_a_unet_takes_images_of_any_size_and_uses_all_of_them(multipliers, size):
    torch.manual_seed(0)
    net = UNet(2, 8, multipliers)
    if min(size) < 2 ** (len(multipliers) - 1):
        with pytest.raises(pf.InputError, match="sides of at least"):
            net(torch.zeros(1, 2, *size), torch.zeros(1))
        return
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    x = randn(2, 2, *size, dtype=torch.float32).requires_grad_()
    out = net(x, torch.rand(2))
    assert out.shape == x.shape
    # The middle attends over all pixels: each output depends on each input.
    gradient = torch.autograd.grad(out[:, :, 0, 0].sum(), x)[0]
    assert (gradient != 0).all()
    assert net.smallest == 2 ** (len(multipliers) - 1)


def test_a_unet_has_the_blocks_and_attention_that_were_asked_for():
    for blocks, attention in ((1, ()), (2, (1,)), (3, (0, 1))):
        net = UNet(1, 8, (1, 2), blocks, attention)
        residual = [m for m in net.modules() if isinstance(m, ResidualBlock)]
        attend = [m for m in net.modules() if isinstance(m, SelfAttention)]
        assert len(residual) == 2 * blocks + 2 + 2 * (blocks + 1)
        assert len(attend) == 1 + len(attention) * (2 * blocks + 1)
        strides = [m.stride for m in net.down if isinstance(m, nn.Conv2d)]
        assert strides == [(2, 2)]
    assert (
        sum(isinstance(m, nn.Dropout) and m.p == 0.3 for m in UNet(1, 8, dropout=0.3).modules()) > 0
    )


def test_the_coarse_level_sees_a_grid_of_half_the_size():
    net, sizes = UNet(1, 8, (1, 2, 2)), []
    net.middle[0].register_forward_hook(lambda m, i, o: sizes.append(o.shape))
    net(torch.zeros(1, 1, 12, 20), torch.zeros(1))
    assert sizes == [(1, 16, 3, 5)]


@pytest.mark.parametrize("bad", [(0, 8), (1, 0), (1, 8, ()), (1, 8, (1,), 0)])
def test_sizes_that_make_no_unet_are_errors(bad):
    with pytest.raises(pf.InputError, match="positive"):
        UNet(*bad)


def test_zero_sets_every_parameter():
    assert all((p == 0).all() for p in zero(nn.Linear(3, 2)).parameters())
