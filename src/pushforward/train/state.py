"""What a run keeps from step to step, as tensors by name, and what it takes up of them.

    model.NAME, ema.NAME, ema-DECAY.NAME     trained weights and their averages
    optimizer.NAME.KEY                       what the optimiser keeps of each
    objective.NAME                           what the objective keeps, such as a slow copy

Frozen parts are not among them; see `train.frozen`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward.saving.tensors import check_fit
from pushforward.train.checkpoint import TENSORS, read_tensors
from pushforward.train.sharded import described, read_into, read_whole


def prefixed(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): value
        for name, value in tensors.items()
        if name.startswith(f"{prefix}.")
    }


def load_state(
    path: Path,
    mine: Mapping[str, Tensor],
    wanted: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
    sharded: bool,
) -> dict[str, Tensor]:
    """Fill tensors from the checkpoint in a folder, after everything that does not fit has been listed.

    mine: what is filled. wanted: called with what is there of the optimisers, gives what must be. Returns that.
    """
    stored = (path / TENSORS).is_file()
    given = read_tensors(path) if stored else described(path)
    moments = prefixed("optimizer", wanted(under("optimizer", given)))
    check_fit({**mine, **moments}, given, "the checkpoint")
    if sharded:
        fresh = {name: torch.zeros_like(value) for name, value in moments.items()}
        read_into(path, {**mine, **fresh})
    else:
        given = given if stored else read_whole(path)
        with torch.no_grad():
            for name, tensor in mine.items():
                tensor.copy_(given[name])
        fresh = {name: given[name] for name in moments}
    return under("optimizer", fresh)


def read_state(path: Path) -> dict[str, Tensor]:
    """All tensors of the checkpoint in a folder, whoever wrote it."""
    return read_tensors(path) if (path / TENSORS).is_file() else read_whole(path)
