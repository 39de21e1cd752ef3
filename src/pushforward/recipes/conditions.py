"""Continuous conditions of a run: where they come from in training, and which samples are drawn for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pushforward.core.noise import DATA, Noise
from pushforward.data.arrays import Dataset
from pushforward.data.batch import Batch
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
        share = Noise.batch(num, seed, GIVEN_STEP).uniform((), DATA)
        rows = (share * len(data)).long().clamp(max=len(data) - 1)
        if label is not None and data.labels is not None:
            for c in label.unique().tolist():
                own = (data.labels == c).nonzero().flatten()
                mine = label == c
                if len(own):
                    rows[mine] = own[(share[mine] * len(own)).long().clamp(max=len(own) - 1)]
        return {name: value for name, value in data[rows].cond.items() if name != "label"}

    return columns


def widths(data: Dataset) -> dict[str, int]:
    """The width of each condition that is a number or a vector of numbers, by name."""
    cond = data[torch.zeros(1, dtype=torch.int64)].cond
    return {name: value[0].numel() for name, value in cond.items() if name != "label"}
