"""Which labels samples are drawn with: in equal shares to be looked at, in the shares of the data to be judged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pushforward.core.spec import DataSpec
from pushforward.data.arrays import Dataset


def present(spec: DataSpec) -> tuple[int, ...]:
    """The classes that have training data, or all of them where their counts are not known; () without classes."""
    counts = spec.class_counts
    return tuple(c for c in range(spec.classes or 0) if counts is None or counts[c] > 0)


def balanced_labels(num: int, classes: int | Sequence[int]) -> Tensor:
    """(num,) labels in turn, of the classes 0 ... classes - 1 or of those that are listed."""
    names = torch.arange(classes) if isinstance(classes, int) else torch.as_tensor(list(classes))
    return names[torch.arange(num) % len(names)]


def counts_of(data: Dataset) -> tuple[int, ...] | None:
    """How many samples of a data set are of each class; None without labels."""
    if data.labels is None or data.classes is None:
        return None
    return tuple(torch.bincount(data.labels, minlength=data.classes).tolist())
