#!/usr/bin/env bash
# DiTPipeline guides away from class 1000, also where class 1000 means something else.
#
# The transformer keeps its "no class" row after the last class, at num_embeds_ada_norm. The pipeline
# asks for row 1000 in every case. With 10 classes that is an IndexError; with 2000 it is an ordinary
# class, silently: guidance then has no effect at all on class 1000 and pushes others away from it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'cd / && rm -rf "$folder"' EXIT
source "$here/environment.bash"
environment torch==2.13.0 numpy==2.4.6 transformers==5.24.0 diffusers==0.42.1
observe <<'PYTHON'
from report import expected, seen, versions

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

versions("torch", "diffusers")


def pipeline(classes):
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1,
        sample_size=8, norm_num_groups=4, num_embeds_ada_norm=classes,
    ).eval()
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4).eval()
    pipe = DiTPipeline(transformer=transformer, vae=vae, scheduler=DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(pipe, label, scale):
    generator = torch.Generator().manual_seed(0)
    images = pipe(
        [label], guidance_scale=scale, num_inference_steps=5, generator=generator, output_type="np"
    ).images
    return torch.as_tensor(images)


expected("10 classes, guidance 4: guided towards class 3 from row 10, the row of no class")
pipe = pipeline(10)
picture(pipe, 3, 1.0)
try:
    picture(pipe, 3, 4.0)
    seen("a picture", False)
except IndexError as error:
    seen(f"IndexError: {error} (guidance 1 works)", True)

expected("2000 classes: guidance changes the picture of every class")
pipe = pipeline(2000)
asked = []
pipe.transformer.register_forward_pre_hook(
    lambda module, args, kwargs: asked.append(kwargs["class_labels"].tolist()), with_kwargs=True
)
for label in (999, 1000, 1001):
    change = (picture(pipe, label, 40.0) - picture(pipe, label, 1.0)).abs().max().item()
    seen(f"class {label}: guidance 40 changes values by up to {change:.1g}",
         change < 1e-4 if label == 1000 else change > 0.1)
rows = {labels[1] for labels in asked if len(labels) == 2}
seen(f"rows used for no class: {sorted(rows)}; the table has rows 0 to 2000", rows == {1000})
PYTHON

# Output seen:
#   python 3.11.7, torch 2.13.0+cpu, diffusers 0.42.1
#   expected: 10 classes, guidance 4: guided towards class 3 from row 10, the row of no class
#   seen: IndexError: index out of range in self (guidance 1 works)
#   expected: 2000 classes: guidance changes the picture of every class
#   seen: class 999: guidance 40 changes values by up to 0.5
#   seen: class 1000: guidance 40 changes values by up to 4e-07
#   seen: class 1001: guidance 40 changes values by up to 0.6
#   seen: rows used for no class: [1000]; the table has rows 0 to 2000
