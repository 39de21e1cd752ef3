"""The autoencoder is diffusers', and in strips it is itself."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL as Theirs

import pushforward as pf
from contracts.members import randn
from contracts.members import relative as distance
from pushforward.nets import AutoencoderKL
from pushforward.nets.autoencoder_kl import from_kl_config, kl_config

# As that of Stable Diffusion, of SD3 (no convolutions around the latents, a shift), and one level without attention.
SIZES = {
    "sd": {"block_out_channels": (8, 16, 16), "norm_num_groups": 4, "latent_channels": 4},
    "sd3": {
        "block_out_channels": (4, 8, 12, 12), "norm_num_groups": 2, "latent_channels": 6, "layers_per_block": 2,
        "use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.0609, "scaling_factor": 1.5305,
    },
    "flat": {
        "block_out_channels": (6,), "norm_num_groups": 3, "mid_block_add_attention": False, "in_channels": 1,
        "out_channels": 2, "latent_channels": 3, "use_quant_conv": False,
    },
}  # fmt: skip


def relative(a, b):
    return distance(a.detach(), b.detach())


def floats(*shape, seed=0):
    return randn(*shape, seed=seed, dtype=torch.float32)


def shaken(net):
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net.eval()


@pytest.fixture(params=SIZES)
def pair(request):
    torch.manual_seed(0)
    config = SIZES[request.param]
    levels = len(config["block_out_channels"])
    theirs = Theirs(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        **config,
    )
    ours = AutoencoderKL(**from_kl_config(shaken(theirs).config))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours.eval()


def peak_bytes(call):
    """The most memory that tensors allocated during the call took at one time."""
    with torch.profiler.profile(profile_memory=True) as profile:
        call()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most


def inputs(net):
    """Images and latents off the square."""
    x = floats(2, net.channels, 3 * net.factor, 5 * net.factor)
    return x, floats(2, net.latent, 7, 4, seed=1)


def test_outputs_are_those_of_diffusers(pair):
    theirs, ours = pair
    x, z = inputs(ours)
    with torch.no_grad():
        law = theirs.encode(x).latent_dist
        mean, log_variance = ours.encode(x)
        assert mean.shape == (2, ours.latent, 3, 5)
        assert relative(mean, law.mean) < 1e-5
        assert relative(log_variance, law.logvar) < 1e-5
        wanted = theirs.decode(z).sample
        assert wanted.abs().mean() > 0.1
        assert relative(ours.decode(z), wanted) < 1e-5
        assert relative(ours(x), theirs(x).sample) < 1e-5


def test_weights_go_back_and_give_the_same(pair):
    _, ours = pair
    ours = shaken(ours)
    theirs = Theirs(**kl_config(ours)).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert from_kl_config(theirs.config) == {
        n: ours.config[n] for n in from_kl_config(theirs.config)
    }
    x, _ = inputs(ours)
    with torch.no_grad():
        assert relative(ours(x), theirs(x).sample) < 1e-5


def test_gradients_are_those_of_diffusers_with_and_without_recomputing(pair):
    theirs, ours = pair
    x, _ = inputs(ours)
    weight = None
    for net in (theirs, ours, ours):
        net.zero_grad()
        out = net(x).sample if net is theirs else net(x)
        weight = floats(*out.shape, seed=2) if weight is None else weight
        (weight * out).sum().backward()
        if net is theirs:
            continue
        scale = max(float(p.grad.abs().max()) for p in theirs.parameters())
        mine = dict(ours.named_parameters())
        for name, p in theirs.named_parameters():
            assert (mine[name].grad - p.grad).abs().max() < 1e-5 * scale, name
        ours.checkpointing = True


def test_a_diffusion_model_sees_latents_shifted_then_scaled(pair):
    theirs, ours = pair
    _, z = inputs(ours)
    # As in diffusers' pipelines, where the caller does it.
    shift = theirs.config.shift_factor or 0.0
    assert torch.equal(ours.shrunk(z), (z - shift) * theirs.config.scaling_factor)
    assert torch.allclose(ours.grown(ours.shrunk(z)), z, atol=1e-6)


def test_log_variances_are_kept_in_bounds():
    net = AutoencoderKL(1, 2, (4,), 1, 2, quant=False)
    with torch.no_grad():
        net.encoder.conv_out.bias[2], net.encoder.conv_out.bias[3] = 100, -100
    _, log_variance = net.encode(floats(1, 1, 4, 4))
    assert (log_variance[:, 0] == 20).all()
    assert (log_variance[:, 1] == -30).all()


# In strips.


@pytest.mark.parametrize("tile", [1, 2, 3, 5, 7, 40])
def test_strips_give_what_one_pass_gives_everywhere(pair, tile):
    _, ours = pair
    _, z = inputs(ours)
    assert relative(ours.decode_tiled(z, tile), ours.decode(z)) < 2e-6


def test_strips_are_not_decoded_each_for_itself():
    # What one would do first differs far from where strips meet, since norms have other figures.
    torch.manual_seed(0)
    net = shaken(AutoencoderKL(3, 4, (8, 8, 8), 1, 4))
    z = floats(1, 4, 40, 6)
    with torch.no_grad():
        whole = net.decode(z)
        alone = net.decode(z[:, :, :30])[:, :, :40]  # 20 latents from the cut
        assert (alone - whole[:, :, :40]).abs().max() > 1e-3 * whole.abs().max()
        assert (net.decode_tiled(z, 3) - whole).abs().max() < 1e-5 * whole.abs().max()


def test_strips_take_a_fraction_of_the_memory():
    torch.manual_seed(0)
    net = AutoencoderKL(3, 4, (16, 32, 64, 64), 2, 8).eval()
    z = floats(1, 4, 64, 64)

    def one_pass():
        with torch.no_grad():
            net.decode(z)

    whole, strips = peak_bytes(one_pass), peak_bytes(lambda: net.decode_tiled(z, 2))
    # The widest image of the last level, 16 channels of 512 x 512, must be there.
    assert 4 * 16 * 512**2 < strips < 0.35 * whole


def test_strips_leave_the_latents_and_take_no_gradient(pair):
    _, ours = pair
    _, z = inputs(ours)
    before = z.clone()
    assert not ours.decode_tiled(z.requires_grad_(), 2).requires_grad
    assert torch.equal(z, before)


def test_what_makes_no_autoencoder_or_does_not_fit_is_an_error():
    net = AutoencoderKL(1, 2, (4, 4), 1, 2)
    for call, words in (
        (lambda: AutoencoderKL(widths=(32, 48)), "32 groups of the norms must divide every width"),
        (lambda: AutoencoderKL(widths=()), "must be positive"),
        (lambda: AutoencoderKL(1, 1, (4,), 1, 2, scaling_factor=0), "scaling_factor of 0"),
        (lambda: net.encode(floats(1, 3, 4, 4)), r"takes images \(B, 1, H, W\)"),
        (lambda: net.encode(floats(1, 1, 4, 5)), "multiples of 2, not"),
        (lambda: net.decode(floats(1, 4, 4, 4)), r"latents \(B, 2, h, w\)"),
        (lambda: net.decode_tiled(floats(1, 4, 4, 4)), r"latents \(B, 2, h, w\)"),
        (lambda: net.decode_tiled(floats(1, 2, 4, 4), 0), "at least one row"),
    ):
        with pytest.raises(pf.InputError, match=words):
            call()
    config = kl_config(net)
    for change, words in (
        ({"act_fn": "relu"}, "with silu are known"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"]}, "AttnDownEncoderBlock2D"),
        ({"latents_mean": [0.0]}, "latents_mean"),
    ):
        with pytest.raises(pf.InputError, match=words):
            from_kl_config(config | change)
