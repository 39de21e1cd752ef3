#!/usr/bin/env bash
# TCDScheduler stops at the first training time, not at the data, whatever set_alpha_to_one says.
#
# The parameter is documented to fix the last alpha product to 1, and is True by default. But the last
# step goes to time 0, never to a negative one, which is what that choice is tied to: noise with
# the first training step's variance (beta_start, 0.00085) remains in every sample.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'cd / && rm -rf "$folder"' EXIT
source "$here/environment.bash"
environment torch==2.13.0 numpy==2.4.6 diffusers==0.42.1
observe <<'PYTHON'
from report import expected, seen, versions

import torch
from diffusers import DDIMScheduler, TCDScheduler

versions("torch", "diffusers")
expected("with the exact noise prediction for data that are 0.5 everywhere, samples of 0.5 (std 0)")


def sample(scheduler, **options):
    scheduler.set_timesteps(4)
    torch.manual_seed(0)
    x = torch.randn(1, 1, 200, 200)
    for t in scheduler.timesteps:
        alpha = scheduler.alphas_cumprod[t] ** 0.5
        sigma = (1 - alpha**2) ** 0.5
        x = scheduler.step((x - alpha * 0.5) / sigma, t, x, **options).prev_sample
    return x.std().item()


schedule = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
std = sample(DDIMScheduler(**schedule, set_alpha_to_one=True))
seen(f"DDIMScheduler, set_alpha_to_one=True: std {std:.4f}", std < 1e-4)
for set_alpha_to_one in (True, False):
    for eta in (0.0, 0.3):
        std = sample(TCDScheduler(**schedule, set_alpha_to_one=set_alpha_to_one), eta=eta)
        seen(f"TCDScheduler, set_alpha_to_one={set_alpha_to_one}, eta={eta}: std {std:.4f}",
             abs(std - 0.00085**0.5) < 0.001)
PYTHON

# Output seen:
#   python 3.11.7, torch 2.13.0+cpu, diffusers 0.42.1
#   expected: with the exact noise prediction for data that are 0.5 everywhere, samples of 0.5 (std 0)
#   seen: DDIMScheduler, set_alpha_to_one=True: std 0.0000
#   seen: TCDScheduler, set_alpha_to_one=True, eta=0.0: std 0.0293
#   seen: TCDScheduler, set_alpha_to_one=True, eta=0.3: std 0.0291
#   seen: TCDScheduler, set_alpha_to_one=False, eta=0.0: std 0.0293
#   seen: TCDScheduler, set_alpha_to_one=False, eta=0.3: std 0.0291
