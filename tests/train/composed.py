"""Models of several parts and losses of several kinds, for the tests beside this file."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from tinyrun import IDENTITY, dataset
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from pushforward.core.noise import Noise
from pushforward.data.batch import Batch
from pushforward.models.base import ModelBase
from pushforward.nets import MLP
from pushforward.runtime.processes import Processes, joined
from pushforward.streams import Shuffled
from pushforward.train.optimizers import AdamW
from pushforward.train.parallel import whole
from pushforward.train.settings import Settings
from pushforward.train.trainer import Trainer

BATCH, SIZE = 10, 23


class Encoder(nn.Module):
    """A frozen part of somebody else's, in a precision of its own, with a buffer and dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.config = {"width": width}
        self.layer, self.dropout = nn.Linear(2, width), nn.Dropout(0.5)
        self.register_buffer("shift", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.weight
        return (self.dropout(self.layer(x.to(weight.dtype))) + self.shift).to(x.dtype)


class Trio(ModelBase):
    """Two networks that are trained, one that is not, and a parameter of the whole."""

    def __init__(self, encoder: Encoder, left: nn.Module, right: nn.Module, **records: Any) -> None:
        super().__init__()
        self.set_records(**records)
        self.encoder, self.left, self.right = encoder, left, right
        self.scale = nn.Parameter(torch.tensor(1.5))

    def to_config(self) -> dict[str, Any]:
        return {"encoder": self.encoder, "left": self.left, "right": self.right, **self.records()}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.zeros(len(x), device=x.device, dtype=x.dtype)
        return self.left(x, t), self.right(self.encoder(x.flip(1)), t)


def trio(dtype: torch.dtype = torch.float64, frozen: torch.dtype = torch.bfloat16) -> Trio:
    """Every weight of it has a gradient from the first step on."""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        model = Trio(Encoder(3), MLP(2, 8, 1), Narrow(3, 2))
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim:
                p.copy_(0.5 * torch.randn(p.shape, generator=generator))
    model.to(dtype)
    model.encoder.to(frozen).requires_grad_(False)
    return model


class Narrow(nn.Module):
    """Two layers, a part each for FSDP2."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.config = {"inner": inner, "outer": outer}
        self.layers = nn.ModuleList([nn.Linear(inner, 8), nn.Linear(8, outer)])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers[1](torch.tanh(self.layers[0](x)))


@dataclass(frozen=True)
class Contrast:
    """Which of all right answers belongs to a left one, and the other way round (Radford et al. 2021, fig. 3)."""

    model: Trio

    whole_batch: ClassVar[bool] = True
    shardable: ClassVar[bool] = True

    def __call__(self, batch: Batch, noise: Noise) -> Mapping[str, Any]:
        left, right = (normalize(x, dim=1) for x in self.model(prepared(self.model, batch, noise)))
        processes, scale = Processes.current(), self.model.scale.exp()
        (all_left, mine), (all_right, _) = processes.gather_rows(left), processes.gather_rows(right)
        goal = torch.arange(len(all_left))[mine]
        there, back = scale * left @ all_right.T, scale * right @ all_left.T
        loss = (
            cross_entropy(there, goal, reduction="none")
            + cross_entropy(back, goal, reduction="none")
        ) / 2
        found = (there.argmax(1) == goal).double()
        return {"loss": loss, "figures": {"accuracy": found, "scale": scale, "rows": len(batch)}}


def prepared(model: nn.Module, batch: Batch, noise: Noise) -> Tensor:
    kind = next(p for p in model.parameters() if p.requires_grad).dtype
    return batch.x1.to(kind) + 0.1 * noise.normal(batch.x1.shape[1:], 77, kind)


@dataclass(frozen=True)
class Rivals:
    """Two losses that both depend on all weights: each optimiser is to minimise its own by its own weights.

    every: steps between two of `right`.
    """

    model: Trio
    every: int = 1

    def __call__(self, batch: Batch, noise: Noise) -> Mapping[str, Any]:
        left, right = self.model(prepared(self.model, batch, noise))
        gap = ((left - right) ** 2).mean(1)
        losses = {"left": gap * self.model.scale}
        if noise.step % self.every == 0:
            losses["right"] = -gap + 0.3 * (right**2).mean(1)
        return losses


BY_KEY = {
    "left": AdamW(lr=0.02, warmup=0, clip=0.5, parameters=("left.*", "scale")),
    "right": AdamW(lr=0.01, warmup=0, weight_decay=0.1, clip=0.05, parameters=("right.*",)),
}


def trainer(
    folder: Path, objective: Any = Contrast, dtype: torch.dtype = torch.float64, **settings: Any
) -> Trainer:
    """A Trainer all of whose objects are new."""
    model = trio(dtype)
    options = {
        "steps": 6, "lr": 0.02, "warmup": 0, "weight_decay": 0.1, "clip": 0.05, "ema": 0.5, "log_every": 1,
        "sample_every": 0, "checkpoint_every": 2,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    stream = Shuffled(dataset(size=SIZE), BATCH, seed=0)
    return Trainer(
        objective(model), model, stream, Settings(**options | settings), folder, IDENTITY
    )


def followed(run: Trainer, steps: int) -> dict[str, Any]:
    """Gradients, entries and weights of some steps."""
    gradients: list[dict[str, Tensor]] = []
    first = next(iter(run.optimizers)).optimizer
    first.register_step_pre_hook(
        lambda *_: gradients.append(
            {n: whole(p.grad).clone() for n, p in run.parameters.items() if p.grad is not None}
        )
    )
    entries = [run._one_step() for _ in range(steps)]
    end = {name: whole(value).detach().clone() for name, value in run._tensors().items()}
    return {"gradients": gradients, "entries": entries, "end": end}


CASES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "ddp-accumulate": {"accumulate": 3},
    "fsdp": {"parallel": "fsdp"},
    "rivals": {"objective": Rivals, "optimizers": BY_KEY},
    "rivals-accumulate": {"objective": Rivals, "optimizers": BY_KEY, "accumulate": 2},
    "rivals-in-turn": {"objective": lambda m: Rivals(m, every=2), "optimizers": BY_KEY},
}


def all_cases() -> None:
    with joined("cpu") as processes:
        for name, case in CASES.items():
            run = trainer(Path("runs") / name, **case)
            run.start()
            torch.save(followed(run, 3), f"{name}-{processes.rank}.pt")


def go(
    parallel: str, resume: bool = False, kill: tuple[int, int] = (-1, -1), steps: int = 12
) -> None:
    """Train in the folder `run`. kill: (rank, step) of a process that is killed before that step."""
    with joined("cpu") as processes:
        run = trainer(
            Path("run"), dtype=torch.float32, parallel=parallel, steps=steps, checkpoint_every=4
        )
        run.resume() if resume else run.start()
        real = run._one_step

        def step() -> dict[str, Any]:
            if (processes.rank, run.step) == kill:
                os.kill(os.getpid(), signal.SIGKILL)
            return real()

        run._one_step = step  # type: ignore[method-assign]
        assert run.run()
