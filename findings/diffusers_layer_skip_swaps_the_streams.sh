#!/usr/bin/env bash
# diffusers' layer skipping, of skip-layer and perturbed-attention guidance, fails on its own SD3 and FLUX transformers.
#
# Their blocks return the text's tokens first and the picture's second; the hook that skips a block returns them the
# other way round, so that the two streams are exchanged: SD3 raises, FLUX goes on and answers with as many tokens as
# the text has. The hook that skips attention scores does not know their attention classes and raises.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'cd / && rm -rf "$folder"' EXIT
source "$here/environment.bash"
environment torch==2.13.0 numpy==2.4.6 diffusers==0.42.1
observe <<'PYTHON'
from report import expected, seen, versions

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from diffusers.hooks import LayerSkipConfig, apply_layer_skip

versions("torch", "diffusers")
torch.manual_seed(0)
SCORES = {"skip_attention": False, "skip_attention_scores": True, "skip_ff": False}


def sd3():
    net = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=24, caption_projection_dim=16, pooled_projection_dim=16,
        pos_embed_max_size=8,
    )
    return net, (torch.randn(1, 4, 8, 8), torch.randn(1, 3, 24), torch.randn(1, 16), torch.tensor([500.0])), {}


def flux():
    net = FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8),
    )
    places = torch.zeros(16, 3)
    given = {"txt_ids": torch.zeros(3, 3), "img_ids": places, "guidance": None}
    return net, (torch.randn(1, 16, 16), torch.randn(1, 3, 24), torch.randn(1, 8), torch.tensor([0.5])), given


def outcome(make, **options):
    net, arguments, named = make()
    try:
        apply_layer_skip(net, LayerSkipConfig(indices=[0], fqn="transformer_blocks", **options))
        with torch.no_grad():
            return f"answers with shape {tuple(net(*arguments, **named).sample.shape)}"
    except (RuntimeError, ValueError, AttributeError) as error:
        return f"{type(error).__name__}: {str(error)[:90]}"


expected("FLUX answers (1, 16, 16), for 16 tokens of the picture beside 3 of the text; SD3 answers (1, 4, 8, 8)")
result = outcome(flux)
seen(f"FLUX, block 0 skipped: {result}", result == "answers with shape (1, 3, 16)")
result = outcome(sd3)
seen(f"SD3, block 0 skipped: {result}", result.startswith("RuntimeError: shape"))
for name, make in (("FLUX", flux), ("SD3", sd3)):
    result = outcome(make, **SCORES)
    seen(f"{name}, attention scores skipped: {result}", not result.startswith("answers"))
PYTHON

# Output seen:
#   python 3.11.7, torch 2.13.0+cpu, diffusers 0.42.1
#   expected: FLUX answers (1, 16, 16), for 16 tokens of the picture beside 3 of the text; SD3 answers (1, 4, 8, 8)
#   seen: FLUX, block 0 skipped: answers with shape (1, 3, 16)
#   seen: SD3, block 0 skipped: RuntimeError: shape '[1, 4, 4, 2, 2, 4]' is invalid for input of size 48
#   seen: FLUX, attention scores skipped: AttributeError: 'FluxAttention' object has no attribute 'is_cross_attention'
#   seen: SD3, attention scores skipped: ValueError: Model class <class 'diffusers.models.attention_processor.JointAttnProcessor2_0'> not regis
