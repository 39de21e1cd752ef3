"""Whole pipelines with text encoders, autoencoders and classes: prompts, guidance and pictures as in diffusers."""

from __future__ import annotations

import copy
import inspect

import diffusers
import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

import pushforward as pf
from interop import texts, tiny
from pushforward.core import times
from pushforward.core.noise import SOLVER
from pushforward.interop.diffusers.grids import grid_of
from pushforward.nets.adapters import DiffusersDiT, DiffusersUNet2D
from pushforward.solvers import DDIM, Euler, FlowMapSampler

PROMPTS = ["a red cat", "dog above a blue dog and far more words than fit"]


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(7))


def stable_diffusion(**changes):
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1,
        set_alpha_to_one=False,
    )  # fmt: skip
    parts = {
        "unet": tiny.unet_condition(), "vae": tiny.kl(shift_factor=None), "scheduler": scheduler,
        "text_encoder": texts.clip(), "tokenizer": texts.clip_tokenizer(), "safety_checker": None,
        "feature_extractor": None, "requires_safety_checker": False,
    }  # fmt: skip
    return diffusers.StableDiffusionPipeline(**parts | changes)


def stable_diffusion_3(last: bool = True):
    return diffusers.StableDiffusion3Pipeline(
        transformer=tiny.sd3(pooled_projection_dim=7 + 9), vae=tiny.kl(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=texts.clip(8, 7), tokenizer=texts.clip_tokenizer(),
        text_encoder_2=texts.clip(12, 9, seed=2), tokenizer_2=texts.clip_tokenizer(pad="!"),
        text_encoder_3=texts.t5() if last else None, tokenizer_3=texts.t5_tokenizer() if last else None,
    )  # fmt: skip


def flux():
    return diffusers.FluxPipeline(
        transformer=tiny.flux(pooled_projection_dim=8), vae=tiny.kl(), text_encoder=texts.clip(8),
        tokenizer=texts.clip_tokenizer(), text_encoder_2=texts.t5(), tokenizer_2=texts.t5_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


def pixart(kind, **changes):
    # A factor of 8, by which the network knows how large a picture is.
    vae = tiny.kl(
        shift_factor=None, block_out_channels=(8,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    return kind(texts.t5_tokenizer(), texts.t5(), vae, tiny.pixart(**changes), scheduler)


def stable_diffusion_xl():
    unet = tiny.unet_condition(
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=6 * 4 + 9,
        cross_attention_dim=20,
    )  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        unet=unet, vae=tiny.kl(shift_factor=None), scheduler=diffusers.EulerDiscreteScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="trailing"
        ),
        text_encoder=texts.clip(8), tokenizer=texts.clip_tokenizer(), text_encoder_2=texts.clip(12, 9, seed=2),
        tokenizer_2=texts.clip_tokenizer(pad="!"), add_watermarker=False,
    )  # fmt: skip


def drawn(pipe, steps, latents, **options):
    """Latents and pictures of diffusers' own loop, pictures in [-1, 1]."""
    pipe.set_progress_bar_config(disable=True)
    z = pipe(
        PROMPTS, num_inference_steps=steps, latents=latents, output_type="latent", **options
    ).images
    return z


def saved(pipe, folder):
    pipe.save_pretrained(folder)
    return pf.from_diffusers(folder)


def usual_guidance(pipe) -> float:
    return inspect.signature(pipe.__call__).parameters["guidance_scale"].default


def test_stable_diffusion_draws_what_its_pipeline_draws(tmp_path):
    pipe = stable_diffusion()
    model = saved(pipe, tmp_path / "theirs")
    positive, negative = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    given = model.encoders["prompt"](PROMPTS)
    assert tiny.close(given["text"], positive)
    assert tiny.close(model.nulls["text"](given["text"]), negative)

    x = noise(4, 8, 8)
    want = drawn(pipe, 5, x, guidance_scale=3.0, height=16, width=16)
    grid = grid_of(pipe.scheduler)
    options = {"solver": DDIM(), "grid": grid, "source": x, "guidance": 3.0}
    assert tiny.close(pf.generate(model, prompt=PROMPTS, decode=False, **options), want)
    picture = pipe.vae.decode(want / pipe.vae.config.scaling_factor).sample
    assert tiny.close(pf.generate(model, prompt=PROMPTS, **options), picture)
    assert model.spec.shape == (3, 16, 16)
    # Without a scale it is that of the pipeline.
    usual = drawn(pipe, 5, x, height=16, width=16)
    free = {name: value for name, value in options.items() if name != "guidance"}
    assert tiny.close(pf.generate(model, prompt=PROMPTS, decode=False, **free), usual)

    pf.save(model, tmp_path / "run")
    again = pf.load(tmp_path / "run")
    assert tiny.close(pf.generate(again, prompt=PROMPTS, decode=False, **options), want)

    # Out again, with the text encoder.
    pf.to_diffusers(again, tmp_path / "back")
    back = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "back")
    assert type(back) is type(pipe)
    assert tiny.close(back.encode_prompt(PROMPTS, "cpu", 1, True)[0], positive)
    assert tiny.close(
        pf.generate(pf.from_diffusers(tmp_path / "back"), prompt=PROMPTS, decode=False, **options),
        want,
    )


@pytest.mark.parametrize("last", [True, False])
def test_stable_diffusion_3_draws_what_its_pipeline_draws(tmp_path, last):
    pipe = stable_diffusion_3(last)
    model = saved(pipe, tmp_path / "theirs")
    positive, negative, pooled, unpooled = pipe.encode_prompt(
        PROMPTS, PROMPTS, PROMPTS, device="cpu"
    )
    given = model.encoders["prompt"](PROMPTS)
    assert given["text"].shape == (2, 12 + 256, 24)
    assert model.sampling.prompt_guidance == usual_guidance(pipe)
    assert tiny.close(given["text"], positive)
    assert tiny.close(given["pooled"], pooled)
    assert tiny.close(model.nulls["text"](given["text"]), negative)
    assert tiny.close(model.nulls["pooled"](given["pooled"]), unpooled)

    x = noise(4, 8, 8)
    want = drawn(pipe, 4, x, guidance_scale=4.0, height=16, width=16)
    options = {"solver": Euler(), "grid": grid_of(pipe.scheduler), "source": x, "guidance": 4.0}
    assert tiny.close(pf.generate(model, prompt=PROMPTS, decode=False, **options), want)
    vae = pipe.vae
    picture = vae.decode(want / vae.config.scaling_factor + vae.config.shift_factor).sample
    assert tiny.close(pf.generate(model, prompt=PROMPTS, **options), picture)

    # What is written draws what ours draws at its times, which are shifted once.
    pf.to_diffusers(model, tmp_path / "back")
    none = {} if last else {"text_encoder_3": None, "tokenizer_3": None}
    back = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "back", **none)
    again = drawn(back, 4, x, guidance_scale=4.0, height=16, width=16)
    options |= {"grid": grid_of(back.scheduler)}
    assert tiny.close(pf.generate(model, prompt=PROMPTS, decode=False, **options), again)


