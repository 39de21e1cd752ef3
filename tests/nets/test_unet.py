"""Options of the U-Net: attention to a context, scaled sums, normalised queries, recomputed activations."""

from __future__ import annotations

import collections
import functools
import math

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import silu

import pushforward as pf
from contracts.members import randn
from contracts.members import relative as distance
from pushforward.core.conditions import Tokens
from pushforward.core.derivatives import jvp
from pushforward.nets import UNet
from pushforward.nets.attention import RMSNorm, attend
from pushforward.nets.unet import ContextAttention, Layer, ResidualBlock, SelfAttention


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return distance(a.detach(), b.detach())


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
    assert relative(net(x, t, context=Tokens(context, torch.zeros(3, 4).bool())), none) < 1e-12
    assert relative(net(x, t, context=context), none) > 1e-3


def test_tokens_that_are_masked_have_no_influence_and_others_have():
    net, (x, t) = told_net(), inputs()
    context, mask = randn(3, 4, 5, seed=2), torch.tensor([[1, 1, 0, 0]] * 3).bool()
    out = net(x, t, context=Tokens(context, mask))
    assert relative(net(x, t, context=context[:, :2]), out) < 1e-12
    other = context.clone()
    other[:, 2:] = math.nan
    assert relative(net(x, t, context=Tokens(other, mask)), out) < 1e-12
    other[:, 1] += 1
    assert relative(net(x, t, context=Tokens(other, mask)), out) > 1e-4
    # A token's place in the sequence is of no account.
    assert relative(net(x, t, context=Tokens(context[:, [1, 0, 2, 3]], mask)), out) < 1e-12


def test_every_parameter_of_a_network_with_a_context_gets_a_gradient():
    net, (x, t) = told_net(qk_norm=True), inputs()
    (net(x, t, torch.tensor([0, 1, -1]), context=randn(3, 4, 5, seed=2)) ** 2).sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert (p.grad != 0).any(), name


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"context": torch.zeros(3, 4, 6)}, r"takes a context of tokens \(3, L, 5\)"),
        ({"context": torch.zeros(2, 4, 5)}, r"takes a context of tokens \(3, L, 5\)"),
        ({"mask": torch.ones(3, 1, 6, 5).bool()}, "cannot take padded samples with a mask"),
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
@pytest.mark.parametrize("resample", ["plain", "residual"])
def test_recomputed_activations_change_neither_values_nor_gradients(resample, dropout):
    x, t = inputs()
    context, outcomes, kept = randn(3, 4, 5, seed=2), [], []
    for checkpointing in (False, True):
        net = told_net(dropout=dropout, resample=resample).train()
        net.checkpointing = checkpointing
        torch.manual_seed(3)
        count, calls = 0, collections.Counter()
        blocks = [m for m in net.modules() if isinstance(m, ResidualBlock)]
        for block in blocks:
            block.conv1.register_forward_hook(lambda m, told, out: calls.update([m]))  # noqa: B023

        def keep(tensor):
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = net(x, t, context=context)
        out.square().sum().backward()
        assert calls == {block.conv1: 1 + checkpointing for block in blocks}
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
    new = {
        "context": None,
        "qk_norm": False,
        "residual_scale": 1.0,
        "head_width": 32,
        "resample": "plain",
    }
    assert {key: net.config[key] for key in new} == new
    old = {key: value for key, value in net.config.items() if key not in new}
    again = UNet(**old)
    assert again.config == net.config
    assert list(again.state_dict()) == list(net.state_dict())
    assert not any("cross" in name or "norm_q" in name for name in net.state_dict())
    again.load_state_dict(net.state_dict())
    x, t = randn(2, 1, 6, 6, dtype=torch.float32), torch.rand(2)
    assert torch.equal(again(x, t), net(x, t))


def test_the_names_of_the_weights_are_those_of_the_first_models():
    residual = ["norm1", "conv1", "modulate", "norm2", "conv2"]
    pixels = ["norm", "qkv", "out"]
    layers = {
        "down.0": ("", ""), "down.2": ("skip", "attention"), "middle.0": ("", "attention"), "middle.1": ("", ""),
        "up.0": ("skip", "attention"), "up.1": ("skip", "attention"), "up.3": ("skip", ""), "up.4": ("skip", ""),
    }  # fmt: skip
    names = {"conv_in", "conv_out", "norm_out", "down.1", "up.2", "conditioning.label.table"}
    names |= {"conditioning.mix.0", "conditioning.mix.2"}
    for layer, (skip, attention) in layers.items():
        names |= {f"{layer}.block.{part}" for part in residual + [skip] * bool(skip)}
        names |= {f"{layer}.attention.{part}" for part in pixels * bool(attention)}
    net = UNet(1, 8, (1, 2), attention=(1,), classes=3)
    assert {name.rsplit(".", 1)[0] for name in net.state_dict()} == names
    assert net.middle[0].attention.qkv.weight.shape == (48, 16, 1, 1)
    assert net.up[0].block.skip.weight.shape == (16, 32, 1, 1)


