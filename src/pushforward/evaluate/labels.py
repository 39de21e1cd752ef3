"""Which labels samples are drawn with, and how labels of two sets of classes belong together.

Samples to be looked at have labels in equal shares; samples to be compared with data have the shares of those data.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.spec import DataSpec
from pushforward.data.arrays import Dataset
from pushforward.data.shares import labels_in_shares
from pushforward.sampling.sampler import find_inside


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
    if counts is None and train is not None and train.labels is not None:
        place = label_map(classes_of(train), spec, "the training data", "the model")
        found = torch.zeros(spec.classes, dtype=torch.int64)
        counts = tuple(
            found.index_add(0, place[train.labels], torch.ones_like(train.labels)).tolist()
        )
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


def label_map(
    own: DataSpec, other: DataSpec, own_name: str = "the data", other_name: str = "the model"
) -> Tensor:
    """(own.classes,) the labels in `other` of the classes of `own`: by name, or by number where either has no names.

    -1 for a class of `own` that has no data and that `other` does not know. Raises InputError for any other class that
    `other` does not know, and for different numbers of classes without names.
    """
    if own.classes is None or other.classes is None:
        lacking = own_name if own.classes is None else other_name
        raise InputError(f"labels cannot be matched: {lacking} has no classes")
    if own.class_names is None or other.class_names is None:
        if own.classes > other.classes:
            raise InputError(
                f"{own_name} has {own.classes} classes without names and {other_name} has {other.classes}: "
                f"they cannot be matched"
            )
        return torch.arange(own.classes)
    known = {name: label for label, name in enumerate(other.class_names)}
    used = set(present(own))
    unknown = [
        name for label, name in enumerate(own.class_names) if label in used and name not in known
    ]
    if unknown:
        near = get_close_matches(unknown[0], known, 1)
        hint = f" (it has {near[0]!r})" if near else ""
        raise InputError(
            f"{other_name} does not know the class {unknown[0]!r} of {own_name}{hint}: "
            f"classes are matched by their names"
        )
    return torch.tensor([known.get(name, -1) for name in own.class_names])