def test_flux_draws_what_its_pipeline_draws(tmp_path):
    pipe = flux()
    model = saved(pipe, tmp_path / "theirs")
    positive, pooled, _ = pipe.encode_prompt(PROMPTS, PROMPTS, "cpu")
    given = model.encoders["prompt"](PROMPTS)
    assert tiny.close(given["text"], positive)
    assert tiny.close(given["pooled"], pooled)

    x = noise(4, 8, 8)
    packed = pipe._pack_latents(x, 2, 4, 8, 8)
    want = drawn(pipe, 4, packed, guidance_scale=2.0, height=16, width=16)
    want = pipe._unpack_latents(want, 16, 16, 2)
    got = pf.generate(
        model, prompt=PROMPTS, scale=torch.tensor([2.0, 2.0]), solver=Euler(), grid=grid_of(pipe.scheduler), source=x,
        shape=(4, 8, 8), guidance=1.0, decode=False,
    )  # fmt: skip
    assert tiny.close(got, want)
    pf.to_diffusers(model, tmp_path / "back")
    back = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "back")
    again = drawn(back, 4, packed, guidance_scale=2.0, height=16, width=16)
    assert tiny.close(back._unpack_latents(again, 16, 16, 2), want)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("name", ["flux", "sd3"])
def test_a_shift_by_the_size_of_pictures_is_that_of_the_trained_size(tmp_path, kind, name):
    pipe = flux() if name == "flux" else stable_diffusion_3(last=False)
    # FLUX is of 128 x 128 latents, the other here of 8 x 8, both in patches of 2.
    tokens = {"flux": 64 * 64, "sd3": 4 * 4}[name]
    pipe.scheduler = scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, time_shift_type=kind, base_shift=0.6, max_shift=1.3, max_image_seq_len=3000
    )  # fmt: skip
    model = saved(pipe, tmp_path / "theirs")
    mu = calculate_shift(tokens, 256, 3000, 0.6, 1.3)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=mu)
    assert torch.allclose(
        times.shifted(4, model.sampling.shift).float(), 1 - scheduler.sigmas, atol=1e-6
    )


