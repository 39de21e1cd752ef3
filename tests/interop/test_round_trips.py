"""Folders of diffusers, in and out: equal weights, equal answers, for each class in three configurations."""

from __future__ import annotations

import json

import diffusers
import pytest
import torch

import pushforward as pf
from interop import tiny
from pushforward.core.conditions import Tokens
from pushforward.interop.diffusers.schedules import read_schedule

B = 2
T = torch.tensor([0.25, 0.7], dtype=torch.float64)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(config) -> dict:
    """A configuration as JSON has it."""
    return json.loads(json.dumps({k: v for k, v in config.items() if not k.startswith("_")}))


def same_state(one, other) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


LABEL = torch.tensor([3, 0])
MASK = torch.tensor([[True] * 5, [True, True, True, False, False]])
NONE = {"resolution": None, "aspect_ratio": None}
# Constructor, off its defaults; conditions of ours; the same as diffusers' arguments.
DENOISERS = {
    "UNet2DModel": [
        (lambda: tiny.unet(), {}, {}),
        (
            lambda: tiny.unet(
                num_class_embeds=5, flip_sin_to_cos=False, freq_shift=1, resnet_time_scale_shift="scale_shift",
                downsample_padding=0, act_fn="gelu", center_input_sample=True,
            ),
            {"label": LABEL},
            {"class_labels": LABEL},
        ),
        (
            lambda: tiny.unet(
                in_channels=1, out_channels=2, block_out_channels=(8, 8, 16), layers_per_block=2,
                down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"), norm_eps=1e-3, dropout=0.1,
                time_embedding_type="fourier", mid_block_scale_factor=2.0,
            ),
            {},
            {},
        ),
    ],
    "UNet2DConditionModel": [
        (lambda: tiny.unet_condition(), {"text": randn(B, 5, 12)}, {"encoder_hidden_states": randn(B, 5, 12)}),
        (
            lambda: tiny.unet_condition(
                use_linear_projection=True, num_class_embeds=5, attention_head_dim=(2, 4), dual_cross_attention=False,
                only_cross_attention=True, upcast_attention=True, transformer_layers_per_block=2,
            ),
            {"text": randn(B, 3, 12), "label": LABEL},
            {"encoder_hidden_states": randn(B, 3, 12), "class_labels": LABEL},
        ),
        (
            lambda: tiny.unet_condition(
                addition_embed_type="text_time", addition_time_embed_dim=4,
                projection_class_embeddings_input_dim=6 * 4 + 7, flip_sin_to_cos=False, freq_shift=1,
            ),
            {"text": randn(B, 5, 12), "pooled": randn(B, 7)},
            {
                "encoder_hidden_states": randn(B, 5, 12),
                "added_cond_kwargs": {
                    "text_embeds": randn(B, 7), "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * B),
                },
            },
        ),
    ],
    "DiTTransformer2DModel": [
        (lambda: tiny.dit(), {"label": LABEL}, {"class_labels": LABEL}),
        (
            lambda: tiny.dit(out_channels=4, num_embeds_ada_norm=9, attention_bias=False, activation_fn="geglu"),
            {"label": LABEL},
            {"class_labels": LABEL},
        ),
        (
            lambda: tiny.dit(patch_size=4, num_layers=3, num_attention_heads=4, norm_eps=1e-3),
            {"label": torch.tensor([-1, 2])},
            {"class_labels": torch.tensor([5, 2])},
        ),
    ],
    "PixArtTransformer2DModel": [
        (
            lambda: tiny.pixart(),
            {"text": Tokens(randn(B, 5, 24), MASK)},
            {"encoder_hidden_states": randn(B, 5, 24), "encoder_attention_mask": MASK, "added_cond_kwargs": NONE},
        ),
        (
            lambda: tiny.pixart(use_additional_conditions=True, num_layers=1, attention_bias=False),
            {"text": Tokens(randn(B, 5, 24), MASK)},
            {
                "encoder_hidden_states": randn(B, 5, 24), "encoder_attention_mask": MASK,
                "added_cond_kwargs": {
                    "resolution": torch.tensor([[64.0, 64.0]] * B), "aspect_ratio": torch.ones(B, 1),
                },
            },
        ),
        (
            lambda: tiny.pixart(out_channels=4, caption_channels=None, patch_size=4, interpolation_scale=2),
            {"text": randn(B, 3, 24)},
            {"encoder_hidden_states": randn(B, 3, 24), "added_cond_kwargs": NONE},
        ),
    ],
    "SD3Transformer2DModel": [
        (
            lambda: tiny.sd3(),
            {"text": randn(B, 3, 24), "pooled": randn(B, 16)},
            {"encoder_hidden_states": randn(B, 3, 24), "pooled_projections": randn(B, 16)},
        ),
        (
            lambda: tiny.sd3(qk_norm="rms_norm", dual_attention_layers=(0,), num_layers=3, pos_embed_max_size=16),
            {"text": randn(B, 7, 24), "pooled": randn(B, 16)},
            {"encoder_hidden_states": randn(B, 7, 24), "pooled_projections": randn(B, 16)},
        ),
        (
            lambda: tiny.sd3(
                patch_size=1, attention_head_dim=4, num_attention_heads=4, sample_size=4, joint_attention_dim=9
            ),
            {"text": randn(B, 3, 9), "pooled": randn(B, 16)},
            {"encoder_hidden_states": randn(B, 3, 9), "pooled_projections": randn(B, 16)},
        ),
    ],
    "FluxTransformer2DModel": [
        (
            lambda: tiny.flux(),
            {"text": randn(B, 3, 24), "pooled": randn(B, 8), "scale": torch.tensor([1.0, 4.0])},
            {
                "encoder_hidden_states": randn(B, 3, 24), "pooled_projections": randn(B, 8),
                "guidance": torch.tensor([1.0, 4.0]),
            },
        ),
        (
            lambda: tiny.flux(guidance_embeds=False, num_layers=2, num_single_layers=2, axes_dims_rope=(8, 4, 4)),
            {"text": randn(B, 3, 24), "pooled": randn(B, 8)},
            {"encoder_hidden_states": randn(B, 3, 24), "pooled_projections": randn(B, 8)},
        ),
        (
            lambda: tiny.flux(in_channels=4, num_attention_heads=3, pooled_projection_dim=5),
            {"text": randn(B, 2, 24), "pooled": randn(B, 5)},
            {
                "encoder_hidden_states": randn(B, 2, 24), "pooled_projections": randn(B, 5),
                "guidance": torch.tensor([3.5, 3.5]),
            },
        ),
    ],
}  # fmt: skip
CASES = [(name, k) for name, cases in DENOISERS.items() for k in range(len(cases))]


