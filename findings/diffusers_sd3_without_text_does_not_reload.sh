#!/usr/bin/env bash
# A StableDiffusion3Pipeline without text encoders is saved, but what it saved cannot be loaded.
#
# The text encoders and tokenizers may be None (prompts then come as embeddings). save_pretrained records
# each as [null, null] in model_index.json; from_pretrained does not read that as None, and
# raises unless all six are passed as None once more. The same record is read as None for the two
# image-prompt parts, and DiffusionPipeline.from_pretrained raises as well.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'cd / && rm -rf "$folder"' EXIT
source "$here/environment.bash"
environment torch==2.13.0 numpy==2.4.6 transformers==5.24.0 diffusers==0.42.1 safetensors==0.8.0
observe <<'PYTHON'
from report import expected, seen, versions

import json, pathlib, tempfile
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from diffusers.utils import logging

logging.disable_progress_bar()
versions("torch", "transformers", "diffusers", "safetensors")

transformer = SD3Transformer2DModel(
    sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
    num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16,
    pooled_projection_dim=16, pos_embed_max_size=8,
)
vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
text = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
none = dict.fromkeys(text)
folder = pathlib.Path(tempfile.mkdtemp())
StableDiffusion3Pipeline(
    transformer=transformer, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(), **none
).save_pretrained(folder)


def load(cls, **options):
    try:
        return cls.from_pretrained(folder, low_cpu_mem_usage=False, **options)
    except ValueError as error:
        return error


index = json.loads((folder / "model_index.json").read_text())
expected("save_pretrained, then from_pretrained, returns the same pipeline")
seen(f"the index records {index['text_encoder']} for text_encoder, {index['image_encoder']} for image_encoder",
     index["text_encoder"] == index["image_encoder"] == [None, None])
for cls in (StableDiffusion3Pipeline, DiffusionPipeline):
    result = load(cls)
    seen(f"{cls.__name__}.from_pretrained: {type(result).__name__}", isinstance(result, ValueError))
failed = 0
for name in text:
    failed += isinstance(load(StableDiffusion3Pipeline, **{k: None for k in text if k != name}), ValueError)
seen(f"five of the six passed as None: {failed} of 6 choices raise", failed == 6)
result = load(StableDiffusion3Pipeline, **none)
seen(f"all six passed as None: {type(result).__name__}", isinstance(result, StableDiffusion3Pipeline))
PYTHON

# Output seen:
#   python 3.11.7, torch 2.13.0+cpu, transformers 5.24.0, diffusers 0.42.1, safetensors 0.8.0
#   expected: save_pretrained, then from_pretrained, returns the same pipeline
#   seen: the index records [None, None] for text_encoder, [None, None] for image_encoder
#   seen: StableDiffusion3Pipeline.from_pretrained: ValueError
#   seen: DiffusionPipeline.from_pretrained: ValueError
#   seen: five of the six passed as None: 6 of 6 choices raise
#   seen: all six passed as None: StableDiffusion3Pipeline
