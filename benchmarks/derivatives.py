from __future__ import annotations

import time

import torch
from torch import Tensor, nn

import pushforward as pf
from benchmarks.measure import Row, medians
from pushforward.nets import MLP, UNet
from pushforward.objectives import MeanFlow


def derivatives() -> list[Row]:
    """What a derivative in forward mode costs: milliseconds of one evaluation of the loss of MeanFlow, without its
    backward pass, beside a plain call of the network, and the same compiled.

    MLP: three blocks of width 128, 512 points of the plane; U-Net: width 32, two levels, 64 pictures of 8 x 8. "first":
    seconds of the first compiled call. The U-Net is not compiled: torch 2.13 fails at GroupNorm in forward mode.
    """
    rows: list[Row] = []
    cases: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
        "MLP": (MLP(2, 128, 3, time="smooth", two_times=True), (2,), 512),
        "U-Net": (UNet(1, 32, (1, 2), time="smooth", two_times=True), (1, 8, 8), 64),
    }
    for name, (net, shape, size) in cases.items():
        model = pf.FlowMapModel(pf.Model(net, pf.CondOT(), shape=shape))
        noise = pf.Noise.batch(size)
        x, t = noise.normal(shape), noise.uniform()

        def loss(
            compiled: bool,
            model: pf.FlowMapModel = model,
            x: Tensor = x,
            noise: pf.Noise = noise,
        ) -> Tensor:
            objective = MeanFlow(model, share=0.0, compiled=compiled)
            with torch.no_grad():
                return objective(x, noise)["loss"]

        def plain(model: pf.FlowMapModel = model, x: Tensor = x, t: Tensor = t) -> Tensor:
            with torch.no_grad():
                return model(x, t, 1.0)

        calls = {"network": plain, "loss": lambda: loss(False)}
        first = None
        if name == "MLP":
            began = time.perf_counter()
            found = loss(True)
            first = time.perf_counter() - began
            assert torch.allclose(found, loss(False), rtol=1e-3, atol=1e-5)
            calls["loss, compiled"] = lambda: loss(True)
        row: Row = {"network": name}
        row |= {f"{key}, ms": 1e3 * value for key, value in medians(calls).items()}
        rows.append(row | {"first, s": first})
    return rows