def channels(net) -> int:
    inside = net.config["in_channels"]
    return inside // 4 if type(net).__name__.startswith("Flux") else inside


@torch.no_grad()
def answer(net, x, tau, given):
    """diffusers' own answer, as a picture."""
    name = type(net).__name__
    if name.startswith("Flux"):
        pack, unpack = diffusers.FluxPipeline._pack_latents, diffusers.FluxPipeline._unpack_latents
        ids = diffusers.FluxPipeline._prepare_latent_image_ids
        height, width = x.shape[2:]
        out = net(
            hidden_states=pack(x, B, x.shape[1], height, width), timestep=tau / 1000,
            img_ids=ids(B, height // 2, width // 2, "cpu", torch.float32),
            txt_ids=torch.zeros(given["encoder_hidden_states"].shape[1], 3), **given,
        ).sample  # fmt: skip
        return unpack(out, 8 * height, 8 * width, 8)
    if name.startswith(("SD3", "DiT", "PixArt")):
        return net(x, timestep=tau, **given).sample
    return net(x, tau, **given).sample


@pytest.mark.parametrize(("name", "case"), CASES)
@torch.no_grad()
def test_a_network_alone_goes_in_and_out_unchanged(tmp_path, name, case):
    make, cond, given = DENOISERS[name][case]
    net = make()
    net.save_pretrained(tmp_path / "theirs")
    ours = pf.from_diffusers(tmp_path / "theirs")
    x = randn(B, channels(net), 8, 8, seed=3)
    # A U-Net or a DiT alone counts 1000 steps, the others the share of noise; SD3's weights have their sign turned.
    flow = name.startswith(("SD3", "Flux"))
    tau = (1000 * (1 - T) - (0 if flow else 1)).float()
    sign = -1 if flow else 1  # theirs is noise - data
    assert tiny.close(ours(x, T, **cond), sign * answer(net, x, tau, given))
    pf.to_diffusers(ours, tmp_path / "back")
    again = type(net).from_pretrained(tmp_path / "back")
    assert same_state(net, again)
    assert plain(again.config) == plain(net.config)
    third = pf.from_diffusers(tmp_path / "back")
    assert same_state(ours, third)
    assert torch.equal(third(x, T, **cond), ours(x, T, **cond))

    pf.save(ours, tmp_path / "saved")
    saved = pf.load(tmp_path / "saved")
    assert torch.equal(saved(x, T, **cond), ours(x, T, **cond))


AUTOENCODERS = {
    "AutoencoderKL": [
        lambda: tiny.kl(),
        lambda: tiny.kl(use_quant_conv=False, use_post_quant_conv=False, layers_per_block=2, scaling_factor=0.3),
        lambda: tiny.kl(
            latent_channels=7, mid_block_add_attention=False, in_channels=1, out_channels=1, shift_factor=None
        ),
    ],
    "AutoencoderTiny": [
        lambda: tiny.taesd(),
        lambda: tiny.taesd(decoder_block_out_channels=(12, 12), latent_channels=3),
        lambda: tiny.taesd(in_channels=1, out_channels=1, scaling_factor=2.0, shift_factor=0.25),
    ],
    "VQModel": [
        lambda: tiny.vq(),
        lambda: tiny.vq(vq_embed_dim=2, num_vq_embeddings=7, layers_per_block=2),
        lambda: tiny.vq(in_channels=1, out_channels=1, mid_block_add_attention=False, scaling_factor=3.0),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "case"), [(n, k) for n in AUTOENCODERS for k in range(3)])
@torch.no_grad()
def test_an_autoencoder_goes_in_and_out_unchanged(tmp_path, name, case):
    net = AUTOENCODERS[name][case]()
    net.save_pretrained(tmp_path / "theirs")
    ours = pf.from_diffusers(tmp_path / "theirs")
    x = randn(B, net.config["in_channels"], 8, 8, seed=3)
    encoded = net.encode(x)
    z = encoded.latent_dist.mean if name == "AutoencoderKL" else encoded.latents
    assert tiny.close(ours.posterior(x)[0], z)
    assert tiny.close(ours.decode(z), net.decode(z).sample)
    pf.to_diffusers(ours, tmp_path / "back")
    again = type(net).from_pretrained(tmp_path / "back")
    assert same_state(net, again)
    assert again.config["scaling_factor"] == net.config["scaling_factor"]
    assert (again.config.get("shift_factor") or 0) == (net.config.get("shift_factor") or 0)
    assert same_state(ours, pf.from_diffusers(tmp_path / "back"))


SCHEDULERS = {
    "flow": diffusers.FlowMatchEulerDiscreteScheduler(),
    "flow, shifted": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "linear": diffusers.DDPMScheduler(beta_end=0.01, num_train_timesteps=500),
    "scaled": diffusers.PNDMScheduler(
        beta_schedule="scaled_linear", prediction_type="v_prediction"
    ),
    "cosine": diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample"),
    "zero": diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
    "sigmoid": diffusers.DDPMScheduler(beta_schedule="sigmoid"),
    "edm": diffusers.EDMEulerScheduler(sigma_data=0.7, sigma_max=20.0),
    "edm v": diffusers.EDMDPMSolverMultistepScheduler(prediction_type="v_prediction", rho=5.0),
    "ve": diffusers.ScoreSdeVeScheduler(sigma_max=50.0),
    "lcm": diffusers.LCMScheduler(),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@torch.no_grad()
def test_a_pipeline_goes_in_and_out_with_the_same_field(tmp_path, name):
    net = tiny.unet(
        num_class_embeds=5, **({"time_embedding_type": "fourier"} if name == "ve" else {})
    )
    diffusers.DDPMPipeline(net, SCHEDULERS[name]).save_pretrained(tmp_path / "theirs")
    first = pf.from_diffusers(tmp_path / "theirs")
    first.spec = first.spec.with_(
        class_names=("a", "b, c", "d", "e", "f"), class_counts=(5, 4, 3, 2, 1)
    )
    pf.to_diffusers(first, tmp_path / "back")
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "back", subfolder="unet")
    assert same_state(net, again)
    second = pf.from_diffusers(tmp_path / "back")
    assert second.spec == first.spec
    assert type(second) is type(first)
    assert second.sampling == first.sampling
    x = randn(B, 3, 8, 8, seed=3)
    times = (T, torch.ones(B)) if name == "lcm" else (T,)
    assert tiny.close(second(x, *times, label=LABEL), first(x, *times, label=LABEL))
    pf.save(second, tmp_path / "saved")
    assert torch.equal(
        pf.load(tmp_path / "saved")(x, *times, label=LABEL), second(x, *times, label=LABEL)
    )
    if name not in ("edm", "edm v"):
        pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "back")
        written = read_schedule(
            {"_class_name": type(pipe.scheduler).__name__, **pipe.scheduler.config}
        )
        k = torch.arange(1, 500) / 500
        model = getattr(first, "model", first)
        assert torch.allclose(written.path.alpha(k), model.path.alpha(k), atol=1e-6)
        assert written.prediction == model.prediction


