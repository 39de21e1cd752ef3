"""Tiny pipelines of diffusers with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn


def randomised(net: nn.Module, seed: int = 0, std: float = 0.1) -> Any:
    """All weights drawn, also those that start at 0, so that nothing can be absent without notice."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            drawn = torch.randn(parameter.shape, generator=generator) * std
            parameter.copy_(drawn if parameter.ndim > 1 else 1 + drawn)
    return net.eval().requires_grad_(False)


def unet(**changes: Any) -> Any:
    config: dict[str, Any] = {
        "sample_size": 8, "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "block_out_channels": (8, 16),
        "norm_num_groups": 4, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 4,
    }  # fmt: skip
    return randomised(diffusers.UNet2DModel(**config | changes))


def unet_condition(**changes: Any) -> Any:
    config: dict[str, Any] = {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "block_out_channels": (8, 16),
        "norm_num_groups": 4, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": 12, "attention_head_dim": 4,
    }  # fmt: skip
    return randomised(diffusers.UNet2DConditionModel(**config | changes))


def dit(**changes: Any) -> Any:
    config: dict[str, Any] = {
        "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8, "num_layers": 2,
        "sample_size": 8, "patch_size": 2, "num_embeds_ada_norm": 5, "norm_num_groups": 4,
    }  # fmt: skip
    return randomised(diffusers.DiTTransformer2DModel(**config | changes))


def pixart(**changes: Any) -> Any:
    config: dict[str, Any] = {
        "num_attention_heads": 3, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8, "num_layers": 2,
        "sample_size": 8, "patch_size": 2, "cross_attention_dim": 24, "caption_channels": 24, "norm_num_groups": 4,
    }  # fmt: skip
    return randomised(diffusers.PixArtTransformer2DModel(**config | changes))


def sd3(**changes: Any) -> Any:
    config: dict[str, Any] = {
        "sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 2,
        "attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 24, "caption_projection_dim": 16,
        "pooled_projection_dim": 16, "pos_embed_max_size": 8,
    }  # fmt: skip
    return randomised(diffusers.SD3Transformer2DModel(**config | changes))


def flux(**changes: Any) -> Any:
    config: dict[str, Any] = {
        "in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
        "joint_attention_dim": 24, "pooled_projection_dim": 8, "axes_dims_rope": (4, 4, 8), "guidance_embeds": True,
    }  # fmt: skip
    return randomised(diffusers.FluxTransformer2DModel(**config | changes))


def kl(**changes: Any) -> Any:
    config: dict[str, Any] = {
        "block_out_channels": (8, 16), "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 4, "latent_channels": 4,
        "scaling_factor": 1.5, "shift_factor": 0.1,
    }  # fmt: skip
    return randomised(diffusers.AutoencoderKL(**config | changes))


def taesd(**changes: Any) -> Any:
    config: dict[str, Any] = {
        "encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8), "num_encoder_blocks": (1, 2),
        "num_decoder_blocks": (2, 1), "latent_channels": 4,
    }  # fmt: skip
    return randomised(diffusers.AutoencoderTiny(**config | changes))


def vq(**changes: Any) -> Any:
    config: dict[str, Any] = {
        "block_out_channels": (8, 16), "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 4, "latent_channels": 3,
        "num_vq_embeddings": 32, "scaling_factor": 0.5,
    }  # fmt: skip
    return randomised(diffusers.VQModel(**config | changes))


def close(got: Tensor, want: Tensor, bound: float = 1e-5) -> bool:
    """Equal to `bound`, relative to the largest value."""
    assert got.shape == want.shape
    return float((got - want).abs().max()) <= bound * max(1.0, float(want.abs().max()))


def edit_json(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file; None removes one."""
    found = json.loads(path.read_text())
    found.update(changes)
    path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))
