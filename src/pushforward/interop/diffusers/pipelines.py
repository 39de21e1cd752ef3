"""Folders of diffusers, read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from pushforward.core.errors import CheckpointError, InputError
from pushforward.core.spec import DataSpec, Provenance, SamplingDefaults
from pushforward.interop.diffusers.files import CONFIG, INDEX, SCHEDULER, read_json
from pushforward.interop.diffusers.networks import KINDS, read_network
from pushforward.interop.diffusers.schedules import Schedule, read_schedule
from pushforward.models.base import declared_outputs
from pushforward.models.flow_map import FlowMapModel
from pushforward.models.latent import Latents
from pushforward.models.model import OUTPUTS, Model
from pushforward.models.pipeline_text import PipelineText, Tower
from pushforward.nets.adapters import Adapter, DiffusersDiT, DiffusersFlux, DiffusersUNet2D
from pushforward.nets.autoencoder import Autoencoder
from pushforward.nets.mmdit import MMDiT

# Our records of a model that was exported, beside what diffusers reads.
RECORDS = "pushforward.json"
FLUX_SIZE = 128


def from_diffusers(folder: str | Path) -> Any:
    """The model in a folder of diffusers, ready to sample, tune, distil, evaluate and save.

    A pipeline (`model_index.json`) gives a Model, or a FlowMapModel if it is a consistency model: its network, the path
    and prediction of its scheduler, its autoencoder as codec, its text encoders as `encoders["prompt"]`, its classes by
    name. A single part (`config.json`) gives the network alone, frozen; a scheduler (`scheduler_config.json`) gives a
    `Schedule`.

    Weights are mapped from the files, and keep their precision. Nothing in the folder is executed: pickles are read by
    `weights_only=True`, and classes come from a fixed list. Raises CheckpointError for what is missing or damaged, and
    InputError for what this library does not know.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}")
    if (folder / INDEX).is_file():
        return _pipeline(folder)
    if (folder / CONFIG).is_file():
        return read_network(folder)
    if (folder / SCHEDULER).is_file():
        return _located(folder, lambda: read_schedule(read_json(folder / SCHEDULER)))
    raise CheckpointError(
        f"{folder} is no folder of diffusers: it has neither {INDEX} of a pipeline nor {CONFIG} of a part"
    )


