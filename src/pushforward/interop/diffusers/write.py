"""Models as folders of diffusers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.errors import InputError
from pushforward.core.paths import VE
from pushforward.core.paths import Path as ProbabilityPath
from pushforward.interop.diffusers.files import (
    INDEX,
    SCHEDULER,
    VERSION,
    write_json,
    write_part,
)
from pushforward.interop.diffusers.networks import clock_of, sign_of, write_network
from pushforward.interop.diffusers.pipelines import RECORDS
from pushforward.interop.diffusers.schedules import scheduler_config
from pushforward.models.flow_map import FlowMapModel
from pushforward.models.latent import Latents
from pushforward.models.model import Model
from pushforward.models.pipeline_text import PipelineText
from pushforward.nets.adapters import (
    DiffusersDiT,
    DiffusersFlux,
    DiffusersPixArt,
    DiffusersUNet2D,
    DiffusersUNet2DCondition,
)
from pushforward.nets.autoencoder_kl import AutoencoderKL
from pushforward.nets.clocks import Clock, NoiseClock, SameClock, SigmaClock, StepClock
from pushforward.nets.mmdit import MMDiT

TRANSFORMERS = "transformers"
# Text encoders of the pipelines, with the tokenizer of each.
TEXT_PARTS = {
    "StableDiffusionPipeline": ("",),
    "LatentConsistencyModelPipeline": ("",),
    "StableDiffusionXLPipeline": ("", "_2"),
    "StableDiffusion3Pipeline": ("", "_2", "_3"),
    "FluxPipeline": ("", "_2"),
    "PixArtAlphaPipeline": ("",),
    "PixArtSigmaPipeline": ("",),
}
OPTIONAL = {
    "StableDiffusionPipeline": ("safety_checker", "feature_extractor", "image_encoder"),
    "LatentConsistencyModelPipeline": ("safety_checker", "feature_extractor", "image_encoder"),
    "StableDiffusionXLPipeline": ("feature_extractor", "image_encoder"),
    "StableDiffusion3Pipeline": ("feature_extractor", "image_encoder"),
    "FluxPipeline": ("feature_extractor", "image_encoder"),
}


def to_diffusers(model: Any, folder: str | Path) -> Path:
    """Write a model, or a network alone, as a folder that diffusers opens; returns the folder.

    Networks: `MMDiT` with positions="table" as SD3Transformer2DModel, `AutoencoderKL`, `AutoencoderTiny`, and whatever
    `from_diffusers` has read. The scheduler is one that samples without a fault (see `schedules.scheduler_config`), the
    codec becomes `vae`, text encoders of a pipeline are copied. Class names go into model_index.json, and the other
    records into pushforward.json, which diffusers does not read.

    Raises InputError, before anything is written, for what diffusers has no equal of.
    """
    folder = Path(folder)
    if isinstance(model, nn.Module) and not isinstance(model, Model | FlowMapModel):
        kind, config, tensors = write_network(model)
        write_part(folder, config, kind, tensors)
        return folder
    if not isinstance(model, Model | FlowMapModel):
        raise InputError(
            f"diffusers has no equal of a {type(model).__name__}: pass a Model, or a network"
        )
    inner = model.model if isinstance(model, FlowMapModel) else model
    net = inner.net
    network = write_network(net)
    scheduler = _scheduler(model, inner)
    codec = None if model.codec is None else _codec(model.codec)
    text = model.encoders.get("prompt")
    name, part = _pipeline(net, inner.path, model.codec, scheduler, text)
    codec_kind = None if codec is None else write_network(codec)[0]
    index = _index(name, part, network[0], scheduler, model, text, codec_kind)

    write_part(folder / part, network[1], network[0], network[2])
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    write_json(folder / "scheduler" / SCHEDULER, {"_diffusers_version": VERSION, **scheduler})
    if codec is not None:
        kind, config, tensors = write_network(codec)
        write_part(folder / _codec_part(name), config, kind, tensors)
    if isinstance(text, PipelineText):
        for tower in text.all:
            for each in (tower.encoder, tower.tokenizer):
                if (text.path / each).resolve() != (folder / each).resolve():
                    shutil.copytree(text.path / each, folder / each, dirs_exist_ok=True)
    records = {"spec": model.spec.to_config(), "sampling": model.sampling.to_config()}
    write_json(folder / RECORDS, records)
    write_json(folder / INDEX, index)
    return folder


def _scheduler(model: Model | FlowMapModel, inner: Model) -> dict[str, Any]:
    clock = clock_of(inner.net)
    steps = clock.steps if isinstance(clock, StepClock) else 1000
    if isinstance(clock, NoiseClock) and clock.scale != 1:
        steps = int(clock.scale)
    found = scheduler_config(
        inner.path,
        inner.prediction,
        inner.preconditioning,
        model.sampling.shift,
        steps,
        sign_of(inner.net),
        isinstance(inner.net, DiffusersFlux),
    )
    _check_clock(clock, inner.path, found, sign_of(inner.net))
    if isinstance(model, FlowMapModel):
        if model.jumps != "data" or found["_class_name"] != "DPMSolverMultistepScheduler":
            raise InputError(
                "of flow maps diffusers has those that know the way to the data alone, on a path of betas (LCM)"
            )
        kept = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas",
                "rescale_betas_zero_snr", "prediction_type")  # fmt: skip
        config = {key: found[key] for key in kept if key in found}
        return {"_class_name": "LCMScheduler", **config}
    return found


def _check_clock(
    clock: Clock | None, path: ProbabilityPath, config: dict[str, Any], sign: int
) -> None:
    """That the network counts time as the scheduler will."""
    name = config["_class_name"]
    wanted: tuple[type, int | None] = {
        "DPMSolverMultistepScheduler": (StepClock, 1),
        "FlowMatchEulerDiscreteScheduler": (NoiseClock, -1),
        "FlowMapEulerDiscreteScheduler": (NoiseClock, -1),
        "EDMEulerScheduler": (SameClock, None),
        "ScoreSdeVeScheduler": (SigmaClock, 1),
    }[name]
    kind, expected = wanted
    if clock is not None and not isinstance(clock, kind):
        raise InputError(
            f"the network counts time by {clock}, and {name}, which its path {path} takes, by {kind.__name__}"
        )
    if isinstance(clock, StepClock) and config["num_train_timesteps"] != clock.steps:
        raise InputError(
            f"the network counts {clock.steps} steps, and its path has {config['num_train_timesteps']}"
        )
    # SD3's weights have their sign turned when they are written.
    if not (clock == NoiseClock(1000.0) and sign == 1) and expected not in (None, sign):
        raise InputError(f"the network's sign is {sign}, and under {name} it is {expected}")


def _pipeline(
    net: nn.Module, path: ProbabilityPath, codec: Any, scheduler: dict[str, Any], text: Any
) -> tuple[str, str]:
    """(class of the pipeline, folder of its network)."""
    if isinstance(net, DiffusersUNet2D):
        if codec is not None:
            return "LDMPipeline", "unet"
        if isinstance(path, VE):
            return "ScoreSdeVePipeline", "unet"
        # DDPMPipeline never asks its scheduler to scale what goes into the network.
        scaled = scheduler["_class_name"] == "EDMEulerScheduler"
        return "DiffusionPipeline" if scaled else "DDPMPipeline", "unet"
    if isinstance(net, DiffusersUNet2DCondition):
        if scheduler["_class_name"] == "LCMScheduler":
            return "LatentConsistencyModelPipeline", "unet"
        xl = net.inner.config["addition_embed_type"] == "text_time"
        return f"StableDiffusion{'XL' if xl else ''}Pipeline", "unet"
    if isinstance(net, DiffusersPixArt):
        # They differ in the length of texts alone.
        below = text.below if isinstance(text, PipelineText) else None
        return (
            f"PixArt{'Sigma' if below and below.length > 120 else 'Alpha'}Pipeline",
            "transformer",
        )
    names = {
        DiffusersDiT: "DiTPipeline",
        MMDiT: "StableDiffusion3Pipeline",
        DiffusersFlux: "FluxPipeline",
    }
    found = next((name for cls, name in names.items() if isinstance(net, cls)), None)
    if found is None:
        raise InputError(f"diffusers has no pipeline of a {type(net).__name__}")
    return found, "transformer"


def _codec_part(name: str) -> str:
    return "vqvae" if name == "LDMPipeline" else "vae"


def _index(
    name: str,
    part: str,
    kind: str,
    scheduler: dict[str, Any],
    model: Any,
    text: Any,
    codec: str | None,
) -> dict[str, Any]:
    index: dict[str, Any] = {"_class_name": name, "_diffusers_version": VERSION}
    index[part] = ["diffusers", kind]
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    if codec is not None:
        index[_codec_part(name)] = ["diffusers", codec]
    given = {} if not isinstance(text, PipelineText) else _text_index(text)
    for end in TEXT_PARTS.get(name, ()):
        for place in (f"text_encoder{end}", f"tokenizer{end}"):
            index[place] = given.get(place, [None, None])
    for place in OPTIONAL.get(name, ()):
        index[place] = [None, None]
    if name in ("StableDiffusionPipeline", "LatentConsistencyModelPipeline"):
        index["requires_safety_checker"] = False
    if name == "StableDiffusionXLPipeline" and isinstance(text, PipelineText):
        index["force_zeros_for_empty_prompt"] = text.zero_empty
    if model.spec.class_names is not None:
        index["id2label"] = {str(k): n for k, n in enumerate(model.spec.class_names)}
    return index


def _text_index(text: PipelineText) -> dict[str, list[str]]:
    from pushforward.interop.diffusers.files import CONFIG, read_json

    found = {}
    for tower in text.all:
        config = read_json(text.path / tower.encoder / CONFIG)
        found[tower.encoder] = [TRANSFORMERS, (config.get("architectures") or [""])[0]]
        clip = found[tower.encoder][1].startswith("CLIP")
        file = text.path / tower.tokenizer / "tokenizer_config.json"
        named = read_json(file).get("tokenizer_class") if file.is_file() else None
        found[tower.tokenizer] = [
            TRANSFORMERS,
            named or ("CLIPTokenizer" if clip else "T5TokenizerFast"),
        ]
    return found


def _codec(codec: Any) -> nn.Module:
    """The autoencoder of a codec, whose one scale and shift are those of the latents."""
    if not isinstance(codec, Latents):
        raise InputError(f"diffusers has no equal of the codec {type(codec).__name__}")
    net, mean, std = codec.net, codec.mean, codec.std
    scale, shift = 1 / net.scaling_factor, net.shift_factor
    same = torch.allclose(std, torch.full_like(std, scale), rtol=1e-6, atol=0)
    if same and torch.allclose(mean, torch.full_like(mean, shift), rtol=1e-6, atol=1e-7):
        return net
    if not isinstance(net, AutoencoderKL):
        raise InputError(
            f"the latents have a mean and a scale for each channel, and a {type(net).__name__} of diffusers has one of "
            f"all: only AutoencoderKL can take them into its weights"
        )
    return folded(net, mean, std)


def folded(net: AutoencoderKL, mean: Tensor, std: Tensor) -> AutoencoderKL:
    """The same autoencoder, whose latents are (z - mean)/std: by its 1 x 1 convolutions, behind the encoder and before
    the decoder."""
    config = {
        **net.config,
        "quant": True,
        "post_quant": True,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
    }
    out = AutoencoderKL(**config)
    state = dict(net.state_dict())
    count, one = net.latent, state["encoder.conv_in.weight"]
    eye = torch.eye(count).to(one)[..., None, None]
    m, s = mean.to(one), std.to(one)
    zero = torch.zeros(count).to(one)
    weight = state.get("quant_conv.weight", torch.eye(2 * count).to(one)[..., None, None])
    bias = state.get("quant_conv.bias", torch.cat((zero, zero)))
    # Mean and log variance: the former is scaled, the latter moved.
    gain = torch.cat((1 / s, torch.ones_like(s)))
    state["quant_conv.weight"] = gain[:, None, None, None] * weight
    state["quant_conv.bias"] = gain * bias - torch.cat((m / s, 2 * s.log()))
    weight, bias = state.get("post_quant_conv.weight", eye), state.get("post_quant_conv.bias", zero)
    state["post_quant_conv.weight"] = weight * s[None, :, None, None]
    state["post_quant_conv.bias"] = bias + weight[..., 0, 0] @ m
    out.to(one.dtype).load_state_dict(state)
    return out.requires_grad_(False).eval()
