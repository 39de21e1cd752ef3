"""What a loader hands to an objective."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A batch of data, with what it is conditioned on.

    x1:    (B, ...) data.
    cond:  tensors (B, ...) that the network takes by these names, `label` (B,) int64 for classes.
    x0:    (B, ...) draws from the source law, or None for Gaussian noise.
    ids:   (B,) which entries of the data set these are, to name them in errors.
    """

    x1: Tensor
    cond: dict[str, Tensor] = field(default_factory=dict)
    x0: Tensor | None = None
    ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x1)

    def __getitem__(self, rows: slice) -> Batch:
        """Some of its samples."""
        return Batch(
            self.x1[rows],
            {name: value[rows] for name, value in self.cond.items()},
            None if self.x0 is None else self.x0[rows],
            None if self.ids is None else self.ids[rows],
        )

    def to(self, device: torch.device | str) -> Batch:
        return Batch(
            self.x1.to(device),
            {name: value.to(device) for name, value in self.cond.items()},
            None if self.x0 is None else self.x0.to(device),
            None if self.ids is None else self.ids.to(device),
        )
