from __future__ import annotations

import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.utils import clip_grad_norm_
from torch.utils.flop_counter import FlopCounterMode

import pushforward as pf
from benchmarks.measure import Row, matmul_flops, medians
from pushforward.core.conditions import Tokens
from pushforward.data import Dataset
from pushforward.nets import MMDiT
from pushforward.nets.sd3 import from_sd3_config
from pushforward.objectives import FlowMatching
from pushforward.streams.shuffled import Shuffled
from pushforward.train.settings import Settings
from pushforward.train.trainer import Trainer

SIZE, SHAPE, LENGTH = 64, (3, 32, 32), 16
CONFIG: dict[str, Any] = {
    "sample_size": 32, "patch_size": 4, "in_channels": 3, "out_channels": 3, "num_layers": 6,
    "attention_head_dim": 64, "num_attention_heads": 3, "joint_attention_dim": 384, "caption_projection_dim": 192,
    "pooled_projection_dim": 128, "pos_embed_max_size": 8, "qk_norm": "rms_norm",
}  # fmt: skip


class PeerStep:
    """A training step as diffusers' examples have it: AdamW, clipping, its EMA; flow matching, in float32."""

    def __init__(self, net: nn.Module) -> None:
        from diffusers.training_utils import EMAModel

        self.net = net
        self.x, self.text = torch.randn(SIZE, *SHAPE), torch.randn(SIZE, LENGTH, 384)
        self.pooled = torch.randn(SIZE, 128)
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
        self.ema = EMAModel(net.parameters(), decay=0.999)

    def __call__(self) -> None:
        noise, sigma = torch.randn_like(self.x), torch.randn(SIZE).sigmoid()
        noisy = self.x + sigma[:, None, None, None] * (noise - self.x)
        out = self.net(noisy, self.text, self.pooled, 1000 * sigma).sample
        mse_loss(out, noise - self.x).backward()
        clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.net.parameters())


def ours(net: MMDiT, precision: Any, compiled: bool, folder: str) -> Trainer:
    """This library's training loop on a network, at its first step."""
    rng, count = np.random.default_rng(0), 2 * SIZE
    text = Tokens(torch.randn(count, LENGTH, 384), torch.ones(count, LENGTH, dtype=torch.bool))
    data = Dataset.from_arrays(
        rng.normal(size=(count, *SHAPE)).astype(np.float32),
        columns={"text": text, "pooled": torch.randn(count, 128)},
    )
    nulls: Any = {"text": "empty", "pooled": 0}
    model = pf.Model(net, pf.CondOT(), shape=SHAPE, nulls=nulls)
    settings = Settings(steps=10**6, lr=1e-4, precision=precision, compile=compiled, sample_every=0)
    return Trainer(
        FlowMatching(model, condition_dropout=0.1),
        model,
        Shuffled(data, SIZE, 0),
        settings,
        Path(folder),
    )


def multimodal() -> list[Row]:
    """Training steps of MM-DiT side by side with diffusers' SD3Transformer2DModel: images per second.

    Batches of 64 images 3 x 32 x 32 with 16 tokens of 384 numbers and a pooled vector of 128; patches of 4, width 192,
    6 blocks, 3 heads, normalised queries and keys, of equal parameters. A step is forward, backward, clipping, AdamW
    and EMA; this library's is the whole of its training loop, with its batches, counter-based noise, the dropping of
    texts and checks. All take turns in one process. The share is that of the operations of the network in the step's
    time, over those of a 1024 x 1024 matrix product by torch in the same precision; linear layers by oneDNN can go
    beyond 1 where torch's own product is slow, as in float32 on this machine. As shipped: what --precision auto is.
    """
    from diffusers import SD3Transformer2DModel

    from pushforward.runtime.device import has_bfloat16

    torch.manual_seed(0)
    shipped = "bf16" if has_bfloat16(torch.device("cpu")) else "fp32"
    peer = SD3Transformer2DModel(**CONFIG)
    variants = {"fp32": ("fp32", False), "bf16": ("bf16", False)}
    nets = {name: MMDiT(**from_sd3_config(peer.config)) for name in variants}
    for net in nets.values():
        net.load_state_dict(peer.state_dict())
    flops = operations(nets["fp32"])
    with tempfile.TemporaryDirectory() as folder:
        calls: dict[str, Callable[[], object]] = {"diffusers, fp32": PeerStep(peer)}
        for name, (precision, compiled) in variants.items():
            calls[name] = ours(nets[name], precision, compiled, folder)._one_step
        calls["matmul fp32"] = matmul_flops()
        calls["matmul bf16"] = matmul_flops(dtype=torch.bfloat16)
        seconds = medians(calls, repeats=9, least=0.4)
    rows: list[Row] = []
    for name in calls:
        if name.startswith("matmul"):
            continue
        its = nets.get(name, peer)
        bits = "bf16" if name == "bf16" else "fp32"
        peak = 2 * 1024**3 / seconds[f"matmul {bits}"]
        usual = " (as shipped)" if name == shipped else ""
        rows.append(
            {
                "step": f"{'' if its is peer else 'pushforward, '}{name}{usual}",
                "parameters": f"{sum(p.numel() for p in its.parameters()) / 1e6:.2f} M",
                "GFLOP per image": flops / SIZE / 1e9,
                "images/s": round(SIZE / seconds[name], 1),
                "over diffusers": seconds["diffusers, fp32"] / seconds[name],
                "share of matmul": flops / seconds[name] / peak,
            }
        )
    return rows


def operations(net: MMDiT) -> int:
    """Multiplications and additions of a forward and backward pass."""
    # On the meta device, where no library is chosen whose products are not counted.
    net = deepcopy(net).to("meta")
    with torch.device("meta"):
        x, t = torch.randn(SIZE, *SHAPE), torch.rand(SIZE)
        with FlopCounterMode(display=False) as counter:
            net(x, t, torch.randn(SIZE, LENGTH, 384), torch.randn(SIZE, 128)).sum().backward()
    return counter.get_total_flops()
