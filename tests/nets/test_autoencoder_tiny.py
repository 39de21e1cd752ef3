"""The tiny autoencoder is diffusers', but for what diffusers does besides."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderTiny as Theirs

import pushforward as pf
from contracts.members import randn
from contracts.members import relative as distance
from pushforward.nets import AutoencoderTiny
from pushforward.nets.autoencoder_tiny import from_tiny_config, tiny_config

SIZES = {
    "published": {},
    "short": {
        "num_encoder_blocks": (1, 2), "num_decoder_blocks": (2, 1), "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (6, 6), "latent_channels": 5, "scaling_factor": 1.5, "shift_factor": 0.1,
    },
    "flat": {
        "num_encoder_blocks": (2,), "num_decoder_blocks": (1,), "encoder_block_out_channels": (7,),
        "decoder_block_out_channels": (7,), "in_channels": 2, "out_channels": 4,
    },
}  # fmt: skip


def relative(a, b):
    return distance(a.detach(), b.detach())


def floats(*shape, seed=0):
    return randn(*shape, seed=seed, dtype=torch.float32)


@pytest.fixture(params=SIZES)
def pair(request):
    torch.manual_seed(0)
    theirs = Theirs(**SIZES[request.param]).eval()
    ours = AutoencoderTiny(**from_tiny_config(theirs.config))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours.eval()


def images(net):
    return floats(2, net.channels, 2 * net.factor, 3 * net.factor)


def test_outputs_are_those_of_diffusers(pair):
    theirs, ours = pair
    x = images(ours)
    with torch.no_grad():
        z = theirs.encode(x).latents
        assert z.shape == (2, ours.latent, 2, 3)
        assert relative(ours.encode(x), z) < 1e-5
        # Latents of all sizes, those that are bent back too.
        z = 4 * floats(2, ours.latent, 3, 2, seed=1)
        assert relative(ours.decode(z), theirs.decode(z).sample) < 1e-5


def test_weights_go_back_and_give_the_same(pair):
    _, ours = pair
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(0.02 * torch.randn_like(p))
    theirs = Theirs(**tiny_config(ours)).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    back = from_tiny_config(theirs.config)
    assert back == {name: ours.config[name] for name in back}
    x = images(ours)
    with torch.no_grad():
        z = ours.encode(x)
        assert relative(theirs.encode(x).latents, z) < 1e-5
        assert relative(theirs.decode(z).sample, ours.decode(z)) < 1e-5


def test_gradients_are_those_of_diffusers(pair):
    theirs, ours = pair
    x = images(ours)
    theirs.decode(theirs.encode(x).latents).sample.square().sum().backward()
    ours(x).square().sum().backward()
    scale = max(float(p.grad.abs().max()) for p in theirs.parameters())
    mine = dict(ours.named_parameters())
    for name, p in theirs.named_parameters():
        assert (mine[name].grad - p.grad).abs().max() < 1e-5 * scale, name


# What diffusers does that one would guess wrong.


def test_latents_are_not_rounded_to_8_bits(pair):
    theirs, ours = pair
    x = images(ours)
    with torch.no_grad():
        z = ours.encode(x)
        assert torch.equal(ours(x), ours.decode(z))
        rounded = theirs.unscale_latents((theirs.scale_latents(z) * 255).round() / 255)
        assert relative(theirs(x).sample, theirs.decode(rounded).sample) < 1e-5
        assert not torch.allclose(ours(x), theirs(x).sample, atol=1e-6)


def test_recomputing_activations_encodes_the_same_images(pair):
    theirs, ours = pair
    x = images(ours)
    plain = ours(x)
    plain.square().sum().backward()
    before = [p.grad.clone() for p in ours.parameters()]
    ours.zero_grad()
    ours.checkpointing = True
    again = ours(x)
    again.square().sum().backward()
    assert torch.equal(again, plain)
    assert all(torch.equal(a, p.grad) for a, p in zip(before, ours.parameters(), strict=True))
    # Theirs does not divide images into [0, 1] then.
    z = theirs.encode(x).latents
    theirs.train().enable_gradient_checkpointing()
    assert not torch.allclose(theirs.encode(x).latents, z, atol=1e-3)


def test_without_norms_a_part_of_an_image_is_encoded_as_in_the_whole():
    torch.manual_seed(0)
    net = AutoencoderTiny(3, 4, 8, (1, 1), (1, 1))
    x = floats(1, 3, 64, 8)
    whole, part = net(x), net(x[:, :, :48])
    assert torch.allclose(part[:, :, :16], whole[:, :, :16], atol=1e-6)
    assert not torch.allclose(part[:, :, 40:48], whole[:, :, 40:48], atol=1e-4)


def test_what_makes_no_autoencoder_or_does_not_fit_is_an_error():
    net = AutoencoderTiny(1, 2, 4, (1, 1), (1, 1))
    for call, words in (
        (lambda: AutoencoderTiny(encoder_blocks=(1,)), "as many on both ways"),
        (lambda: AutoencoderTiny(width=0), "must be positive"),
        (lambda: AutoencoderTiny(scaling_factor=0), "scaling_factor of 0"),
        (lambda: net.encode(floats(1, 3, 4, 4)), r"takes images \(B, 1, H, W\)"),
        (lambda: net.encode(floats(1, 1, 3, 4)), "multiples of 2, not"),
        (lambda: net.decode(floats(1, 4, 4, 4)), r"latents \(B, 2, h, w\)"),
    ):
        with pytest.raises(pf.InputError, match=words):
            call()
    config = tiny_config(net)
    for change, words in (
        ({"act_fn": "silu"}, "only ReLUs"),
        ({"encoder_block_out_channels": [4, 8]}, "as wide as one another"),
    ):
        with pytest.raises(pf.InputError, match=words):
            from_tiny_config(config | change)
