"""What turns `MMDiT` into Stable Diffusion 3's transformer and back: its configuration, its sign, its text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from pushforward.core.errors import InputError
from pushforward.nets.mmdit import MMDiT


def from_sd3_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `MMDiT` from the configuration of diffusers' `SD3Transformer2DModel`, its config.json."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    inside, outside = config["in_channels"], config["out_channels"] or config["in_channels"]
    if config["caption_projection_dim"] != width:
        raise InputError(
            f"caption_projection_dim is {config['caption_projection_dim']} where the tokens have {width} = "
            f"num_attention_heads x attention_head_dim coordinates: such a transformer does not run"
        )
    if config.get("qk_norm") not in (None, "rms_norm"):
        raise InputError(f"qk_norm is None or 'rms_norm' in SD3, not {config['qk_norm']!r}")
    return {
        "channels": outside,
        "in_channels": None if inside == outside else inside,
        "patch": config["patch_size"],
        "width": width,
        "depth": config["num_layers"],
        "heads": config["num_attention_heads"],
        "text": config["joint_attention_dim"],
        "pooled": config["pooled_projection_dim"],
        "positions": "table",
        "size": config["sample_size"],
        "max_size": config["pos_embed_max_size"],
        "qk_norm": config.get("qk_norm") is not None,
        "dual_attention": list(config.get("dual_attention_layers") or ()),
    }


def sd3_config(net: MMDiT) -> dict[str, Any]:
    """The configuration of diffusers' `SD3Transformer2DModel` of the same layout. InputError if there is none."""
    config = net.config
    absent = ("classes", "single_blocks", "bottleneck", "stem", "two_times", "features")
    more = [name for name in absent if config[name]]
    if more:
        raise InputError(f"SD3's transformer has no {', '.join(more)}: build the MMDiT without")
    if config["time"] != "sinusoidal":
        raise InputError(
            "SD3's transformer has sinusoidal features of time: build the MMDiT with time='sinusoidal'"
        )
    if config["positions"] != "table" or not config["text"] or not config["pooled"]:
        raise InputError(
            "SD3's transformer has a text, a pooled vector and a table of positions: build the MMDiT with text=, "
            "pooled=, positions='table', size= and max_size="
        )
    width, heads = config["width"], config["heads"]
    return {
        "sample_size": config["size"],
        "patch_size": config["patch"],
        "in_channels": config["in_channels"] or config["channels"],
        "num_layers": config["depth"],
        "attention_head_dim": width // heads,
        "num_attention_heads": heads,
        "joint_attention_dim": config["text"],
        "caption_projection_dim": width,
        "pooled_projection_dim": config["pooled"],
        "out_channels": config["channels"] * config["outputs"],
        "pos_embed_max_size": config["max_size"],
        "dual_attention_layers": list(config["dual_attention"]),
        "qk_norm": "rms_norm" if config["qk_norm"] else None,
    }


def sd3_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights with the last layer's sign turned: SD3 predicts noise - data, a model here data - noise.

    It is its own inverse: for weights that come and for weights that go.
    """
    turned = ("proj_out.weight", "proj_out.bias")
    return {name: -value if name in turned else value for name, value in state.items()}


def sd3_text(clip: Tensor, t5: Tensor | None, width: int = 4096, length: int = 256) -> Tensor:
    """SD3's text: the tokens of its CLIP towers, side by side and filled up to `width`, then those of T5.

        clip: (B, 77, 768 + 1280), t5: (B, 256, width) -> (B, 77 + 256, width)

    Without T5 its `length` tokens are zeros, and they are attended to: that is not the same as no tokens.
    """
    if clip.ndim != 3 or clip.shape[2] > width:
        raise InputError(
            f"the tokens of CLIP are (B, L, {width} at most) together, got {tuple(clip.shape)}"
        )
    if t5 is None:
        t5 = clip.new_zeros(clip.shape[0], length, width)
    if t5.ndim != 3 or t5.shape[0] != clip.shape[0] or t5.shape[2] != width:
        raise InputError(
            f"the tokens of T5 are ({clip.shape[0]}, L, {width}), got {tuple(t5.shape)}"
        )
    return torch.cat((pad(clip, (0, width - clip.shape[2])), t5), dim=1)
