#!/usr/bin/env bash
# diffusers' smoothed energy guidance blurs queries infinitely for every finite sigma, and finitely for an infinite one.
#
# The option seg_blur_sigma is the width of a Gaussian blur of the attention's queries, and values above
# seg_blur_threshold_inf (9999.9) stand for an infinite one, which is the mean over the picture. The two cases
# are exchanged: below the threshold the mean is taken whatever sigma is, above it a kernel as wide as the picture.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'cd / && rm -rf "$folder"' EXIT
source "$here/environment.bash"
environment torch==2.13.0 numpy==2.4.6 diffusers==0.42.1
observe <<'PYTHON'
from report import expected, seen, versions

import torch
from diffusers.hooks.smoothed_energy_guidance_utils import SmoothedEnergyGuidanceHook

versions("torch", "diffusers")
torch.manual_seed(0)
# Queries (batch, tokens, width) of a picture of 8 x 8 tokens.
queries = torch.randn(1, 64, 4)
mean = queries.mean(1, keepdim=True).expand_as(queries)


def blurred(sigma):
    return SmoothedEnergyGuidanceHook(blur_sigma=sigma).post_forward(None, queries.clone())


expected("sigma 0.1 leaves the queries nearly as they are: 98% of such a kernel's weight is at its middle")
results = {sigma: blurred(sigma) for sigma in (0.1, 1.0, 100.0, 10000.0)}
for sigma in (0.1, 1.0, 100.0):
    off = float((results[sigma] - mean).abs().max())
    seen(f"sigma {sigma}: largest difference from the mean of all queries {off:.1e}", off < 1e-6)
expected("sigma 10000, above the threshold: the mean of all queries")
off = float((results[10000.0] - mean).abs().max())
seen(f"sigma 10000: largest difference from the mean {off:.2f}", off > 0.1)
PYTHON

# Output seen:
#   python 3.11.7, torch 2.13.0+cpu, diffusers 0.42.1
#   expected: sigma 0.1 leaves the queries nearly as they are: 98% of such a kernel's weight is at its middle
#   seen: sigma 0.1: largest difference from the mean of all queries 0.0e+00
#   seen: sigma 1.0: largest difference from the mean of all queries 0.0e+00
#   seen: sigma 100.0: largest difference from the mean of all queries 0.0e+00
#   expected: sigma 10000, above the threshold: the mean of all queries
#   seen: sigma 10000: largest difference from the mean 0.45