@torch.no_grad()
def test_our_own_sd3_with_its_autoencoder_goes_out_and_comes_back(tmp_path):
    torch.manual_seed(0)
    net = pf.nets.MMDiT(4, 2, 16, 2, 2, text=12, pooled=6, positions="table", size=4, max_size=8)
    vae = pf.nets.AutoencoderKL(3, 4, (8, 16), 1, 4, quant=False, post_quant=False)
    tiny.randomised(net)
    tiny.randomised(vae)
    from pushforward.models.latent import Latents

    codec = Latents(vae, mean=[0.1, -0.2, 0.3, 0.0], std=[1.5, 0.5, 2.0, 1.0])
    model = pf.Model(
        net,
        pf.CondOT(),
        spec=pf.DataSpec((3, 8, 8), kind="image"),
        codec=codec,
        nulls={"text": 0, "pooled": 0},
    )
    pf.to_diffusers(model, tmp_path / "out")
    back = pf.from_diffusers(tmp_path / "out")
    cond = {"text": randn(B, 3, 12), "pooled": randn(B, 6)}
    x = randn(B, 4, 4, 4, seed=2)
    assert torch.equal(back(x, T, **cond), model(x, T, **cond))
    # Mean and scale of each channel are in the weights of the autoencoder now.
    assert tiny.close(back.codec.decode(x), codec.decode(x))
    picture = randn(B, 3, 8, 8, seed=4)
    assert tiny.close(back.codec.encode(picture), codec.encode(picture))
    assert tiny.close(
        back.codec.net.posterior(picture)[1].exp(),
        vae.posterior(picture)[1].exp() / codec.std[:, None, None] ** 2,
    )
    theirs = diffusers.SD3Transformer2DModel.from_pretrained(
        tmp_path / "out", subfolder="transformer"
    )
    out = theirs(x, cond["text"], cond["pooled"], (1000 * (1 - T)).float()).sample
    assert tiny.close(-out, model(x, T, **cond))