@pytest.mark.parametrize(
    ("kind", "length", "more"),
    [
        # Of 1024 px its network knows resolution and aspect ratio.
        (diffusers.PixArtAlphaPipeline, 120, {"sample_size": 128, "interpolation_scale": 1}),
        (diffusers.PixArtSigmaPipeline, 300, {}),
    ],
)
def test_pixart_draws_what_its_pipeline_draws(tmp_path, kind, length, more):
    pipe = pixart(kind, **more)
    model = saved(pipe, tmp_path / "theirs")
    prompts = [" A red CAT ", PROMPTS[1]]
    positive, mask, negative, none = pipe.encode_prompt(
        prompts, num_images_per_prompt=1, device="cpu", clean_caption=False
    )
    given = model.encoders["prompt"](prompts)["text"]
    assert given.values.shape[1] == length
    assert torch.equal(given.mask, mask.bool())
    assert tiny.close(given.values, positive)
    empty = model.nulls["text"](given)
    assert torch.equal(empty.mask, none.bool())
    assert tiny.close(empty.values, negative)

    x = noise(4, 8, 4)
    pipe.set_progress_bar_config(disable=True)
    theirs = {
        "num_inference_steps": 4,
        "latents": x,
        "output_type": "latent",
        "height": 64,
        "width": 32,
    }
    theirs |= {"use_resolution_binning": False, "clean_caption": False}
    want = pipe(prompts, **theirs).images  # by its usual guidance
    options = {"solver": DDIM(), "grid": grid_of(pipe.scheduler), "source": x, "decode": False}
    options |= {"shape": (4, 8, 4)}
    assert tiny.close(pf.generate(model, prompt=prompts, **options), want)

    pf.save(model, tmp_path / "run")
    assert tiny.close(pf.generate(pf.load(tmp_path / "run"), prompt=prompts, **options), want)
    pf.to_diffusers(model, tmp_path / "back")
    back = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "back")
    assert type(back) is kind
    assert tiny.close(back.encode_prompt(prompts, device="cpu", clean_caption=False)[0], positive)


