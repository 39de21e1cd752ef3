"""Continuous conditions of a run: where they come from in training, and which samples are drawn for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import DATA, Noise
from pushforward.data.batch import Batch
from pushforward.data.dataset import Dataset
from pushforward.laws.law import Law
from pushforward.streams.stream import Stream

# Conditions that samples are drawn for, keyed by a step that no training run reaches.
GIVEN_STEP = 2**32 - 5

# (num, seed, label (num,) or None) -> conditions (num, ...) by name.
Columns = Callable[[int, int, "Tensor | None"], dict[str, Any]]


@dataclass(frozen=True)
class Coordinate:
    """A coordinate of points x1 (B, 2), as a condition of its own name: "horizontal" or "vertical"."""

    name: str

    def __call__(self, x1: Tensor) -> Tensor:
        return x1[:, ("horizontal", "vertical").index(self.name)]


class WithCoordinate:
    """A stream of points that are conditioned on one of their coordinates."""

    def __init__(self, stream: Stream, coordinate: Coordinate) -> None:
        self.stream, self.coordinate, self.batch_size = stream, coordinate, stream.batch_size

    def at(self, step: int) -> Batch:
        batch = self.stream.at(step)
        value = self.coordinate(batch.x1)
        return replace(batch, cond={**batch.cond, self.coordinate.name: value})


def of_law(law: Law, coordinate: Coordinate) -> Columns:
    """The coordinate of fresh draws."""

    def columns(num: int, seed: int, label: Tensor | None) -> dict[str, Any]:
        noise = Noise.batch(num, seed, GIVEN_STEP)
        return {coordinate.name: coordinate(law.draw(noise).float())}

    return columns


def of_data(data: Dataset) -> Columns:
    """The conditions of samples of the data at random, of the same class where there are labels."""

    def columns(num: int, seed: int, label: Tensor | None) -> dict[str, Any]:
        rows = rows_for(data, num, seed, label)
        return {name: value for name, value in data[rows].cond.items() if name != "label"}

    return columns


def rows_for(data: Dataset, num: int, seed: int, label: Tensor | None) -> Tensor:
    """(num,) samples of the data at random, of the same class where there are labels."""
    share = Noise.batch(num, seed, GIVEN_STEP).uniform((), DATA)
    rows = (share * len(data)).long().clamp(max=len(data) - 1)
    if label is not None and data.labels is not None:
        for c in label.unique().tolist():
            own = (data.labels == c).nonzero().flatten()
            mine = label == c
            if len(own):
                rows[mine] = own[(share[mine] * len(own)).long().clamp(max=len(own) - 1)]
    return rows


def as_numbers(data: Dataset) -> Dataset:
    """The data with whole numbers and truth values among their conditions as floating numbers, which networks take."""
    columns = {
        name: value.float()
        if isinstance(value, Tensor) and not value.is_floating_point()
        else value
        for name, value in data.columns.items()
    }
    return replace(data, columns=columns)


def widths(data: Dataset) -> dict[str, int]:
    """The width of each condition that is a number or a vector of numbers, by name; InputError for any other kind."""
    found: dict[str, int] = {}
    for name, value in data[torch.zeros(1, dtype=torch.int64)].cond.items():
        if name == "label":
            continue
        if not isinstance(value, Tensor) or value.ndim > 2 or not value.is_floating_point():
            what = (
                f"{value.dtype} {tuple(value.shape[1:])}"
                if isinstance(value, Tensor)
                else "sequences"
            )
            raise InputError(
                f"the condition {name} is {what} for each sample; conditions are floating "
                f"numbers or vectors of them, or labels (--label-key): name others with --columns"
            )
        found[name] = value[0].numel()
    return found
