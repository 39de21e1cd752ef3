#!/usr/bin/env bash
# azula's DPSSampler divides its pull by the norm of the whole batch: what a sample becomes depends on how many there are.
#
# Diffusion posterior sampling subtracts zeta grad |y - A(x)|, the norm being that of one sample's error. azula takes
# one norm over all samples of a batch, so that among B like ones each is pulled sqrt(B) times less: the same
# observation, drawn alone or with others, gives another law. Its MMPS sampler treats each sample by itself.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'cd / && rm -rf "$folder"' EXIT
source "$here/environment.bash"
environment torch==2.13.0 numpy==2.4.6 einops==0.8.1 tqdm==4.67.1
# Without its other requirements, torchvision and gdown, which this part does not use.
environment --no-deps azula==0.11.1
observe <<'PYTHON'
from report import expected, seen, versions

import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.guidance.dps import DPSSampler
from azula.noise import VPSchedule

versions("torch", "azula")


class Normal(Denoiser):
    """The exact denoiser of standard normal data."""

    def __init__(self):
        super().__init__()
        self._schedule = VPSchedule()

    @property
    def schedule(self):
        return self._schedule

    def forward(self, x, t, **_):
        alpha, sigma = self.schedule(t)
        return DiracPosterior(mean=alpha * x / (alpha**2 + sigma**2))


def mean(batch, draws=1024):
    """Mean of samples given y = x + noise, y = 3, drawn so many at a time."""
    torch.manual_seed(0)
    samples = []
    for _ in range(draws // batch):
        sampler = DPSSampler(Normal(), y=torch.full((batch, 1), 3.0), A=lambda x: x, zeta=0.5, steps=64)
        samples.append(sampler(torch.randn(batch, 1)))
    return float(torch.cat(samples).mean())


expected("the mean of samples given one observation does not depend on how many are drawn at a time")
means = {batch: mean(batch) for batch in (1, 16, 256)}
for batch, value in means.items():
    seen(f"{batch} at a time: mean {value:.2f}", True)
seen(f"256 at a time against one: {means[256] / means[1]:.2f} of the mean", means[256] < 0.5 * means[1])
PYTHON

# Output seen (without the progress bars):
#   python 3.11.7, torch 2.13.0+cpu, azula 0.11.1
#   expected: the mean of samples given one observation does not depend on how many are drawn at a time
#   seen: 1 at a time: mean 3.00
#   seen: 16 at a time: mean 1.83
#   seen: 256 at a time: mean 0.44
#   seen: 256 at a time against one: 0.15 of the mean