def test_a_latent_consistency_model_follows_the_scale_that_its_pipeline_is_given(
    tmp_path, monkeypatch
):
    from diffusers.schedulers import scheduling_lcm

    pipe = stable_diffusion(
        unet=tiny.unet_condition(time_cond_proj_dim=6), scheduler=diffusers.LCMScheduler()
    )
    pipe = diffusers.LatentConsistencyModelPipeline(
        **pipe.components, requires_safety_checker=False
    )
    model = saved(pipe, tmp_path / "theirs")
    assert isinstance(model, pf.FlowMapModel)

    def draw(i: int) -> torch.Tensor:
        return pf.Noise.batch(2, 5).at(i).normal((4, 8, 8), SOLVER, torch.float32)

    steps = iter(range(3))
    monkeypatch.setattr(scheduling_lcm, "randn_tensor", lambda *_, **__: draw(next(steps)))
    x = noise(4, 8, 8)
    want = drawn(pipe, 3, x, guidance_scale=4.0, height=16, width=16)
    grid = grid_of(pipe.scheduler)
    options = {"solver": FlowMapSampler(1.0), "grid": grid, "source": x, "seed": 5, "decode": False}
    got = pf.generate(
        model, prompt=PROMPTS, scale=torch.tensor([4.0, 4.0]), guidance=1.0, **options
    )
    assert tiny.close(got, want)
    pf.to_diffusers(model, tmp_path / "back")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "back")
    assert type(again) is type(pipe)
    assert isinstance(again.scheduler, diffusers.LCMScheduler)


def test_stable_diffusion_xl_draws_what_its_pipeline_draws(tmp_path):
    pipe = stable_diffusion_xl()
    model = saved(pipe, tmp_path / "theirs")
    positive, negative, pooled, unpooled = pipe.encode_prompt(PROMPTS, PROMPTS, "cpu", 1, True)
    assert model.sampling.prompt_guidance == usual_guidance(pipe)
    given = model.encoders["prompt"](PROMPTS)
    assert tiny.close(given["text"], positive)
    assert tiny.close(given["pooled"], pooled)
    assert tiny.close(model.nulls["text"](given["text"]), negative)
    assert tiny.close(model.nulls["pooled"](given["pooled"]), unpooled)

    x = noise(4, 8, 8)
    want = drawn(pipe, 4, x, guidance_scale=3.0, height=16, width=16)
    times = grid_of(pipe.scheduler)
    start = x * float(model.path.alpha(times[0]) * pipe.scheduler.init_noise_sigma)
    sizes = torch.tensor([[16.0, 16, 0, 0, 16, 16]] * 2)
    got = pf.generate(
        model,
        prompt=PROMPTS,
        time_ids=sizes,
        solver=DDIM(),
        grid=times,
        source=start,
        guidance=3.0,
        decode=False,
    )
    assert tiny.close(got, want)


def test_latent_diffusion_draws_what_its_pipeline_draws(tmp_path):
    scheduler = diffusers.DDIMScheduler(clip_sample=False, beta_schedule="scaled_linear")
    pipe = diffusers.LDMPipeline(tiny.vq(), tiny.unet(), scheduler)
    model = saved(pipe, tmp_path / "theirs")
    assert model.spec.shape == (3, 16, 16)
    pipe.set_progress_bar_config(disable=True)
    # The pipeline draws its own noise.
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    images = pipe(
        2, generator=torch.Generator().manual_seed(3), num_inference_steps=6, output_type="np"
    ).images
    want = torch.from_numpy(images).permute(0, 3, 1, 2)
    got = pf.generate(model, 2, solver=DDIM(), grid=grid_of(scheduler), source=x)
    # Rounding to codes may differ by rounding of numbers, in a place or two.
    assert float(((got / 2 + 0.5).clamp(0, 1) - want).abs().median()) < 1e-5
    pf.to_diffusers(model, tmp_path / "back")
    back = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "back")
    assert isinstance(back.vqvae, diffusers.VQModel)
    assert type(back) is type(pipe)


