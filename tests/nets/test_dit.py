"""The diffusion transformer is its equations."""

from __future__ import annotations

import copy
import io
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import pushforward as pf
from contracts.members import randn
from contracts.members import relative as distance
from pushforward.core import conditions
from pushforward.core.conditions import Empty, Fill, Tokens
from pushforward.core.derivatives import jvp
from pushforward.nets import DiT
from pushforward.nets.attention import Attention, CrossAttention, RMSNorm, attend
from pushforward.nets.block import Block
from pushforward.nets.dit import TIME_FEATURES
from pushforward.nets.layers import Conditioning, LayerNorm
from pushforward.nets.positions import rotary_angles, rotate, sincos_positions

B = 3
# Positions, conditioning, and what else can be switched on.
KINDS = [
    pytest.param({}, id="sincos"),
    pytest.param({"positions": "learned", "size": (8, 6), "qk_norm": True}, id="learned"),
    pytest.param({"positions": "rope", "context": 5}, id="rope-cross"),
    pytest.param({"positions": "rope", "qk_norm": True, "context": 5, "conditioning": "in-context"}, id="rope-in"),
    pytest.param({"qk_norm": True, "context": 5}, id="sincos-cross"),
    pytest.param({"context": 5, "conditioning": "in-context", "two_times": True}, id="sincos-in"),
]  # fmt: skip
TOLD = [kind for kind in KINDS if "context" in kind.values[0]]


def relative(a, b):
    return distance(a.detach(), b.detach())


def shaken(net, scale=0.2):
    """Off its zero start, in float64."""
    net = net.double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(scale * torch.randn_like(p))
    return net


def build(options, **more):
    torch.manual_seed(0)
    arguments = {"channels": 2, "patch": 2, "width": 16, "depth": 2, "heads": 2, "classes": 3}
    return shaken(DiT(**arguments | options | more)).eval()


def inputs(options, height=8, width=6):
    """(x, t) and conditions: the context has five tokens, of which some of two samples are padding."""
    x, t = randn(B, 2, height, width, seed=1), torch.linspace(0.1, 0.9, B, dtype=torch.float64)
    cond = {"label": torch.tensor([2, -1, 0])}
    if options.get("two_times"):
        cond["s"] = torch.tensor([0.3, 0.9, 0.5], dtype=torch.float64)
    if "context" in options:
        mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 1, 1, 1, 0]]).bool()
        cond["context"] = Tokens(randn(B, 5, 5, seed=2), mask)
    return x, t, cond


def cast(cond, dtype):
    return conditions._map(lambda v: v.to(dtype) if v.is_floating_point() else v, cond)


@pytest.fixture
def nothing_compiled_before():
    torch._dynamo.reset()


# The equations, written for one sample at a time and in loops over heads and positions.


def norm(x):
    centred = x - x.sum(-1, keepdim=True) / x.shape[-1]
    return centred / ((centred**2).sum(-1, keepdim=True) / x.shape[-1] + 1e-6) ** 0.5


