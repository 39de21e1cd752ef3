"""The scale on which a network sees measurements that span decades."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import DataError, InputError
from pushforward.data.dataset import Dataset


@dataclass(frozen=True)
class Asinh:
    """What a network sees of a measurement x, and back.

        z = (asinh(x / cofactor) - mean) / std          x = cofactor sinh(mean + std z)

    Linear about 0, where background subtraction leaves negative values, and logarithmic beyond the cofactor. 150 is
    usual for fluorescence, 5 for mass cytometry. mean and std: one a channel. Computed in float64.
    """

    cofactor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, cells: Iterable[np.ndarray], cofactor: float = 150.0) -> Asinh:
        """With the mean and standard deviation of all these cells (N, C) together, so that each channel has 0 and 1."""
        if not 0 < cofactor < float("inf"):
            raise InputError(f"cofactor is {cofactor}; it must be positive and finite")
        u = np.arcsinh(np.concatenate(list(cells)).astype(np.float64) / cofactor)
        varied = u.max(0) > u.min(0)  # False for NaN, too
        if not varied.all():
            raise DataError(
                f"channels {np.flatnonzero(~varied).tolist()} have one value in all cells, or values that are not "
                f"finite: leave them out (--channels)"
            )
        mean, std = u.mean(0), u.std(0)
        return cls(cofactor, tuple(mean.tolist()), tuple(std.tolist()))

    def __call__(self, x: Tensor) -> Tensor:
        mean, std = self._scale(x)
        return (((x.double() / self.cofactor).asinh() - mean) / std).to(x.dtype)

    def inverse(self, z: Tensor) -> Tensor:
        mean, std = self._scale(z)
        return (self.cofactor * (mean + std * z.double()).sinh()).to(z.dtype)

    def _scale(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[-1] != len(self.mean):
            raise InputError(f"{x.shape[-1]} channels, and {len(self.mean)} are expected")
        mean, std = torch.tensor((self.mean, self.std), dtype=torch.float64, device=x.device)
        return mean, std

    def dataset(self, cells: np.ndarray, where: str = "the cells") -> Dataset:
        """Cells (N, C) as a data set of vectors that a network sees."""
        z = self(torch.from_numpy(cells))
        return Dataset.from_arrays(z.numpy(), where=where)

    def to_json(self) -> dict[str, Any]:
        return {"cofactor": self.cofactor, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Asinh:
        return cls(float(entry["cofactor"]), tuple(entry["mean"]), tuple(entry["std"]))
