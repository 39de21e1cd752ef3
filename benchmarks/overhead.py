from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import pushforward as pf
from benchmarks.measure import Report, Row, medians, peak_bytes

STEPS = 50


class Trivial(nn.Module):
    """A model that costs next to nothing, the velocity -x; without a parameter `pf.generate` would take float64."""

    path = pf.CondOT()

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, t: Tensor | float, want: str = "velocity", **cond: Any) -> Tensor:
        return -x


def by_hand(field: Trivial, x: Tensor, times: Tensor) -> Tensor:
    """Euler's method as one writes it in a notebook."""
    h = 1 / (len(times) - 1)
    for t in times[:-1]:
        x = x + h * field(x, t)
    return x


def in_place(field: Trivial, x: Tensor, times: Tensor) -> Tensor:
    """The same with one state that is written over."""
    h, x = 1 / (len(times) - 1), x.clone()
    for t in times[:-1]:
        x.add_(field(x, t), alpha=h)
    return x


def peer_loops(x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Those of benchmarks/peers; none in an environment without them."""
    try:
        from benchmarks.peers.samplers import trivial_loops

        return trivial_loops(x, STEPS)
    except ImportError:
        return {}


def overhead() -> Report:
    """What a sampler costs beyond the network: 50 steps with the field -x, batch 64 of 3 x 32 x 32 in float32.

    Microseconds for each call of the field, its own time included; the ratio is to an Euler loop written by hand.
    Memory is the most that was allocated at one time beyond the start, in tensors of the size of the batch.
    All samplers take turns in one process. Euler-Maruyama draws its noise by sample id: that is nearly all of its
    time (compare normals.md).
    """
    field, times = Trivial(), pf.times.uniform(STEPS)
    x = torch.randn(64, 3, 32, 32)
    solvers: dict[str, pf.Solver] = {
        "Euler": pf.solvers.Euler(),
        "Heun": pf.solvers.Heun(),
        "RK4": pf.solvers.RK4(),
        "Multistep, order 2": pf.solvers.Multistep("velocity", "time", 2),
        "Multistep, order 3": pf.solvers.Multistep("data", "log_snr", 3),
        "Multistep, UniPC2": pf.solvers.Multistep("data", "log_snr", 2, "always"),
        "Learned": pf.solvers.Learned(),
        "Learned, classical": pf.solvers.Learned(None),
        "EulerMaruyama(0.5)": pf.solvers.EulerMaruyama(0.5),
    }
    peers = peer_loops(x)
    calls: dict[str, Callable[[], Tensor]] = {
        "by hand": lambda: by_hand(field, x, times),
        "by hand, in place": lambda: in_place(field, x, times),
        "pf.generate, default": lambda: pf.generate(
            field, len(x), nfe=STEPS, source=x, shape=x.shape[1:]
        ),
        **{
            name: lambda solver=solver: pf.integrate(solver, field, x, times)
            for name, solver in solvers.items()
        },
        **peers,
    }
    with torch.no_grad():
        seconds = medians(calls)
        peaks = {name: peak_bytes(call) / x.nbytes for name, call in calls.items()}
    numbers = {name: STEPS * (solvers[name].calls if name in solvers else 1) for name in calls}
    micro = {name: seconds[name] / numbers[name] * 1e6 for name in calls}
    rows: list[Row] = [
        {
            "sampler": name,
            "calls": numbers[name],
            "us per call": micro[name],
            "ratio": micro[name] / micro["by hand"],
            "memory, batches": peaks[name],
        }
        for name in calls
    ]
    missing = "The peers' environment is missing (`make bench` sets it up): own samplers only."
    return Report(rows, "" if peers else missing)
