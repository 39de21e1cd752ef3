"""Networks by diffusers' names of their classes: native where the library has an equal one, adapters elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pushforward.core.errors import CheckpointError, InputError
from pushforward.interop.diffusers.files import (
    CONFIG,
    fill,
    read_json,
    read_weights,
    without_weights,
)
from pushforward.interop.diffusers.schedules import Schedule
from pushforward.nets.adapters import (
    Adapter,
    DiffusersDiT,
    DiffusersFlux,
    DiffusersPixArt,
    DiffusersUNet2D,
    DiffusersUNet2DCondition,
    accepted,
)
from pushforward.nets.autoencoder_kl import AutoencoderKL, from_kl_config, kl_config
from pushforward.nets.autoencoder_tiny import AutoencoderTiny, from_tiny_config, tiny_config
from pushforward.nets.clocks import NoiseClock, SameClock
from pushforward.nets.mmdit import MMDiT
from pushforward.nets.sd3 import from_sd3_config, sd3_config, sd3_state
from pushforward.nets.vq import DiffusersVQ
from pushforward.saving.tensors import plain

State = Mapping[str, Tensor]
# What attention in the middle of an autoencoder was called before diffusers 0.18.
OLD_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
# What an average of weights writes into config.json besides.
AVERAGES = (
    "decay",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "update_after_step",
    "use_ema_warmup",
)


@dataclass(frozen=True)
class Kind:
    """How a class of diffusers is read.

    build: (configuration, schedule or None) -> the network, without weights. read: tensors by the network's own names.
    """

    build: Callable[[Mapping[str, Any], Schedule | None], nn.Module]
    read: Callable[[State], dict[str, Tensor]] = dict


def _adapted(cls: type[Adapter]) -> Kind:
    def build(config: Mapping[str, Any], schedule: Schedule | None) -> nn.Module:
        given = accepted(cls.kind, config)
        if schedule is None:
            return cls(**given)
        clock = schedule.clock
        if cls is DiffusersFlux and isinstance(clock, NoiseClock):
            clock = NoiseClock(1.0)  # its network has its own factor of 1000
        return cls(clock=clock, sign=schedule.sign, outputs=_outputs(config), **given)

    return Kind(build, lambda state: {f"inner.{name}": x for name, x in renamed(state).items()})


def _outputs(config: Mapping[str, Any]) -> int:
    """2 where a network gives twice the channels of its state."""
    inside, outside = config.get("in_channels"), config.get("out_channels")
    return 2 if inside is not None and outside == 2 * inside else 1


def _sd3(config: Mapping[str, Any], schedule: Schedule | None) -> nn.Module:
    if schedule is not None and schedule.clock != NoiseClock(1000):
        raise InputError(
            f"SD3's transformer is read for flows that count 1000 (1 - t), and the scheduler counts {schedule.clock}"
        )
    defaults = {
        "sample_size": 128, "patch_size": 2, "in_channels": 16, "num_layers": 18, "attention_head_dim": 64,
        "num_attention_heads": 18, "joint_attention_dim": 4096, "caption_projection_dim": 1152,
        "pooled_projection_dim": 2048, "out_channels": 16, "pos_embed_max_size": 96,
    }  # fmt: skip
    return MMDiT(**from_sd3_config(defaults | dict(config)))


def _kl(config: Mapping[str, Any], schedule: Schedule | None) -> nn.Module:
    defaults = {
        "in_channels": 3, "out_channels": 3, "down_block_types": ["DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D"], "block_out_channels": [64], "layers_per_block": 1, "act_fn": "silu",
        "latent_channels": 4, "norm_num_groups": 32, "scaling_factor": 0.18215,
    }  # fmt: skip
    return AutoencoderKL(**from_kl_config(defaults | dict(config)))


def _tiny(config: Mapping[str, Any], schedule: Schedule | None) -> nn.Module:
    defaults = {
        "in_channels": 3, "out_channels": 3, "encoder_block_out_channels": [64] * 4,
        "decoder_block_out_channels": [64] * 4, "act_fn": "relu", "upsample_fn": "nearest", "latent_channels": 4,
        "upsampling_scaling_factor": 2, "num_encoder_blocks": [1, 3, 3, 3], "num_decoder_blocks": [3, 3, 3, 1],
        "scaling_factor": 1.0, "shift_factor": 0.0,
    }  # fmt: skip
    return AutoencoderTiny(**from_tiny_config(defaults | dict(config)))


def renamed(state: State) -> dict[str, Tensor]:
    """Weights under today's names, which old files have others for."""
    out = {}
    for name, x in state.items():
        for old, new in OLD_NAMES.items():
            name = name.replace(old, new)
        out[name] = x
    return out


