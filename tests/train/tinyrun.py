"""Training runs small enough to be done hundreds of times, and what of them must be equal bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pushforward as pf
from pushforward.data import Dataset
from pushforward.nets import MLP, UNet
from pushforward.objectives import Matching
from pushforward.streams.shuffled import Shuffled
from pushforward.train.checkpoint import Checkpoints, State
from pushforward.train.settings import Settings
from pushforward.train.state import read_state
from pushforward.train.trainer import Trainer

IDENTITY = {"recipe": "tiny", "seed": "0"}


def dataset(images: bool = False, size: int = 20) -> Dataset:
    numbers = np.random.default_rng(0)
    shape = (size, 1, 4, 4) if images else (size, 2)
    return Dataset.from_arrays(
        numbers.normal(size=shape).astype(np.float32), numbers.integers(0, 3, size)
    )


def trainer(
    folder: Path, images: bool = False, wrap=lambda stream: stream, objective=None, **settings
) -> Trainer:
    """A Trainer all of whose objects are new. images: a U-Net with dropout instead of an MLP."""
    torch.manual_seed(0)
    net = UNet(1, 8, (1, 2), classes=3, dropout=0.3) if images else MLP(2, 8, 1, classes=3)
    torch.seed()  # No run may depend on the state of the generator.
    model = pf.Model(net, pf.CondOT(), shape=(1, 4, 4) if images else (2,), classes=3)
    options = {
        "steps": 30, "warmup": 5, "decay": "cosine", "weight_decay": 0.1, "log_every": 4,
        "sample_every": 0, "checkpoint_every": 7,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(
        (objective or Matching)(model, condition_dropout=0.3),
        model,
        wrap(Shuffled(dataset(images), 8, seed=0)),
        Settings(**options | settings),
        folder,
        IDENTITY,
    )


def optimizer(run: Trainer) -> torch.optim.Optimizer:
    """The optimiser of a run that has one."""
    (built,) = run.optimizers
    return built.optimizer


def newest(folder: Path, identity: Mapping[str, str]) -> tuple[State, dict[str, torch.Tensor]]:
    """What is in the newest checkpoint of a run."""
    state, path = Checkpoints(folder / "checkpoints").open(identity)
    return state, read_state(path)


def tree(folder: Path) -> dict[str, bytes | None]:
    """All that is in a folder: files with their bytes, folders with None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def outcome(folder: Path) -> dict[str, Any]:
    """What must be the same however often a run was interrupted: all but its speed.

    The header of a shard is compared as JSON: safetensors writes what it holds besides tensors in any order, so that
    the hashes in a manifest differ as well.
    """
    found: dict[str, Any] = dict(tree(folder))
    found.pop("speed.jsonl", None)
    for name in [name for name in found if Path(name).name.startswith("shard-")]:
        length = int.from_bytes(found[name][:8], "little")
        header = json.loads(found[name][8 : 8 + length])
        found[name] = header, found[name][8 + length :]
        found[str(Path(name).with_name("manifest.json"))] = b""
    return found


def steps_logged(folder: Path) -> int:
    """The step of the last whole line of the log."""
    log = folder / "log.jsonl"
    lines = log.read_bytes().split(b"\n")[:-1] if log.is_file() else []
    return json.loads(lines[-1])["step"] if lines else 0
