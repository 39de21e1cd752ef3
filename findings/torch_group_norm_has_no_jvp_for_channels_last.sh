#!/usr/bin/env bash
# On the CPU, torch.func.jvp through group_norm raises for an input in channels_last memory.
#
# The values and the reverse mode work for any layout; the forward mode asks for a contiguous input. In
# diffusers' UNet2DModel the middle attention hands on such a tensor, so that its jvp (mean flows,
# divergences) fails even with an attention that itself supports forward mode. Making
# the input of every group norm contiguous cures it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'cd / && rm -rf "$folder"' EXIT
source "$here/environment.bash"
environment torch==2.13.0 numpy==2.4.6 diffusers==0.42.1
observe <<'PYTHON'
from report import expected, seen, versions

import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import AttnProcessor
from torch.nn.functional import group_norm

versions("torch", "diffusers")


def forward_mode(f, x, v):
    try:
        return torch.func.jvp(f, (x,), (v,))[1]
    except RuntimeError as error:
        return str(error).split(" (")[0]


def agrees(f, x, v):
    """Whether the forward mode exists and equals a central difference.

    The step suits the network's attention scores, which diffusers computes in float32.
    """
    result = forward_mode(f, x, v)
    with torch.no_grad():
        difference = (f(x + 1e-3 * v) - f(x - 1e-3 * v)) / 2e-3
    return torch.is_tensor(result) and torch.allclose(result, difference, rtol=0, atol=1e-4)


torch.manual_seed(0)
x, v = torch.randn(2, 2, 8, 4, 4, dtype=torch.float64)
last = x.contiguous(memory_format=torch.channels_last)
expected("group_norm: one derivative, whatever the memory layout")
equal = agrees(lambda x: group_norm(x, 4), x, v)
seen(f"contiguous input, forward mode: equals a difference quotient: {equal}", equal)
gradient = torch.func.grad(lambda x: (group_norm(x, 4) ** 3).sum())
equal = torch.allclose(gradient(x), gradient(last))
seen(f"channels_last input, reverse mode: equals that of the contiguous one: {equal}", equal)
result = forward_mode(lambda x: group_norm(x, 4), last, v)
seen(f"channels_last input, forward mode: {result}", isinstance(result, str) and "view size" in result)

network = UNet2DModel(
    sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16),
    norm_num_groups=4, attention_head_dim=4,
    down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
).double().eval()
network.mid_block.attentions[0].set_processor(AttnProcessor())
x, v = torch.randn(2, 2, 1, 8, 8, dtype=torch.float64)
f = lambda x: network(x, torch.tensor(10.0)).sample
expected("UNet2DModel with attention by its formula: a forward-mode derivative")
result = forward_mode(f, x, v)
seen(f"as it is: {result}", isinstance(result, str) and "view size" in result)
for module in network.modules():
    if isinstance(module, torch.nn.GroupNorm):
        module.register_forward_pre_hook(lambda module, args: (args[0].contiguous(),))
equal = agrees(f, x, v)
seen(f"contiguous before each group norm: equals a difference quotient: {equal}", equal)
PYTHON

# Output seen:
#   python 3.11.7, torch 2.13.0+cpu, diffusers 0.42.1
#   expected: group_norm: one derivative, whatever the memory layout
#   seen: contiguous input, forward mode: equals a difference quotient: True
#   seen: channels_last input, reverse mode: equals that of the contiguous one: True
#   seen: channels_last input, forward mode: view size is not compatible with input tensor's size and stride
#   expected: UNet2DModel with attention by its formula: a forward-mode derivative
#   seen: as it is: view size is not compatible with input tensor's size and stride
#   seen: contiguous before each group norm: equals a difference quotient: True