ADAPTERS = (
    DiffusersUNet2D,
    DiffusersUNet2DCondition,
    DiffusersDiT,
    DiffusersPixArt,
    DiffusersFlux,
)
DENOISERS: dict[str, Kind] = {
    "SD3Transformer2DModel": Kind(_sd3, sd3_state),
    **{cls.kind: _adapted(cls) for cls in ADAPTERS},
    # DiT before diffusers 0.29.
    "Transformer2DModel": _adapted(DiffusersDiT),
}
AUTOENCODERS: dict[str, Kind] = {
    "AutoencoderKL": Kind(_kl, renamed),
    "AutoencoderTiny": Kind(_tiny),
    "VQModel": Kind(
        lambda config, _: DiffusersVQ(**accepted("VQModel", config)),
        lambda state: {f"inner.{name}": x for name, x in renamed(state).items()},
    ),
}
KINDS = DENOISERS | AUTOENCODERS


def read_network(folder: Path, schedule: Schedule | None = None) -> nn.Module:
    """The network in a folder with config.json, frozen. schedule: of the pipeline that it belongs to."""
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} is no part of diffusers: it has no {CONFIG}")
    config = read_json(folder / CONFIG)
    name = config.get("_class_name")
    if not isinstance(name, str):
        raise CheckpointError(f"{folder / CONFIG} does not say of which class it is: _class_name")
    if name not in KINDS:
        near = get_close_matches(name, KINDS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(
            f"{folder}: the class {name} is not known here; known are {', '.join(KINDS)}{hint}"
        )
    if name == "Transformer2DModel" and config.get("norm_type") != "ada_norm_zero":
        raise InputError(
            f"{folder}: of the class Transformer2DModel only DiT is known (ada_norm_zero)"
        )
    kind = KINDS[name]
    try:
        with without_weights():
            net = kind.build(_known(config), schedule)
    except (InputError, CheckpointError) as error:
        raise type(error)(f"{folder}: {error}") from error
    except Exception as error:  # whatever a configuration of the wrong kind leads to
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"{folder / CONFIG} does not describe a {name}: {type(error).__name__}: {reason}"
        ) from error
    fill(net, kind.read(read_weights(folder)), folder)
    return net.requires_grad_(False).eval()


def _known(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if not k.startswith("_") and k not in AVERAGES}


def write_network(net: nn.Module) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Class of diffusers, configuration and weights of a network. InputError if diffusers has no equal."""
    if isinstance(net, Adapter | DiffusersVQ):
        return net.kind, net.inner_config, plain(net.inner.state_dict())
    if isinstance(net, MMDiT):
        return "SD3Transformer2DModel", sd3_config(net), plain(sd3_state(net.state_dict()))
    if isinstance(net, AutoencoderKL):
        return "AutoencoderKL", kl_config(net), plain(net.state_dict())
    if isinstance(net, AutoencoderTiny):
        return "AutoencoderTiny", tiny_config(net), plain(net.state_dict())
    raise InputError(
        f"diffusers has no network equal to {type(net).__name__}: what can be written is MMDiT with positions='table', "
        f"AutoencoderKL, AutoencoderTiny, and what was read from diffusers"
    )


def clock_of(net: nn.Module) -> Any:
    """The clock of a denoiser; None for one that says nothing of it."""
    if isinstance(net, MMDiT):
        return NoiseClock(1000.0)
    return net.clock if isinstance(net, Adapter) else None


def sign_of(net: nn.Module) -> int:
    return net.sign if isinstance(net, Adapter) else 1


__all__ = ["SameClock", "clock_of", "read_network", "sign_of", "write_network"]
