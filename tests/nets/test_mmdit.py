"""The multimodal transformer is diffusers' where that has one, and its equations where not."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock

import pushforward as pf
from contracts.members import randn
from contracts.members import relative as distance
from pushforward.core.conditions import Empty, Tokens
from pushforward.core.derivatives import jvp
from pushforward.nets import MMDiT
from pushforward.nets.joint import SingleBlock
from pushforward.nets.layers import time_features
from pushforward.nets.sd3 import from_sd3_config, sd3_config, sd3_state, sd3_text

B = 3
# As Stable Diffusion 3, 3.5 medium and 3.5 large, in small.
SIZES = {
    "3": {
        "sample_size": 16, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 2,
        "attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 12,
        "caption_projection_dim": 16, "pooled_projection_dim": 10, "pos_embed_max_size": 12,
        "dual_attention_layers": (), "qk_norm": None,
    },
    "3.5-medium": {
        "sample_size": 12, "patch_size": 2, "in_channels": 3, "out_channels": 3, "num_layers": 3,
        "attention_head_dim": 16, "num_attention_heads": 3, "joint_attention_dim": 8,
        "caption_projection_dim": 48, "pooled_projection_dim": 6, "pos_embed_max_size": 11,
        "dual_attention_layers": (0, 1), "qk_norm": "rms_norm",
    },
    "3.5-large": {
        "sample_size": 30, "patch_size": 3, "in_channels": 5, "out_channels": 2, "num_layers": 4,
        "attention_head_dim": 12, "num_attention_heads": 4, "joint_attention_dim": 7,
        "caption_projection_dim": 48, "pooled_projection_dim": 5, "pos_embed_max_size": 10,
        "dual_attention_layers": (), "qk_norm": "rms_norm",
    },
}  # fmt: skip


def relative(a, b):
    return distance(a.detach(), b.detach())


def shaken(net, scale=0.1):
    with torch.no_grad():
        for p in net.parameters():
            p.add_(scale * torch.randn_like(p))
    return net.eval()


def floats(*shape, seed=0):
    return randn(*shape, seed=seed, dtype=torch.float32)


@pytest.fixture(params=SIZES)
def pair(request):
    """A transformer of diffusers with random weights, and ours with the same."""
    torch.manual_seed(0)
    config = SIZES[request.param]
    theirs = shaken(SD3Transformer2DModel(**config))
    ours = MMDiT(**from_sd3_config(theirs.config))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours.eval()


def inputs(net, rows=8, columns=5):
    """A state off the square, with times whose features are the same in single precision on both sides."""
    p, config = net.config["patch"], net.config
    x = floats(B, config["in_channels"] or config["channels"], rows * p, columns * p, seed=1)
    t = torch.tensor([0.0, 0.25, 0.875])
    text, pooled = floats(B, 6, config["text"], seed=2), floats(B, config["pooled"], seed=3)
    return x, t, text, pooled


def ask(net, x, t, text, pooled):
    channels = net.channels
    return net(x[:, :channels], t, text, pooled, control=x[:, channels:] if net.control else None)


@pytest.mark.parametrize("places", [(8, 5), (3, 7), (10, 10)])
def test_outputs_are_those_of_diffusers(pair, places):
    theirs, ours = pair
    x, t, text, pooled = inputs(ours, *places)
    with torch.no_grad():
        wanted = theirs(x, text, pooled, 1000 * (1 - t)).sample
        assert wanted.abs().mean() > 0.1
        assert relative(ask(ours, x, t, text, pooled), wanted) < 2e-6
        # At any time, in float64 as solvers have it.
        t = torch.tensor([0.0137, 0.43, 0.9991], dtype=torch.float64)
        wanted = theirs(x, text, pooled, (1000 * (1 - t)).float()).sample
        assert relative(ask(ours, x, t, text, pooled), wanted) < 1e-5


def test_weights_go_back_and_give_the_same(pair):
    _, ours = pair
    ours = shaken(ours)
    config = sd3_config(ours)
    theirs = SD3Transformer2DModel(**config).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert from_sd3_config(config) == {name: ours.config[name] for name in from_sd3_config(config)}
    x, t, text, pooled = inputs(ours)
    with torch.no_grad():
        wanted = theirs(x, text, pooled, 1000 * (1 - t)).sample
        assert relative(ask(ours, x, t, text, pooled), wanted) < 2e-6


def test_gradients_are_those_of_diffusers(pair):
    theirs, ours = pair
    x, t, text, pooled = inputs(ours)
    weight = None
    found = []
    for call in (
        lambda *a: theirs(a[0], a[2], a[3], 1000 * (1 - a[1])).sample,
        lambda *a: ask(ours, *a),
    ):
        given = [part.clone().requires_grad_() for part in (x, text, pooled)]
        out = call(given[0], t, given[1], given[2])
        weight = floats(*out.shape, seed=5) if weight is None else weight
        (weight * out).sum().backward()
        found.append([part.grad for part in given])
    for a, b in zip(*found, strict=True):
        assert relative(b, a) < 1e-5
    scale = max(float(p.grad.abs().max()) for p in theirs.parameters())
    mine = dict(ours.named_parameters())
    for name, p in theirs.named_parameters():
        if mine[name].requires_grad:
            assert (mine[name].grad - p.grad).abs().max() < 1e-5 * scale, name
        else:
            assert not p.grad.any(), name


def test_a_model_of_ours_has_the_other_sign(pair):
    theirs, ours = pair
    ours.load_state_dict(sd3_state(theirs.state_dict()))
    x, t, text, pooled = inputs(ours)
    with torch.no_grad():
        wanted = -theirs(x, text, pooled, 1000 * (1 - t)).sample
        assert relative(ask(ours, x, t, text, pooled), wanted) < 2e-6
    for name, value in sd3_state(sd3_state(theirs.state_dict())).items():
        assert torch.equal(value, theirs.state_dict()[name])


def test_padding_is_as_if_it_were_not_there(pair):
    theirs, ours = pair
    x, t, text, pooled = inputs(ours)
    there = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 0, 1], [1, 0, 0, 0, 0, 0]]).bool()
    padded = torch.where(there[..., None], text, math.nan)
    with torch.no_grad():
        out = ask(ours, x, t, Tokens(padded, there), pooled)
        for i in range(B):
            row = slice(i, i + 1)
            alone = theirs(x[row], text[row][:, there[i]], pooled[row], 1000 * (1 - t[row])).sample
            assert relative(out[row], alone) < 1e-5
        whole = ask(ours, x, t, Tokens(text, torch.ones_like(there)), pooled)
        assert relative(whole, ask(ours, x, t, text, pooled)) < 1e-6


# What diffusers does that one would guess wrong.


def test_the_table_of_positions_is_stored_and_its_middle_is_taken(pair):
    theirs, ours = pair
    name = "pos_embed.pos_embed"
    fresh = MMDiT(**from_sd3_config(theirs.config))
    assert torch.equal(fresh.state_dict()[name], theirs.state_dict()[name])
    most, p = ours.config["max_size"], ours.patch
    # Spaced by (size/patch)/max: the first sine of the column is that of this distance.
    base = ours.config["size"] // p
    table = fresh.state_dict()[name].unflatten(1, (most, most))[0]
    assert table[0, 1, 0] == torch.tensor(base / most, dtype=torch.float64).sin().float()
    # Of an image of 2 x 3 patches: what lies around the middle has no part in it.
    x, t, text, pooled = inputs(ours, 2, 3)
    out = ask(ours, x, t, text, pooled)
    top, left = (most - 2) // 2, (most - 3) // 2
    inner = torch.zeros(most, most, dtype=torch.bool)
    inner[top : top + 2, left : left + 3] = True
    with torch.no_grad():
        ours.pos_embed.pos_embed[:, ~inner.flatten()] *= 2
        assert torch.equal(ask(ours, x, t, text, pooled), out)
        ours.pos_embed.pos_embed[:, inner.flatten()] *= 2
        assert not torch.allclose(ask(ours, x, t, text, pooled), out, atol=1e-4)
    x, t, text, pooled = inputs(ours, most + 1, 2)
    with pytest.raises(ValueError, match="cannot be greater"):
        theirs(x, text, pooled, 1000 * t)
    with pytest.raises(pf.InputError, match=f"has {most} x {most} places"):
        ask(ours, x, t, text, pooled)


def test_the_last_block_has_no_output_for_the_text(pair):
    theirs, ours = pair
    last = f"transformer_blocks.{ours.config['depth'] - 1}."
    names = {name for name in theirs.state_dict() if name.startswith(last)}
    assert not {name for name in names if "to_add_out" in name or "ff_context" in name}
    assert (
        theirs.state_dict()[last + "norm1_context.linear.weight"].shape[0]
        == 2 * ours.config["width"]
    )
    # Its queries of the text are in the file and in no result, here as there; and nothing trains them.
    x, t, text, pooled = inputs(ours)
    before = ask(ours, x, t, text, pooled), theirs(x, text, pooled, t).sample
    unused = [p for p in ours.parameters() if not p.requires_grad]
    assert len(unused) == (3 if ours.config["qk_norm"] else 2)
    with torch.no_grad():
        for p in unused:
            p.add_(1)
        theirs.load_state_dict(ours.state_dict())
    after = ask(ours, x, t, text, pooled), theirs(x, text, pooled, t).sample
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_what_is_in_no_result_is_the_same_in_every_network():
    # A resumed run rebuilds its network, compares what is not trained with what it began with, and loads the rest.
    first, second = (MMDiT(2, 2, 16, 2, 2, text=5, qk_norm=True) for _ in range(2))
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert a.requires_grad or torch.equal(a, b), name


def test_features_of_time_have_no_shift_of_frequencies(pair):
    _, ours = pair
    t = torch.tensor([0.0, 0.25, 0.875])
    found = ours.time_text_embed.features(1000 * (1 - t))
    sd3, dit = (
        get_timestep_embedding(1000 * (1 - t), 256, flip_sin_to_cos=True, downscale_freq_shift=k)
        for k in (0, 1)
    )
    assert torch.equal(found, sd3)
    assert (found - dit).abs().max() > 1


@pytest.mark.parametrize("t5", [True, False])
def test_a_text_without_t5_has_rows_of_zeros(t5):
    clip = [floats(2, 77, 768, seed=1), floats(2, 77, 1280, seed=2)]
    states = floats(2, 256, 4096, seed=3) if t5 else None
    vectors = [floats(2, 768, seed=4), floats(2, 1280, seed=5)]
    # Their pipeline with its encoders replaced by what these would return.
    pipe = SimpleNamespace(
        _execution_device="cpu", text_encoder=None, text_encoder_3=None,
        text_encoder_2=None, transformer=SimpleNamespace(config=SimpleNamespace(joint_attention_dim=4096)),
        _get_clip_prompt_embeds=lambda clip_model_index, **_: (clip[clip_model_index], vectors[clip_model_index]),
    )  # fmt: skip
    pipe._get_t5_prompt_embeds = lambda prompt, **more: (
        states if t5 else StableDiffusion3Pipeline._get_t5_prompt_embeds(pipe, prompt, dtype=torch.float32, **more)
    )  # fmt: skip
    wanted = StableDiffusion3Pipeline.encode_prompt(
        pipe, ["a", "b"], None, None, do_classifier_free_guidance=False, device="cpu"
    )
    text = sd3_text(torch.cat(clip, dim=2), states)
    assert text.shape == (2, 77 + 256, 4096)
    assert torch.equal(text, wanted[0])
    assert torch.equal(torch.cat(vectors, dim=1), wanted[2])
    if not t5:
        assert not text[:, 77:].any()


def test_zeros_of_a_text_are_attended_to_and_no_tokens_are_not(pair):
    _, ours = pair
    x, t, text, pooled = inputs(ours)
    none = ask(ours, x, t, None, pooled)
    assert none.isfinite().all()
    empty = Empty()(Tokens(text, torch.ones(B, 6).bool()))
    assert torch.allclose(ask(ours, x, t, empty, pooled), none, atol=1e-5)
    assert not torch.allclose(ask(ours, x, t, torch.zeros_like(text), pooled), none, atol=1e-3)
    # One sample without any beside others with some.
    there = torch.tensor([[1] * 6, [0] * 6, [0, 1, 0, 0, 1, 1]]).bool()
    mixed = ask(ours, x, t, Tokens(torch.where(there[..., None], text, math.nan), there), pooled)
    assert torch.allclose(mixed[1], none[1], atol=1e-5)
    assert not torch.allclose(mixed[2], none[2], atol=1e-3)
    assert torch.equal(ask(ours, x, t, text, None), ask(ours, x, t, text, torch.zeros_like(pooled)))
    # Gradients, too: nothing of padding reaches the weights, and no NaN.
    ask(ours.train(), x, t, empty, pooled).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in ours.parameters())


# What diffusers' transformer does not have.


def test_a_block_of_one_stream_is_that_of_flux():
    torch.manual_seed(0)
    theirs = shaken(FluxSingleTransformerBlock(32, 4, 8))
    ours = SingleBlock(32, 4)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, c, condition = floats(2, 5, 32), floats(2, 3, 32, seed=1), floats(2, 32, seed=2)
    c_out, x_out = theirs(x, c, condition)
    found = ours(torch.cat((x, c), dim=1), torch.nn.functional.silu(condition))
    assert relative(found[:, :5], x_out) < 2e-6
    assert relative(found[:, 5:], c_out) < 2e-6


KINDS = [
    pytest.param({}, id="sincos"),
    pytest.param({"positions": "rope", "qk_norm": True, "single_blocks": 2}, id="rope-single"),
    pytest.param({"positions": "table", "size": 8, "max_size": 8, "dual_attention": (0,)}, id="table-dual"),
    pytest.param({"bottleneck": 3, "stem": 4, "patch": 4, "outputs": 2, "two_times": True}, id="pixels"),
]  # fmt: skip


def build(options, **more):
    torch.manual_seed(0)
    arguments = {"channels": 2, "patch": 2, "width": 16, "depth": 2, "heads": 2, "text": 5}
    return shaken(MMDiT(**arguments | options | more), 0.2)


@pytest.mark.parametrize("options", KINDS)
def test_the_order_of_a_text_is_the_encoders_affair_and_padding_stands_anywhere(options):
    net = build(options)
    x, t, text = floats(2, 2, 8, 12), torch.tensor([0.2, 0.7]), floats(2, 4, 5, seed=1)
    out = net(x, t, text)
    assert not torch.allclose(net(x, t, text + 1), out, atol=1e-3)
    assert torch.allclose(net(x, t, text[:, [2, 0, 3, 1]]), out, atol=1e-5)
    wide = torch.full((2, 9, 5), math.nan)
    there = torch.zeros(2, 9).bool()
    wide[0, [1, 2, 5, 8]], wide[1, :4] = text[0], text[1]
    there[0, [1, 2, 5, 8]] = there[1, :4] = True
    assert torch.allclose(net(x, t, Tokens(wide, there)), out, atol=1e-5)
    none = net(x, t)
    assert none.isfinite().all()
    assert torch.allclose(net(x, t, Tokens(wide, torch.zeros_like(there))), none, atol=1e-5)


@pytest.mark.parametrize("options", KINDS)
def test_patches_are_told_apart_by_their_places_on_both_axes(options):
    net = build(options, stem=None)
    p, t = net.patch, torch.tensor([0.4])
    x = floats(1, 2, 2 * p, 2 * p)
    out = net(x, t)
    for axis in (2, 3):
        swapped = net(x.roll(p, axis), t).roll(-p, axis)
        assert not torch.allclose(swapped, out, atol=1e-3)


def test_rope_sees_differences_of_places_alone_but_for_the_text_which_has_place_zero():
    net = build({"positions": "rope"})
    block, h, condition = net.transformer_blocks[0], floats(1, 2, 16), floats(1, 16, seed=3)
    places = net.pos_embed.angles((6, 7), net.head_width, h).unflatten(0, (6, 7))

    def two_patches(i, j, down, right, text=None):
        return block(h, text, condition, torch.stack((places[i, j], places[i + down, j + right])))[
            0
        ]

    first = two_patches(0, 0, 2, 1)
    for i, j in ((3, 0), (1, 5), (3, 5)):
        assert torch.allclose(two_patches(i, j, 2, 1), first, atol=1e-5)
    for down, right in ((1, 1), (2, 2), (1, 2)):
        assert not torch.allclose(two_patches(0, 0, down, right), first, atol=1e-4)
    c = floats(1, 3, 16, seed=4)
    assert not torch.allclose(two_patches(3, 5, 2, 1, c), two_patches(0, 0, 2, 1, c), atol=1e-4)


def test_smooth_features_of_time_are_those_of_other_networks():
    net = build({"time": "smooth"})
    t, ours = torch.linspace(0, 1, 9), net.time_text_embed
    assert torch.allclose(
        ours.features(1000 * (1 - t)), time_features("smooth", 256)(1 - t), atol=1e-5
    )


def test_a_bottleneck_reads_a_patch_by_few_directions():
    # Of the 2 x 4 x 4 numbers of a patch, as the Jacobian of its token.
    for bottleneck, rank in ((3, 3), (None, 16)):
        net = build({"bottleneck": bottleneck, "patch": 4})
        patch = floats(1, 2, 4, 4)
        jacobian = torch.autograd.functional.jacobian(lambda x, n=net: n.pos_embed(x)[0, 0], patch)
        values = torch.linalg.svdvals(jacobian.flatten(1))
        assert (values[:rank] > 1e-3).all()
        assert (values[rank:] < 1e-5).all()


def test_a_stem_sees_across_the_edge_of_a_patch():
    for stem, reach in ((None, 0), (4, 2)):
        net = build({"patch": 4, "stem": stem})
        x = floats(1, 2, 4, 16).requires_grad_()
        net.pos_embed(x)[0, 1].sum().backward()
        seen = (x.grad != 0).any(dim=2).any(dim=1)[0]
        assert seen.tolist() == [4 - reach <= column < 8 + reach for column in range(16)]


@pytest.mark.parametrize("options", KINDS)
def test_sides_that_no_patch_divides_are_filled_up_with_zeros(options):
    net = build(options, stem=None)
    p, t, text = net.patch, torch.tensor([0.3, 0.6]), floats(2, 4, 5, seed=1)
    x = floats(2, 2, 2 * p - 1, p + 1)
    filled = torch.nn.functional.pad(x, (0, p - 1, 0, 1))
    found = net(x, t, text)
    assert torch.allclose(found, net(filled, t, text)[:, :, : 2 * p - 1, : p + 1], atol=1e-6)


@pytest.mark.parametrize("options", KINDS)
def test_recomputed_activations_change_no_gradient(options):
    net = build(options).train()
    again = copy.deepcopy(net)
    again.checkpointing = True
    x, t, text = floats(2, 2, 8, 8), torch.tensor([0.3, 0.6]), floats(2, 4, 5, seed=1)
    there = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 1]]).bool()
    for each in (net, again):
        (each(x, t, Tokens(text, there)) ** 2).sum().backward()
    for a, b in zip(net.parameters(), again.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or torch.equal(a.grad, b.grad)


def test_the_derivative_in_the_text_is_that_of_differences():
    net = build({"single_blocks": 1, "qk_norm": True}).double()
    x, t = randn(2, 2, 8, 8), torch.tensor([0.3, 0.6])
    text, way = randn(2, 4, 5, seed=1), randn(2, 4, 5, seed=2)
    there = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 1]]).bool()
    _, derivative = jvp(lambda c: net(x, t, Tokens(c, there)), (text,), (way,))
    h = 1e-6
    ahead, behind = (net(x, t, Tokens(text + sign * h * way, there)) for sign in (1, -1))
    assert relative(derivative, (ahead - behind) / (2 * h)) < 1e-7


def test_a_block_starts_as_the_identity():
    torch.manual_seed(0)
    net = MMDiT(2, 2, 16, 2, 2, text=5, pooled=3, single_blocks=1, dual_attention=(1,))
    x, c, condition = floats(2, 6, 16), floats(2, 3, 16, seed=1), floats(2, 16, seed=2)
    for block in net.transformer_blocks:
        out = block(x, c, condition)
        assert torch.equal(out[0], x)
        assert torch.equal(out[1], c)
    assert torch.equal(net.single_transformer_blocks[0](x, condition), x)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": 3}, "16 cannot be divided among 3 heads"),
        ({"depth": 0}, "depth of an MMDiT is at least 1, not 0"),
        ({"stem": 0}, "stem of an MMDiT is at least 1"),
        ({"positions": "learned"}, "'sincos', 'table' or 'rope', not 'learned'"),
        ({"positions": "table", "size": 8}, "needs max_size="),
        ({"size": 8}, "omit them"),
        ({"width": 18, "heads": 9}, "multiple of 4, not 18"),
        ({"width": 12, "heads": 2, "positions": "rope"}, "not 12 / 2"),
        ({"dual_attention": (2,)}, "blocks of 0 to 1, not"),
        ({"in_channels": 1}, "in_channels counts"),
        ({"time": "fourier"}, "'sinusoidal' or 'smooth', not 'fourier'"),
    ],
)
def test_arguments_that_make_no_network_are_errors(options, words):
    with pytest.raises(pf.InputError, match=words):
        build(options)


def test_inputs_that_do_not_fit_are_errors():
    net, plain = build({"pooled": 3}), build({"text": None})
    x, t = floats(2, 2, 4, 4), torch.zeros(2)
    for call, words in (
        (lambda: net(x[:, :1], t), r"takes images \(B, 2, H, W\), got \(2, 1, 4, 4\)"),
        (lambda: net(x, t, floats(2, 4, 6)), r"takes a text of tokens \(2, L, 5\)"),
        (lambda: net(x, t, pooled=floats(2, 4)), r"pooled vectors \(2, 3\), got \(2, 4\)"),
        (lambda: plain(x, t, floats(2, 4, 5)), "built without one: build it with text="),
        (lambda: plain(x, t, pooled=floats(2, 4)), "build it with pooled="),
        (lambda: net(x, t, txt=floats(2, 4, 5)), "did you mean 'text'"),
    ):
        with pytest.raises(pf.InputError, match=words):
            call()


def test_what_stable_diffusion_3_has_not_is_no_configuration_of_it():
    for options, words in (
        ({"stem": 2}, "no stem"),
        ({}, "positions='table'"),
        ({"time": "smooth"}, "time='sinusoidal'"),
        ({"single_blocks": 1, "classes": 3}, "no classes, single_blocks"),
    ):
        with pytest.raises(pf.InputError, match=words):
            sd3_config(build(options))
    config = SIZES["3"]
    with pytest.raises(pf.InputError, match="caption_projection_dim is 8 where the tokens have 16"):
        from_sd3_config(config | {"caption_projection_dim": 8})
    with pytest.raises(pf.InputError, match="not 'layer_norm'"):
        from_sd3_config(config | {"qk_norm": "layer_norm"})
    with pytest.raises(pf.InputError, match=r"T5 are \(2, L, 8\), got"):
        sd3_text(floats(2, 3, 4), floats(2, 3, 4), 8)