def test_dit_draws_its_classes_by_name_and_without_one(tmp_path):
    names = {str(k): name for k, name in enumerate(["cat, tabby", "dog", "fish", "bird", "fox"])}
    net = tiny.dit()
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    pipe = diffusers.DiTPipeline(net, tiny.kl(shift_factor=None), scheduler, id2label=names)
    pipe.save_pretrained(tmp_path / "theirs")
    # diffusers does not write them: the published folder has them.
    tiny.edit_json(tmp_path / "theirs" / "model_index.json", id2label=names)
    model = pf.from_diffusers(tmp_path / "theirs")
    assert model.spec.class_names == tuple(names.values())
    assert model.outputs == ("prediction", "variance")

    scheduler.set_timesteps(5)
    x = z = noise(4, 8, 8)
    label, none = torch.tensor([1, 4]), torch.tensor([5, 5])
    with torch.no_grad():
        for t in scheduler.timesteps:
            # DiTPipeline takes class 1000 for none, whatever the network has: its loop, with this network's.
            out, empty = (
                net(z, timestep=t.expand(2), class_labels=c).sample[:, :4] for c in (label, none)
            )
            z = scheduler.step(empty + 2.5 * (out - empty), t, z).prev_sample
    got = pf.generate(
        model,
        2,
        label=["dog", "fox"],
        solver=DDIM(),
        grid=grid_of(scheduler),
        source=x,
        guidance=2.5,
        decode=False,
    )
    assert tiny.close(got, z)
    pf.to_diffusers(model, tmp_path / "back")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "back")
    assert again.get_label_ids(["tabby", "fox"]) == [0, 4]
    assert pf.from_diffusers(tmp_path / "back").spec == model.spec


def test_an_imported_model_is_tuned_judged_inverted_and_taught_from_like_any(tmp_path):
    net = tiny.randomised(tiny.unet(), std=0.03)
    diffusers.DDPMPipeline(net, diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    model = pf.from_diffusers(tmp_path)
    tuned = pf.tune(model, 4, num=8, held_out=4, iterations=1, batch_size=8)
    assert tuned.before > 0
    x = noise(3, 8, 8)
    estimate = pf.log_prob(model, x, probes=2)
    assert estimate.log_prob.isfinite().all()
    drawn = pf.generate(model, 2, solver=DDIM(), nfe=20, source=x)
    assert tiny.close(pf.invert(model, drawn, nfe=20), x, 1e-3)
    # A copy is trained, and the model itself stays as it was.
    student = copy.deepcopy(model).requires_grad_(True)
    objective = pf.objectives.FlowMatching(student)
    loss = objective(pf.Batch(x), pf.Noise.batch(2, 0))["loss"].mean()
    loss.backward()
    assert all(p.grad is not None for p in student.net.parameters())
    assert all(p.grad is None for p in model.net.parameters())


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_an_imported_network_has_its_derivatives(kind):
    """In forward mode, which fused attention has none of, and with activations recomputed."""
    make, cls = {"unet": (tiny.unet, DiffusersUNet2D), "dit": (tiny.dit, DiffusersDiT)}[kind]
    theirs = make()
    net = cls(**{k: v for k, v in theirs.config.items() if not k.startswith("_")})
    net.inner.load_state_dict(theirs.state_dict())
    net.double().eval()
    x, v = (
        noise(theirs.config["in_channels"], 8, 8).double(),
        noise(theirs.config["in_channels"], 8, 8).double().flip(0),
    )
    t = torch.tensor([0.3, 0.6], dtype=torch.float64)
    cond = {} if kind == "unet" else {"label": torch.tensor([1, -1])}
    _, slope = torch.func.jvp(lambda x: net(x, t, **cond), (x,), (v,))
    h = 1e-5
    assert tiny.close(
        slope, (net(x + h * v, t, **cond) - net(x - h * v, t, **cond)) / (2 * h), 1e-7
    )
    grads = []
    for recompute in (False, True):
        net.train().requires_grad_(True)
        net.checkpointing = recompute
        assert net.checkpointing == recompute
        net.zero_grad()
        (net(x, t, **cond) ** 2).sum().backward()
        grads.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert len(grads[0]) > 10
    assert all(torch.allclose(a, b) for a, b in zip(*grads, strict=True))