def gelu(x):
    return x / (1 + torch.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def mixed(q, k, v, heads, angles_q=None, gains=None, keep=None):
    """q (N, D), k and v (L, D) -> (N, D). angles_q: (N, d/2), for q and k alike."""
    d, out = q.shape[1] // heads, []
    for h in range(heads):
        a, b, c = (part[:, h * d : (h + 1) * d] for part in (q, k, v))
        if gains is not None:
            a, b = (
                g * part / ((part**2).mean(1, keepdim=True) + 1e-6).sqrt()
                for g, part in zip(gains, (a, b), strict=True)
            )
        if angles_q is not None:
            turn = torch.polar(torch.ones_like(angles_q), angles_q)
            a, b = (torch.complex(p[:, : d // 2], p[:, d // 2 :]) * turn for p in (a, b))
            a, b = (torch.cat((p.real, p.imag), 1) for p in (a, b))
        scores = a @ b.T / d**0.5
        weights = scores.exp()
        if keep is not None:
            weights = weights * keep
        out.append(weights / weights.sum(1, keepdim=True) @ c)
    return torch.cat(out, 1)


def gains_of(part):
    return (
        [m.gain for m in (part.norm_q, part.norm_k)] if isinstance(part.norm_q, RMSNorm) else None
    )


def self_attention(part, x, angle=None, keep=None):
    d = x.shape[1]
    q, k, v = (
        x @ part.qkv.weight[i * d : (i + 1) * d].T + part.qkv.bias[i * d : (i + 1) * d]
        for i in range(3)
    )
    return part.out(mixed(q, k, v, part.heads, angle, gains_of(part), keep))


def cross_attention(part, x, context, keep=None):
    d = x.shape[1]
    k, v = (
        context @ part.kv.weight[i * d : (i + 1) * d].T + part.kv.bias[i * d : (i + 1) * d]
        for i in range(2)
    )
    return part.out(mixed(part.q(x), k, v, part.heads, None, gains_of(part), keep))


def block_of(block, x, condition, angle=None, keep=None, context=None, context_keep=None):
    w = x.shape[1]
    b1, a1, g1, b2, a2, g2 = (
        block.modulate.weight[i * w : (i + 1) * w] @ condition + block.modulate.bias[i * w : (i + 1) * w]
        for i in range(6)
    )  # fmt: skip
    x = x + g1 * self_attention(block.attention, norm(x) * (1 + a1) + b1, angle, keep)
    if block.cross is not None:
        x = x + cross_attention(block.cross, norm(x), context, context_keep)
    first, _, _, second = block.mlp
    return x + g2 * second(gelu(first(norm(x) * (1 + a2) + b2)))


def silu(x):
    return x / (1 + torch.exp(-x))


def published_positions(rows, columns, width):
    """As in the code of Peebles & Xie 2023, in numpy."""

    def one(position):
        omega = 1 / 10000 ** (np.arange(width // 4) / (width / 4))
        out = np.einsum("m,d->md", position.reshape(-1), omega)
        return np.concatenate([np.sin(out), np.cos(out)], axis=1)

    grid = np.meshgrid(np.arange(columns, dtype=float), np.arange(rows, dtype=float))
    return torch.from_numpy(np.concatenate([one(grid[0]), one(grid[1])], axis=1))


def whole(net, x, t, label, s=None, context=None):
    """The network for one sample (C, H, W), H and W multiples of the patch; a context of one row with a token."""
    c, p = net.config, net.config["patch"]
    context, mask = (None, None) if context is None else (context.values[0], context.mask[0])
    rows, columns = x.shape[1] // p, x.shape[2] // p
    patches = [
        x[:, i * p : (i + 1) * p, j * p : (j + 1) * p] for i in range(rows) for j in range(columns)
    ]
    h = torch.stack(
        [(net.conv_in.weight * patch).sum((1, 2, 3)) + net.conv_in.bias for patch in patches]
    )
    angle = None
    if c["positions"] == "sincos":
        h = h + published_positions(rows, columns, c["width"])
    elif c["positions"] == "learned":
        h = h + torch.stack([net.table[0, :, i, j] for i in range(rows) for j in range(columns)])
    else:
        quarter = c["width"] // c["heads"] // 4
        w = [100 ** (-k / quarter) for k in range(quarter)]
        angle = [
            [i * f for f in w] + [j * f for f in w] for i in range(rows) for j in range(columns)
        ]

    def features(time):
        k = np.arange(TIME_FEATURES // 2)
        a = 1000 * float(time) * 10000.0 ** (-k / len(k))
        return torch.from_numpy(np.concatenate([np.cos(a), np.sin(a)]))

    part = net.conditioning
    condition = part.mix[2](silu(part.mix[0](features(t)))) + part.label.table.weight[int(label)]
    if c["two_times"]:
        condition = condition + part.way[2](silu(part.way[0](features(s - t))))
    condition = silu(condition)

    told = keep = told_keep = None
    if context is not None:
        told = net.context[2](gelu(net.context[0](context)))
        if c["conditioning"] == "in-context":
            before = len(told)
            h = torch.cat((told, h))
            keep = torch.cat((mask, torch.ones(rows * columns).bool())).double()
            if angle is not None:
                angle = [[0.0] * len(angle[0])] * before + angle
            told = None
        else:
            told_keep = mask.double()
    angle = None if angle is None else torch.tensor(angle, dtype=torch.float64)
    for block in net.blocks:
        h = block_of(block, h, condition, angle, keep, told, told_keep)
    shift, gain = (
        net.modulate_out(condition)[i * c["width"] : (i + 1) * c["width"]] for i in (0, 1)
    )
    tokens = net.conv_out((1 + gain) * norm(h[-rows * columns :]) + shift)
    answers = c["outputs"] * c["channels"]
    out = torch.zeros(answers, *x.shape[1:], dtype=x.dtype)
    for n, token in enumerate(tokens):
        i, j = divmod(n, columns)
        for a in range(p):
            for b in range(p):
                for channel in range(answers):
                    out[channel, i * p + a, j * p + b] = token[(a * p + b) * answers + channel]
    return out


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("outputs", [1, 2])
def test_the_network_is_its_equations(options, outputs):
    net = build(options, outputs=outputs)
    x, t, cond = inputs(options)
    with torch.no_grad():
        # The frequencies of time are kept in float32.
        half = TIME_FEATURES // 2
        net.conditioning.features.frequencies.copy_(
            1000 * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        )
        got = net(x, t, **cond)
        assert got.shape == (B, outputs * 2, 8, 6)
        for i in range(B):
            row = conditions.take(cond, slice(i, i + 1))
            row = {k: v if k == "context" else v[0] for k, v in row.items()}
            truth = whole(net, x[i], t[i], **row)
            assert truth.abs().max() > 0.1
            assert relative(got[i : i + 1], truth[None]) < 1e-11


@pytest.mark.parametrize("kept", [None, "some"])
def test_attention_is_its_equation(kept):
    q = randn(2, 3, 4, 8)
    k, v = randn(2, 3, 5, 8, seed=1), randn(2, 3, 5, 8, seed=2)
    keep = None if kept is None else torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 1]]).bool()
    scores = torch.einsum("bhnd,bhld->bhnl", q, k) / 8**0.5
    if keep is not None:
        scores = scores + torch.where(keep, 0.0, -math.inf)[:, None, None]
    truth = torch.einsum("bhnl,bhld->bnhd", scores.softmax(-1), v).reshape(2, 4, 24)
    assert torch.allclose(attend(q, k, v, keep), truth, atol=1e-12)
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.allclose(attend(q, k, v, keep), truth, atol=1e-12)


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_layers_of_attention_are_their_equations(qk_norm, masked):
    torch.manual_seed(0)
    part, other = (
        shaken(Attention(16, 2, qk_norm)),
        shaken(CrossAttention(16, 4, 6, qk_norm)),
    )
    x, context = randn(2, 5, 16), randn(2, 3, 6, seed=1)
    angle = randn(5, 4, seed=2)
    keep = torch.tensor([[1, 0, 1, 1, 1], [0, 1, 0, 0, 1]]).bool() if masked else None
    among = torch.tensor([[1, 0, 1], [0, 0, 1]]).bool() if masked else None
    for i in range(2):
        mine = None if keep is None else keep[i].double()
        theirs = None if among is None else among[i].double()
        assert relative(part(x, None, keep)[i], self_attention(part, x[i], None, mine)) < 1e-12
        assert relative(part(x, angle, keep)[i], self_attention(part, x[i], angle, mine)) < 1e-12
        truth = cross_attention(other, x[i], context[i], theirs)
        assert relative(other(x, context, among)[i], truth) < 1e-12


def test_queries_and_keys_of_norm_one_make_bounded_scores_of_any_input():
    torch.manual_seed(0)
    part = Attention(16, 2, qk_norm=True).double()
    for layer in (part.qkv, part.out):
        nn.init.zeros_(layer.bias)
    x = randn(1, 5, 16)
    assert torch.allclose(
        part(1e4 * x), 1e4 * part(x), rtol=1e-4
    )  # the weights stay, the values grow
    h = RMSNorm(8)(1e3 * randn(7, 8))
    assert torch.allclose((h**2).mean(1), torch.ones(7, dtype=torch.float64))
    small = RMSNorm(4)(torch.full((4,), 1e-3, dtype=torch.float64))
    assert torch.allclose(small, torch.full((4,), 0.5, dtype=torch.float64).sqrt())  # eps = 1e-6
    assert RMSNorm(8).bfloat16()(randn(2, 8).bfloat16()).dtype == torch.bfloat16


def test_the_norm_and_all_its_derivatives_are_those_of_the_equation():
    x, v, u = randn(5, 8).requires_grad_(), randn(5, 8, seed=1), randn(5, 8, seed=2)
    part = LayerNorm()
    assert relative(part(x), norm(x)) < 1e-13
    assert list(part.parameters()) == []
    (first,), (want,) = (torch.autograd.grad(f(x), x, u) for f in (part, norm))
    assert relative(first, want) < 1e-13
    answers = []
    for function in (part, norm):
        _, forward = jvp(function, (x,), (v,))
        backward = torch.autograd.functional.jvp(function, x, v, create_graph=True)[1]
        (graph,) = torch.autograd.grad(function(x), x, u, create_graph=True)
        (second,) = torch.autograd.grad((v * graph).sum(), x, create_graph=True)
        (third,) = torch.autograd.grad((u * second).sum(), x)
        answers.append([torch.autograd.grad((u * d).sum(), x)[0] for d in (forward, backward)])
        answers[-1] += [forward, backward, graph, second, third]
    for answer, want in zip(*answers, strict=True):
        assert relative(answer, want) < 1e-11
    assert relative(answers[0][0], answers[1][1]) < 1e-12


def test_the_norm_is_that_of_the_equation_in_transforms_under_autocast_and_in_halves():
    x, u = randn(5, 3, 8), randn(5, 3, 8, seed=1)
    part = LayerNorm()
    want = torch.func.vmap(torch.func.grad(lambda x, u: (u * norm(x)).sum()))(x, u)
    assert (
        relative(torch.func.vmap(torch.func.grad(lambda x, u: (u * part(x)).sum()))(x, u), want)
        < 1e-12
    )
    strided = x.transpose(0, 1)
    assert torch.equal(part(strided), part(strided.contiguous()))
    with torch.autocast("cpu", torch.bfloat16):
        assert part(x.float()).dtype == torch.float32
        assert relative(part(x.float()).double(), norm(x)) < 1e-6
    # One rounding of the result, and none between.
    half = x.bfloat16().requires_grad_()
    exact = half.detach().double().requires_grad_()
    assert torch.allclose(part(half).double(), norm(exact), rtol=2**-8, atol=0)
    for graph in (False, True):
        (got,) = torch.autograd.grad(part(half), half, u.bfloat16(), create_graph=graph)
        (want,) = torch.autograd.grad(norm(exact), exact, u.bfloat16().double())
        assert got.dtype == torch.bfloat16
        assert relative(got.double(), want) < 2**-7
    assert torch.allclose(got.double(), want, rtol=2**-8, atol=1e-6)


def test_scores_of_rotated_queries_and_keys_depend_on_relative_positions_only():
    torch.manual_seed(0)
    d, rows, columns = 16, 9, 7
    angle = rotary_angles((rows, columns), d, torch.zeros(1, dtype=torch.float64)).unflatten(
        0, (rows, columns)
    )
    q, k = randn(d), randn(d, seed=1)

    def score(i, j):
        return float(rotate(q, angle[i]) @ rotate(k, angle[j]))

    base = score((1, 2), (3, 1))
    for down in range(6):
        for right in range(5):
            moved = score((1 + down, right + 1), (3 + down, right))
            assert moved == pytest.approx(base, abs=1e-12)
    # The difference matters, in each direction and with its sign.
    others = [score((1, 2), (3, 2)), score((1, 2), (2, 1)), score((3, 1), (1, 2)), score((0, 0), (0, 0))]  # fmt: skip
    assert min(abs(other - base) for other in others) > 1e-3
    assert score((4, 4), (4, 4)) == pytest.approx(float(q @ k), abs=1e-12)
    assert float(rotate(q, angle[5, 3]).norm()) == pytest.approx(float(q.norm()), abs=1e-12)


@torch.no_grad()
def test_a_transformer_with_rotary_positions_alone_does_not_see_where_the_picture_is():
    # The same patches, in a larger grid of which nothing else is attended to.
    torch.manual_seed(0)
    part = shaken(Attention(16, 2))
    angle = rotary_angles((8, 8), 8, torch.zeros(1, dtype=torch.float64)).unflatten(0, (8, 8))
    x = randn(1, 6, 16)
    answers = []
    for down, right in ((0, 0), (3, 2), (6, 5)):
        answers.append(part(x, angle[down : down + 2, right : right + 3].flatten(0, 1)))
    assert relative(answers[1], answers[0]) < 1e-12
    assert relative(answers[2], answers[0]) < 1e-12
    assert relative(part(x, angle[:3, :2].flatten(0, 1)), answers[0]) > 1e-2


@pytest.mark.parametrize(("rows", "columns", "width"), [(1, 1, 4), (4, 4, 8), (3, 5, 16), (16, 16, 384)])  # fmt: skip
def test_fixed_positions_are_those_of_the_published_code(rows, columns, width):
    like = torch.zeros(1, dtype=torch.float64)
    assert torch.allclose(
        sincos_positions((rows, columns), width, like),
        published_positions(rows, columns, width),
        atol=1e-13,
    )
    single = sincos_positions((rows, columns), width, like.bfloat16())
    assert single.dtype == torch.float32
    assert torch.allclose(
        single.double(), sincos_positions((rows, columns), width, like), atol=1e-5
    )


@pytest.mark.parametrize("cross", [False, True])
@torch.no_grad()
def test_a_block_starts_as_the_identity_and_is_its_equation_afterwards(cross):
    torch.manual_seed(0)
    block = Block(16, 2, cross=cross).double()
    x, condition, context = randn(2, 5, 16), randn(2, 16, seed=1), randn(2, 3, 16, seed=2)
    told = {"context": context} if cross else {}
    assert torch.equal(block(x, condition, **told), x)
    shaken(block)
    for i in range(2):
        truth = block_of(block, x[i], condition[i], context=context[i])
        assert relative(block(x, condition, **told)[i], truth) < 1e-12
        assert relative(truth, x[i]) > 0.1


@pytest.mark.parametrize("options", KINDS)
def test_every_block_of_a_new_network_is_the_identity(options):
    torch.manual_seed(0)
    net = DiT(2, 2, 16, 3, 2, classes=3, **options).double()
    x, t, cond = inputs(options)
    for block in net.blocks:
        block.register_forward_hook(lambda m, i, o: seen.append(torch.equal(o, i[0])))
    seen: list[bool] = []
    assert (net(x, t, **cond) == 0).all()
    assert seen == [True] * 3


@torch.no_grad()
def test_weights_start_as_published():
    torch.manual_seed(0)
    net = DiT(4, 4, 192, 2, 3, classes=200, context=64)
    for name, p in net.named_parameters():
        if any(part in name for part in ("conv_out", "modulate", "cross.out", "bias")):
            assert (p == 0).all(), name
        elif name.startswith("conditioning"):
            assert float(p.std()) == pytest.approx(0.02, rel=0.05), name
        else:  # Glorot & Bengio 2010
            fan = p[0].numel() + p.shape[0]
            assert float(p.std()) == pytest.approx((2 / fan) ** 0.5, rel=0.05), name
            assert float(p.abs().max()) <= (6 / fan) ** 0.5


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize(
    ("height", "width", "patch"), [(8, 6, 2), (7, 5, 2), (9, 8, 4), (5, 7, 3), (2, 5, 2)]
)  # fmt: skip
def test_a_side_that_is_no_multiple_of_the_patch_is_filled_up_with_zeros_and_cut(
    options, height, width, patch
):
    net = build(options, patch=patch) if "size" not in options else build(options)
    patch = net.config["patch"]
    x, t, cond = inputs(options, height, width)
    full = torch.zeros(
        B, 2, math.ceil(height / patch) * patch, math.ceil(width / patch) * patch, dtype=x.dtype
    )
    full[:, :, :height, :width] = x
    out = net(x, t, **cond)
    assert out.shape == x.shape
    assert torch.equal(out, net(full, t, **cond)[:, :, :height, :width])
    # All of it is seen, from each pixel.
    x = x.requires_grad_()
    gradient = torch.autograd.grad(net(x, t, **cond)[:, :, 0, 0].sum(), x)[0]
    assert (gradient != 0).all()


def test_learned_positions_are_a_table_that_is_interpolated_elsewhere():
    net = build({"positions": "learned", "size": 8})
    assert net.table.shape == (1, 16, 4, 4)
    h = torch.zeros(1, dtype=torch.float64)
    assert torch.equal(
        net._places([4, 4], h, None)[0][0, 4 * 1 + 3], net.table[0, :, 1, 3]
    )  # row by row
    # A plane stays one, centre to centre of the patches, inside of the outermost centres.
    a, b, c = randn(3, 16)
    at = torch.arange(4).double() + 0.5
    with torch.no_grad():
        net.table.copy_(
            (a[:, None, None] + b[:, None, None] * at[:, None] / 4 + c[:, None, None] * at / 4)[
                None
            ]
        )
    fine = net._places([8, 12], h, None)[0][0].unflatten(0, (8, 12))
    for i in range(1, 7):
        for j in range(2, 10):
            truth = a + b * (i + 0.5) / 8 + c * (j + 0.5) / 12
            assert torch.allclose(fine[i, j], truth, atol=1e-12)


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_recomputed_activations_change_neither_values_nor_gradients(options, dropout):
    net = build(options, dropout=dropout).train()
    x, t, cond = inputs(options)
    calls: list[int] = []
    net.blocks[0].attention.register_forward_hook(lambda m, i, o: calls.append(1))
    answers = []
    for net.checkpointing in (False, True):
        net.zero_grad()
        calls.clear()
        torch.manual_seed(7)
        out = net(x, t, **cond)
        (out**2).mean().backward()
        answers.append((out, [p.grad.clone() for p in net.parameters() if p.grad is not None]))
        assert len(calls) == 1 + net.checkpointing
    assert torch.equal(answers[0][0], answers[1][0])
    assert len(answers[0][1]) == len(list(net.parameters()))
    for a, b in zip(*(gradients for _, gradients in answers), strict=True):
        assert torch.equal(a, b)
    calls.clear()
    with torch.no_grad():
        net(x, t, **cond)
    assert len(calls) == 1
    assert "checkpointing" not in net.config


@pytest.mark.parametrize("options", KINDS)
def test_derivatives_in_forward_mode_and_their_gradients_are_those_without_recomputation(options):
    net = build(options)
    x, t, cond = inputs(options)
    ways = randn(*x.shape, seed=5), randn(B, seed=6)
    answers = []
    for net.checkpointing in (False, True):
        _, derivative = jvp(lambda x, t: net(x, t, **cond), (x, t), ways)
        answers.append(torch.autograd.grad((derivative**2).sum(), net.blocks[0].modulate.weight)[0])
    assert torch.equal(*answers)
    with sdpa_kernel(SDPBackend.MATH):
        truth = torch.autograd.functional.jvp(lambda x, t: net(x, t, **cond), (x, t), ways)[1]
    assert relative(derivative.detach(), truth) < 1e-11


@pytest.mark.usefixtures("nothing_compiled_before")
@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_whole_network_is_one_graph(options, checkpointing):
    net = build(options)
    net.checkpointing = checkpointing
    x, t, cond = inputs(options, 7, 5)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    assert relative(compiled(x, t, **cond), net(x, t, **cond)) < 1e-12


@pytest.mark.usefixtures("nothing_compiled_before")
def test_a_compiled_network_has_the_values_and_gradients_of_the_plain_one():
    options = {"positions": "rope", "qk_norm": True, "context": 5}
    net = build(options)
    x, t, cond = inputs(options)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    answers = []
    for run in (net, compiled):
        out = run(x, t, **cond)
        answers.append((out, torch.autograd.grad((out**2).sum(), list(net.parameters()))))
    assert relative(answers[1][0], answers[0][0]) < 1e-12
    for a, b in zip(answers[0][1], answers[1][1], strict=True):
        assert torch.allclose(a, b, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("options", KINDS)
def test_the_fused_kernels_and_plain_attention_agree(options):
    net = build(options)
    x, t, cond = inputs(options)
    fast = net(x, t, **cond)
    with sdpa_kernel(SDPBackend.MATH):
        assert relative(net(x, t, **cond), fast) < 1e-12


@pytest.mark.parametrize("options", KINDS)
def test_autocast_gives_what_single_precision_gives_to_the_digits_of_bfloat16(options):
    torch.manual_seed(0)
    net = build(options).float()
    x, t, cond = inputs(options)
    cond = cast(cond, torch.float32)
    plain = net(x.float(), t.float(), **cond)
    seen: list[torch.dtype] = []
    net.blocks[-1].register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x.float(), t.float(), **cond)
        (half.float() ** 2).sum().backward()
    assert relative(half, plain) < 0.03
    assert seen == [torch.float32]
    assert all(p.grad.isfinite().all() for p in net.parameters())
    whole = copy.deepcopy(net).bfloat16()
    cond = cast(cond, torch.bfloat16)
    assert whole(x.bfloat16(), t.float(), **cond).dtype == torch.bfloat16
    assert seen[-1] == torch.bfloat16


@pytest.mark.parametrize("options", TOLD)
@torch.no_grad()
def test_no_context_is_one_of_zeros_of_any_length_and_one_without_tokens(options):
    net = build(options)
    x, t, cond = inputs(options)
    tokens = cond.pop("context")
    none = net(x, t, **cond)
    assert torch.equal(none, net(x, t, context=None, **cond))
    same = [
        *(torch.zeros(B, length, 5, dtype=x.dtype) for length in (1, 2, 9)),
        Tokens(torch.zeros_like(tokens.values), tokens.mask),
        Tokens(tokens.values, torch.zeros_like(tokens.mask)),
        Empty()(tokens),
        Fill(0)(tokens),
    ]
    for context in same:
        assert relative(net(x, t, context=context, **cond), none) < 1e-12
    given = net(x, t, context=tokens, **cond)
    assert ((given - none).abs().flatten(1).amax(1) > 1e-3).all()
    # One sample at a time, as training drops them.
    dropped = torch.tensor([False, True, False])
    some = net(x, t, **conditions.drop({"context": tokens}, {"context": Empty()}, dropped), **cond)
    assert relative(some, torch.where(dropped[:, None, None, None], none, given)) < 1e-12


@pytest.mark.parametrize("options", TOLD)
@pytest.mark.parametrize("other", [7.0, math.nan, math.inf])
def test_padding_of_a_context_has_no_influence_on_values_or_gradients(options, other):
    net = build(options)
    x, t, cond = inputs(options)
    tokens = cond.pop("context")
    context, mask = tokens.values, tokens.mask
    changed = torch.where(mask[..., None], context, other)
    answers = []
    for values in (context, changed):
        out = net(x, t, context=Tokens(values, mask), **cond)
        answers.append((out, torch.autograd.grad((out**2).sum(), list(net.parameters()))))
    assert torch.equal(answers[0][0], answers[1][0])
    for a, b in zip(answers[0][1], answers[1][1], strict=True):
        assert torch.equal(a, b)
    # Padded further, to join other batches.
    assert relative(net(x, t, context=tokens.padded(9), **cond), answers[0][0]) < 1e-12
    # As if they were not there; and all tokens are, without a mask.
    for i in range(B):
        alone = {k: v[i : i + 1] for k, v in cond.items()} | {
            "context": context[i : i + 1, mask[i]]
        }
        assert relative(net(x[i : i + 1], t[i : i + 1], **alone), answers[0][0][i : i + 1]) < 1e-12
    every = net(x, t, context=context, **cond)
    whole = net(x, t, context=Tokens(context, torch.ones_like(mask)), **cond)
    assert relative(every, whole) < 1e-12
    # Those that are there have one, in every sample, wherever they stand.
    moved = net(x, t, context=Tokens(context.flip(1), mask.flip(1)), **cond)
    assert relative(moved, answers[0][0]) < 1e-12
    louder = net(x, t, context=Tokens(context + 0.5, mask), **cond)
    assert ((louder - answers[0][0]).abs().flatten(1).amax(1) > 1e-3).all()


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("two_times", [False, True])
def test_every_parameter_gets_a_gradient_within_four_steps(options, two_times):
    torch.manual_seed(0)
    options = options | {"two_times": two_times}
    net = DiT(2, 2, 16, 2, 2, classes=3, **options).double()
    x, t, cond = inputs(options)
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    with torch.no_grad():
        target = randn(*x.shape, seed=3)
    for _ in range(4):
        optimiser.zero_grad()
        ((net(x, t, **cond) - target) ** 2).mean().backward()
        optimiser.step()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert (p.grad != 0).any(), name


@pytest.mark.parametrize("options", KINDS)
def test_a_network_is_rebuilt_from_its_configuration_and_weights(options):
    net = build(options, dropout=0.1, time="fourier", outputs=2)
    x, t, cond = inputs(options)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    config = json.loads(json.dumps(net.config))
    other = DiT(**config).double().eval()
    other.load_state_dict(torch.load(file))
    assert other.config == net.config
    assert torch.equal(other(x, t, **cond), net(x, t, **cond))


@pytest.mark.parametrize("branch", ["attention.out", "cross.out", "mlp.3"])
@torch.no_grad()
def test_dropout_acts_on_each_branch_in_training_only(branch):
    torch.manual_seed(0)
    block = shaken(Block(16, 2, dropout=0.5, cross=True))
    x, condition, context = randn(1, 5, 16), randn(1, 16, seed=1), randn(1, 3, 16, seed=2)
    still = block.eval()(x, condition, context=context)
    assert torch.equal(block(x, condition, context=context), still)
    assert relative(still, shaken_mean(block.train(), x, condition, context)) < 0.2
    # With this branch alone, half of what it adds.
    for name in {"attention.out", "cross.out", "mlp.3"} - {branch}:
        for p in block.get_submodule(name).parameters():
            p.zero_()
    change = block(x, condition, context=context) - x
    assert 20 < int((change == 0).sum()) < 60  # of 80


def shaken_mean(block, x, condition, context):
    x, condition, context = (part.expand(3000, *part.shape[1:]) for part in (x, condition, context))
    with torch.no_grad():
        out = block(x, condition, context=context)
    return out.mean(0, keepdim=True)


@pytest.mark.parametrize("time", ["sinusoidal", "fourier", "smooth"])
def test_with_the_weights_of_one_time_the_second_makes_no_difference(time):
    one = build({}, time=time)
    two = DiT(**one.config | {"two_times": True}).double().eval()
    missing, unexpected = two.load_state_dict(one.state_dict(), strict=False)
    assert unexpected == []
    assert all(name.startswith("conditioning.way") for name in missing)
    x, t, cond = inputs({})
    for s in (None, t, torch.ones_like(t)):
        assert torch.equal(two(x, t, s=s, **cond), one(x, t, **cond))


def test_the_number_of_features_of_time_is_the_width_unless_told_otherwise():
    torch.manual_seed(0)
    part = Conditioning(6, 2, "sinusoidal", two_times=True, features=10)
    assert part.mix[0].weight.shape == part.way[0].weight.shape == (6, 10)
    assert part.features(torch.zeros(3)).shape == (3, 10)
    assert part(torch.zeros(3), None, torch.ones(3)).shape == (3, 6)
    torch.manual_seed(0)
    plain = Conditioning(6, 2, "sinusoidal", two_times=True)
    torch.manual_seed(0)
    told = Conditioning(6, 2, "sinusoidal", two_times=True, features=6)
    assert all(
        torch.equal(a, b) for a, b in zip(plain.parameters(), told.parameters(), strict=True)
    )
    assert list(plain.state_dict()) == list(told.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "must be positive"),
        ({"patch": 0}, "must be positive"),
        ({"outputs": 0}, "must be positive"),
        ({"width": 2}, "width must be at least 4, not 2"),
        ({"width": 16, "heads": 3}, "divided among 3 heads"),
        ({"width": 14, "heads": 2, "positions": "rope"}, "must be even and at least 4, not 14 / 2"),
        ({"width": 8, "heads": 2, "positions": "rope", "dims": 3}, "at least 6, not 8 / 2"),
        ({"width": 16, "heads": 3, "positions": "rope"}, "not 16 / 3"),
        ({"positions": "learned"}, "need the size of the images"),
        ({"positions": "learned", "size": 1}, "of at least a patch"),
        ({"positions": "learned", "size": (8, 8, 8)}, "a side or one"),
        ({"size": 8}, "omit it"),
        ({"positions": "rotary"}, "not 'rotary'"),
        ({"context": 0}, "not 0"),
        ({"context": 4, "conditioning": "film"}, "not 'film'"),
        ({"time": "linear"}, "sinusoidal"),
    ],
)  # fmt: skip
def test_arguments_that_make_no_network_are_errors(arguments, message):
    with pytest.raises(pf.InputError, match=message):
        DiT(**{"channels": 1, "width": 16, "depth": 1, "heads": 2} | arguments)


def test_inputs_that_do_not_fit_are_errors():
    net, told = DiT(2, 4, 16, 1, 2), DiT(2, 4, 16, 1, 2, context=5)
    x, t = torch.zeros(B, 2, 8, 8), torch.zeros(B)
    for bad in (torch.zeros(B, 2, 8), torch.zeros(B, 1, 8, 8), torch.zeros(B, 2, 8, 3)):
        with pytest.raises(
            pf.InputError, match=r"takes images \(B, 2, H, W\) with sides of at least 4"
        ):
            net(bad, t)
    with pytest.raises(pf.InputError, match="built without one: build it with context="):
        net(x, t, context=torch.zeros(B, 1, 5))
    for shape in ((B, 5), (B, 1, 4), (B + 1, 1, 5), (B, 0, 5)):
        with pytest.raises(pf.InputError, match=r"takes a context of tokens \(3, L, 5\)"):
            told(x, t, context=torch.zeros(shape))


def test_a_model_passes_a_context_through():
    options = {"context": 5}
    net = build(options)
    x, t, cond = inputs(options)
    model = pf.Model(net, pf.CondOT())
    assert torch.equal(model(x, t, **cond), net(x, t, **cond))
    assert isinstance(net, nn.Module)
