"""Which labels samples are drawn with, and how labels of two sets of classes belong together.

Samples to be looked at have labels in equal shares; samples to be compared with data have the shares of those data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core.fields import find_inside
from pushforward.core.spec import DataSpec
from pushforward.data.dataset import Dataset
from pushforward.data.match import match_labels
from pushforward.data.shares import labels_in_shares


def present(spec: DataSpec) -> tuple[int, ...]:
    """The classes that have training data, or all of them where their counts are not known; () without classes."""
    counts = spec.class_counts
    return tuple(c for c in range(spec.classes or 0) if counts is None or counts[c] > 0)


def balanced_labels(num: int, classes: int | Sequence[int]) -> Tensor:
    """(num,) labels in turn, of the classes 0 ... classes - 1 or of those that are listed."""
    names = torch.arange(classes) if isinstance(classes, int) else torch.as_tensor(list(classes))
    return names[torch.arange(num) % len(names)]


def shown_labels(num: int, spec: DataSpec) -> Tensor | None:
    """(num,) labels in equal shares of the classes with data, in turn, for samples to be looked at; None without."""
    return None if spec.classes is None else balanced_labels(num, present(spec))


def judged_labels(
    num: int, spec: DataSpec, train: Dataset | None = None, seed: int = 0
) -> Tensor | None:
    """(num,) labels in the shares of the training data, for samples to be compared with data; None without classes.

    The shares are those that the model's spec holds, else those of `train`, matched by name, else equal.
    """
    if spec.classes is None:
        return None
    counts = spec.class_counts
    if counts is None and train is not None:
        counts = match_labels(train, spec).class_counts
    return labels_in_shares(num, (1,) * spec.classes if counts is None else counts, seed)


def classes_of(data: Dataset) -> DataSpec:
    """The classes of a data set, with how many samples each has, as a spec without the rest."""
    return DataSpec(
        data.shape,
        value_range=data.value_range,
        classes=data.classes,
        class_names=data.class_names,
        class_counts=data.class_counts,
    )


def spec_of(model: Any) -> DataSpec:
    """The spec of a model or of what it wraps; of any other Field what its shape and classes say."""
    spec = find_inside(model, "spec", None)
    if isinstance(spec, DataSpec):
        return spec
    shape = tuple(find_inside(model, "shape", ()))
    return DataSpec(shape, classes=find_inside(model, "classes", None))


def label_map(own: DataSpec, other: DataSpec) -> Tensor:
    """(own.classes,) the labels in `other` of the classes of `own` that have data, matched as by `match_labels`.

    -1 for classes of `own` without data. Raises DataError for a class that `other` does not know.
    """
    used = torch.tensor(present(own))
    one = np.zeros((len(used), 1), np.float32)
    data = Dataset.from_arrays(one, used.numpy(), class_names=own.class_names, kind="vector")
    table = torch.full((own.classes or 0,), -1)
    table[used] = match_labels(data, other).labels  # type: ignore[assignment]
    return table