def halved(x):
    """Means of squares of 2 x 2 pixels, of what there is of them at the edges."""
    rows, columns = (range(0, side, 2) for side in x.shape[2:])
    return torch.stack(
        [
            torch.stack([x[:, :, i : i + 2, j : j + 2].mean((2, 3)) for j in columns], -1)
            for i in rows
        ],
        2,
    )


def doubled(x, rows, columns):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :rows, :columns]


@pytest.mark.parametrize(
    ("size", "target"), [((6, 4), (3, 2)), ((5, 7), (3, 4)), ((3, 2), (6, 4)), ((3, 4), (6, 8))]
)
def test_a_residual_block_between_levels_is_its_equation(size, target):
    torch.manual_seed(0)
    block = ResidualBlock(8, 8, 6, 0.0, 0.7).double()
    x, condition = randn(2, 8, *size), randn(2, 6, seed=1)

    def resized(x):
        return halved(x) if target < size else doubled(x, *target)

    assert relative(block(x, condition, target), 0.7 * resized(x)) < 1e-12
    shaken(block)
    gain, shift = (part[:, :, None, None] for part in block.modulate(condition).split(8, 1))
    h = block.conv1(resized(silu(block.norm1(x))))
    truth = resized(x) + block.conv2(silu(block.norm2(h) * (1 + gain) + shift))
    assert relative(block(x, condition, target), 0.7 * truth) < 1e-12


@pytest.mark.parametrize("size", [(12, 8), (7, 9), (4, 5)])
def test_a_network_with_residual_blocks_between_levels_goes_down_by_halves_and_up_to_the_skips(
    size,
):
    torch.manual_seed(0)
    net = shaken(UNet(1, 8, (1, 2, 2), resample="residual")).double()
    between = [m for part in (net.down, net.up) for m in part if isinstance(m, ResidualBlock)]
    assert len(between) == 4
    assert not any(isinstance(m, nn.Conv2d) for part in (net.down, net.up) for m in part)
    seen: list[tuple[int, ...]] = []
    for block in between:
        block.register_forward_hook(lambda m, told, out: seen.append((*out.shape[2:],)))
    net(randn(1, 1, *size), torch.rand(1).double())
    half = tuple(math.ceil(side / 2) for side in size)
    assert seen == [half, tuple(math.ceil(side / 2) for side in half), half, size]


@pytest.mark.parametrize(
    ("channels", "width", "heads"),
    [(64, 32, 2), (64, 16, 4), (64, 64, 1), (64, 128, 1), (48, 32, 1), (48, 10, 4), (7, 3, 1)],
)
def test_a_head_has_the_width_that_was_asked_for_or_more(channels, width, heads):
    assert SelfAttention(channels, head_width=width).heads == heads
    assert ContextAttention(channels, 5, head_width=width).cross.heads == heads
    net = UNet(1, channels, (1,), attention=(0,), context=5, head_width=width)
    parts = [m for m in net.modules() if isinstance(m, SelfAttention | ContextAttention)]
    assert len(parts) == 8
    assert all((m.heads if isinstance(m, SelfAttention) else m.cross.heads) == heads for m in parts)
    torch.manual_seed(0)
    layer = shaken(SelfAttention(channels, head_width=width)).double()
    x, d = randn(2, channels, 3, 2), channels // heads
    q, k, v = layer.qkv(layer.norm(x)).reshape(2, 3, heads, d, 6).transpose(-1, -2).unbind(1)
    mixed = softmax_attention(q, k, v).transpose(-1, -2).reshape(x.shape)
    assert relative(layer(x), x + layer.out(mixed)) < 1e-12


@pytest.mark.parametrize("bad", [{"head_width": 0}, {"resample": "bilinear"}])
def test_heads_and_ways_between_levels_that_there_are_not_are_errors(bad):
    with pytest.raises(pf.InputError, match=next(iter(bad))):
        UNet(2, 8, **bad)


# Everything at once.
ALL = {"qk_norm": True, "residual_scale": 0.7, "head_width": 8, "resample": "residual"}


