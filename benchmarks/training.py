from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.utils import clip_grad_norm_
from torch.utils.flop_counter import FlopCounterMode

import pushforward as pf
from benchmarks.measure import Row, matmul_flops, medians
from pushforward.train.ema import EMA


@dataclass
class Step:
    """One optimiser step as the training loop takes it: losses, backward, clip, AdamW, EMA. Checkpoints aside."""

    model: pf.Model
    batch: pf.Batch

    def __post_init__(self) -> None:
        self.objective = pf.objectives.FlowMatching(self.model, condition_dropout=0.1)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.ema = EMA(self.model)
        self.number = 0

    def backward(self) -> None:
        noise = pf.Noise.batch(len(self.batch), step=self.number)
        self.objective(self.batch, noise)["loss"].mean().backward()

    def __call__(self) -> None:
        self.backward()
        clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.model, self.number)
        self.number += 1

    def flops(self) -> int:
        """Multiplications and additions of one forward and backward pass, of convolutions and matrix products."""
        with FlopCounterMode(display=False) as counter:
            self.backward()
        self.optimizer.zero_grad(set_to_none=True)
        return counter.get_total_flops()


def training() -> list[Row]:
    """Training steps of the U-Net in float32: images per second, and the share of what matrix products reach.

    A step is the objective with its noise, backward, clipping, AdamW and EMA. The share is the operations of
    convolutions and matrix products in a forward and backward pass, over the time of the whole step, relative to a
    1024 x 1024 matrix product measured in turns with it. The first network is that of the digits recipe.
    """
    cases = {
        "digits recipe, 1 x 8 x 8": ((1, 32, (1, 2)), 128, (1, 8, 8)),
        "multipliers (1, 2, 2), 1 x 32 x 32": ((1, 32, (1, 2, 2)), 64, (1, 32, 32)),
    }
    rows: list[Row] = []
    for name, (arguments, size, shape) in cases.items():
        torch.manual_seed(0)
        net = pf.nets.UNet(*arguments, classes=10)
        x1, label = torch.randn(size, *shape), torch.arange(size) % 10
        step = Step(pf.Model(net, pf.CondOT(), classes=10), pf.Batch(x1, {"label": label}))
        flops = step.flops()
        seconds = medians({"step": step, "matmul": matmul_flops()}, repeats=7, least=0.1)
        peak = 2 * 1024**3 / seconds["matmul"]
        rows.append(
            {
                "network": name,
                "parameters": f"{sum(p.numel() for p in net.parameters()) / 1e6:.2f} M",
                "batch": size,
                "GFLOP per image": flops / size / 1e9,
                "ms per step": seconds["step"] * 1e3,
                "images/s": round(size / seconds["step"]),
                "GFLOP/s": round(flops / seconds["step"] / 1e9),
                "matmul GFLOP/s": round(peak / 1e9),
                "share": flops / seconds["step"] / peak,
            }
        )
    return rows
