"""What the processes of a group do for the tests beside this file, and leave in a folder for these to judge."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tinyrun import IDENTITY, dataset, optimizer
from torch import Tensor

import pushforward as pf
from pushforward.data.batch import Batch
from pushforward.nets import MLP, DiT, UNet
from pushforward.objectives import FlowMatching
from pushforward.objectives.matching import draw
from pushforward.recipes.run import validation
from pushforward.runtime.processes import joined
from pushforward.sampling.generate import generate_together
from pushforward.streams.coupled import Coupled
from pushforward.streams.drawn import Drawn
from pushforward.streams.prefetch import Prefetch
from pushforward.streams.shuffled import Shuffled
from pushforward.train.parallel import local, whole
from pushforward.train.settings import Settings
from pushforward.train.trainer import Trainer

# A share of it is no binary fraction, and an epoch ends within a batch.
BATCH, SIZE = 10, 23


class Shifted:
    """A data set that alters its entries at random."""

    def __init__(self, data) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, indices: Tensor) -> Batch:
        return self.data[indices]

    def drawn(self, indices: Tensor, noise: pf.Noise) -> Batch:
        batch = self.data[indices]
        return replace(batch, x1=batch.x1 + noise.normal(batch.x1.shape[1:], 77))


def law() -> pf.GaussianMixture:
    return pf.GaussianMixture([[2.0, 0.0], [-2.0, 1.0]], 0.1)


def by_size(x0: Tensor, x1: Tensor, noise: pf.Noise, cond=None) -> tuple[Tensor, Tensor]:
    """A coupling in which each pair depends on the whole batch."""
    return x0.flatten(1).norm(dim=1).argsort(), x1.flatten(1).norm(dim=1).argsort()


STREAMS: dict[str, Any] = {
    "shuffled": lambda images: Shuffled(dataset(images, SIZE), BATCH, seed=0),
    "altered": lambda images: Shuffled(Shifted(dataset(images, SIZE)), BATCH, seed=0),
    "ahead": lambda images: Prefetch(Shuffled(dataset(images, SIZE), BATCH, seed=0), 4, 2),
    "coupled": lambda images: Prefetch(
        Coupled(Shuffled(dataset(images, SIZE), BATCH, seed=0), by_size, seed=0)
    ),
    "drawn": lambda images: Drawn(law(), BATCH, seed=0),
}


@dataclass(frozen=True)
class Recording(FlowMatching):
    """Keeps what it is given and what it draws; in the precision of its model. offset: a mistake in the noise's ids."""

    offset: int = 0
    seen: list[dict[str, Tensor]] = field(default_factory=list)

    def __call__(self, batch, noise):
        noise = replace(noise, ids=noise.ids + self.offset)
        kind = next(self.model.parameters()).dtype
        x0 = None if batch.x0 is None else batch.x0.to(kind)
        batch = replace(batch, x1=batch.x1.to(kind), x0=x0)
        drawn = draw(self.model, batch, noise, self.times, self.condition_dropout, self.coupling)
        self.seen.append(
            {"ids": batch.ids, "x0": drawn.x0, "x1": drawn.x1, "t": drawn.t} | drawn.cond
        )
        return super().__call__(batch, noise)


def model(
    images: bool = False,
    dtype: torch.dtype = torch.float64,
    classes: int | None = 3,
    gaussian: bool = True,
    blocks: bool = False,
) -> pf.Model:
    """A model whose every weight has a gradient from the first step on."""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        if blocks:
            net: Any = DiT(1, 2, 8, 2, 2, classes=classes)
        else:
            net = UNet(1, 8, (1, 2), classes=classes) if images else MLP(2, 16, 1, classes=classes)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    shape = (1, 4, 4) if images else (2,)
    return pf.Model(
        net.to(dtype), pf.CondOT(gaussian_source=gaussian), shape=shape, classes=classes
    )


