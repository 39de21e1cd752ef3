#!/usr/bin/env bash
# diffusers' MagnitudeAwareGuidance raises for every picture (B, C, H, W); only tokens (B, L, D) work.
#
# It takes torch.norm over all dimensions but the first, as a list. For two dimensions that is the Frobenius norm
# of a matrix; for three torch refuses. The other guiders take tensors of any shape.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'cd / && rm -rf "$folder"' EXIT
source "$here/environment.bash"
environment torch==2.13.0 numpy==2.4.6 diffusers==0.42.1
observe <<'PYTHON'
from report import expected, seen, versions

import torch
from diffusers import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from diffusers.guiders.magnitude_aware_guidance import MagnitudeAwareGuidance

versions("torch", "diffusers")
torch.manual_seed(0)


def outcome(guider, *shape):
    guider.set_state(step=0, num_inference_steps=10, timestep=torch.tensor(999))
    conditional, unconditional = torch.randn(2, *shape)
    try:
        return f"shape {tuple(guider.forward(conditional, unconditional).pred.shape)}"
    except RuntimeError as error:
        return str(error)


expected("a guider of images takes predictions of images, in any number of dimensions")
for make in (ClassifierFreeGuidance, AdaptiveProjectedGuidance):
    result = outcome(make(guidance_scale=5.0), 2, 4, 8, 8)
    seen(f"{make.__name__}, (2, 4, 8, 8): {result}", result == "shape (2, 4, 8, 8)")
result = outcome(MagnitudeAwareGuidance(guidance_scale=5.0), 2, 64, 4)
seen(f"MagnitudeAwareGuidance, (2, 64, 4): {result}", result == "shape (2, 64, 4)")
for shape in ((2, 4, 8, 8), (2, 4, 3, 8, 8)):
    result = outcome(MagnitudeAwareGuidance(guidance_scale=5.0), *shape)
    seen(f"MagnitudeAwareGuidance, {shape}: {result}", "dim must be a 2-tuple" in result)
PYTHON

# Output seen:
#   python 3.11.7, torch 2.13.0+cpu, diffusers 0.42.1
#   expected: a guider of images takes predictions of images, in any number of dimensions
#   seen: ClassifierFreeGuidance, (2, 4, 8, 8): shape (2, 4, 8, 8)
#   seen: AdaptiveProjectedGuidance, (2, 4, 8, 8): shape (2, 4, 8, 8)
#   seen: MagnitudeAwareGuidance, (2, 64, 4): shape (2, 64, 4)
#   seen: MagnitudeAwareGuidance, (2, 4, 8, 8): linalg.matrix_norm: dim must be a 2-tuple. Got 1 2 3
#   seen: MagnitudeAwareGuidance, (2, 4, 3, 8, 8): linalg.matrix_norm: dim must be a 2-tuple. Got 1 2 3 4
