"""Networks made worse inside: diffusers' hooks on equal weights, blurs against scipy, and weights that are shared."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.hooks.layer_skip import AttentionScoreSkipFunctionMode
from scipy.ndimage import gaussian_filter

import pushforward as pf
from contracts.members import randn
from interop import tiny
from pushforward.guidance import Autoguidance, Smoothed, perturbed, without
from pushforward.guidance.perturbed import themselves as perturbed_attention
from pushforward.nets.attention import attend

X, TEXT, POOLED = randn(2, 4, 8, 8).float(), randn(2, 3, 24).float(), randn(2, 16).float()
T = torch.tensor([0.25, 0.7])


def dit() -> pf.Model:
    torch.manual_seed(0)
    net = pf.nets.DiT(1, 2, 16, 3, 2, classes=3)
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return pf.Model(net, pf.CondOT(), shape=(1, 8, 8), classes=3).eval().requires_grad_(False)


def only_values(block) -> None:
    """diffusers' own mode in which attention gives its values, in this block alone. (Its hook does not know SD3.)"""
    mode = AttentionScoreSkipFunctionMode()
    block.register_forward_pre_hook(lambda *_: mode.__enter__() and None)
    block.register_forward_hook(lambda *_: mode.__exit__(None, None, None))


def passed_over(block) -> None:
    def give_back(module, arguments, given, out):
        return given["encoder_hidden_states"], given["hidden_states"]

    block.register_forward_hook(give_back, with_kwargs=True)


@pytest.mark.parametrize(("change", "theirs"), [(perturbed, only_values), (without, passed_over)])
@torch.no_grad()
def test_layers_of_sd3_are_changed_as_in_diffusers(tmp_path, change, theirs):
    net = tiny.sd3(num_layers=3)
    net.save_pretrained(tmp_path)
    ours = pf.from_diffusers(tmp_path)
    asked = X, TEXT, POOLED, 1000 * (1 - T)
    before = -net(*asked).sample
    theirs(net.transformer_blocks[0])
    want = -net(*asked).sample
    got = change(ours, ["transformer_blocks.0"])(X, T, text=TEXT, pooled=POOLED)
    assert torch.allclose(got, want, atol=1e-5)
    assert not torch.allclose(got, before, atol=1e-2)
    assert torch.allclose(ours(X, T, text=TEXT, pooled=POOLED), before, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.6, 1.0, 1.4])
def test_queries_are_blurred_as_by_scipy(sigma):
    q, k, v = randn(3, 2, 2, 12 * 9 + 4, 8, seed=3)
    got = Smoothed(sigma, (12, 9))(q, k, v)
    picture = q[:, :, :108].reshape(2, 2, 12, 9, 8).numpy()
    radius = math.ceil(3 * sigma)
    blurred = gaussian_filter(picture, sigma, axes=(2, 3), mode="mirror", radius=radius)
    smooth = torch.cat((torch.from_numpy(blurred).reshape(2, 2, 108, 8), q[:, :, 108:]), 2)
    assert torch.allclose(got, attend(smooth, k, v), atol=1e-12)


def test_an_infinite_blur_is_the_mean_and_the_limit_of_wide_ones():
    q, k, v = randn(3, 2, 2, 16, 8, seed=3)
    flat = Smoothed()(q, k, v)
    # With equal queries all places of the picture see the same.
    assert torch.allclose(flat, flat[:, :1].expand_as(flat), atol=1e-12)
    assert torch.allclose(flat, attend(q.mean(2, keepdim=True), k, v).expand_as(flat), atol=1e-12)


def test_the_worse_model_has_the_same_weights_and_the_model_is_as_it_was():
    model = dit()
    x, t, label = randn(3, 1, 8, 8).float(), torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0, 1, 2])
    before = model(x, t, label=label)
    for worse in (
        perturbed(model, ["blocks.1"]),
        perturbed(model, ["blocks.0", "blocks.2"], Smoothed(1.0)),
        without(model, ["blocks.1"]),
    ):
        mine = dict(model.named_parameters())
        assert all(p.data_ptr() == mine[name].data_ptr() for name, p in worse.named_parameters())
        assert not torch.allclose(worse(x, t, label=label), before, atol=1e-4)
        assert torch.equal(model(x, t, label=label), before)
        guided = Autoguidance(model, worse, 2.5)
        want = before + 1.5 * (before - worse(x, t, label=label))
        assert torch.allclose(guided(x, t, label=label), want, atol=1e-5)
        assert pf.generate(guided, 3, nfe=3, label=label).isfinite().all()


def test_a_network_without_a_layer_is_that_of_one_less():
    model = dit()
    torch.manual_seed(1)
    short = pf.nets.DiT(1, 2, 16, 2, 2, classes=3)
    state = {
        name.replace("blocks.2", "blocks.1"): value
        for name, value in model.net.state_dict().items()
        if not name.startswith("blocks.1")
    }
    short.load_state_dict(state)
    x, t, label = randn(3, 1, 8, 8).float(), torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0, 1, 2])
    got = without(model, ["blocks.1"]).net(x, t, label=label)
    assert torch.allclose(got, short.eval()(x, t, label=label), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: perturbed(m, ["block.1"]), "no layer 'block.1'; did you mean blocks"),
        (lambda m: perturbed(m, ["blocks.1.mlp"]), "no attention among its tokens"),
        (lambda m: without(m, ["blocks.9"]), "no layer 'blocks.9'"),
        (lambda m: Smoothed(0.0), "must be positive"),
        (lambda m: Smoothed(1.0, (5, 5))(*randn(3, 1, 1, 16, 4)), "there are 16 tokens"),
    ],
)
def test_what_there_is_not_is_said(change, why):
    with pytest.raises(pf.InputError, match=why):
        change(dit())


def test_tokens_of_a_context_behind_the_queries_are_not_what_they_attend_to():
    q, v = randn(1, 2, 3, 4), randn(1, 2, 5, 4, seed=2)
    got = perturbed_attention(q, v, v)
    assert torch.equal(got, v[:, :, :3].transpose(1, 2).reshape(1, 3, 8))


def test_what_wraps_a_model_is_refused():
    with pytest.raises(pf.InputError, match="Autoguidance is no module"):
        perturbed(Autoguidance(dit(), dit(), 2.0), ["blocks.0"])


@pytest.mark.parametrize("change", [perturbed, without])
@torch.no_grad()
def test_a_compiled_model_is_changed_as_the_model_itself(change):
    model, compiled = dit(), dit()
    for block in compiled.net.blocks:
        block.compile(backend="eager")
    x, label = randn(2, 1, 8, 8).float(), torch.tensor([0, 2])
    before = compiled(x, T, label=label)
    got = change(compiled, ["blocks.1"])(x, T, label=label)
    assert torch.allclose(got, change(model, ["blocks.1"])(x, T, label=label), atol=1e-5)
    assert torch.equal(compiled(x, T, label=label), before)
