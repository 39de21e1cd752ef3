#!/usr/bin/env bash
# DDPMScheduler with trailing times and fixed_large variance adds noise in its last step.
#
# The trailing grid of 10 steps ends at t = 99, from where the last step goes to the data. Noise is
# omitted only at t = 0, so the last step adds the step's own variance, 1 - alphas_cumprod[99] = 0.103,
# to the finished sample. With variance_type="fixed_small" that variance is zero.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'cd / && rm -rf "$folder"' EXIT
source "$here/environment.bash"
environment torch==2.13.0 numpy==2.4.6 diffusers==0.42.1
observe <<'PYTHON'
from report import expected, seen, versions

import torch
from diffusers import DDPMScheduler

versions("torch", "diffusers")
expected("with the exact noise prediction for data that are 0.5 everywhere, samples of 0.5 (std 0)")


def sample(variance_type, spacing):
    scheduler = DDPMScheduler(
        variance_type=variance_type, timestep_spacing=spacing, clip_sample=False
    )
    scheduler.set_timesteps(10)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 200, 200, generator=generator)
    for t in scheduler.timesteps:
        alpha = scheduler.alphas_cumprod[t] ** 0.5
        sigma = (1 - alpha**2) ** 0.5
        x = scheduler.step((x - alpha * 0.5) / sigma, t, x, generator=generator).prev_sample
    return scheduler.timesteps[-1].item(), x.mean().item(), x.std().item()


for variance_type, spacing, std in (
    ("fixed_large", "trailing", (1 - DDPMScheduler().alphas_cumprod[99].item()) ** 0.5),
    ("fixed_small", "trailing", 0.0),
    ("fixed_large", "leading", 0.0),
):
    last, mean, spread = sample(variance_type, spacing)
    seen(f"{variance_type}, {spacing}: last time {last}, mean {mean:.3f}, std {spread:.4f}",
         abs(spread - std) < 0.005 and abs(mean - 0.5) < 0.01)
PYTHON

# Output seen:
#   python 3.11.7, torch 2.13.0+cpu, diffusers 0.42.1
#   expected: with the exact noise prediction for data that are 0.5 everywhere, samples of 0.5 (std 0)
#   seen: fixed_large, trailing: last time 99, mean 0.500, std 0.3216
#   seen: fixed_small, trailing: last time 99, mean 0.500, std 0.0000
#   seen: fixed_large, leading: last time 0, mean 0.500, std 0.0000
