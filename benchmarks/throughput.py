from __future__ import annotations

import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.utils import clip_grad_norm_
from torch.utils.flop_counter import FlopCounterMode

import pushforward as pf
from benchmarks.measure import Row, matmul_flops, medians
from pushforward.data import Dataset
from pushforward.nets import DiT, UNet
from pushforward.objectives import FlowMatching
from pushforward.streams.shuffled import Shuffled
from pushforward.train.settings import Settings
from pushforward.train.trainer import Trainer

SIZE, SHAPE, CLASSES = 64, (1, 32, 32), 10


class PeerStep:
    """A training step as diffusers' example has it: AdamW, clipping, its EMA; flow matching, in float32."""

    def __init__(self, net: nn.Module, call: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]):
        from diffusers.training_utils import EMAModel

        self.net, self.call = net, call
        self.x, self.label = torch.randn(SIZE, *SHAPE), torch.arange(SIZE) % CLASSES
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
        self.ema = EMAModel(net.parameters(), decay=0.999)

    def __call__(self) -> None:
        noise, t = torch.randn_like(self.x), torch.rand(SIZE)
        x_t = noise + t[:, None, None, None] * (self.x - noise)
        mse_loss(self.call(self.net, x_t, 1000 * t, self.label), self.x - noise).backward()
        clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.net.parameters())


def unet_of_diffusers() -> tuple[nn.Module, Any]:
    from diffusers import UNet2DModel

    net = UNet2DModel(
        sample_size=32, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"), attention_head_dim=32,
        num_class_embeds=CLASSES,
    )  # fmt: skip
    return net, lambda net, x, t, label: net(x, t, class_labels=label).sample


def dit_of_diffusers() -> tuple[nn.Module, Any]:
    from diffusers import DiTTransformer2DModel

    net = DiTTransformer2DModel(
        num_attention_heads=3, attention_head_dim=64, in_channels=1, out_channels=1, num_layers=6, patch_size=4,
        sample_size=32, num_embeds_ada_norm=CLASSES,
    )  # fmt: skip
    return net, lambda net, x, t, label: net(x, t.long(), class_labels=label).sample


def step(net: nn.Module, precision: Any, compiled: bool, folder: str) -> Trainer:
    """This library's training loop on a network, at its first step."""
    data = Dataset.from_arrays(
        np.random.default_rng(0).normal(size=(2 * SIZE, *SHAPE)).astype(np.float32),
        np.arange(2 * SIZE) % CLASSES,
    )
    model = pf.Model(net, pf.CondOT(), shape=SHAPE, classes=CLASSES)
    settings = Settings(steps=10**6, lr=1e-4, precision=precision, compile=compiled, sample_every=0)
    return Trainer(
        FlowMatching(model, condition_dropout=0.1),
        model,
        Shuffled(data, SIZE, 0),
        settings,
        Path(folder),
    )


def throughput() -> list[Row]:
    """Training steps side by side with diffusers: images per second, and the share of what matrix products reach.

    Batches of 64 images 1 x 32 x 32 with labels. The U-Nets have channels (32, 64, 64), one residual block at each
    level and attention at the lowest; the transformers patches of 4, width 192, 6 blocks, 3 heads. A step is forward,
    backward, clipping, AdamW and EMA; this library's is the whole of its training loop, with its batches, counter-
    based noise and checks. All take turns in one process. The share is that of the operations of the network in the
    step's time, over those of a 1024 x 1024 matrix product by torch in the same precision; linear layers by oneDNN can
    go beyond that in float32. As shipped: what --precision auto and --compile auto come to on this machine.
    """
    torch.manual_seed(0)
    from pushforward.runtime.device import has_bfloat16

    shipped: Any = "bf16" if has_bfloat16(torch.device("cpu")) else "fp32"
    families: dict[str, tuple[Callable[[], tuple[nn.Module, Any]], Callable[[], nn.Module]]] = {
        "U-Net": (unet_of_diffusers, lambda: UNet(1, 32, (1, 2, 2), 1, (2,), classes=CLASSES)),
        "DiT": (dit_of_diffusers, lambda: DiT(1, 4, 192, 6, 3, classes=CLASSES)),
    }
    rows: list[Row] = []
    for family, (peer, ours) in families.items():
        net, call = peer()
        variants = {
            "fp32": ("fp32", False),
            "bf16": ("bf16", False),
            "bf16, compiled": ("bf16", True),
        }
        nets = {name: ours() for name in variants}
        with tempfile.TemporaryDirectory() as folder:
            calls: dict[str, Callable[[], object]] = {"diffusers, fp32": PeerStep(net, call)}
            for name, (precision, compiled) in variants.items():
                calls[name] = step(nets[name], precision, compiled, folder)._one_step
            calls["matmul fp32"] = matmul_flops()
            calls["matmul bf16"] = matmul_flops(dtype=torch.bfloat16)
            seconds = medians(calls, repeats=9, least=0.4)
        for name in calls:
            if name.startswith("matmul"):
                continue
            its = net if name.startswith("diffusers") else nets[name]
            flops = operations(its, call if its is net else None)
            bits = "bf16" if name.startswith("bf16") else "fp32"
            peak = 2 * 1024**3 / seconds[f"matmul {bits}"]
            mine = "" if name.startswith("diffusers") else "pushforward, "
            usual = " (as shipped)" if name == shipped else ""
            rows.append(
                {
                    "network": family,
                    "step": f"{mine}{name}{usual}",
                    "parameters": f"{sum(p.numel() for p in its.parameters()) / 1e6:.2f} M",
                    "GFLOP per image": flops / SIZE / 1e9,
                    "images/s": round(SIZE / seconds[name], 1),
                    "over diffusers": seconds["diffusers, fp32"] / seconds[name],
                    "share of matmul": flops / seconds[name] / peak,
                }
            )
    return rows


def operations(net: nn.Module, call: Any) -> int:
    """Multiplications and additions of a forward and backward pass."""
    # On the meta device, where no library is chosen whose products are not counted.
    net = deepcopy(net).to("meta")
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        x, t, label = torch.randn(SIZE, *SHAPE), torch.rand(SIZE), torch.arange(SIZE) % CLASSES
        out = net(x, t, label) if call is None else call(net, x, 1000 * t, label)
        out.sum().backward()
    return counter.get_total_flops()
