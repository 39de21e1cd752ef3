#!/usr/bin/env bash
# Three multistep schedulers of diffusers return NaN when all 1000 training steps are used.
#
# With the default spacing, 1001 points are laid from 0 to 999 and rounded to even, so that two
# neighbouring times are both 500. The step between them divides by a zero log-SNR difference, and
# everything from there on is NaN. Nothing is raised or logged; 999 steps are fine.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'cd / && rm -rf "$folder"' EXIT
source "$here/environment.bash"
environment torch==2.13.0 numpy==2.4.6 diffusers==0.42.1
observe <<'PYTHON'
from report import expected, seen, versions

import torch
from diffusers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
)

versions("torch", "diffusers")
expected("with the exact noise prediction for data that are 0.5 everywhere, samples of 0.5")


def sample(scheduler, steps):
    scheduler.set_timesteps(steps)
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        alpha = scheduler.alphas_cumprod[t] ** 0.5
        sigma = (1 - alpha**2) ** 0.5
        x = scheduler.step((x - alpha * 0.5) / sigma, t, x).prev_sample
    return x


for Scheduler in (DPMSolverMultistepScheduler, UniPCMultistepScheduler, DEISMultistepScheduler):
    x = sample(Scheduler(), 999)
    error = (x - 0.5).abs().max().item()
    seen(f"{Scheduler.__name__}, 999 steps: largest error {error:.1e}", error < 0.05)
    scheduler = Scheduler()
    x = sample(scheduler, 1000)
    times = scheduler.timesteps
    twice = times[1:][times[1:] == times[:-1]].tolist()
    share = x.isnan().double().mean().item()
    seen(f"{Scheduler.__name__}, 1000 steps: {share:.0%} of the values NaN, times that occur twice {twice}",
         share == 1 and twice == [500])
PYTHON

# Output seen:
#   python 3.11.7, torch 2.13.0+cpu, diffusers 0.42.1
#   expected: with the exact noise prediction for data that are 0.5 everywhere, samples of 0.5
#   seen: DPMSolverMultistepScheduler, 999 steps: largest error 6.0e-08
#   seen: DPMSolverMultistepScheduler, 1000 steps: 100% of the values NaN, times that occur twice [500]
#   seen: UniPCMultistepScheduler, 999 steps: largest error 6.0e-08
#   seen: UniPCMultistepScheduler, 1000 steps: 100% of the values NaN, times that occur twice [500]
#   seen: DEISMultistepScheduler, 999 steps: largest error 3.4e-02
#   seen: DEISMultistepScheduler, 1000 steps: 100% of the values NaN, times that occur twice [500]