def trainer(
    folder: Path,
    images: bool = False,
    stream: str = "shuffled",
    dtype: torch.dtype = torch.float64,
    offset: int = 0,
    wrap=lambda stream: stream,
    objective=Recording,
    judged: bool = True,
    blocks: bool = False,
    **settings,
) -> Trainer:
    """A Trainer all of whose objects are new.

    judged: with validation losses and sample pictures. blocks: of a transformer.
    """
    classes = None if stream == "drawn" else 3
    net = model(images, dtype, classes, stream != "coupled", blocks)
    options = {
        "steps": 3, "lr": 0.02, "warmup": 0, "weight_decay": 0.1, "clip": 0.05, "ema": 0.5, "log_every": 1,
        "sample_every": 2, "validate_every": 2, "checkpoint_every": 100,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    more = {"offset": offset} if offset else {}
    made = objective(net, condition_dropout=0.3 if classes else 0.0, **more)
    held_out = SimpleNamespace(objective=FlowMatching(net), held_out=dataset(images, size=13))

    def preview(average: Any) -> bytes:
        label = None if classes is None else torch.arange(5) % 3
        start = average.path.source_std * pf.Noise.batch(5).normal(
            average.shape, dtype=torch.float32
        )
        return generate_together(average, 5, nfe=3, source=start, label=label).numpy().tobytes()

    judged = judged and stream == "shuffled" and not images
    return Trainer(
        made, net, wrap(STREAMS[stream](images)), Settings(**options | settings), folder, IDENTITY,
        preview if judged else None, None, validation(held_out) if judged else None,  # type: ignore[arg-type]
    )  # fmt: skip


def everything(run: Trainer) -> dict[str, Tensor]:
    """All that a run keeps: weights, averages, and what the optimiser knows, whole."""
    found = {name: whole(value).detach().clone() for name, value in run._tensors().items()}
    for name, parameter in run.parameters.items():
        for key, value in optimizer(run).state.get(parameter, {}).items():
            found[f"optimizer.{name}.{key}"] = whole(value).clone()
    return found


def followed(run: Trainer, steps: int | None = None) -> dict[str, Any]:
    """What a run does: its rows, gradients, log, and what it holds in the end."""
    gradients: list[dict[str, Tensor]] = []
    optimizer(run).register_step_pre_hook(
        lambda *_: gradients.append(
            {name: whole(p.grad).clone() for name, p in run.parameters.items()}
        )
    )
    seen: list[dict[str, Tensor]] = run.objective.seen  # type: ignore[attr-defined]
    seen.clear()
    if steps is None:
        run.run()
        entries = run.log.read()
    else:
        entries = [run._one_step() for _ in range(steps)]
    return {"seen": seen, "gradients": gradients, "entries": entries, "end": everything(run)}


# Who shares a step by what, in how many parts a batch is taken, and which batches.
CASES: list[dict[str, Any]] = [
    *({"parallel": "ddp", "accumulate": 1, "stream": stream} for stream in STREAMS),
    *(
        {"parallel": "fsdp", "accumulate": 3, "stream": stream}
        for stream in ("shuffled", "coupled")
    ),
    {"parallel": "ddp", "accumulate": 3},
    {"parallel": "fsdp", "accumulate": 1},
    {"parallel": "ddp", "accumulate": 3, "images": True},
    {"parallel": "fsdp", "accumulate": 1, "images": True},
    {"parallel": "fsdp", "images": True, "blocks": True, "checkpointing": True},
    {"parallel": "fsdp", "dtype": torch.float32},
]


def cases(count: int) -> list[dict[str, Any]]:
    """What so many processes do."""
    return CASES if count == 2 else [case for case in CASES if "images" not in case]


def name(case: dict[str, Any]) -> str:
    return "-".join(str(value).removeprefix("torch.") for value in case.values())


def all_cases() -> None:
    """Every case, and one with a mistake in the noise."""
    with joined("cpu") as processes:
        mistaken = {"parallel": "ddp", "offset": 1}
        for case in (*cases(processes.count), mistaken):
            run = trainer(Path("runs") / name(case), **case)
            run.start()
            result = followed(run)
            parts = [local(p).numel() for p in run.parameters.values()]
            result["held"] = sum(parts) / sum(p.numel() for p in run.parameters.values())
            torch.save(result, f"{name(case)}-{processes.rank}.pt")


def plain(folder: Path, parallel: str, workers: int = 0, **more: Any) -> Trainer:
    """A run in float32 that can be interrupted."""
    stream = "ahead" if workers else "shuffled"
    options = {
        "dtype": torch.float32, "steps": 16, "checkpoint_every": 4, "sample_every": 8, "validate_every": 5,
    }  # fmt: skip
    return trainer(folder, stream=stream, **options | {"parallel": parallel} | more)


def short(folder: Path, parallel: str) -> Trainer:
    """Six steps, without looks at what has been learned."""
    return plain(folder, parallel, judged=False, steps=6, checkpoint_every=3)


def go(parallel: str, resume: bool = False, **more: Any) -> None:
    """Train to the end in the folder `run`. The exit code is 128 plus the number of a signal that ended it."""
    with joined("cpu"):
        run = plain(Path("run"), parallel, **more)
        run.resume() if resume else run.start()
        done = run.run()
    if not done:
        raise SystemExit(128 + run.stopping)


def begin(parallel: str) -> None:
    """Three steps, the last of which is kept."""
    with joined("cpu") as processes:
        run = short(Path("run"), parallel)
        run.start()
        for _ in range(3):
            run._one_step()
        run.save()
        run._finish_saving()
        torch.save(everything(run), f"begun-{processes.rank}.pt")


def take_up(parallel: str, folders: list[str]) -> None:
    """Resume what others began, keep what was found, and go on to the end."""
    with joined("cpu") as processes:
        for folder in folders:
            run = short(Path(folder) / "run", parallel)
            run.resume()
            found = everything(run)
            result = {"found": found, **followed(run)}
            torch.save(result, Path(folder) / f"taken-{processes.rank}.pt")


def fails(call: Any) -> str:
    try:
        call()
    except pf.Error as error:
        return f"{type(error).__name__}: {error}"
    return ""


@dataclass
class Poisoned:
    """A stream in which one sample of a step is not finite."""

    stream: Any
    step: int
    place: int

    def __post_init__(self) -> None:
        self.batch_size = self.stream.batch_size

    def at(self, step: int) -> Batch:
        batch = self.stream.at(step)
        x1 = batch.x1.clone()
        if step == self.step:
            x1[self.place] = float("nan")
        return replace(batch, x1=x1)


@dataclass(frozen=True)
class Endless(Recording):
    """The loss of one sample of step 4 is infinite, and its gradient is not."""

    place: int = BATCH - 2

    def __call__(self, batch, noise):
        loss = super().__call__(batch, noise)["loss"]
        bad = (noise.ids == self.place) & (noise.step == 4)
        return {"loss": loss + torch.zeros_like(loss).masked_fill(bad, float("inf"))}


def poison(parallel: str, place: int, loss_alone: bool) -> None:
    """A run whose step 4 meets a sample that is not finite, right after a save has begun."""
    with joined("cpu") as processes:
        way: dict[str, Any] = {"wrap": lambda stream: Poisoned(stream, 4, place)}
        if loss_alone:
            way = {"objective": Endless}
        run = plain(Path("run"), parallel, judged=False, **way)
        kept: dict[str, Tensor] = {}
        run.start()
        real = run.save
        run.save = lambda: (kept.update(everything(run)), real())  # type: ignore[method-assign]
        said = fails(run.run)
        same = all(torch.equal(kept[key], value) for key, value in everything(run).items())
        ids = run.stream.at(4).ids.tolist()  # type: ignore[union-attr]
        torch.save((said, run.step, same, ids), f"poisoned-{processes.rank}.pt")


def said(resume: bool, share: bool, **more: Any) -> None:
    """Train with shards, and print what stops it. The disk is filled after the first checkpoint.

    share: whether the model to share is written, which may be what does not fit.
    """
    with joined("cpu") as processes:
        run = plain(Path("run"), "fsdp", judged=False, **more)
        run.resume() if resume else run.start()
        if not resume and processes.lead:
            room = os.statvfs(".").f_bavail * os.statvfs(".").f_frsize
            Path("filler").write_bytes(bytes(room - (12 << 10)))
        if not share and not resume:
            run.publisher.write = lambda step: None  # type: ignore[method-assign]
        processes.wait()
        print(fails(run.run) or "done")


def refuse(*groups: list[str]) -> None:
    """What is said of runs that cannot be taken up, by copies and by shards, and whether the weights are as before."""
    with joined("cpu") as processes:
        found = []
        for folders in groups:
            for parallel in ("ddp", "fsdp"):
                for folder in folders:
                    run = short(Path(folder), parallel)
                    before = everything(run)
                    said = fails(run.resume)
                    after = everything(run)
                    untouched = all(torch.equal(after[key], value) for key, value in before.items())
                    found.append((said, untouched))
        Path(f"refused-{processes.rank}.json").write_text(json.dumps(found))


def drawn_together() -> tuple[dict[str, Tensor], list[str]]:
    """Samples that take labels, sources, laws and grids along, and what is said of those that do not fit."""
    net = model(dtype=torch.float32).requires_grad_(False)
    plain = {"nfe": 3, "batch_size": 2}
    labels, starts = torch.arange(7) % 3, pf.Noise.batch(7, 5).normal((2,))
    free = model(dtype=torch.float32, gaussian=False).requires_grad_(False)
    found = {
        "plain": generate_together(net, 7, **plain),
        "one": generate_together(net, 1, **plain),
        "as many": generate_together(net, 3, label=[0, 1, 2], **plain),
        "four": generate_together(net, 4, label=[0, 1, 2, 0], **plain),
        "later": generate_together(net, 8, start=11, seed=3, **plain),
        "label": generate_together(net, 7, label=labels, **plain),
        "label given as a condition": generate_together(net, 7, **plain, label=None) + 0,
        "guided": generate_together(net, 7, label=labels.tolist(), guidance=2.0, **plain),
        "source": generate_together(net, 7, source=starts, label=1, **plain),
        "law": generate_together(free, 7, source=law(), label=1, **plain),
        "grid": generate_together(
            net, 7, grid=torch.linspace(0, 1, 8, dtype=torch.float64), label=2
        ),
    }
    wrong: list[dict[str, Any]] = [
        {"num": 7, "label": list(range(8))}, {"num": 7, "label": [0, 1]}, {"num": 0}, {"num": 7, "label": 9},
        {"num": 7, "nfe": 3, "source": starts[:5]},
    ]  # fmt: skip
    said = [
        fails(lambda options=options: generate_together(net, **options))  # type: ignore[misc]
        for options in wrong
    ]
    return found, said


def draws() -> None:
    with joined("cpu") as processes:
        torch.save(drawn_together(), f"drawn-{processes.rank}.pt")


SLOW = 1.5


def save_slowly() -> None:
    """What the steps are like while one process is slow to write its shard."""
    with joined("cpu") as processes:
        run = plain(Path("run"), "fsdp", judged=False, steps=500, checkpoint_every=500)
        run.start()
        run._one_step()
        real = os.fsync

        def fsync(file: int) -> None:
            if processes.rank == 1:
                time.sleep(SLOW)
            real(file)

        os.fsync = fsync
        run.save()
        assert run.sharded is not None
        kept, times, pending = everything(run), [], []
        while run.sharded.pending is not None and len(times) < 400:
            began = time.perf_counter()
            run._one_step()
            times.append(time.perf_counter() - began)
            pending.append(run.sharded.pending is not None)
        torch.save((kept, times, pending, run.step), f"slow-{processes.rank}.pt")
