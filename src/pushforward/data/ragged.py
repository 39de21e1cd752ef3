"""Sequences of different lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pushforward.core.errors import DataError


class Ragged:
    """N sequences, read padded by zeros to the longest: (N, L, ...).

    flat: (sum of lengths, ...) all sequences one after the other, in memory or mapped from a file.
    lengths: (N,) whole numbers from 1 on.
    """

    def __init__(self, flat: np.ndarray, lengths: np.ndarray, where: str = "the array") -> None:
        lengths = np.asarray(lengths)
        if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 1).any():
            raise DataError(
                f"{where}: lengths are (N,) whole numbers from 1 on, got {lengths.dtype} {lengths.shape}"
            )
        if len(lengths) == 0 or int(lengths.sum()) != len(flat):
            raise DataError(
                f"{where}: {len(lengths)} lengths add up to {int(lengths.sum())}, and there are {len(flat)} entries"
            )
        self.flat, self.lengths = flat, lengths.astype(np.int64)
        self._starts = np.cumsum(self.lengths) - self.lengths

    @classmethod
    def of(cls, sequences: Sequence[np.ndarray], where: str = "the sequences") -> Ragged:
        """Of arrays (L_i, ...) that differ in their first axis only."""
        arrays = [np.asarray(sequence) for sequence in sequences]
        if not arrays:
            raise DataError(f"{where} has no samples")
        for i, array in enumerate(arrays):
            if array.ndim == 0 or array.shape[1:] != arrays[0].shape[1:] or len(array) == 0:
                raise DataError(
                    f"{where}: sequence {i} has shape {array.shape}, and the first {arrays[0].shape}; they may "
                    f"differ in their first axis only, which has at least one entry"
                )
        return cls(np.concatenate(arrays), np.array([len(array) for array in arrays]), where)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self), int(self.lengths.max()), *self.flat.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        return self.flat.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = np.arange(len(self))[index]
        out = np.zeros((len(rows), *self.shape[1:]), self.flat.dtype)
        for place, row in enumerate(rows):
            start, length = self._starts[row], self.lengths[row]
            out[place, :length] = self.flat[start : start + length]
        return out

    def mask(self, index: Any = slice(None)) -> np.ndarray:
        """(B, L) bool: which entries are data."""
        return np.arange(self.shape[1]) < self.lengths[index][:, None]
