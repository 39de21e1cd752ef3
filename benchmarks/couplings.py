from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

import pushforward as pf
from benchmarks.measure import Row
from pushforward.couplings import Coupling, OptimalTransport, Sinkhorn, independent
from pushforward.streams.coupled import Coupled
from pushforward.streams.drawn import Drawn
from pushforward.streams.prefetch import Prefetch
from pushforward.streams.stream import Stream
from pushforward.train.ema import EMA


class Pictures:
    """Batches of a fixed set of strokes, 1 x 28 x 28 in [-1, 1]: as sparse and as smooth as digits are."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        noise = pf.Noise.batch(batch_size, seed=5)
        blurred = nn.functional.avg_pool2d(noise.normal((1, 28, 28)), 7, 1, 3)
        self.values = torch.where(blurred > 0.15, 1.0, -1.0)

    def at(self, step: int) -> pf.Batch:
        return pf.Batch(self.values.roll(step, 0))


@dataclass
class Step:
    """A step of this library's training loop on batches of a stream, batch included."""

    net: nn.Module
    shape: tuple[int, ...]
    stream: Stream

    def __post_init__(self) -> None:
        model = pf.Model(self.net, pf.CondOT(gaussian_source=False), shape=self.shape)
        self.model, self.objective = model, pf.objectives.FlowMatching(model)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        self.ema, self.number = EMA(model), 0

    def __call__(self) -> None:
        batch = self.stream.at(self.number)
        noise = pf.Noise.batch(len(batch), step=self.number)
        self.objective(batch, noise)["loss"].mean().backward()
        clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.model, self.number)
        self.number += 1


@dataclass
class Peer:
    """A step of torchcfm as its README has it: draw, match, regress, backward, optimiser."""

    net: nn.Module
    matcher: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
    stream: Stream

    def __post_init__(self) -> None:
        self.optimizer, self.number = torch.optim.AdamW(self.net.parameters(), lr=1e-3), 0

    def __call__(self) -> None:
        x1 = self.stream.at(self.number).x1
        self.optimizer.zero_grad()
        t, x_t, u_t = self.matcher(torch.randn_like(x1), x1)
        torch.mean((self.net(x_t, t) - u_t) ** 2).backward()
        self.optimizer.step()
        self.number += 1


def _compare(*cases: tuple) -> list[Row]:
    from torchcfm.conditional_flow_matching import (
        ConditionalFlowMatcher,
        ExactOptimalTransportConditionalFlowMatcher,
    )

    from pushforward.laws import LAWS

    warnings.filterwarnings("ignore")
    rows: list[Row] = []
    for name, n, shape, net, rounds, idle, count in cases:
        stream: Stream = Drawn(LAWS["8gaussians"](), n, seed=0) if n == 256 else Pictures(n)
        ours: dict[str, Coupling] = {
            "independent": independent,
            "exact": OptimalTransport(),
            "Sinkhorn, 0.05 of the mean cost": Sinkhorn(0.05, relative=True, tolerance=1e-2),
        }
        if n > 256:
            del ours["Sinkhorn, 0.05 of the mean cost"]
        steps: dict[tuple[str, str], Callable[[], None]] = {}
        aheads: list[Prefetch] = []
        for coupling, function in ours.items():
            batches = Coupled(stream, function, seed=0)
            if coupling != "independent":
                aheads.append(Prefetch(batches))
            steps["pushforward", coupling] = Step(
                net(), shape, batches if coupling == "independent" else aheads[-1]
            )
        steps["torchcfm", "independent"] = Peer(
            net(), ConditionalFlowMatcher(0.0).sample_location_and_conditional_flow, stream
        )
        steps["torchcfm", "exact"] = Peer(
            net(),
            ExactOptimalTransportConditionalFlowMatcher(0.0).sample_location_and_conditional_flow,
            stream,
        )
        seconds: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
        for _ in range(rounds):
            for key, step in steps.items():
                for _ in range(idle):
                    step()
                began = time.perf_counter()
                for _ in range(count):
                    step()
                seconds[key].append((time.perf_counter() - began) / count)
                for ahead in aheads:  # what was begun is finished before the next turn
                    for future in list(ahead._begun.values()):
                        future.result()
        for ahead in aheads:
            ahead.close()
        batch = stream.at(0)
        noise = pf.Noise.batch(n)
        x0 = noise.normal(shape)
        median = {key: statistics.median(values) for key, values in seconds.items()}
        for (library, coupling), value in median.items():
            alone = None
            if library == "pushforward" and coupling != "independent":
                function = ours[coupling]
                alone = _alone(function, x0, batch.x1, noise)
            elif coupling == "exact":
                sampler = ExactOptimalTransportConditionalFlowMatcher(0.0).ot_sampler
                alone = _alone(sampler.sample_plan, x0, batch.x1)
            rows.append(
                {
                    "data": name,
                    "n": n,
                    "library": library,
                    "coupling": coupling,
                    "ms per step": 1e3 * value,
                    "ratio": value / median[library, "independent"],
                    "alone, ms": alone,
                }
            )
    return rows


def couplings() -> list[Row]:
    """What a coupling adds to a training step: ours, computed ahead in a thread, and torchcfm's, in the step.

    Wall clock, since the pairing runs beside the step: the median of rounds in which all take turns. A turn is several
    steps in a row; the first ones are not counted, in which batches are used up that were ready before, and what was
    begun is finished before the next turn. The ratio is to the independent coupling of the same library; a step of ours
    has clipping and an EMA besides. `alone` is the time of one call of the coupling on one batch.

    8 Gaussians in the plane, with an MLP: the same network, AdamW and data for both.
    """
    return _compare(("2-D", 256, (2,), lambda: pf.nets.MLP(2, 128, 3), 5, 3, 15))


def couplings_images() -> list[Row]:
    """The same as `couplings` for 28 x 28 blots, 1024 in a batch, with the U-Net of width 16."""
    return _compare(("28 x 28", 1024, (1, 28, 28), lambda: pf.nets.UNet(1, 16, (1, 2)), 2, 1, 1))


def _alone(call: Callable[..., object], *arguments: object, repeats: int = 3) -> float:
    """Milliseconds of a call, the median of a few."""
    call(*arguments)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call(*arguments)
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)