def _located(folder: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error


def _pipeline(folder: Path) -> Model | FlowMapModel:
    index = read_json(folder / INDEX)
    name = index.get("_class_name")
    if name not in PIPELINES:
        near = get_close_matches(str(name), PIPELINES, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(
            f"{folder}: the pipeline {name} is not known here; known are {', '.join(PIPELINES)}{hint}"
        )
    parts = {key for key, value in index.items() if isinstance(value, list) and value[:1] != [None]}
    denoiser = next((part for part in ("unet", "transformer") if part in parts), None)
    if denoiser is None or "scheduler" not in parts:
        raise CheckpointError(
            f"{folder / INDEX} names no {'scheduler' if denoiser else 'unet or transformer'}"
        )
    for part in sorted(parts & {denoiser, "scheduler", "vae", "vqvae"}):
        if not (folder / part).is_dir():
            raise CheckpointError(f"{folder} lacks the folder {part}, which {INDEX} names")
    where = folder / "scheduler"
    schedule: Schedule = _located(where, lambda: read_schedule(read_json(where / SCHEDULER)))
    net = read_network(folder / denoiser, schedule)
    vae = next((part for part in ("vae", "vqvae") if part in parts), None)
    codec = None if vae is None else _codec(folder / vae)
    encode = PIPELINES[name]
    encoder = None if encode is None else encode(folder, index, net)
    guided = None if schedule.jumps is not None or encoder is None else GUIDANCE.get(name)
    defaults = SamplingDefaults(prompt_guidance=guided, shift=_shift(schedule, net))
    spec, sampling = _records(folder, _spec(folder, net, codec, index), defaults)
    classes = spec.classes is not None and not isinstance(net, DiffusersUNet2D)
    nulls = ({} if encoder is None else dict(encoder.nulls)) | ({"label": -1} if classes else {})
    outputs = OUTPUTS[(declared_outputs(net) or 1) - 1]
    model = Model(
        net,
        schedule.path,
        schedule.prediction,
        schedule.preconditioning,
        outputs=outputs,
        spec=spec,
        nulls=nulls,
        sampling=sampling,
        provenance=Provenance(method="imported from diffusers"),
        encoders=None if encoder is None else {"prompt": encoder},
        codec=codec,
    )
    model.requires_grad_(False).eval()
    return model if schedule.jumps is None else FlowMapModel(model, schedule.jumps).eval()


def _shift(schedule: Schedule, net: nn.Module) -> float | None:
    """By which times are shifted for pictures of the size that the network was trained with."""
    _, size = state_of(net)
    if schedule.dynamic is None or size is None:
        return schedule.shift
    if isinstance(net, Adapter):
        patch = 2 if isinstance(net, DiffusersFlux) else net.inner.config.get("patch_size", 1)
    else:
        assert isinstance(net, MMDiT)
        patch = net.patch
    return schedule.dynamic.at(size[0] // patch * (size[1] // patch))


def _codec(folder: Path) -> Latents:
    net = read_network(folder)
    if not isinstance(net, Autoencoder):
        raise InputError(f"{folder} holds a {type(net).__name__}, and an autoencoder is needed")
    size = net.latent
    return Latents(net, [net.shift_factor] * size, [1 / net.scaling_factor] * size)


def _spec(
    folder: Path, net: nn.Module, codec: Latents | None, index: Mapping[str, Any]
) -> DataSpec:
    """Pictures of the size that the network was trained with, and its classes."""
    channels, size = state_of(net)
    if codec is not None and channels != codec.net.latent:
        raise CheckpointError(
            f"{folder}: the network has states of {channels} channels, and the autoencoder latents of "
            f"{codec.net.latent}"
        )
    factor, colours = (1, channels) if codec is None else (codec.factor, codec.channels)
    shape = () if size is None else (colours, size[0] * factor, size[1] * factor)
    count = classes_of(net)
    names = _names(folder, index.get("id2label"), count)
    return DataSpec(
        shape,
        kind="image",
        value_range=(-1.0, 1.0),
        bin_width=2 / 255 if codec is None else None,
        classes=count,
        class_names=names,
    )


def state_of(net: nn.Module) -> tuple[int, tuple[int, int] | None]:
    """Channels of a denoiser's state, and its sides; None if they are not known."""
    if isinstance(net, MMDiT):
        size = net.config["size"]
        return net.channels, None if size is None else (size, size)
    assert isinstance(net, Adapter)
    config = net.inner.config
    if isinstance(net, DiffusersFlux):
        return config["in_channels"] // 4, (FLUX_SIZE, FLUX_SIZE)
    outputs = int(net.config["outputs"])
    channels = (config["out_channels"] or config["in_channels"]) // outputs
    size = config["sample_size"]
    if size is None:
        return channels, None
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return channels, (height, width)


def classes_of(net: nn.Module) -> int | None:
    """The number of classes of a denoiser, or None."""
    if isinstance(net, DiffusersDiT):
        return int(net.inner.config["num_embeds_ada_norm"])
    config = net.inner.config if isinstance(net, Adapter) else {}
    count = config.get("num_class_embeds")
    return int(count) if count and config.get("class_embed_type") is None else None


def _names(folder: Path, given: Any, count: int | None) -> tuple[str, ...] | None:
    """Class names from id2label."""
    if given is None or count is None:
        return None
    try:
        by_number = {int(key): str(value) for key, value in given.items()}
    except (AttributeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / INDEX}: id2label does not name classes by number"
        ) from error
    strange = [k for k in by_number if not 0 <= k < count]
    if strange:
        raise CheckpointError(
            f"{folder / INDEX}: id2label names class {strange[0]}, and the network has {count}"
        )
    return tuple(by_number.get(k, str(k)) for k in range(count))


def _records(
    folder: Path, spec: DataSpec, usual: SamplingDefaults
) -> tuple[DataSpec, SamplingDefaults]:
    """The records of a model, those that it was exported with where there are any."""
    if not (folder / RECORDS).is_file():
        return spec, usual
    found = read_json(folder / RECORDS)
    try:
        own = DataSpec.from_config(found.get("spec", {}))
        sampling = SamplingDefaults.from_config(found.get("sampling", {}))
    except (InputError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / RECORDS}: {error}") from error
    if own.classes != spec.classes or (spec.shape and own.shape and own.shape[0] != spec.shape[0]):
        raise CheckpointError(
            f"{folder / RECORDS} describes other data than the network draws: {own.classes} classes of shape "
            f"{own.shape}, and {spec.classes} of {spec.shape}"
        )
    return own, replace(sampling, shift=usual.shift)


# Text encoders, by pipeline.

Encode = Callable[[Path, Mapping[str, Any], nn.Module], PipelineText | None]


def _length(folder: Path, tokenizer: str) -> int:
    """Rows of CLIP, 77 unless its tokenizer says less."""
    path = folder / tokenizer / "tokenizer_config.json"
    found = read_json(path).get("model_max_length", 77) if path.is_file() else 77
    return int(found) if isinstance(found, int | float) and 0 < found < 1 << 20 else 77


def _there(index: Mapping[str, Any], part: str) -> bool:
    value = index.get(part)
    return isinstance(value, list) and value[:1] != [None]


def _clip(folder: Path, suffix: str = "", **options: Any) -> Tower:
    tokenizer = f"tokenizer{suffix}"
    return Tower(f"text_encoder{suffix}", tokenizer, _length(folder, tokenizer), **options)


def _stable_diffusion(folder: Path, index: Mapping[str, Any], _: nn.Module) -> PipelineText | None:
    if not _there(index, "text_encoder"):
        return None
    return PipelineText(str(folder), (_clip(folder),))


def _xl(folder: Path, index: Mapping[str, Any], _: nn.Module) -> PipelineText | None:
    if not _there(index, "text_encoder_2"):
        return None
    first = (_clip(folder, layer=-2),) if _there(index, "text_encoder") else ()
    second = _clip(folder, "_2", layer=-2, pooled=True)
    zero = bool(index.get("force_zeros_for_empty_prompt", True))
    return PipelineText(str(folder), (*first, second), zero_empty=zero)


def _stable_diffusion_3(
    folder: Path, index: Mapping[str, Any], net: nn.Module
) -> PipelineText | None:
    if not (_there(index, "text_encoder") and _there(index, "text_encoder_2")):
        return None
    towers = tuple(_clip(folder, end, layer=-2, pooled=True) for end in ("", "_2"))
    if _there(index, "text_encoder_3"):
        return PipelineText(str(folder), towers, Tower("text_encoder_3", "tokenizer_3", 256))
    width = net.text if isinstance(net, MMDiT) else None
    return PipelineText(str(folder), towers, width=width, length=256)


def _flux(folder: Path, index: Mapping[str, Any], _: nn.Module) -> PipelineText | None:
    if not (_there(index, "text_encoder") and _there(index, "text_encoder_2")):
        return None
    clip = _clip(folder, tokens=False, pooled=True)
    return PipelineText(str(folder), (clip,), Tower("text_encoder_2", "tokenizer_2", 512))


def _pixart(length: int) -> Encode:
    """T5 alone, whose padding is not attended to. length: of the pipeline's texts."""

    def encode(folder: Path, index: Mapping[str, Any], _: nn.Module) -> PipelineText | None:
        if not _there(index, "text_encoder"):
            return None
        tower = Tower("text_encoder", "tokenizer", length, masked=True, lower=True)
        return PipelineText(str(folder), (), tower)

    return encode


# The scale that a pipeline guides by if none is given; FLUX has one inside of its network.
GUIDANCE = {
    "StableDiffusionPipeline": 7.5,
    "StableDiffusionImg2ImgPipeline": 7.5,
    "StableDiffusionXLPipeline": 5.0,
    "StableDiffusion3Pipeline": 7.0,
    "PixArtAlphaPipeline": 4.5,
    "PixArtSigmaPipeline": 4.5,
}
# Pipelines that are read, with how they encode texts; None for those that take none.
PIPELINES: dict[str, Encode | None] = {
    "DDPMPipeline": None,
    "DDIMPipeline": None,
    "PNDMPipeline": None,
    "ScoreSdeVePipeline": None,
    "LDMPipeline": None,
    "DiTPipeline": None,
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusionImg2ImgPipeline": _stable_diffusion,
    "LatentConsistencyModelPipeline": _stable_diffusion,
    "StableDiffusionXLPipeline": _xl,
    "StableDiffusion3Pipeline": _stable_diffusion_3,
    "FluxPipeline": _flux,
    "PixArtAlphaPipeline": _pixart(120),
    "PixArtSigmaPipeline": _pixart(300),
    # What `to_diffusers` writes where diffusers has the parts and no pipeline of them.
    "DiffusionPipeline": None,
}

__all__ = ["KINDS", "from_diffusers"]