@pytest.mark.parametrize("more", [{}, ALL], ids=["plain", "all"])
def test_the_fused_kernels_and_plain_attention_agree(more):
    net, (x, t) = told_net(**more), inputs()
    told = {"context": Tokens(randn(3, 4, 5, seed=2), torch.tensor([[1, 0, 1, 1]] * 3).bool())}
    fast = net(x, t, **told)
    with sdpa_kernel(SDPBackend.MATH):
        assert relative(net(x, t, **told), fast) < 1e-12


def test_in_forward_mode_recomputation_is_left_out():
    net, (x, t) = told_net(**ALL), inputs()
    context, weight = randn(3, 4, 5, seed=2), net.middle[0].block.conv1.weight
    ways, answers = (randn(*x.shape, seed=5), randn(3, seed=6)), []
    for net.checkpointing in (False, True):
        _, derivative = jvp(lambda x, t: net(x, t, context=context), (x, t), ways)
        answers.append(torch.autograd.grad((derivative**2).sum(), weight)[0])
    assert torch.equal(*answers)
    with sdpa_kernel(SDPBackend.MATH):
        truth = torch.autograd.functional.jvp(
            lambda x, t: net(x, t, context=context), (x, t), ways
        )[1]
    assert relative(derivative, truth) < 1e-11


@pytest.mark.parametrize("more", [{}, ALL], ids=["plain", "all"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_compiled_network_has_the_gradients_of_the_plain_one(more, checkpointing):
    torch._dynamo.reset()
    net, (x, t) = told_net(**more), inputs()
    net.checkpointing = checkpointing
    context, answers = randn(3, 4, 5, seed=2), []
    for run in (net, torch.compile(net, backend="aot_eager", fullgraph=True)):
        out = run(x, t, context=context)
        answers.append((out, *torch.autograd.grad(out.square().sum(), list(net.parameters()))))
    for a, b in zip(*answers, strict=True):
        assert (a - b).abs().max() <= 1e-10 * a.abs().max()


def orders_of(net):
    """Whether the channels of a pixel are side by side in the middle, a list that grows by one with each call."""
    seen: list[bool] = []
    net.middle[0].register_forward_hook(
        lambda m, told, out: seen.append(out.is_contiguous(memory_format=torch.channels_last))
    )
    return seen


@pytest.mark.parametrize("more", [{}, ALL], ids=["plain", "all"])
def test_in_either_order_in_memory_the_network_and_its_derivatives_are_the_same(more):
    # Float32 on a CPU has the channels of a pixel side by side; float64 and forward mode have not.
    net, (x, t) = told_net(**more), inputs()
    single = UNet(**net.config)
    single.load_state_dict(net.state_dict())
    net.load_state_dict(single.state_dict())
    orders, answers = (orders_of(net), orders_of(single)), []
    for run in (net, single):
        at, time, way, context = (
            part.to(next(run.parameters()).dtype)
            for part in (x, t, randn(*x.shape, seed=5), randn(3, 4, 5, seed=2))
        )
        weights = [p for name, p in run.named_parameters() if name.endswith("weight")]
        with sdpa_kernel(SDPBackend.MATH):
            out = run(at.requires_grad_(), time, context=context)
            assert out.is_contiguous()
            (row,) = torch.autograd.grad(out, at, way, create_graph=True)
            # Those of the last layer, and of labels that are not there, have no part in it.
            second = torch.autograd.grad(
                (row * way).sum(), weights, allow_unused=True, materialize_grads=True
            )
        function = functools.partial(run, context=context)
        _, derivative = jvp(function, (at.detach(), time), (way, torch.ones_like(time)))
        answers.append([part.detach() for part in (out, row, derivative, *second)])
    assert orders == ([False, False], [True, False])
    scale = max(float(part.abs().max()) for part in answers[0][3:])
    for i, (a, b) in enumerate(zip(*answers, strict=True)):
        assert (a - b).abs().max() <= 1e-4 * (scale if i > 2 else float(a.abs().max()))


def test_where_another_order_is_not_quicker_or_cannot_be_the_usual_one_is_kept():
    net = told_net().float()
    x, t = (part.float() for part in inputs())
    truth = net(x, t)
    orders = orders_of(net)
    with torch.autocast("cpu", torch.bfloat16):
        net(x, t)
    with torch.autograd.forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        assert relative(torch.autograd.forward_ad.unpack_dual(net(dual, t)).primal, truth) < 1e-5
    net.bfloat16()(x.bfloat16(), t)
    assert orders == [False] * 3
    # One image at a time.
    net = told_net().float()
    with sdpa_kernel(SDPBackend.MATH):
        out = torch.func.vmap(lambda x, t: net(x[None], t[None])[0])(x, t)
    assert relative(out, truth) < 1e-5
