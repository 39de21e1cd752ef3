"""What turns `CLIP` and its towers into those of transformers and back: configuration and names of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.nets.clip import ACTIVATIONS, CLIP, CLIPImage, CLIPText

# The id that the published configurations name as the end of a text, and that is not the one in their vocabulary.
LEGACY_END = 2
# Where weights of transformers' CLIPModel belong, by their first names.
TOWERS = {
    "text_model": "text.",
    "text_projection": "text.",
    "vision_model": "image.",
    "visual_projection": "image.",
}


def text_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `CLIPText`, but for the projection, from transformers' `CLIPTextConfig` as a dictionary."""
    end = config.get("eos_token_id", LEGACY_END)
    return {
        "vocabulary": config["vocab_size"],
        "length": config["max_position_embeddings"],
        "end": None if end == LEGACY_END else end,
        **_shared(config),
    }


def image_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `CLIPImage`, but for the projection, from transformers' `CLIPVisionConfig` as a dictionary."""
    return {
        "channels": config.get("num_channels", 3),
        "size": config["image_size"],
        "patch": config["patch_size"],
        **_shared(config),
    }


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    activation = config.get("hidden_act", "quick_gelu")
    if activation not in ACTIVATIONS:
        raise InputError(f"hidden_act is {activation!r}; known are {', '.join(ACTIVATIONS)}")
    return {
        "width": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "mlp": config["intermediate_size"],
        "activation": activation,
        "eps": config.get("layer_norm_eps", 1e-5),
    }


def from_clip_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `CLIP` from transformers' `CLIPConfig`, its config.json."""
    return {
        "text": text_arguments(config["text_config"]),
        "image": image_arguments(config["vision_config"]),
        "dim": config["projection_dim"],
    }


def clip_config(net: CLIP) -> dict[str, Any]:
    """transformers' `CLIPConfig` of the same layout, as its constructor takes it."""
    dim = net.dim
    return {
        "text_config": text_config(net.text) | {"projection_dim": dim},
        "vision_config": image_config(net.image) | {"projection_dim": dim},
        "projection_dim": dim,
        "logit_scale_init_value": float(net.logit_scale.detach()),
    }


def text_config(net: CLIPText) -> dict[str, Any]:
    """transformers' `CLIPTextConfig` of the same layout.

    Raises InputError where the id at which texts are read is 2, which transformers takes for another rule.
    """
    if net.end == LEGACY_END:
        raise InputError(
            "transformers reads a text whose end has the id 2 at its largest id instead: give the end another id"
        )
    end = LEGACY_END if net.end is None else net.end
    return {
        "vocab_size": net.vocabulary,
        "max_position_embeddings": net.length,
        "eos_token_id": end,
        "bos_token_id": None,
        "pad_token_id": None,
        **_shared_config(net.config),
    }


def image_config(net: CLIPImage) -> dict[str, Any]:
    """transformers' `CLIPVisionConfig` of the same layout."""
    return {
        "num_channels": net.channels,
        "image_size": net.size,
        "patch_size": net.config["patch"],
        **_shared_config(net.config),
    }


def _shared_config(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "hidden_size": config["width"],
        "num_hidden_layers": config["depth"],
        "num_attention_heads": config["heads"],
        "intermediate_size": config["mlp"] or 4 * config["width"],
        "hidden_act": config["activation"],
        "layer_norm_eps": config["eps"],
    }


def from_clip_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of `CLIP` from those of transformers' `CLIPModel`: each tower holds its own projection here."""
    found = {}
    for name, value in state.items():
        if name.endswith("position_ids"):
            continue  # Folders of older versions hold these counts.
        first = name.partition(".")[0]
        found[TOWERS.get(first, "") + name] = value
    return found


def clip_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of transformers' `CLIPModel` from those of `CLIP`."""
    return {
        name.removeprefix("text.").removeprefix("image."): value for name, value in state.items()
    }
