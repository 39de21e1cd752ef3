"""What a loader hands to an objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.shapes import check_mask


@dataclass(frozen=True)
class Batch:
    """A batch of data, with what it is conditioned on.

    x1:    (B, ...) data.
    cond:  conditions (B, ...) that the network takes by these names, `label` (B,) int64 for classes: tensors, Tokens,
           or groups of these.
    x0:    (B, ...) draws from the source law, or None for Gaussian noise.
    ids:   (B,) which entries of the data set these are, to name them in errors.
    mask:  bool, of as many dimensions as x1, each as long as x1's or 1: which entries are data and which padding; None
           where all are data. Losses, samples and densities of a padded sample are those that it has alone.
    texts: lists of B strings by name, such as captions.
    """

    x1: Tensor
    cond: Mapping[str, Any] = field(default_factory=dict)
    x0: Tensor | None = None
    ids: Tensor | None = None
    mask: Tensor | None = None
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mask is not None:
            check_mask(self.mask, self.x1)

    def __len__(self) -> int:
        return len(self.x1)

    def __getitem__(self, rows: slice | Tensor) -> Batch:
        """Some of its samples: a slice, or indices (M,) int64 in any order."""
        return Batch(
            self.x1[rows],
            conditions.take(self.cond, rows),
            None if self.x0 is None else self.x0[rows],
            None if self.ids is None else self._rows(self.ids, rows),
            None if self.mask is None else self._rows(self.mask, rows),
            {name: _picked(lines, rows) for name, lines in self.texts.items()},
        )

    @staticmethod
    def _rows(x: Tensor, rows: slice | Tensor) -> Tensor:
        return x[rows] if isinstance(rows, slice) else x[rows.to(x.device)]

    def to(self, device: torch.device | str) -> Batch:
        return Batch(
            self.x1.to(device),
            conditions.to(self.cond, device),
            None if self.x0 is None else self.x0.to(device),
            None if self.ids is None else self.ids.to(device),
            None if self.mask is None else self.mask.to(device),
            self.texts,
        )


def _picked(lines: tuple[str, ...], rows: slice | Tensor) -> tuple[str, ...]:
    return lines[rows] if isinstance(rows, slice) else tuple(lines[i] for i in rows.tolist())
